"""From what Kubernetes says of addresses, and what the agents there say of themselves, to the fleet: no I/O.

An address alone is nobody: pods get the addresses of pods that are gone. So who a worker is, its own agent says, and
what it said counts for as long as the same pod has the address.
"""

from collections.abc import Iterable, Iterator, Mapping
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
    """Its uid; its address where the slice names no pod."""
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


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """One pod of one slice."""

    pod: str
    """Its uid; its address where the slice names no pod."""
    host: str
    ports: Mapping[str, int]
    zone: str
    ready: bool
    leaving: bool


def addresses(slices: Iterable[Mapping[str, Any]]) -> dict[Address, bool]:
    """Every worker's address, and whether its pod is leaving.

    The Services publish workers that are not ready: the gateway asks each itself, and sooner than the kubelet does.
    """
    return {
        Address(one.host, one.ports["http"], one.ports["agent"], one.pod, one.zone): one.leaving
        for one in _one_a_pod(one for one in _endpoints(slices) if {"http", "agent"} <= one.ports.keys())
    }


def ready_hosts(slices: Iterable[Mapping[str, Any]]) -> set[str]:
    """Addresses of the pods that are ready: the gateways', in the slices of their own Services."""
    return {one.host for one in _one_a_pod(one for one in _endpoints(slices) if one.ready)}


def places(slices: Iterable[Mapping[str, Any]], port: str) -> list[tuple[str, int]]:
    """Address and number of that port of every pod that is ready, or leaves and may have work still."""
    found = (one for one in _endpoints(slices) if port in one.ports and (one.ready or one.leaving))
    return sorted((one.host, one.ports[port]) for one in _one_a_pod(found))


def _endpoints(slices: Iterable[Mapping[str, Any]]) -> Iterator[_Endpoint]:
    """What the slices hold; the addresses of an endpoint are the same pod's, and the first stands for them."""
    for one in slices:
        ports = {port["name"]: port["port"] for port in one.get("ports") or () if port.get("name") and port.get("port")}
        for endpoint in one.get("endpoints") or ():
            conditions = endpoint.get("conditions") or {}
            for host in endpoint.get("addresses", ())[:1]:
                yield _Endpoint(
                    pod=(endpoint.get("targetRef") or {}).get("uid", host),
                    host=host,
                    ports=ports,
                    zone=endpoint.get("zone") or "",
                    ready=bool(conditions.get("ready")),
                    leaving=bool(conditions.get("terminating")),
                )


def _one_a_pod(found: Iterable[_Endpoint]) -> Iterable[_Endpoint]:
    """A Service of both families has every pod twice, in slices of IPv4 and of IPv6; ours listen on IPv4 where it is.

    Source: Kubernetes, docs/concepts/services-networking/endpoint-slices, "Address types".
    """
    kept: dict[str, _Endpoint] = {}
    for one in sorted(found, key=lambda each: ":" in each.host):
        kept.setdefault(one.pod, one)
    return kept.values()


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
