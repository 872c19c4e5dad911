"""The plugin against modules shaped like the bindings of nixl 1.5.1."""

import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tandem_worker import vllm_plugin
from tandem_worker.vllm_plugin import DELAY_VARIABLE, register

BINDINGS = """
class nixlAgentConfig:
    pthrDelay = -1
    useProgThread = True

class nixlAgent:
    def __init__(self, name, config):
        self.name, self.config = name, config
"""
API = """
from . import _bindings as nixlBind

def nixl_agent(name, use_thread=True):
    config = nixlBind.nixlAgentConfig()
    config.useProgThread = use_thread
    config.pthrDelay = 0
    return nixlBind.nixlAgent(name, config)
"""


@pytest.fixture
def nixl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `nixl_cu13` with nixl's two modules, importable and forgotten afterwards."""
    package = tmp_path / "nixl_cu13"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_bindings.py").write_text(BINDINGS)
    (package / "_api.py").write_text(API)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield package
    for name in [name for name in sys.modules if name.startswith("nixl_cu13")]:
        del sys.modules[name]


def delay_of_an_agent(**options: bool) -> int:
    return importlib.import_module("nixl_cu13._api").nixl_agent("a", **options).config.pthrDelay


def test_is_found_by_vllm() -> None:
    """The distribution names the plugin where vLLM looks for it."""
    (entry,) = (point for point in entry_points(group="vllm.general_plugins") if point.name == "tandem")

    assert entry.load() is register


def test_changes_nothing_unless_asked(nixl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable nixl keeps what it hard-codes."""
    monkeypatch.delenv(DELAY_VARIABLE, raising=False)
    register()

    assert delay_of_an_agent() == 0


def test_sets_the_delay_without_importing_nixl(nixl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM sets UCX variables before it imports nixl, so the plugin must not import it."""
    monkeypatch.setenv(DELAY_VARIABLE, "5000")
    register()
    register()

    assert not [name for name in sys.modules if name.startswith("nixl_cu13")]
    assert delay_of_an_agent() == 5000


def test_sets_the_delay_of_a_nixl_that_is_there_already(nixl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that imported nixl before its plugins is no exception."""
    importlib.import_module("nixl_cu13._api")
    monkeypatch.setenv(DELAY_VARIABLE, "5000")
    register()

    assert delay_of_an_agent() == 5000


def test_leaves_agents_without_a_progress_thread_alone(nixl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no thread to slow down."""
    monkeypatch.setenv(DELAY_VARIABLE, "5000")
    register()

    assert delay_of_an_agent(use_thread=False) == 0


def test_goes_on_with_a_nixl_of_another_shape(
    nixl: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One line says that the delay is not set, and the engine works as ever."""
    (nixl / "_bindings.py").write_text(BINDINGS.replace("pthrDelay", "delay"))
    monkeypatch.setenv(DELAY_VARIABLE, "5000")
    with caplog.at_level(logging.INFO, "vllm.tandem"):
        register()
        module = importlib.import_module("nixl_cu13._bindings")

    (record,) = caplog.records
    assert "has no nixlAgent and nixlAgentConfig.pthrDelay as nixl 1.5.1 has" in record.getMessage()
    assert module.nixlAgent.__name__ == "nixlAgent"


@pytest.mark.parametrize("text", ["", "5ms", "-1", "1e3", "٣", str(vllm_plugin.DELAY_US_MAX + 1)])
def test_says_that_a_delay_is_no_delay(
    nixl: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """A wrong value is told once and changes nothing."""
    monkeypatch.setenv(DELAY_VARIABLE, text)
    with caplog.at_level(logging.INFO, "vllm.tandem"):
        register()

    (record,) = caplog.records
    assert "not a whole number of microseconds from 0 to 1000000" in record.getMessage()
    assert delay_of_an_agent() == 0


def test_passes_other_modules_on(nixl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only nixl's bindings are looked at."""
    monkeypatch.setenv(DELAY_VARIABLE, "5000")
    register()
    finder = sys.meta_path[0]

    assert finder.find_spec("nixl_cu13._api", None) is None
    assert vllm_plugin.set_progress_delay(ModuleType("empty"), 1) is False
    assert vllm_plugin.set_progress_delay(SimpleNamespace(__name__="x"), 1) is False  # pyright: ignore[reportArgumentType]


AFFINITY_PROGRAM = """
import os
from tandem_worker.vllm_plugin import CONNECTOR, register

register()
before = os.sched_getaffinity(0)
exec("import os; os.sched_setaffinity(0, {max(before)})", {"__name__": CONNECTOR, "before": before})
print(os.sched_getaffinity(0) == before)
os.sched_setaffinity(0, {max(before)})
print(os.sched_getaffinity(0) == {max(before)})
"""


@pytest.mark.parametrize(("value", "kept"), [("1", True), ("", len(os.sched_getaffinity(0)) == 1)])
def test_only_the_connector_binds_nobody_and_only_when_asked(value: str, kept: bool) -> None:
    """Two engines whose main threads are bound to the same core would share it while another idles."""
    environment = {**os.environ, "TANDEM_KEEP_AFFINITY": value}

    said = subprocess.run(
        [sys.executable, "-c", AFFINITY_PROGRAM], env=environment, capture_output=True, text=True, check=True
    )

    assert said.stdout.split() == [str(kept), "True"]
