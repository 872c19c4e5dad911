"""What a cluster has only when it is asked for, with `up --with NAME`; each stands on a cluster that is up."""

from collections.abc import Callable
from dataclasses import dataclass

from cluster import hpa, keda, kwok, policies, second
from cluster.host import Host
from steps.frame import Step
from steps.programs import HPA, KEDA, KWOK, POLICIES, PROMETHEUS


@dataclass(frozen=True)
class Addition:
    """One of them."""

    start: Callable[[Host], None]
    """Starts what does not run yet, and waits for it. Raises: Failure."""
    end: Callable[[Host], None]
    """Takes away all that it made; nothing of it need ever have been, and the cluster need not run."""
    steps: tuple[Step, ...] = ()
    """What must have been built."""


ADDITIONS = {
    "hpa": Addition(hpa.start, hpa.end, (PROMETHEUS.step, HPA.step)),
    "keda": Addition(keda.start, keda.end, (KEDA.step,)),
    "kwok": Addition(kwok.start, kwok.end, (KWOK.step,)),
    "policies": Addition(policies.start, policies.end, (POLICIES.step,)),
    "second-node": Addition(second.start, second.end),
}
