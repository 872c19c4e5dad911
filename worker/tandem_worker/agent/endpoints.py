"""The agent's own HTTP: /live /ready /factors /metrics, /launch/NODE on the first of several machines, POST /drain."""

import hmac
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from aiohttp import web
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from tandem_worker.agent.decide import State
from tandem_worker.agent.transport import Transport
from tandem_worker.contract import WorkerSpec
from tandem_worker.dialects.vllm_metrics import EngineNumbers

REQUEST_BYTES_MAX = 4096
"""No request to the agent has a body worth reading."""


@dataclass(frozen=True)
class View:
    """What the handlers may see and do."""

    name: str
    spec: WorkerSpec
    drain_token: str | None
    state: Callable[[], State]
    numbers: Callable[[], Awaitable[EngineNumbers | None]]
    transports: Callable[[], Iterable[Transport]]
    drain: Callable[[], None]
    launched: Callable[[int], Sequence[str] | None]
    """What `mpirun` wants started on another machine of this worker; see `tandem_worker.agent.launch`."""


@dataclass(frozen=True, eq=False)  # a registry keeps collectors by identity
class Reading(Collector):
    """Everything that /metrics tells, taken at one time."""

    spec: WorkerSpec
    numbers: EngineNumbers | None
    transports: tuple[Transport, ...]
    start_seconds: float | None

    def collect(self) -> Iterable[Metric]:
        """Samples that are not known are left out rather than given as 0."""
        yield _gauge("tandem_engine_up", "1 when the engine answered this scrape", float(self.numbers is not None))
        floor = self.spec.kv_gb_per_s_min
        yield _gauge("tandem_kv_floor_gigabytes_per_second", "Declared floor of the effective KV bandwidth", floor)
        if self.start_seconds is not None:
            yield _gauge("tandem_start_seconds", "From the engine's start to its first answer", self.start_seconds)
        info = GaugeMetricFamily(
            "tandem_kv_transport_info",
            "Transports of KV; evidence 'log': named by the library in use, 'allowed': the only one configured",
            labels=["transport", "evidence"],
        )
        for transport in self.transports:
            info.add_metric([transport.name, transport.evidence], 1.0)
        yield info
        if self.numbers is not None:
            yield from _engine_metrics(self.numbers)


def application(view: View) -> web.Application:
    """The agent's web application."""

    async def live(_: web.Request) -> web.Response:
        return web.json_response({"live": True, "name": view.name})

    async def ready(_: web.Request) -> web.Response:
        state = view.state()
        reason = state.not_ready_because
        body = {"ready": reason is None, "stage": state.stage.value, "reason": reason}
        body |= asdict(state.told)
        return web.json_response(body, status=200 if reason is None else 503)

    async def factors(_: web.Request) -> web.Response:
        spec = view.spec
        return web.json_response(
            {
                "name": view.name,
                "service": spec.service,
                "pool": spec.pool,
                "phase": spec.phase,
                "phases": list(spec.phases),
                "engine": spec.engine,
                "dialect": spec.dialect,
                "served_names": list(spec.served_names),
                "generation": spec.generation,
                "pair_key": spec.pair_key,
                "factors": spec.factors,
            }
        )

    async def metrics(_: web.Request) -> web.Response:
        numbers = await view.numbers()
        registry = CollectorRegistry()
        registry.register(Reading(view.spec, numbers, tuple(view.transports()), view.state().start_seconds))
        return web.Response(body=generate_latest(registry), headers={"content-type": CONTENT_TYPE_LATEST})

    async def drain(request: web.Request) -> web.Response:
        if not may_drain(request.remote, request.headers, view.drain_token):
            error = "a drain may be asked for from this host, or with `authorization: Bearer` and the drain token"
            return web.json_response({"error": error}, status=403)
        view.drain()
        return web.json_response({"draining": True}, status=202)

    app = web.Application(client_max_size=REQUEST_BYTES_MAX)
    app.add_routes(
        [
            web.get("/live", live),
            web.get("/ready", ready),
            web.get("/factors", factors),
            web.get("/metrics", metrics),
            web.post("/drain", drain),
            web.get(r"/launch/{node:\d{1,4}}", partial(_launched, view)),
        ]
    )
    return app


async def _launched(view: View, request: web.Request) -> web.Response:
    node = int(request.match_info["node"])
    words = view.launched(node)
    if words is None:
        return web.json_response({"error": f"mpirun has not asked for machine {node}"}, status=404)
    return web.json_response(list(words))


def may_drain(peer: str | None, headers: Mapping[str, str], token: str | None) -> bool:
    """Whether a peer at this address, with these headers, may end the worker: it is this host, or has the token."""
    if token is not None:
        given = headers.get("authorization", "")
        # Bytes, since compare_digest refuses text that is not ASCII.
        if hmac.compare_digest(given.encode(errors="replace"), f"Bearer {token}".encode()):
            return True
    if peer is None:
        return False
    address = ipaddress.ip_address(peer.partition("%")[0])
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _engine_metrics(numbers: EngineNumbers) -> Iterable[Metric]:
    yield _gauge("tandem_requests_running", "Requests that the engine works on", numbers.requests_running)
    yield _gauge("tandem_requests_waiting", "Requests that wait inside the engine", numbers.requests_waiting)
    if numbers.kv_share is not None:
        yield _gauge("tandem_kv_share", "Share of the memory for KV that running requests take", numbers.kv_share)
    yield _counter("tandem_kv_transfers", "KV transfers that this worker received", numbers.kv_transfers_count)
    yield _counter("tandem_kv_bytes", "Bytes of KV received", numbers.kv_bytes)
    yield _counter("tandem_kv_seconds", "Seconds that KV transfers took, added up", numbers.kv_seconds)
    yield _counter("tandem_kv_failures", "KV transfers that failed", numbers.kv_failures_count)
    yield _counter("tandem_kv_expired", "Requests whose KV nobody read in time", numbers.kv_expired_count)
    prompt = CounterMetricFamily("tandem_prompt_tokens", "Prompt tokens by where their KV came from", labels=["source"])
    for source, count in sorted(numbers.prompt_tokens.items()):
        prompt.add_metric([source], count)
    yield prompt
    yield _counter("tandem_generated_tokens", "Tokens generated", numbers.generated_tokens)
    speed = numbers.kv_gigabytes_per_second
    if speed is not None:
        yield _gauge("tandem_kv_gigabytes_per_second", "Effective KV bandwidth since the start, 10^9 bytes/s", speed)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)
