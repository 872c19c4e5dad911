"""What the measurements mean: evidence, or every reason why this generation must not serve."""

from dataclasses import dataclass

from pulumi_tandem.lower import ProofSpec
from pulumi_tandem.prove.evidence import Evidence, PairEvidence
from pulumi_tandem.prove.plan import QUESTION, Probe

UNKNOWN = "unknown"
"""The transport of an engine whose KV library names none."""

TRANSPORT_NAMES = {
    "tcp": {"tcp"},
    "shm": {"posix", "sysv", "cma", "xpmem", "knem"},
    "cuda_ipc": {"cuda_ipc"},
    "rdma": {"rc_verbs", "rc_mlx5", "dc_mlx5", "ud_verbs", "ud_mlx5", "gga_mlx5"},
    "efa": {"srd", "efa"},
}
"""What a declared transport is called by those that carry it out. Source: `ucx_info -d`, libfabric's providers."""


@dataclass(frozen=True)
class Answer:
    """One answer, token by token."""

    text: str
    tokens: tuple[str, ...]
    gaps_nats: tuple[float, ...]
    """For each token, by how much the best log-probability beats the second."""
    prompt_tokens: int
    ttft_ms: float
    tpot_ms: float
    path: str
    prefill: str
    decode: str


@dataclass(frozen=True)
class KvCounters:
    """What a worker's engine counted since it started."""

    transfers: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0
    failures: float = 0.0

    def since(self, before: "KvCounters") -> "KvCounters":
        """What was counted in between."""
        return KvCounters(
            self.transfers - before.transfers,
            self.bytes - before.bytes,
            self.seconds - before.seconds,
            self.failures - before.failures,
        )


@dataclass(frozen=True)
class Measurement:
    """One probe and what came of it."""

    probe: Probe
    answer: Answer
    reference: Answer
    """The same prompt answered whole by the decode worker."""
    moved: KvCounters
    transport: str
    failed_before: str = ""
    """Why the request was sent a second time; empty: it was not."""


def judge(
    service: str,
    generation: str,
    measurements: tuple[Measurement, ...],
    spec: ProofSpec,
) -> tuple[Evidence | None, tuple[str, ...]]:
    """The evidence, or None and every reason against this generation, each one sentence with its consequence."""
    reasons = [reason for measurement in measurements for reason in _reasons(measurement, spec)]
    timed = [m for m in measurements if m.probe.kind != "first"]
    pairs = tuple(_pair(m) for m in timed if m.probe.prefill)
    bandwidth = _gb_per_s([m.moved for m in timed if m.probe.kind == "long"])
    if pairs and 0 < bandwidth < spec.kv_gb_per_s_min:
        reasons.append(
            f"KV moved at {bandwidth:.3f} GB/s, below the declared floor of {spec.kv_gb_per_s_min:g} GB/s "
            f"(transfer.kv_gb_per_s_min); every request would wait that much longer for its first token"
        )
    if reasons:
        return None, tuple(dict.fromkeys(reasons))
    short = [m.answer for m in timed if m.probe.kind == "question"]
    transports = sorted({pair.transport for pair in pairs})
    again = tuple(f"asked twice; the first time {m.failed_before}" for m in measurements if m.failed_before)
    notes = again + tuple(
        f"{p.prefill} to {p.decode}: the answer left the aggregated one after {p.same_tokens} tokens, where the "
        f"two best tokens were within {spec.divergence_gap_nats_max:g} nats of each other"
        for p in pairs
        if p.same_tokens < p.output_tokens
    )
    return (
        Evidence(
            service=service,
            generation=generation,
            path="disaggregated" if pairs else "aggregated",
            question=QUESTION,
            answer=short[0].text.strip(),
            transport=", ".join(transports) or "none",
            kv_bytes=int(sum(m.moved.bytes for m in measurements)),
            kv_gb_per_s=round(bandwidth, 3),
            ttft_ms=_mean([a.ttft_ms for a in short]),
            tpot_ms=_mean([a.tpot_ms for a in short]),
            pairs=pairs,
            notes=notes,
        ),
        (),
    )


def _gb_per_s(moved: list[KvCounters]) -> float:
    seconds = sum(counters.seconds for counters in moved)
    return sum(counters.bytes for counters in moved) / seconds / 1e9 if seconds else 0.0


def _mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 1)


def _pair(m: Measurement) -> PairEvidence:
    assert m.probe.prefill
    return PairEvidence(
        prefill=m.probe.prefill.name,
        decode=m.probe.decode.name,
        prompt_tokens=m.answer.prompt_tokens,
        output_tokens=len(m.answer.tokens),
        kv_bytes=int(m.moved.bytes),
        kv_gb_per_s=round(_gb_per_s([m.moved]), 3),
        ttft_ms=round(m.answer.ttft_ms, 1),
        tpot_ms=round(m.answer.tpot_ms, 1),
        transport=m.transport,
        same_tokens=same_tokens(m.answer, m.reference),
    )


def same_tokens(answer: Answer, reference: Answer) -> int:
    """How many tokens two answers share from the start."""
    same = 0
    for one, other in zip(answer.tokens, reference.tokens, strict=False):
        if one != other:
            break
        same += 1
    return same


def _reasons(m: Measurement, spec: ProofSpec) -> list[str]:
    if not m.answer.tokens:
        return [f"{m.probe.decode.name} answered nothing to {QUESTION!r}"]
    reasons: list[str] = []
    if prefill := m.probe.prefill:
        pair = f"{prefill.name} to {m.probe.decode.name}"
        if m.answer.path != "disaggregated":
            reasons.append(f"{pair}: the gateway served the request {m.answer.path}, not over the pair")
        if m.moved.transfers <= 0 or m.moved.bytes <= 0:
            reasons.append(
                f"{pair}: no KV moved; decode computed the prompt again itself. "
                f"Clients would get right answers at the price of two prefills"
            )
        if m.moved.failures > 0:
            reasons.append(f"{pair}: the engine counted {m.moved.failures:.0f} failed KV transfers")
        named = set(m.transport.split(", ")) - {UNKNOWN}
        if not named <= TRANSPORT_NAMES[spec.transport]:
            reasons.append(
                f"{pair}: KV went over {m.transport}, not over {spec.transport} as declared (transfer.transport)"
            )
    same = same_tokens(m.answer, m.reference)
    if (
        same < min(len(m.answer.tokens), len(m.reference.tokens))
        and m.reference.gaps_nats[same] > spec.divergence_gap_nats_max
    ):
        reasons.append(
            f"{m.probe.decode.name}: over the pair it answered {m.answer.text!r}, alone {m.reference.text!r}; "
            f"they part at token {same + 1}, where the reference was sure ({m.reference.gaps_nats[same]:.2f} nats "
            f"between its two best tokens, at most "
            f"{spec.divergence_gap_nats_max:g} is numerics): the KV that arrived is not the KV that was sent"
        )
    return reasons
