"""Sends the probes and reads the counters."""

import asyncio
import json
import time
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from pulumi_tandem.lower import ProofSpec
from pulumi_tandem.prove.evidence import Evidence
from pulumi_tandem.prove.judge import UNKNOWN, Answer, KvCounters, Measurement, judge
from pulumi_tandem.prove.plan import OUTPUT_TOKENS, Candidate, Probe, plan_probes
from pulumi_tandem.prove.reach import closed_ports

REQUEST_TIMEOUT_S = 120.0
SIGHT_TIMEOUT_S = 20.0
COUNTER_TIMEOUT_S = 10.0
"""An engine publishes a transfer with its next step, so the counters lag behind the answer a little."""


class ProofFailedError(Exception):
    """The generation must not serve; the message holds every reason."""


@dataclass(frozen=True, kw_only=True)
class Door:
    """How the prover gets in."""

    url: str
    """The gateway, as `http://host:port`."""
    token: str
    """The proof token, which lets requests address a generation that serves nobody yet."""
    model: str
    """The name that clients ask for."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is to be proven."""

    service: str
    generation: str
    workers: tuple[Candidate, ...]
    """All workers of the generation."""
    disaggregated: bool
    context_tokens: int
    """The longest prompt and answer that the workers take."""


async def prove(door: Door, subject: Subject, spec: ProofSpec, *, salt: str) -> Evidence:
    """Use every worker of a generation in each phase that it may take, through the front door.

    `spec` is what counts as proven; `salt` differs between proofs, so that no cache answers in place of a transfer.

    Raises:
        ProofFailedError: with every reason, and what of the network may be behind them.
    """
    try:
        return await _prove(door, subject, spec, salt)
    except ProofFailedError as error:
        if not (closed := await closed_ports(subject.workers)):
            raise
        raise ProofFailedError("; ".join([*closed, str(error)])) from error


async def _prove(door: Door, subject: Subject, spec: ProofSpec, salt: str) -> Evidence:
    probes = plan_probes(
        subject.workers, disaggregated=subject.disaggregated, salt=salt, context_tokens=subject.context_tokens
    )
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)) as session:
        visitor = _Visitor(session, door, subject.generation)
        try:
            await visitor.await_sight(subject.workers)
            measurements = [await visitor.measure(probe) for probe in probes]
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            msg = f"a proof request did not come through: {str(error) or type(error).__name__}"
            raise ProofFailedError(msg) from error
    evidence, reasons = judge(subject.service, subject.generation, tuple(measurements), spec)
    if evidence is None:
        raise ProofFailedError("; ".join(reasons))
    return evidence


class _Visitor:
    """One prover at one door."""

    def __init__(self, session: aiohttp.ClientSession, door: Door, generation: str) -> None:
        self.session = session
        self.door = door
        self.headers = {"x-tandem-proof": door.token, "x-tandem-generation": generation}

    async def await_sight(self, workers: tuple[Candidate, ...]) -> None:
        """Wait until the gateway has seen that every worker is ready; it looks at them a few times a second."""
        deadline_s = time.monotonic() + SIGHT_TIMEOUT_S
        while True:
            async with self.session.get(f"{self.door.url}/fleet", headers=self.headers) as response:
                seen = {worker["name"] for worker in (await response.json())["workers"] if worker["ready"]}
            unseen = [worker.name for worker in workers if worker.name not in seen]
            if not unseen:
                return
            if time.monotonic() > deadline_s:
                msg = f"the gateway has not seen {', '.join(unseen)} ready within {SIGHT_TIMEOUT_S:.0f} s"
                raise ProofFailedError(msg)
            await asyncio.sleep(0.1)

    async def measure(self, probe: Probe) -> Measurement:
        """Ask over the pair, then the decode worker alone; a pair's first request has a second try."""
        try:
            return await self._measure(probe)
        except ProofFailedError as error:
            if probe.kind != "first":
                raise
            again = await self._measure(replace(probe, salt=f"{probe.salt}-again"))
            return replace(again, failed_before=str(error))

    async def _measure(self, probe: Probe) -> Measurement:
        """Read the decode worker's counters around both answers."""
        before, _ = await _counters(self.session, probe.decode)
        alone = {"x-tandem-decode": probe.decode.name, "x-tandem-path": "aggregated"}
        pair = {"x-tandem-decode": probe.decode.name}
        if probe.prefill:
            pair["x-tandem-prefill"] = probe.prefill.name
        # Each with a cache of its own: KV that was transferred must not answer for the reference.
        answer = await self._ask(pair if probe.prefill else alone, probe, probe.salt)
        reference = await self._ask(alone, probe, f"{probe.salt}-alone")
        deadline_s = time.monotonic() + COUNTER_TIMEOUT_S
        while True:
            after, transport = await _counters(self.session, probe.decode)
            moved = after.since(before)
            if not probe.prefill or moved.transfers > 0 or time.monotonic() > deadline_s:
                return Measurement(probe, answer, reference, moved, transport)
            await asyncio.sleep(0.2)

    async def _ask(self, route: dict[str, str], probe: Probe, cache_salt: str) -> Answer:
        body = {
            "model": self.door.model,
            "messages": [{"role": "user", "content": probe.prompt}],
            "temperature": 0,
            "max_tokens": OUTPUT_TOKENS,
            "stream": True,
            "stream_options": {"include_usage": True},
            "logprobs": True,
            "top_logprobs": 2,
            "cache_salt": cache_salt,
        }
        started_s = time.monotonic()
        arrivals_s: list[float] = []
        chunks: list[dict[str, Any]] = []
        url = f"{self.door.url}/v1/chat/completions"
        async with self.session.post(url, json=body, headers=self.headers | route) as response:
            if response.status != 200:
                msg = f"{_route(probe)}: the gateway answered {response.status}: {(await response.text())[:500]}"
                raise ProofFailedError(msg)
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    msg = f"{_route(probe)}: the stream broke: {chunk['error'].get('message', chunk['error'])}"
                    raise ProofFailedError(msg)
                chunks.append(chunk)
                if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                    arrivals_s.append(time.monotonic())
            return _answer(chunks, arrivals_s, started_s, dict(response.headers))


