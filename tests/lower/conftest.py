"""`pytest tests/lower --update-golden` writes the golden files anew."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write what lowering gives into tests/lower/golden")
