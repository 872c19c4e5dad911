"""What holds for every rung of the ladder: a test's folder says what it needs."""

from pathlib import Path

import pytest
from hypothesis import settings

from tests.serving.service import serving

__all__ = ["serving"]  # one service for the serving and the faults rung

settings.register_profile("tandem", deadline=None)  # a slow example says something of the machine, not of the code
settings.load_profile("tandem")

NEEDS = {
    "agent/test_run.py": "processes",
    "agent/test_tree.py": "processes",
    "gateway/test_faults.py": "processes",
    "gateway/test_front_door.py": "processes",
    "fakes/test_engine.py": "processes",
    "local": "processes",
    "engine": "engine",
    "standin/test_refusals.py": "engine",
    "standin/test_conformance.py": "cluster",
    "serving": "serving",
    "faults": "faults",
    "cluster": "cluster",
}
"""Folder or file to marker; `make test` runs the rungs in this order, after the tests that need nothing."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks by folder, so that no test can be on the wrong rung for want of a line."""
    root = Path(__file__).parent
    for item in items:
        for place, marker in NEEDS.items():
            if item.path.is_relative_to(root / place):
                item.add_marker(marker)
