"""Small scenes for the simulation's tests: workers whose passes take times that a reader can add up."""

from typing import Any

from pulumi_tandem.simulate import FrontDoor, PoolModel, Scenario, Traffic, WorkerModel, from_rows

OPEN = FrontDoor(requests_running_max=10**9, requests_waiting_max=10**9)


def pass_s(prompt: float, prompt_context: float, sequences: float, context: float) -> float:
    """A millisecond per prompt token; 10 ms for a step of decode, whatever is in it."""
    return 0.001 * prompt + (0.010 if sequences else 0.0)


def growing_s(prompt: float, prompt_context: float, sequences: float, context: float) -> float:
    """Every term there is."""
    return 0.008 + 25e-6 * prompt + 1e-9 * prompt * prompt_context + 30e-6 * sequences + 1e-8 * sequences * context


def worker(**changed: Any) -> WorkerModel:
    return WorkerModel(**{"name": "plain", "pass_s": pass_s, "kv_tokens": 10**9, "batch_tokens": 10**6, **changed})


def pool(name: str, count: int = 1, *, model: WorkerModel | None = None, **changed: Any) -> PoolModel:
    return PoolModel(name=name, workers=((model or worker(), count),), **changed)


def pair(traffic: Traffic, **changed: Any) -> Scenario:
    whole = {"prefill": pool("prefill"), "decode": pool("decode"), "door": OPEN, **changed}
    return Scenario(traffic=traffic, **whole)


def alone(traffic: Traffic, **changed: Any) -> Scenario:
    return Scenario(traffic=traffic, **{"decode": pool("serve"), "door": OPEN, **changed})


def requests(*rows: tuple[float, int, int], **every: Any) -> Traffic:
    """Requests as (arrival in seconds, prompt tokens, output tokens)."""
    columns = ("arrival_s", "prompt_tokens", "output_tokens")
    return from_rows([dict(zip(columns, row, strict=True)) | every for row in rows])
