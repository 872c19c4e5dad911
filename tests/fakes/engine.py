"""A fake vLLM 0.32 engine that speaks the exact wire of its OpenAI server, and fails on demand.

In a test: `async with FakeEngine(served_names=("m",)) as engine: ... engine.url`.
As a process: `python -m tests.fakes.engine --port N`, with vLLM's own flags; faults over POST /fake/faults.
"""

import asyncio
import contextlib
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from tests.fakes import metrics, tokens, wire
from tests.fakes.apis import as_chat, renderer
from tests.fakes.faults import Fault, FaultBook, Kind, Phase, fault_from_json
from tests.fakes.job import Api, Job, chat_prompt, parse_job, parse_json, phase_of
from tests.fakes.kv import KvLoadError, KvSide, Transfers
from tests.fakes.run import Run
from tests.fakes.server import STREAM_HEAD, Connection, Request, Server, head

GENERATING: dict[str, Api] = {
    "/v1/completions": "text",
    "/v1/chat/completions": "chat",
    "/v1/messages": "messages",
    "/v1/responses": "responses",
}
"""Paths that generate."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that reached the engine."""

    path: str
    phase: Phase
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(slots=True, eq=False)
class FakeEngine:
    """One engine: an HTTP port, a side channel for KV, a scheduler that makes a token per step."""

    name: str = "engine"
    host: str = "127.0.0.1"
    port: int = 0
    side_channel_host: str = ""
    """Empty: `host`."""
    side_channel_port: int = 0
    served_names: tuple[str, ...] = ("fake",)
    context_max: int = 131_072
    running_max: int = 256
    step_s: float = 0.0
    """Time between engine steps; 0: one step per turn of the loop."""
    prefill_s: float = 0.0
    """Time before a prompt that was not read from another engine yields its first token."""
    one_prefill: bool = False
    """Whether prompts are read one after the other, as where each fills the engine's batch."""
    manual: bool = False
    """Steps only when `step()` is called."""
    eos_one_in: int = 0
    split_bytes: int = 0
    """Sends streams in pieces of so many bytes; 0: whole events."""
    recompute: bool = False
    """kv_load_failure_policy: recompute the prompt instead of failing the request."""
    keep_requests: bool = True
    faults: FaultBook = field(default_factory=FaultBook)
    requests: deque[Seen] = field(default_factory=lambda: deque[Seen](maxlen=100_000))
    prompt_tokens_by_source: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("local_compute", "local_cache_hit", "external_kv_transfer"), 0)
    )
    generation_tokens: int = 0
    steps: int = 0
    """Of the model, each for all requests that run."""
    generating_requests: int = 0
    success: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("stop", "length", "abort", "error"), 0))
    kv: KvSide = field(default_factory=KvSide)
    healthy: bool = True
    alive: bool = False
    _server: Server = field(init=False)
    _running: list[Run] = field(default_factory=list[Run])
    _waiting: deque[Run] = field(default_factory=deque[Run])
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    _timer: asyncio.Handle | None = None

    def __post_init__(self) -> None:
        self._server = Server(self._answer, self.host, self.port, split_bytes=self.split_bytes)
        self.kv.host, self.kv.port = self.side_channel_host or self.host, self.side_channel_port

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    async def start(self) -> None:
        """Starts, or starts again on the same ports with a new engine id and an empty cache."""
        await self._server.start()
        await self.kv.start()
        self.port, self.side_channel_port, self.alive = self._server.port, self.kv.port, True

    def kill(self) -> None:
        """Ends as by SIGKILL: ports closed, connections cut, blocks gone."""
        self.alive = False
        self._server.kill()
        self.kv.kill()
        self._running.clear()
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def freeze(self, frozen: bool = True) -> None:
        """SIGSTOP, or SIGCONT: connections are accepted and stay silent."""
        self._server.freeze(frozen)
        if frozen and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif not frozen:
            self._schedule()

    @property
    def url(self) -> str:
        """Base address, without a path."""
        return f"http://{self.host}:{self.port}"

    @property
    def violations(self) -> list[str]:
        """Broken rules of the KV protocol, in the order seen; a right gateway leaves it empty."""
        return self.kv.violations

    @property
    def held(self) -> int:
        """Requests whose blocks wait for a reader."""
        return len(self.kv.held)

    @property
    def running(self) -> int:
        """Requests that are stepped now."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Requests that wait for a place among the running."""
        return len(self._waiting)

    @property
    def transfers(self) -> Transfers:
        """KV that this engine has read."""
        return self.kv.transfers

    def fail(self, kind: Kind, **more: Any) -> None:
        """Books a fault for the next requests that match: `engine.fail("mid_stream", after_tokens=3)`."""
        self.faults.add(Fault(kind, **more))

    def release(self) -> None:
        """Opens the gate: requests that wait at it go on, stalled streams too."""
        self.faults.gate.set()

    def step(self, count: int = 1) -> None:
        """Steps the engine by hand (`manual`)."""
        for _ in range(count):
            self._tick()

    def seen(self, phase: Phase | None = None) -> list[Seen]:
        """Requests that generate and reached this engine, those of one phase or all."""
        return [s for s in self.requests if phase in (None, s.phase)]

    # the scheduler
    def _enqueue(self, run: Run) -> None:
        self._waiting.append(run)
        self._fill()
        self._schedule()

    def _fill(self) -> None:
        while self._waiting and len(self._running) < self.running_max:
            self._running.append(self._waiting.popleft())

    def _schedule(self) -> None:
        if self._timer is None and not self.manual and self._running:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.step_s, self._fire) if self.step_s else loop.call_soon(self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._tick()
        self._schedule()

    def _tick(self) -> None:
        self.steps += 1
        for run in list(self._running):
            if run.state == "running":
                self.generation_tokens += len(run.left)
                run.step()
        self._running = [r for r in self._running if r.state == "running" and r.left]
        self._fill()

    # requests
    async def _answer(self, request: Request, connection: Connection) -> None:
        try:
            if request.path.startswith("/fake/"):
                self._control(request, connection)
            elif request.method == "POST" and request.path in GENERATING:
                await self._generate(request, connection)
            elif request.method == "POST" and request.path in ("/tokenize", "/detokenize"):
                connection.respond(200, self._tokenizer(request))
            elif request.method == "GET":
                self._get(request, connection)
            else:
                connection.respond(404, b'{"detail":"Not Found"}')
        except wire.ApiError as error:
            connection.respond(error.status, error.body())

    def _get(self, request: Request, connection: Connection) -> None:
        match request.path:
            case "/health" | "/ping" | "/live" | "/ready":  # the last two: its own agent, where a process has none
                connection.respond(200 if self.healthy else 503, b"", "text/plain; charset=utf-8")
            case "/v1/models":
                connection.respond(200, self._models())
            case "/metrics":
                connection.respond(200, metrics.render(self), "text/plain; version=0.0.4; charset=utf-8")
            case "/version":
                connection.respond(200, b'{"version":"0.32.0"}')
            case _:
                connection.respond(404, b'{"detail":"Not Found"}')

    def _models(self) -> bytes:
        now = int(time.time())
        card = {"object": "model", "created": now, "owned_by": "vllm", "root": self.served_names[0], "parent": None}
        rights = dict.fromkeys(("allow_create_engine", "allow_sampling", "allow_logprobs"), True)
        rights |= {"allow_search_indices": False, "allow_view": True, "allow_fine_tuning": False}
        owner = {"organization": "*", "group": None, "is_blocking": False}
        permission = {"id": "modelperm-fake", "object": "model_permission", "created": now} | rights | owner
        more = {"max_model_len": self.context_max, "permission": [permission]}
        cards = [{"id": n} | card | more for n in self.served_names]
        return wire.dumps({"object": "list", "data": cards}).encode()

    def _tokenizer(self, request: Request) -> bytes:
        body = parse_json(request.body)
        if request.path == "/detokenize":
            ids = body.get("tokens")
            if not isinstance(ids, list) or not all(map(tokens.known, ids)):
                raise wire.ApiError(400, "tokens must be ids of the vocabulary", param="tokens")
            return wire.dumps({"prompt": tokens.decode(ids)}).encode()
        ids = chat_prompt(body) if "messages" in body else tokens.encode(str(body.get("prompt", "")))
        return wire.dumps(
            {"count": len(ids), "max_model_len": self.context_max, "tokens": ids, "token_strs": None}
        ).encode()

    async def _generate(self, request: Request, connection: Connection) -> None:
        body = parse_json(request.body)
        phase = phase_of(body)
        self.generating_requests += 1
        if self.keep_requests:
            self.requests.append(Seen(request.path, phase, request.headers, body))
        fault = self.faults.take(request.path, phase, request.body)
        if fault is not None and await self._before(fault, connection, stream=bool(body.get("stream"))):
            return
        api = GENERATING[request.path]
        job = parse_job(
            as_chat(api, body),
            api=api,
            names=self.served_names,
            context_max=self.context_max,
            eos_one_in=self.eos_one_in,
        )
        run = self._run(job, request, connection, fault)
        run.begin()
        try:
            if await self._load_kv(run):
                await self._stepped(run)
        except asyncio.CancelledError:
            run.cut()
            self.success["abort"] += 1
            raise
        for sequence in job.sequences:
            self.success[sequence.finish or "error"] += 1

    async def _stepped(self, run: Run) -> None:
        while True:
            self._enqueue(run)
            await run.changed.wait()
            if run.state != "stalled":
                return
            async with self.faults.at_gate():
                await self.faults.gate.wait()
            run.resume()

    def _run(self, job: Job, request: Request, connection: Connection, fault: Fault | None) -> Run:
        stream = renderer(job, request.headers.get("x-request-id") or uuid.uuid4().hex)
        return Run(job=job, connection=connection, stream=stream, fault=fault, die=self._die, hold_kv=self._hold)

    async def _before(self, fault: Fault, connection: Connection, *, stream: bool) -> bool:
        """Acts out a fault that comes before the answer; True when there is no answer."""
        match fault.kind:
            case "before_headers":
                self._end(connection, fault)
            case "after_headers":
                connection.write(STREAM_HEAD if stream else head(200, "application/json", 1000))
                self._end(connection, fault)
            case "garbage" if fault.after_tokens == 0:
                connection.write(b"\x00\xff\xfe{]]> not HTTP at all\r\n\r\n" * 4)
                self._end(connection, fault)
            case "status":
                error = wire.ApiError(fault.status, "asked for by a test", "InternalServerError")
                connection.respond(fault.status, error.body())
            case "half_open":
                async with self.faults.at_gate():
                    await asyncio.get_running_loop().create_future()
            case "gate":
                async with self.faults.at_gate():
                    await (asyncio.sleep(fault.delay_s) if fault.delay_s else self.faults.gate.wait())
                return False
            case _:
                return False
        return True

    async def _load_kv(self, run: Run) -> bool:
        """Reads the blocks that the request names, or prefills; False when the request has failed."""
        job = run.job
        source = "local_compute"
        if job.kv_read is not None:
            try:
                broken = run.fault is not None and run.fault.kind == "kv_load"
                if not await self.kv.fetch(job.kv_read, job.prompts[0], broken=broken):
                    for sequence in job.sequences:  # wrong KV under HTTP 200: wrong text
                        sequence.model = tokens.Generation(sequence.prompt, salt=0xBAD)
                source = "external_kv_transfer"
            except KvLoadError:
                if not self.recompute:
                    run.fail()
                    return False
        if source == "local_compute" and self.prefill_s:
            async with self._reading if self.one_prefill else contextlib.nullcontext():
                await asyncio.sleep(self.prefill_s)
        self.prompt_tokens_by_source[source] += job.prompt_tokens
        return True

    def _hold(self, run: Run) -> dict[str, Any] | None:
        if not run.job.kv_hold or (run.fault is not None and run.fault.kind == "null_kv"):
            return None
        name = run.stream.request_id
        return self.kv.hold(f"{name}-0" if run.job.api == "text" else name, run.job.prompts[0])

    def _die(self, run: Run, fault: Fault) -> None:
        run.cut()
        self._end(run.connection, fault)

    def _end(self, connection: Connection, fault: Fault) -> None:
        connection.abort(reset=fault.rst)
        if fault.whole_engine:
            self.kill()

    # control, for an engine in its own process
    def _control(self, request: Request, connection: Connection) -> None:
        match request.path:
            case "/fake/faults":
                try:
                    self.faults.add(fault_from_json(parse_json(request.body)))
                except (TypeError, ValueError) as error:
                    raise wire.ApiError(400, str(error)) from error
            case "/fake/release":
                self.release()
            case "/fake/clear":
                self.faults.clear()
            case "/fake/step":
                self.step_s = float(parse_json(request.body)["step_ms"]) / 1000
            case "/fake/state":
                pass
            case _:
                raise wire.ApiError(404, "no such control")
        connection.respond(200, wire.dumps(self.state()).encode())

    def state(self) -> dict[str, Any]:
        """What a test outside of the process may ask for."""
        return {
            "violations": self.violations,
            "held": self.held,
            "running": self.running,
            "waiting": self.waiting,
            "at_gate": self.faults.waiting,
            "faults_taken": [f.kind for f in self.faults.taken],
            "requests": self.generating_requests,
            "success": self.success,
            "transfers": self.transfers.count,
        }


if __name__ == "__main__":
    from tests.fakes.process import main

    main()
