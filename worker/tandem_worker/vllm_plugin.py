"""What Tandem changes inside a vLLM process, loaded by vLLM itself as a general plugin.

nixl's Python API starts a progress thread per agent and hard-codes its delay to 0 µs (`nixl_agent.__init__`
in nixl 1.5.1 `_api.py`: `agent_config.pthrDelay = 0`), so an idle engine burns a whole core. With
`TANDEM_NIXL_PROGRESS_DELAY_US` set, the delay is put into the configuration just before nixl's own
binding makes the agent from it. Nothing is imported early: vLLM sets UCX variables before it first
imports nixl, and only workers ever do. No installed file is edited.

vLLM's NIXL connector binds the main thread of every CPU worker, which computes, to the last core of each NUMA node
(`base_worker.py` 0.32: "setup one last core in each numa for kv transfer"), whatever cores the worker was given. Two
engines on one machine then compute on the same core while others idle. With `TANDEM_KEEP_AFFINITY=1` that one call is
passed over.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

DELAY_VARIABLE = "TANDEM_NIXL_PROGRESS_DELAY_US"
AFFINITY_VARIABLE = "TANDEM_KEEP_AFFINITY"
CONNECTOR = "vllm.distributed.kv_transfer.kv_connector.v1.nixl.base_worker"
"""The module whose binding of the main thread is passed over."""
DELAY_US_MAX = 1_000_000
"""A second; beyond it a hand-off waits visibly for the thread to wake."""

BINDINGS = frozenset({"nixl_cu13._bindings", "nixl_cu12._bindings", "nixl_rocm._bindings"})
"""Where nixl's C++ classes live, one per build; `nixl._bindings` is the same module under another name."""

# vLLM shows what comes from below its own logger's name.
log = logging.getLogger("vllm.tandem")


def register() -> None:
    """Called by vLLM in its API server, engine core and every worker process; may be called again."""
    if os.environ.get(AFFINITY_VARIABLE) == "1":
        keep_affinity()
    text = os.environ.get(DELAY_VARIABLE)
    if text is None or any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    if not text.isascii() or not text.isdigit() or int(text) > DELAY_US_MAX:
        log.warning(
            "%s is %r, not a whole number of microseconds from 0 to %d; nixl keeps its own delay",
            DELAY_VARIABLE,
            text,
            DELAY_US_MAX,
        )
        return
    delay_us = int(text)
    loaded = [module for name, module in sys.modules.items() if name in BINDINGS]
    for module in loaded:
        set_progress_delay(module, delay_us)
    if not loaded:
        sys.meta_path.insert(0, _Finder(delay_us))


def keep_affinity() -> None:
    """Let the connector bind nobody; everything else in the process binds as ever."""
    set_affinity = os.sched_setaffinity
    if getattr(set_affinity, "keeps_affinity", False):
        return

    def set_affinity_unless_connector(pid: int, mask: Iterable[int], /) -> None:
        if sys._getframe(1).f_globals.get("__name__") == CONNECTOR:  # noqa: SLF001 - the caller tells it from all others
            log.info("the KV connector leaves the main thread on its cores (%s)", AFFINITY_VARIABLE)
            return
        set_affinity(pid, mask)

    setattr(set_affinity_unless_connector, "keeps_affinity", True)  # noqa: B010 - a mark, not a typed attribute
    os.sched_setaffinity = set_affinity_unless_connector


def set_progress_delay(bindings: ModuleType, delay_us: int) -> bool:
    """Make every nixl agent of this process sleep so long between two rounds of progress.

    Returns False, after one line in the log, when nixl does not look as in 1.5.1; it then works as ever.
    """
    make_agent: Callable[..., Any] | None = getattr(bindings, "nixlAgent", None)
    config_class = getattr(bindings, "nixlAgentConfig", None)
    if make_agent is None or not hasattr(config_class, "pthrDelay"):
        log.warning(
            "%s is set, but %s has no nixlAgent and nixlAgentConfig.pthrDelay as nixl 1.5.1 has; "
            "its progress thread keeps its own delay and may use a whole core",
            DELAY_VARIABLE,
            bindings.__name__,
        )
        return False

    def make_agent_with_delay(name: str, config: Any) -> Any:  # noqa: ANN401 - nixl's own C++ types
        if config.useProgThread:
            config.pthrDelay = delay_us
        return make_agent(name, config)

    setattr(bindings, "nixlAgent", make_agent_with_delay)  # noqa: B010 - a module has no such typed attribute
    log.info("nixl's progress thread sleeps %d us between rounds (%s)", delay_us, DELAY_VARIABLE)
    return True


class _Finder(MetaPathFinder):
    """Finds nixl's bindings as Python would, and has them patched right after they are loaded."""

    def __init__(self, delay_us: int) -> None:
        self._delay_us = delay_us

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in BINDINGS:
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(fullname, path, target)) is not None:
                if spec.loader is not None:
                    spec.loader = _PatchingLoader(spec.loader, self._delay_us)
                return spec
        return None


class _PatchingLoader(Loader):
    def __init__(self, loader: Loader, delay_us: int) -> None:
        self._loader = loader
        self._delay_us = delay_us

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        set_progress_delay(module, self._delay_us)
