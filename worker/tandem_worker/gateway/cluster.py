"""What a gateway in Kubernetes knows of its fleet: it watches endpoint slices and the service's state.

With the API server away it keeps the last picture that it had: workers that die then are found by their silence, and
workers that come are found when it is back.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from pydantic import ValidationError

from tandem_worker.apiserver import ApiError, ApiServer, Expired
from tandem_worker.contract import ServiceState, WorkerRecord
from tandem_worker.gateway.slices import (
    Address,
    Identity,
    addresses,
    ready_at,
    ready_hosts,
    records,
    serving_generation,
)
from tandem_worker.gateway.upstream import Upstream, UpstreamError
from tandem_worker.gateway.watch import CONTRACTS_READ

PREFIX = "tandem.serving/"
RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Pauses before it is listed and watched again; the last one is kept."""
SOUND_S = 10.0
"""After having followed for so long, the next failure is a first one."""
SHORT_WATCH_S = 1.0
"""A watch that is over sooner and told nothing has failed; as in client-go 0.37.1, tools/cache/reflector.go."""
ASK_TIMEOUT_S = 5.0
ASK_POLL_S = 0.5

log = logging.getLogger("tandem.gateway")
Objects = dict[str, dict[str, Any]]


class ClusterSource:
    """Workers and state of one service, as the API server and the agents tell."""

    def __init__(self, api: ApiServer, service: str, now: Callable[[], float]) -> None:
        self._api = api
        self._service = service
        self._now = now
        self._slices: Objects = {}
        self._states: Objects = {}
        self._state: ServiceState | None = None
        self._state_text: str | None = None
        self._identities: dict[Address, Identity] = {}
        self._asking: dict[Address, asyncio.Task[None]] = {}

    def read(self) -> tuple[list[WorkerRecord], str | None]:
        """The workers that said who they are, and the generation that serves."""
        workers = records(self._addresses(), self._identities, self._service)
        return workers, serving_generation(self.state, workers)

    @property
    def state(self) -> ServiceState | None:
        """The service's state; None before the first. One that is not understood is told once; the last good stays."""
        text = next(((item.get("data") or {}).get("service.json") for item in self._states.values()), None)
        if text is not None and text != self._state_text:
            self._state_text = text
            self._state = _understood(text) or self._state
        return self._state

    @property
    def proof_digest(self) -> str | None:
        """SHA-256 of the token of a proof that is under way."""
        state = self.state
        return state and state.proof_token_sha256

    @property
    def gateways(self) -> int:
        """How many gateways share the service's limits; one at least, which is this one."""
        return max(1, len(ready_hosts(self._of("gateway"))))

    @property
    def peers(self) -> list[tuple[str, int]]:
        """Where the ready gateways, this one among them, tell what they know."""
        return ready_at(self._of("gateway"), "scale")

    async def run(self, upstream: Upstream) -> None:
        """Watch until cancelled."""
        namespace = f"/namespaces/{self._api.namespace}"
        slices = f"/apis/discovery.k8s.io/v1{namespace}/endpointslices?labelSelector={PREFIX}service={self._service}"
        states = f"/api/v1{namespace}/configmaps?fieldSelector=metadata.name={self._service}-state"
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow(slices, self._slices))
            group.create_task(self._follow(states, self._states))
            group.create_task(self._identify(upstream))

    async def _follow(self, path: str, objects: Objects) -> None:
        """Keep `objects` as the API server has them."""
        failures = 0
        while True:
            begun_s = self._now()
            try:
                listed = await self._api.get(path)
                objects.clear()
                objects.update({item["metadata"]["name"]: item for item in listed["items"]})
                await self._watch(path, listed["metadata"]["resourceVersion"], objects)
            except Expired:
                await asyncio.sleep(RETRY_S[0])
            except ApiError as error:
                if self._now() - begun_s >= SOUND_S:
                    failures = 0
                if failures == 0:
                    log.warning("the last known fleet stays: %s", error)
                await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
                failures += 1

    async def _watch(self, path: str, version: str, objects: Objects) -> None:
        """Take over what changes, until it fails; a watch that the server ends is begun where it ended.

        Raises: ApiError, and for a watch that was over at once, too.
        """
        while True:
            begun_s, begun_at = self._now(), version
            async with aclosing(self._api.watch(path, version)) as events:
                async for event in events:
                    version = event.object["metadata"]["resourceVersion"]
                    name = event.object["metadata"].get("name")
                    if event.type == "DELETED":
                        objects.pop(name, None)
                    elif event.type != "BOOKMARK":
                        objects[name] = event.object
            if version == begun_at and self._now() - begun_s < SHORT_WATCH_S:
                raise ApiError(f"the watch of {path} was ended at once")

    def _of(self, component: str) -> list[dict[str, Any]]:
        label = "app.kubernetes.io/component"
        return [one for one in self._slices.values() if one["metadata"].get("labels", {}).get(label) == component]

    def _addresses(self) -> dict[Address, bool]:
        return addresses(self._of("worker"))

    async def _identify(self, upstream: Upstream) -> None:
        """Ask every address that has not yet said who it is, and forget those that are gone."""
        try:
            while True:
                there = self._addresses()
                for address in [known for known in {*self._identities, *self._asking} if known not in there]:
                    self._identities.pop(address, None)
                    if task := self._asking.pop(address, None):
                        task.cancel()
                for address in there:
                    if address not in self._identities and address not in self._asking:
                        self._asking[address] = asyncio.create_task(self._ask(upstream, address))
                await asyncio.sleep(ASK_POLL_S / 2)
        finally:
            for task in self._asking.values():
                task.cancel()

    async def _ask(self, upstream: Upstream, address: Address) -> None:
        """Until it answers: an agent answers before its engine does, so this is about a second after its start."""
        while True:
            wire = None
            try:
                async with asyncio.timeout(ASK_TIMEOUT_S):
                    wire = await upstream.get(address.host, address.agent_port, "/factors")
                    status = await wire.headers()
                    body = await wire.read_all()
                if status == 200:
                    self._identities[address] = Identity.model_validate_json(body)
                    self._asking.pop(address, None)
                    return
            except (UpstreamError, TimeoutError):
                pass
            except ValidationError as error:
                log.warning("%s says of itself: %s", address.host, str(error).replace("\n", " ")[:300])
            finally:
                if wire is not None:
                    upstream.release(wire)
            await asyncio.sleep(ASK_POLL_S)


def _understood(text: str) -> ServiceState | None:
    try:
        state = ServiceState.model_validate_json(text)
    except ValidationError as error:
        log.warning("ignoring the service's state: %s", str(error).replace("\n", " ")[:500])
        return None
    if state.contract not in CONTRACTS_READ:
        read = " and ".join(map(str, sorted(CONTRACTS_READ)))
        log.warning("ignoring the service's state: contract version %d, this gateway reads %s", state.contract, read)
        return None
    return state
