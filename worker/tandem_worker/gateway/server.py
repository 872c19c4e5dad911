"""The front door: one listener, every path, from bytes of a client to an admitted request."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

import msgspec
from aiohttp import HttpVersion11, web

from tandem_worker.contract import GatewaySpec
from tandem_worker.gateway.admit import Admission, Queue, share
from tandem_worker.gateway.body import SENT, receive, too_large
from tandem_worker.gateway.decider import Decisions
from tandem_worker.gateway.errors import Refusal, error_body
from tandem_worker.gateway.exchange import EVENT_STREAM, Serving, Shared
from tandem_worker.gateway.handoff import Exchange, Terms
from tandem_worker.gateway.keys import Keys
from tandem_worker.gateway.metrics import Metrics
from tandem_worker.gateway.pair import Ask, Pinned, can_serve
from tandem_worker.gateway.prefix import Prompt, prompt_of
from tandem_worker.gateway.request import ANY_WORKER, GENERATING, NOT_SERVED, ClientRequest, understood
from tandem_worker.gateway.upstream import UpstreamError

if TYPE_CHECKING:
    from tandem_worker.gateway.scale import Scale

log = logging.getLogger("tandem.gateway")

JSON = "application/json"
REQUEST_ID_CHARS_MAX = 128
TICK_S = 0.1
LAG_S = 0.25
"""A tick later than this means that the process had no time to read its sockets."""
CLIENT_BUFFER_BYTES_MAX = 64 * 1024
"""Bytes a client may be behind before its engine is no longer read; also uvloop's own high-water mark."""
METRICS_TYPE = {"content-type": "text/plain; version=0.0.4; charset=utf-8"}
Answer = web.StreamResponse
Handler = Callable[[web.BaseRequest, str], Awaitable[Answer]]


class HttpClient:
    """One client's response, as exchanges write it."""

    def __init__(self, request: web.BaseRequest, request_id: str) -> None:
        self._request = request
        self._id = {"x-request-id": request_id}
        self.response: web.StreamResponse | None = None
        self._chunked = False
        self._transport: asyncio.WriteTransport | None = None

    async def begin(self, headers: dict[str, str]) -> None:
        """Send the response headers of an event stream."""
        response = web.StreamResponse(headers={**self._id, **headers, "cache-control": "no-cache"})
        response.content_type = EVENT_STREAM
        response.charset = "utf-8"
        if self._request.version >= HttpVersion11:
            response.enable_chunked_encoding()
        self._chunked = response.chunked
        self.response = response
        await response.prepare(self._request)
        self._transport = self._request.transport

    async def write(self, data: bytes) -> None:
        """Send a part of the stream."""
        assert self.response is not None
        await self.response.write(data)

    def push(self, data: bytes) -> bool:
        """Send a part of the stream without waiting, past aiohttp's writer, which would need a task per part.

        The headers are out: `write` has come before. A transport that is gone takes nothing and ends the
        exchange by cancelling it.
        """
        transport = self._transport
        if not data or transport is None or transport.is_closing():
            return True
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        return transport.get_write_buffer_size() <= CLIENT_BUFFER_BYTES_MAX

    async def drain(self) -> None:
        """Wait until the client has taken most of what was pushed."""
        await self._request.writer.drain()

    async def answer(self, status: int, content_type: str, headers: dict[str, str], body: bytes) -> None:
        """Send a whole answer."""
        headers = {**self._id, **headers, "content-type": content_type or JSON}
        self.response = web.Response(status=status, headers=headers, body=body)

    async def refuse(self, refusal: Refusal, headers: dict[str, str]) -> None:
        """Send an error answer."""
        self.response = refused(refusal, self._request.path, {**self._id, **headers})


def refused(refusal: Refusal, path: str, headers: dict[str, str] | None = None) -> web.Response:
    """The HTTP answer of a refusal, as clients of the path know errors."""
    all_headers = dict(headers or {})
    if refusal.retry_after_s is not None:
        all_headers["retry-after"] = str(refusal.retry_after_s)
    body = error_body(refusal, GENERATING.get(path, ""))
    return web.Response(status=refusal.status, body=body, content_type=JSON, headers=all_headers)


