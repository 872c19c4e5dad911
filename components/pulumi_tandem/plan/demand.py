"""What planning has to meet."""

from dataclasses import dataclass

from pulumi_tandem.declare import Objectives, Service, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The load, how fast it must be answered, and what KV travels over."""

    workload: Workload
    objectives: Objectives
    transport: str

    @property
    def quantile(self) -> float:
        """Share of requests that must be within the objectives."""
        return self.objectives.quantile

    @property
    def tpot_s_max(self) -> float:
        """The objective in seconds."""
        return self.objectives.tpot_ms / 1e3


def demand(service: Service) -> Demand:
    """What a service that can be planned demands."""
    assert service.workload
    assert service.objectives
    return Demand(workload=service.workload, objectives=service.objectives, transport=service.transfer.transport)
