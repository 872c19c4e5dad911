"""A whole service under load, request by request: what closed forms cannot say.

Rule of the room: values in, values out; chance comes from a seed, and time is the simulation's own.

Input: a `Scenario` (traffic, pools of workers with the time of their passes, front door, network, deaths, scaling).
Output: an `Outcome`. Pass times are plain functions: `declared` makes them of a declaration by way of `estimate`.
"""

from pulumi_tandem.simulate.outcome import SHARES, Outcome, Percentiles, PoolOutcome, Window, outcome, percentiles_of
from pulumi_tandem.simulate.scenario import (
    Asked,
    Death,
    Flexible,
    FrontDoor,
    HandOff,
    Pairing,
    Policy,
    PoolModel,
    PoolView,
    Role,
    Scaling,
    Scenario,
    WorkerView,
    requests_per_worker,
)
from pulumi_tandem.simulate.simulation import Progress, Simulation
from pulumi_tandem.simulate.traffic import (
    Arrivals,
    Conversations,
    Surge,
    TraceError,
    Traffic,
    constant,
    from_rows,
    generate,
)
from pulumi_tandem.simulate.worker import PassTime, WorkerModel


def simulate(scenario: Scenario, *, window_s: float = 10.0, progress: Progress | None = None) -> Outcome:
    """Runs the scenario until every request is answered or lost. Equal scenarios give equal outcomes.

    The service is looked at every `window_s` simulated seconds, and `progress` is told.
    """
    simulation = Simulation(scenario, window_s=window_s, progress=progress)
    record = simulation.run()
    jitter = max(model.jitter for pool in scenario.pools for model, _ in pool.workers)
    gaps = percentiles_of(simulation.gaps.quantiles_s(SHARES, jitter=jitter), simulation.gaps.mean_s)
    return outcome(scenario, record, simulation.fabric, gaps=gaps)


__all__ = [
    "Arrivals",
    "Asked",
    "Conversations",
    "Death",
    "Flexible",
    "FrontDoor",
    "HandOff",
    "Outcome",
    "Pairing",
    "PassTime",
    "Percentiles",
    "Policy",
    "PoolModel",
    "PoolOutcome",
    "PoolView",
    "Role",
    "Scaling",
    "Scenario",
    "Surge",
    "TraceError",
    "Traffic",
    "Window",
    "WorkerModel",
    "WorkerView",
    "constant",
    "from_rows",
    "generate",
    "requests_per_worker",
    "simulate",
]