def json_answer(value: object) -> web.Response:
    """What a gateway says of itself."""
    return web.Response(body=msgspec.json.encode(value), content_type=JSON)


def request_id_of(request: web.BaseRequest) -> str:
    """The client's, where it gave one that can be passed on."""
    given = request.headers.get("x-request-id", "")
    if given and len(given) <= REQUEST_ID_CHARS_MAX and given.isascii() and given.isprintable():
        return given
    return os.urandom(16).hex()


class Gateway:
    """Answers requests; owns the queue and everything that runs."""

    def __init__(self, spec: GatewaySpec, shared: Shared, keys: Keys) -> None:
        self.spec = spec
        self.shared = shared
        self.keys = keys
        self.queue = Queue(spec.requests_running_max, spec.requests_waiting_max)
        self.scale: Callable[[], Awaitable[Scale]] | None = None
        """The service's figures for autoscalers; None where it has none."""
        self.draining = False
        self.running: set[Serving] = set()
        self._admitted: dict[int, asyncio.Future[None]] = {}
        self._decisions = Decisions()
        self._sequence = 0
        self._nonce = os.urandom(3).hex()
        self._ticked_s = shared.now()
        self._routes: dict[tuple[str, str], Handler] = {
            ("GET", "/live"): self._live,
            ("GET", "/health"): self._health,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/fleet"): self._fleet,
            ("GET", "/v1/models"): self._models,
            **{("POST", path): self._generate for path in GENERATING},
            **{("POST", path): self._any_worker for path in ANY_WORKER},
            **{("POST", path): self._not_served for path in NOT_SERVED},
        }

    async def handle(self, request: web.BaseRequest) -> Answer:
        """Answer one HTTP request."""
        request_id = request_id_of(request)
        handler = self._routes.get((request.method, request.path))
        if handler is None:
            response = self._no_route(request)
        elif request.path not in ("/live", "/health") and not self.keys.may_enter(request.headers):
            message = "this service needs an API key: send it as `authorization: Bearer KEY`"
            response = refused(Refusal(401, "invalid_request_error", "invalid_api_key", message), request.path)
        else:
            response = await handler(request, request_id)
        if not response.prepared:
            response.headers.setdefault("x-request-id", request_id)
        return response

    def tick(self) -> None:
        """Look after everything that runs: deadlines, silent engines, unused connections."""
        now_s = self.shared.now()
        # After a lag of this process, bytes may lie unread: then the silence is ours, not an engine's.
        lagged = now_s - self._ticked_s > LAG_S
        self._ticked_s = now_s
        for serving in self.running:
            serving.look(now_s, judge_silence=not lagged)
        self.shared.upstream.drop_idle()
        if self.spec.decodes_max:
            self._assign_roles(now_s)

    def _assign_roles(self, now_s: float) -> None:
        changed = self.shared.fleet.assign(self.spec.decodes_max / self.shared.fleet.gateways, now_s)
        for name, role in changed.items():
            log.info("%s takes %s from now on", name, "prompts" if role == "prefill" else "answers")
        if changed:
            self.shared.metrics.moved(len(changed))
            self.shared.fleet_changed.fire()

    @property
    def under_way(self) -> int:
        """Requests running and waiting."""
        return len(self.running) + len(self.queue.waiting)

    # What the gateway says of itself.

    async def _live(self, _request: web.BaseRequest, _request_id: str) -> Answer:
        # Two gateways share one socket while one takes over from the other: the caller must know who answered.
        return web.json_response({"instance": os.environ.get("TANDEM_INSTANCE", "")})

    async def _health(self, _request: web.BaseRequest, _request_id: str) -> Answer:
        if self.draining:
            return _unhealthy("the gateway is draining")
        if not self._can_serve():
            return _unhealthy("no worker of the active generation is ready")
        return web.Response(text="ok\n")

    @property
    def is_ready(self) -> bool:
        """Whether requests of clients are served."""
        return self._can_serve() and not self.draining

    def _can_serve(self) -> bool:
        fleet, spec = self.shared.fleet, self.spec
        ask = Ask(fleet.active, spec.disaggregated, survivors_serve_both=spec.survivors_serve_both)
        return fleet.active is not None and can_serve(fleet, ask)

    def _served_names(self, generation: str | None) -> tuple[str, ...]:
        return self.shared.fleet.served_names.get(generation or "", self.spec.served_names)

    def names(self, request: web.BaseRequest) -> tuple[str, ...]:
        """Model names that a request may ask for."""
        # Who may choose a generation (see _terms) may ask for the names that only that one has.
        return self._served_names(request.headers.get("x-tandem-generation") or self.shared.fleet.active)

    async def _models(self, _request: web.BaseRequest, _request_id: str) -> Answer:
        return json_answer({"object": "list", "data": self.models()})

    def models(self) -> list[dict[str, object]]:
        """The models as `/v1/models` lists them."""
        limit = {"max_model_len": self.spec.context_tokens_max} if self.spec.context_tokens_max else {}
        names = self._served_names(self.shared.fleet.active)
        card = {"object": "model", "created": 0, "owned_by": "tandem", "root": names[0], **limit}
        return [{"id": name, **card} for name in names]

    async def _fleet(self, request: web.BaseRequest, _request_id: str) -> Answer:
        return json_answer(self.view(request.headers))

    def view(self, headers: Mapping[str, str]) -> dict[str, object]:
        """The service as `/fleet` shows it to whoever sent these headers."""
        fleet, metrics = self.shared.fleet, self.shared.metrics
        workers = [
            {
                "name": worker.record.name,
                "generation": worker.record.generation,
                "pool": worker.record.pool,
                "phase": worker.phase,
                "phases": list(worker.record.phases),
                "zone": worker.record.zone,
                "ready": worker.ready,
                "suspect": worker.suspect_since_s is not None,
                "draining": worker.draining or worker.record.draining,
                "running_prefill": worker.prefills,
                "running_decode": worker.decodes,
                "kv_share": round(worker.kv_share, 3),
            }
            for worker in fleet
        ]
        return {
            "contract": self.spec.contract,
            "service": self.spec.service,
            "active_generation": fleet.active,
            "proving": self.keys.has_proof(headers),
            "ready": self.is_ready,
            "queue": {"running": self.queue.running, "waiting": len(self.queue.waiting)},
            "workers": sorted(workers, key=lambda worker: str(worker["name"])),
            "counts": metrics.counts,
            "ttft_ms": metrics.ttft.summary(),
            "tpot_ms": metrics.tpot.summary(),
        }

    async def _metrics(self, _request: web.BaseRequest, _request_id: str) -> Answer:
        return web.Response(body=(await self.observed()).render(), headers=METRICS_TYPE)

    async def observed(self) -> Metrics:
        """The metrics with the gauges as they stand now."""
        fleet = self.shared.fleet
        gauges = {
            "requests_running": float(self.queue.running),
            "requests_waiting": float(len(self.queue.waiting)),
            "workers_ready": float(len(ready := fleet.ready(fleet.active))),
        }
        phases = {phase: float(sum(worker.phase == phase for worker in ready)) for phase in ("prefill", "decode")}
        now_s = self.shared.now()
        backlog_s = {
            "prefill": fleet.meters["prefill"].seconds(now_s),
            "decode": fleet.meters["decode"].seconds(now_s, waiting=len(self.queue.waiting)),
        }
        if self.scale is not None:
            self.shared.metrics.scaled(self.spec.service, asdict(await self.scale()))
        self.shared.metrics.observe(gauges, backlog_s, phases)
        return self.shared.metrics

    def _no_route(self, request: web.BaseRequest) -> Answer:
        methods = sorted(method for method, path in self._routes if path == request.path)
        if methods:
            message = f"{request.path} takes {', '.join(methods)}"
            answer = refused(Refusal(405, "invalid_request_error", "method_not_allowed", message), request.path)
            answer.headers["allow"] = ", ".join(methods)
            return answer
        missing = Refusal(404, "invalid_request_error", "not_found", f"there is no {request.path[:200]}")
        return refused(missing, request.path)

    async def _not_served(self, request: web.BaseRequest, _request_id: str) -> Answer:
        message = f"{request.path} is not served: this service generates text and has no model for it"
        return refused(Refusal(501, "not_implemented_error", "not_implemented", message), request.path)

    # Requests for the engines.

    async def _generate(self, request: web.BaseRequest, request_id: str) -> Answer:
        metrics = self.shared.metrics
        metrics.count("requests")
        read = await self._read(request)
        terms = read if isinstance(read, Refusal) else self._terms(request, read)
        if isinstance(read, Refusal) or isinstance(terms, Refusal):
            refusal = read if isinstance(read, Refusal) else terms
            assert isinstance(refusal, Refusal)
            metrics.count("refused")
            return refused(refusal, request.path)
        client = HttpClient(request, request_id)
        sequence = self._next()
        try:
            turned_away = await self._enter(sequence, terms)
        except asyncio.CancelledError:
            metrics.count("client_gone")
            raise
        if turned_away is not None:
            metrics.count("rejected" if turned_away.status == 429 else "timeouts")
            return refused(turned_away, request.path)
        entered_s = self.shared.now()
        serving = Serving(self.shared, client, read, terms, f"{request_id}-{self._nonce}{sequence:x}")
        self.running.add(serving)
        try:
            await serving.run()
        finally:
            self.running.discard(serving)
            self._leave(self.shared.now() - entered_s)
            self._account(read.endpoint, serving)
        assert client.response is not None
        if client.response.prepared:
            await client.response.write_eof()
        return client.response

    def _account(self, endpoint: str, serving: Serving) -> None:
        metrics = self.shared.metrics
        if serving.outcome in ("completed", "refused", "failed", "rejected"):
            metrics.count(serving.outcome)
        route = serving.state.route
        path = "none" if route is None else "aggregated" if route.prefill is None else "disaggregated"
        metrics.answered(endpoint, path, serving.outcome)
        if route is not None and self.spec.disaggregated:
            if route.prefill is None:
                metrics.whole(route.reason)
            if self.spec.hand_off_tokens_min and (told := self._decided(serving.state)):
                log.warning("%s", told)
        if serving.outcome == "completed" and serving.times is not None:
            metrics.took(*serving.times)

    def _decided(self, state: Exchange) -> str | None:
        assert state.route is not None
        handed_off = state.route.prefill is not None
        return self._decisions.count(state.generation, handed_off=handed_off, reason=state.route.reason)

    async def _any_worker(self, request: web.BaseRequest, _request_id: str) -> Answer:
        read = await self._read(request)
        if isinstance(read, Refusal):
            return refused(read, request.path)
        fleet, upstream = self.shared.fleet, self.shared.upstream
        workers = sorted(fleet.ready(fleet.active), key=lambda worker: worker.prefills + worker.decodes)
        for worker in workers[: self.spec.attempts_max]:
            record = worker.record
            wire = None
            try:
                async with asyncio.timeout(self.spec.stall_timeout_s):
                    wire = await upstream.post(
                        record.address, record.http_port, request.path, msgspec.json.encode(read.fields)
                    )
                    status, body = await wire.headers(), await wire.read_all()
                    content_type = wire.content_type or JSON
            except (UpstreamError, TimeoutError):
                fleet.suspect(record.name, self.shared.now())
                continue
            finally:
                if wire is not None:
                    upstream.release(wire)
            if status < 500:
                return web.Response(status=status, body=body, headers={"content-type": content_type})
        message = "no worker could answer; the request can be sent again"
        return refused(Refusal(503, "service_unavailable", "no_worker", message, retry_after_s=2), request.path)

    async def _read(self, request: web.BaseRequest) -> ClientRequest | Refusal:
        limit_bytes = self.spec.body_bytes_max
        sent = request.get(SENT)
        if sent is None:
            sent = await receive(request, limit_bytes)
        elif sent.size_bytes > limit_bytes:
            sent = too_large(limit_bytes)
        return sent if isinstance(sent, Refusal) else understood(request.path, sent.fields, self.names(request))

    def _terms(self, request: web.BaseRequest, read: ClientRequest) -> Terms | Refusal:
        spec, headers = self.spec, request.headers
        wanted = {name: headers.get(f"x-tandem-{name}") for name in ("generation", "prefill", "decode", "path")}
        proving = self.keys.has_proof(request.headers)
        if (any(wanted.values()) or "x-tandem-proof" in headers) and not proving:
            message = "headers that choose workers need `x-tandem-proof` with the service's proof token"
            return Refusal(403, "permission_error", "proof_token_required", message)
        reason = self.shared.dialect.why_whole(read) if spec.disaggregated else "one-pool"
        if wanted["path"] == "aggregated":
            reason = reason or "proof"
        named = wanted["prefill"] is not None or wanted["decode"] is not None
        pinned = Pinned(wanted["prefill"], wanted["decode"]) if proving and (named or wanted["path"]) else None
        return Terms(
            disaggregate=not reason,
            reason=reason,
            deadline_s=self.shared.now() + spec.request_timeout_s,
            attempts_max=1 if proving else spec.attempts_max,
            prompt=Prompt() if reason else prompt_of(read.fields, cached=spec.prefix_cached),
            hand_off_tokens_min=spec.hand_off_tokens_min,
            survivors_serve_both=spec.survivors_serve_both and not proving,
            generation=wanted["generation"],
            pinned=pinned,
        )

    # The queue.

    async def _enter(self, sequence: int, terms: Terms) -> Refusal | None:
        """Wait for a place in the service; returns why there is none."""
        verdict = self.queue.arrive(sequence, privileged=terms.pinned is not None or terms.generation is not None)
        if verdict is Admission.RUN:
            return None
        if verdict is Admission.TURN_AWAY:
            message = f"the service is full: {self.queue.running} requests running, {len(self.queue.waiting)} waiting"
            return Refusal(429, "overloaded", "queue_full", message, retry_after_s=self.queue.retry_after_s())
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._admitted[sequence] = place
        try:
            async with asyncio.timeout(terms.deadline_s - self.shared.now()):
                await place
        except TimeoutError:
            self._give_up(sequence, place)
            return Refusal(504, "timeout", "deadline_exceeded", "the request waited longer than the service allows")
        except asyncio.CancelledError:
            self._give_up(sequence, place)
            raise
        finally:
            self._admitted.pop(sequence, None)
        return None

    def _give_up(self, sequence: int, place: "asyncio.Future[None]") -> None:
        if not self.queue.give_up(sequence) and place.done() and not place.cancelled():
            # It was given a place at the same moment; the place goes to the next one.
            self._leave(0.0)

    def divide(self, gateways: int) -> None:
        """Admit this gateway's part of the service's limits, of so many gateways."""
        self.shared.fleet.gateways = gateways
        running_max, waiting_max = (
            share(limit, gateways) for limit in (self.spec.requests_running_max, self.spec.requests_waiting_max)
        )
        if (running_max, waiting_max) != (self.queue.running_max, self.queue.waiting_max):
            self._let_in(self.queue.resize(running_max, waiting_max))

    def _leave(self, stayed_s: float) -> None:
        self._let_in(self.queue.leave(stayed_s))

    def _let_in(self, sequences: list[int]) -> None:
        for sequence in sequences:
            place = self._admitted.get(sequence)
            if place is not None and not place.done():
                place.set_result(None)

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence


def _unhealthy(why: str) -> web.Response:
    return refused(Refusal(503, "service_unavailable", "not_ready", why, retry_after_s=1), "/health")
