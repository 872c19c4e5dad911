"""The prover's Job against an API server of a few lines: what it asks for, writes, and takes away when it fails."""

import json
from typing import Any

import pytest

from pulumi_tandem.lower import ProofSpec
from pulumi_tandem.manifest import ProofOrder, Workload
from pulumi_tandem.prove.job import PROVED_MAX, Prover, activated, wanted_workers
from pulumi_tandem.prove.run import ProofFailedError
from tandem_worker.apiserver import Conflict
from tandem_worker.contract import ServiceState

SPEC = ProofSpec(transport="tcp", kv_gb_per_s_min=0.0, keep_failed=False, divergence_gap_nats_max=0.5)


def order(*, workers_max: int | None = 2, keep_failed: bool = False) -> ProofOrder:
    workloads = [
        Workload(kind="Deployment", name=f"chat-{pool}-b", pool=pool, workers=2, workers_max=workers_max, kv_ports={})
        for pool in ("prefill", "decode")
    ]
    return ProofOrder(
        service="chat",
        generation="b",
        url="http://chat-gateway",
        model="m",
        disaggregated=True,
        context_tokens=2048,
        workloads=tuple(workloads),
        state="chat-state",
        evidence="chat-evidence-b",
        ready_timeout_s=0.0,
        proof=SPEC.model_copy(update={"keep_failed": keep_failed}),
    )


class Api:
    """A namespace that holds the state and two workers of the serving generation in each pool; no worker comes."""

    namespace = "llm"

    def __init__(self, state: ServiceState, conflicts: int = 0) -> None:
        self.state, self.conflicts = state, conflicts
        self.replicas: dict[str, list[int]] = {}

    async def get(self, path: str) -> Any:
        if "configmaps/chat-state" in path:
            return {"metadata": {"resourceVersion": "7"}, "data": {"service.json": self.state.model_dump_json()}}
        if "deployments?" in path:
            labels = {"tandem.serving/pool": "decode"}
            return {"items": [{"metadata": {"labels": labels}, "status": {"readyReplicas": 5}}]}
        return {"items": []}

    async def patch(self, path: str, body: dict[str, Any]) -> Any:
        if path.endswith("/scale"):
            self.replicas.setdefault(path.split("/")[-2], []).append(body["spec"]["replicas"])
        elif self.conflicts:
            self.conflicts -= 1
            raise Conflict("somebody was first", 409)
        else:
            assert body["metadata"]["resourceVersion"] == "7"
            self.state = ServiceState.model_validate(json.loads(body["data"]["service.json"]))
        return {}


def test_an_autoscaled_service_starts_with_what_serves_now() -> None:
    assert wanted_workers(order(), {"decode": 5}) == {"chat-prefill-b": 2, "chat-decode-b": 2}
    for bound, decodes in ((9, 5), (4, 4), (None, 5)):
        found = wanted_workers(order(workers_max=bound), {"decode": 5})
        assert found == {"chat-prefill-b": 2, "chat-decode-b": decodes}


def test_what_was_proved_is_remembered_newest_last_and_bounded() -> None:
    state = ServiceState(service="chat")
    for generation in [*"abcdefghij", "c"]:
        state = activated(state, generation)
    assert state.active_generation == "c"
    assert state.proved[-3:] == ("i", "j", "c")
    assert len(state.proved) == PROVED_MAX
    assert len(set(state.proved)) == PROVED_MAX


@pytest.mark.parametrize(("keep_failed", "last"), [(False, 0), (True, 5)])
@pytest.mark.asyncio
async def test_a_generation_whose_workers_never_come_loses_them_unless_they_are_kept(
    keep_failed: bool, last: int
) -> None:
    api = Api(ServiceState(service="chat", active_generation="a", proved=("a",)))
    prover = Prover(api, order(workers_max=9, keep_failed=keep_failed))  # pyright: ignore[reportArgumentType] - a fake
    with pytest.raises(ProofFailedError, match="0 of 7 workers were ready"):
        await prover.run()
    assert api.replicas["chat-decode-b"][-1] == last
    assert api.state.active_generation == "a"


@pytest.mark.asyncio
async def test_a_write_that_somebody_forestalled_is_made_again() -> None:
    api = Api(ServiceState(service="chat", proved=("a",)), conflicts=2)
    prover = Prover(api, order())  # pyright: ignore[reportArgumentType] - a fake
    await prover._change_state(lambda state: activated(state, "b"))
    assert api.conflicts == 0
    assert api.state.active_generation == "b"
    assert api.state.proved == ("a", "b")
