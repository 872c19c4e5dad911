"""From endpoint slices and agents' answers to the fleet, and which generation serves."""

import hashlib
from typing import Any

import pytest

from tandem_worker.contract import ServiceState, WorkerRecord
from tandem_worker.gateway.keys import Keys
from tandem_worker.gateway.slices import Address, Identity, addresses, places, ready_hosts, records, serving_generation

WHO = Identity(
    name="chat-decode-a-1",
    service="chat",
    pool="decode",
    phase="decode",
    phases=("prefill", "decode"),
    dialect="vllm-nixl-pull",
    generation="a",
    pair_key="k",
)


def piece(*endpoints: dict[str, Any], **ports: int) -> dict[str, Any]:
    named = [{"name": name, "port": port} for name, port in ports.items()]
    return {"ports": named, "endpoints": list(endpoints)}


def endpoint(host: str, uid: str, **conditions: bool) -> dict[str, Any]:
    return {"addresses": [host], "targetRef": {"uid": uid}, "conditions": conditions}


def test_a_worker_is_known_by_address_and_pod_and_leaves_by_draining() -> None:
    found = addresses(
        [piece(endpoint("10.0.0.1", "p"), endpoint("10.0.0.2", "q", terminating=True), http=80, agent=81)]
    )
    assert found == {Address("10.0.0.1", 80, 81, "p"): False, Address("10.0.0.2", 80, 81, "q"): True}
    known = dict.fromkeys(found, WHO)
    assert [worker.draining for worker in records(found, known, "chat")] == [False, True]


def test_a_worker_stands_in_the_zone_of_its_node() -> None:
    found = addresses([piece({**endpoint("10.0.0.1", "p"), "zone": "eu-west-1a"}, http=80, agent=81)])
    (worker,) = records(found, dict.fromkeys(found, WHO), "chat")
    assert worker.zone == "eu-west-1a"


def test_an_address_that_another_pod_has_now_is_nobody_until_it_says_who_it_is() -> None:
    before, after = Address("10.0.0.1", 80, 81, "p"), Address("10.0.0.1", 80, 81, "other")
    assert records({after: False}, {before: WHO}, "chat") == []


def test_a_worker_of_another_service_is_not_ours() -> None:
    here = Address("10.0.0.1", 80, 81, "p")
    assert records({here: False}, {here: WHO}, "other") == []


def test_slices_without_ports_or_endpoints_are_empty() -> None:
    assert addresses([{"ports": None, "endpoints": None}, piece(http=80, agent=81)]) == {}


def test_gateways_are_counted_once_each() -> None:
    ready = endpoint("10.0.0.1", "p", ready=True)
    assert ready_hosts([piece(ready), piece(ready, endpoint("10.0.0.2", "q", ready=False))]) == {"10.0.0.1"}


def test_figures_are_asked_of_gateways_that_are_ready_and_of_those_that_leave() -> None:
    ready, leaving, starting = (
        endpoint("10.0.0.1", "p", ready=True),
        endpoint("10.0.0.2", "q", ready=False, terminating=True),
        endpoint("10.0.0.3", "r", ready=False),
    )
    found = places([piece(ready, leaving, starting, scale=8081), piece(ready, http=8080)], "scale")
    assert found == [("10.0.0.1", 8081), ("10.0.0.2", 8081)]


BOTH_FAMILIES = [
    {**piece(endpoint("fd00::1", "p", ready=True), http=80, agent=81, scale=8081), "addressType": "IPv6"},
    {**piece(endpoint("10.0.0.1", "p", ready=True), http=80, agent=81, scale=8081), "addressType": "IPv4"},
]


@pytest.mark.parametrize("slices", [BOTH_FAMILIES, BOTH_FAMILIES[::-1]], ids=["IPv6 first", "IPv4 first"])
def test_a_pod_of_a_dual_stack_service_is_one_worker_or_one_gateway_by_its_ipv4_address(
    slices: list[dict[str, Any]],
) -> None:
    assert addresses(slices) == {Address("10.0.0.1", 80, 81, "p"): False}
    assert ready_hosts(slices) == {"10.0.0.1"}
    assert places(slices, "scale") == [("10.0.0.1", 8081)]


def test_pods_that_have_ipv6_alone_are_known_by_it() -> None:
    assert addresses(BOTH_FAMILIES[:1]) == {Address("fd00::1", 80, 81, "p"): False}
    assert ready_hosts(BOTH_FAMILIES[:1]) == {"fd00::1"}


def worker(generation: str, *, draining: bool = False) -> WorkerRecord:
    here = Address("10.0.0.1", 80, 81, "p")
    (record,) = records({here: draining}, {here: WHO.model_copy(update={"generation": generation})}, "chat")
    return record


def test_the_newest_proved_generation_serves_when_the_active_one_is_gone() -> None:
    state = ServiceState(service="chat", active_generation="c", proved=("a", "b", "c"))
    assert serving_generation(state, [worker("c"), worker("b")]) == "c"
    assert serving_generation(state, [worker("c", draining=True), worker("a"), worker("b")]) == "b"
    assert serving_generation(state, [worker("never-proved")]) == "c"
    assert serving_generation(None, [worker("a")]) is None


def test_a_provers_token_opens_the_door_while_its_hash_is_known() -> None:
    digests: list[str | None] = [hashlib.sha256(b"token").hexdigest()]
    keys = Keys(proof_digest=lambda: digests[0])
    assert keys.has_proof({"x-tandem-proof": "token"})
    assert not keys.has_proof({"x-tandem-proof": "other"})
    digests[0] = None
    assert not keys.has_proof({"x-tandem-proof": "token"})
