"""What a cluster has only when it is asked for, with `up --with NAME`."""

from collections.abc import Callable
from dataclasses import dataclass

from cluster.kwok import end_kwok, start_kwok
from cluster.place import Site
from cluster.processes import Processes
from steps import kwok
from steps.frame import Place, Run, Step


@dataclass(frozen=True)
class Addition:
    """One of them; it stands on a cluster that is up."""

    step: Step
    """What must have been built."""
    start: Callable[[Place, Site, Processes, Run], None]
    """Starts what does not run yet, and waits for it."""
    processes: tuple[str, ...]
    """Names of its processes, as they are to be ended."""
    end: Callable[[Run], None]
    """Takes away what else it made of this machine's; its processes are gone, and nothing of it need ever have been."""


ADDITIONS = {
    "kwok": Addition(step=kwok.STEP, start=start_kwok, processes=("kwok",), end=end_kwok),
}
