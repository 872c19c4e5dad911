"""From what Kubernetes says of addresses, and what the agents there say of themselves, to the fleet: no I/O.

An address alone is nobody: pods get the addresses of pods that are gone. So who a worker is, its own agent says, and
what it said counts for as long as the same pod has the address.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from tandem_worker.contract import Dialect, Phase, ServiceState, WorkerRecord


@dataclass(frozen=True, slots=True)
class Address:
    """Where a worker listens, and which pod that is."""

    host: str
    http_port: int
    agent_port: int
    pod: str
    """Its uid."""
    zone: str = ""
    """That of its node, as the slice says."""


class Identity(BaseModel):
    """What an agent says of itself: the answer to `GET /factors`, as far as it matters here."""

    name: str
    service: str
    pool: str
    phase: Phase
    phases: tuple[Phase, ...]
    dialect: Dialect
    generation: str
    pair_key: str
    served_names: tuple[str, ...] = ()


def addresses(slices: Iterable[Mapping[str, Any]]) -> dict[Address, bool]:
    """Every worker's address, and whether its pod is leaving.

    The Services publish workers that are not ready: the gateway asks each itself, and sooner than the kubelet does.
    """
    found: dict[Address, bool] = {}
    for one in slices:
        ports = {port.get("name"): port.get("port") for port in one.get("ports") or ()}
        if not ports.get("http") or not ports.get("agent"):
            continue
        for endpoint in one.get("endpoints") or ():
            for host in endpoint.get("addresses", ())[:1]:
                pod = (endpoint.get("targetRef") or {}).get("uid", "")
                leaving = bool((endpoint.get("conditions") or {}).get("terminating"))
                zone = endpoint.get("zone") or ""
                found[Address(host, ports["http"], ports["agent"], pod, zone)] = leaving
    return found


def ready_hosts(slices: Iterable[Mapping[str, Any]]) -> set[str]:
    """Addresses of the endpoints that are ready: the gateways', in the slices of their own Service."""
    return {
        host
        for one in slices
        for endpoint in one.get("endpoints") or ()
        if (endpoint.get("conditions") or {}).get("ready")
        for host in endpoint.get("addresses", ())[:1]
    }


def places(slices: Iterable[Mapping[str, Any]], port: str) -> list[tuple[str, int]]:
    """Address and number of that port of every endpoint that is ready, or leaves and may have work still."""
    found = {
        (host, number)
        for one in slices
        for number in (each.get("port") for each in one.get("ports") or () if each.get("name") == port)
        if number
        for endpoint in one.get("endpoints") or ()
        if (conditions := endpoint.get("conditions") or {}).get("ready") or conditions.get("terminating")
        for host in endpoint.get("addresses", ())[:1]
    }
    return sorted(found)


def records(found: Mapping[Address, bool], identities: Mapping[Address, Identity], service: str) -> list[WorkerRecord]:
    """The workers that are known by address and by name; another service's are not ours, whatever the labels say."""
    return [
        WorkerRecord(
            **who.model_dump(),
            address=address.host,
            http_port=address.http_port,
            agent_port=address.agent_port,
            zone=address.zone,
            draining=leaving,
        )
        for address, leaving in found.items()
        if (who := identities.get(address)) is not None and who.service == service
    ]


def serving_generation(state: ServiceState | None, workers: Iterable[WorkerRecord]) -> str | None:
    """The active generation; when it has no worker at all, the newest proved one that has.

    An update that is cut off between activation and its deletes, and then turned back, deletes the active workers.
    """
    if state is None:
        return None
    there = {worker.generation for worker in workers if not worker.draining}
    if state.active_generation in there:
        return state.active_generation
    return next((one for one in reversed(state.proved) if one in there), state.active_generation)
