"""`pytest tests/lower --update-golden` writes the golden files anew."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pulumi_tandem.lower import Fleet

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what lowering gives into tests/lower/golden")


@pytest.fixture
def is_golden(request: pytest.FixtureRequest) -> Callable[[str, Fleet], None]:
    """Holds a fleet against its file."""

    def compare(name: str, lowered: Fleet) -> None:
        file = GOLDEN / f"{name}.json"
        text = json.dumps(lowered.model_dump(mode="json"), indent=2) + "\n"
        if request.config.getoption("--update-golden", default=False):
            file.write_text(text, "utf-8")
        assert text == file.read_text("utf-8"), (
            "if this is meant: pytest tests/lower --update-golden, and read the diff"
        )

    return compare
