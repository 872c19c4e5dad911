"""The prover as a Job of the cluster: `python -m pulumi_tandem.prove.job --order FILE`.

It asks for this generation's workers, waits for them, proves, gives the generation the traffic, and leaves its
evidence in a ConfigMap. Exit codes: 0 proved and serving; 1 refused; 75 the cluster did not let it finish. The last
line says why; the next update proves anew.
"""

import argparse
import asyncio
import hashlib
import json
import secrets
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from pulumi_tandem.manifest.naming import HTTP_PORT, PREFIX
from pulumi_tandem.manifest.prover import ProofOrder, Workload
from pulumi_tandem.prove.evidence import Evidence
from pulumi_tandem.prove.plan import Candidate
from pulumi_tandem.prove.run import Door, ProofFailedError, Subject, prove
from tandem_worker.apiserver import ApiError, ApiServer, Conflict
from tandem_worker.contract import ServiceState
from tandem_worker.gateway.slices import Address, addresses, ready_hosts

EXIT_REFUSED, EXIT_AGAIN = 1, 75
"""EX_TEMPFAIL: the API server or a gateway did not answer."""
POLL_S = 0.5
REPORT_TIMEOUT_S = 60.0
"""How long the gateways may take to serve the new generation; they watch, so it is a second mostly."""
ASK_TIMEOUT_S = 6.0
TOKEN_BYTES = 32
PROVED_MAX = 8
TERMINATION_LOG = Path("/dev/termination-log")
_PATHS = {
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments",
    "LeaderWorkerSet": "/apis/leaderworkerset.x-k8s.io/v1/namespaces/{namespace}/leaderworkersets",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Carry an order out."""
    parser = argparse.ArgumentParser(prog="python -m pulumi_tandem.prove.job", description=__doc__)
    parser.add_argument("--order", type=Path, required=True, help="the proof's order, JSON")
    order = ProofOrder.model_validate_json(parser.parse_args(argv).order.read_bytes())
    try:
        evidence = asyncio.run(_in_cluster(order))
    except ProofFailedError as error:
        return _end(EXIT_REFUSED, f"generation {order.generation} of {order.service} must not serve: {error}")
    except (ApiError, aiohttp.ClientError, TimeoutError, OSError) as error:
        return _end(EXIT_AGAIN, f"the proof could not go on: {error or type(error).__name__}")
    sys.stdout.write(evidence.model_dump_json() + "\n")
    return 0


def _end(code: int, message: str) -> int:
    sys.stderr.write(message + "\n")
    if TERMINATION_LOG.exists():
        TERMINATION_LOG.write_text(message)
    return code


async def _in_cluster(order: ProofOrder) -> Evidence:
    async with ApiServer.in_cluster() as api:
        return await Prover(api, order).run()


class Prover:
    """One order in one cluster."""

    def __init__(self, api: ApiServer, order: ProofOrder) -> None:
        self.api = api
        self.order = order

    async def run(self) -> Evidence:
        """Prove and activate; a generation that fails loses its workers, unless they are to be looked at.

        Raises:
            ProofFailedError: with every reason.
        """
        order = self.order
        try:
            wanted = wanted_workers(order, await self._serving())
            for workload in order.workloads:
                await self._scale(workload, wanted[workload.name])
            candidates = await self._await_ready(sum(wanted.values()))
            async with self._token() as token:
                evidence = await self._prove(candidates, token)
                await self._activate(evidence, token)
        except ProofFailedError as error:
            kept = "its workers still run (keep_failed)"
            if not order.proof.keep_failed:
                for workload in order.workloads:
                    await self._scale(workload, 0)
                kept = "its workers were stopped"
            msg = f"{error}. What served before serves on; {kept}"
            raise ProofFailedError(msg) from error
        return evidence

    async def _serving(self) -> dict[str, int]:
        """Ready workers of each pool of the generation that serves now."""
        state = await self._state()
        if state.active_generation in {None, self.order.generation}:
            return {}
        selector = f"{PREFIX}service={self.order.service},{PREFIX}generation={state.active_generation}"
        found: dict[str, int] = {}
        for kind in {workload.kind for workload in self.order.workloads}:
            listed = await self.api.get(f"{self._path(kind)}?labelSelector={selector}")
            for item in listed["items"]:
                pool = item["metadata"]["labels"][f"{PREFIX}pool"]
                found[pool] = found.get(pool, 0) + item.get("status", {}).get("readyReplicas", 0)
        return found

    async def _scale(self, workload: Workload, workers: int) -> None:
        path = f"{self._path(workload.kind)}/{workload.name}/scale"
        await self.api.patch(path, {"spec": {"replicas": workers}})

    async def _await_ready(self, count: int) -> tuple[Candidate, ...]:
        """Every worker, as its own agent tells who it is."""
        deadline_s = time.monotonic() + self.order.ready_timeout_s
        kv_ports = {pool: ports for workload in self.order.workloads for pool, ports in workload.kv_ports.items()}
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)) as session:
            while True:
                asked = [_identity(session, address, kv_ports) for address in await self._addresses()]
                answers = await asyncio.gather(*asked)
                ready = [answer for answer in answers if answer is not None]
                _tell(f"{len(ready)} of {count} workers ready")
                if len(ready) >= count:
                    return tuple(ready)
                if time.monotonic() > deadline_s:
                    msg = f"{len(ready)} of {count} workers were ready after {self.order.ready_timeout_s:.0f} s"
                    raise ProofFailedError(msg)
                await asyncio.sleep(POLL_S)

    async def _addresses(self) -> list[Address]:
        """Where the workers of this generation are that do not leave."""
        selector = f"{PREFIX}service={self.order.service},{PREFIX}generation={self.order.generation}"
        found = addresses(await self._slices(selector))
        return [address for address, leaving in found.items() if not leaving]

    async def _slices(self, selector: str) -> list[dict[str, Any]]:
        path = f"/apis/discovery.k8s.io/v1/namespaces/{self.api.namespace}/endpointslices?labelSelector={selector}"
        return (await self.api.get(path))["items"]

    async def _prove(self, candidates: tuple[Candidate, ...], token: str) -> Evidence:
        order = self.order
        await self._await_gateways("taken the proof's token", token, lambda fleet: bool(fleet.get("proving")))
        return await prove(
            Door(url=order.url, token=token, model=order.model),
            Subject(
                service=order.service,
                generation=order.generation,
                workers=candidates,
                disaggregated=order.disaggregated,
                context_tokens=order.context_tokens,
            ),
            order.proof,
            salt=secrets.token_hex(4),
        )

    async def _activate(self, evidence: Evidence, token: str) -> None:
        """Let the generation serve, and wait until it does."""
        serving = self.order.generation
        await self._patch_configmap(self.order.evidence, {"evidence.json": evidence.model_dump_json()})
        await self._change_state(lambda state: activated(state, serving))
        await self._await_gateways(
            f"begun to serve {serving}", token, lambda fleet: fleet.get("active_generation") == serving
        )

    @asynccontextmanager
    async def _token(self) -> AsyncGenerator[str]:
        """A token that only this process knows; the gateways get its hash, for as long as the proof takes."""
        token = secrets.token_urlsafe(TOKEN_BYTES)
        digest = hashlib.sha256(token.encode()).hexdigest()
        await self._change_state(lambda state: state.model_copy(update={"proof_token_sha256": digest}))
        try:
            yield token
        finally:
            await self._change_state(lambda state: state.model_copy(update={"proof_token_sha256": None}))

    async def _await_gateways(self, what: str, token: str, holds: Callable[[dict[str, Any]], bool]) -> None:
        """Until it holds of every ready gateway's view; a door that asks for keys takes the token for one.

        Raises: TimeoutError.
        """
        deadline_s = time.monotonic() + REPORT_TIMEOUT_S
        timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, headers={"x-tandem-proof": token}) as session:
            while True:
                hosts = await self._gateways()
                fleet_of = f":{HTTP_PORT}/fleet?service={self.order.service}"
                seen = [await _fleet(session, f"http://{_host(host)}{fleet_of}") for host in hosts]
                late = [fleet for fleet in seen if not holds(fleet)]
                if hosts and not late:
                    return
                if time.monotonic() > deadline_s:
                    msg = f"{len(late)} of {len(hosts)} gateways had not {what} after {REPORT_TIMEOUT_S:.0f} s"
                    raise TimeoutError(msg)
                await asyncio.sleep(POLL_S)

    async def _gateways(self) -> list[str]:
        selector = f"{PREFIX}service={self.order.service},app.kubernetes.io/component=gateway"
        return sorted(ready_hosts(await self._slices(selector)))

    async def _state(self) -> ServiceState:
        return _read_state(await self.api.get(self._configmap(self.order.state)), self.order.service)

    async def _change_state(self, change: Callable[[ServiceState], ServiceState]) -> None:
        """Read, change, write; again when somebody else has written meanwhile."""
        while True:
            found = await self.api.get(self._configmap(self.order.state))
            state = change(_read_state(found, self.order.service))
            metadata = {"resourceVersion": found["metadata"]["resourceVersion"]}
            body = {"metadata": metadata, "data": {"service.json": state.model_dump_json()}}
            try:
                await self.api.patch(self._configmap(self.order.state), body)
            except Conflict:
                continue
            return

    async def _patch_configmap(self, name: str, data: Mapping[str, str]) -> None:
        await self.api.patch(self._configmap(name), {"data": dict(data)})

    def _configmap(self, name: str) -> str:
        return f"/api/v1/namespaces/{self.api.namespace}/configmaps/{name}"

    def _path(self, kind: str) -> str:
        return _PATHS[kind].format(namespace=self.api.namespace)


def wanted_workers(order: ProofOrder, serving: Mapping[str, int]) -> dict[str, int]:
    """How many workers each workload is to have.

    As declared; where an autoscaler decides, as many as serve now, if those are more and it may have them.
    """
    wanted: dict[str, int] = {}
    for workload in order.workloads:
        there = serving.get(workload.pool, 0)
        may = there if workload.workers_max is None else min(there, workload.workers_max)
        wanted[workload.name] = max(workload.workers, may)
    return wanted


def activated(state: ServiceState, generation: str) -> ServiceState:
    """The state in which this generation serves, and is the newest of those that were proved."""
    proved = (*(known for known in state.proved if known != generation), generation)
    return state.model_copy(update={"active_generation": generation, "proved": proved[-PROVED_MAX:]})


def _read_state(configmap: Any, service: str) -> ServiceState:  # noqa: ANN401 - JSON
    data: dict[str, str] = configmap.get("data") or {}
    text = data.get("service.json")
    return ServiceState.model_validate_json(text) if text else ServiceState(service=service)


async def _identity(
    session: aiohttp.ClientSession, address: Address, kv_ports: Mapping[str, Mapping[str, int]]
) -> Candidate | None:
    """Who a worker is; None while it is not ready."""
    url = f"http://{_host(address.host)}:{address.agent_port}"
    try:
        async with session.get(f"{url}/ready") as response:
            if response.status != 200:
                return None
        async with session.get(f"{url}/factors") as response:
            who = await response.json()
    except (aiohttp.ClientError, TimeoutError):
        return None
    return Candidate(who["name"], who["phase"], tuple(who["phases"]), url, kv_ports.get(who["pool"], {}))


async def _fleet(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    try:
        async with session.get(url) as response:
            return await response.json()
    except (aiohttp.ClientError, TimeoutError, json.JSONDecodeError):
        return {}


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