def _answer(
    chunks: list[dict[str, Any]],
    arrivals_s: list[float],
    started_s: float,
    headers: dict[str, str],
) -> Answer:
    choices = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
    logprobs = [entry for choice in choices for entry in _logprobs(choice)]
    names = {name.lower(): value for name, value in headers.items()}
    prompt_tokens: list[int] = [chunk["usage"]["prompt_tokens"] for chunk in chunks if chunk.get("usage")]
    span_s = arrivals_s[-1] - arrivals_s[0] if arrivals_s else 0.0
    pieces = [choice["delta"].get("content") for choice in choices]
    return Answer(
        text="".join(choice["delta"].get("content") or "" for choice in choices),
        # An engine that gives no log-probabilities must answer alike, piece by piece.
        tokens=tuple(entry["token"] for entry in logprobs) or tuple(piece for piece in pieces if piece),
        gaps_nats=tuple(_gap_nats(entry) for entry in logprobs) or tuple(float("inf") for piece in pieces if piece),
        prompt_tokens=prompt_tokens[-1] if prompt_tokens else 0,
        ttft_ms=(arrivals_s[0] - started_s) * 1e3 if arrivals_s else 0.0,
        tpot_ms=span_s * 1e3 / max(1, len(arrivals_s) - 1),
        path=names.get("x-tandem-path", "by an unknown path"),
        prefill=names.get("x-tandem-prefill", ""),
        decode=names.get("x-tandem-decode", ""),
    )


def _logprobs(choice: dict[str, Any]) -> list[dict[str, Any]]:
    found: Any = choice.get("logprobs")
    return (found["content"] or []) if found else []


def _gap_nats(entry: dict[str, Any]) -> float:
    best = sorted((other["logprob"] for other in entry["top_logprobs"]), reverse=True)
    return best[0] - best[1] if len(best) > 1 else float("inf")


def _route(probe: Probe) -> str:
    return f"{probe.prefill.name} to {probe.decode.name}" if probe.prefill else probe.decode.name


async def _counters(session: aiohttp.ClientSession, worker: Candidate) -> tuple[KvCounters, str]:
    async with session.get(f"{worker.agent_url}/metrics") as response:
        response.raise_for_status()
        families = list(text_string_to_metric_families(await response.text()))
    samples = [sample for family in families for sample in family.samples]

    def total(name: str) -> float:
        return sum(sample.value for sample in samples if sample.name == name)

    named = {s.labels["transport"] for s in samples if s.name == "tandem_kv_transport_info" and s.value}
    counters = KvCounters(
        transfers=total("tandem_kv_transfers_total"),
        bytes=total("tandem_kv_bytes_total"),
        seconds=total("tandem_kv_seconds_total"),
        failures=total("tandem_kv_failures_total"),
    )
    return counters, ", ".join(sorted(named)) or UNKNOWN
