"""One real service for the whole session: two vLLM engines on this machine's CPU, brought up by `pulumi up`."""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pulumi_tandem.local.client import call
from tests.engine.conftest import Project, make_project
from tests.serving.load import LONG_PROMPT, Answer, kinds, undisturbed

UP_TIMEOUT_S = 900.0
"""Four engines at once on two busy cores take minutes to start."""


@dataclass
class Serving:
    """A project that serves, and what it answers while nothing is disturbed."""

    project: Project
    url: str
    expected: dict[str, Answer]
    first_up: str
    """What the first `tandem up` printed."""


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The running service; everything of it is gone afterwards."""
    folder = tmp_path_factory.mktemp("serving")
    model = Path(os.environ["TANDEM_MODEL_DIR"])
    project = make_project(folder / "project", {"TANDEM_MODEL_DIR": str(model)}, UP_TIMEOUT_S)
    try:
        up = project.up()
        assert up.returncode == 0, up.stdout
        url = project.outputs()["url"]
        yield Serving(project, url, asyncio.run(undisturbed(url, (*kinds(), LONG_PROMPT))), up.stdout)
    finally:
        call(project.state_dir, "shutdown", start=False)
