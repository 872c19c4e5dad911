"""What measurements mean."""

from dataclasses import replace

import pytest

from pulumi_tandem.lower import ProofSpec
from pulumi_tandem.prove.judge import Answer, KvCounters, Measurement, judge
from pulumi_tandem.prove.plan import Candidate, Probe

SPEC = ProofSpec(transport="tcp", kv_gb_per_s_min=0.0, keep_failed=False, divergence_gap_nats_max=0.5)
PREFILL = Candidate("chat-prefill-g-0", "prefill", ("prefill", "decode"), "http://p")
DECODE = Candidate("chat-decode-g-0", "decode", ("prefill", "decode"), "http://d")
PROBE = Probe(PREFILL, DECODE, "?", "s", "question")
LONG = Probe(PREFILL, DECODE, "? ? ?", "s", "long")
ANSWER = Answer(
    text="Paris is.",
    tokens=("Paris", " is", "."),
    gaps_nats=(3.0, 0.1, 3.0),
    prompt_tokens=40,
    ttft_ms=300.0,
    tpot_ms=40.0,
    path="disaggregated",
    prefill=PREFILL.name,
    decode=DECODE.name,
)
MOVED = KvCounters(transfers=1, bytes=1_000_000, seconds=0.01)
GOOD = Measurement(PROBE, ANSWER, ANSWER, MOVED, "tcp")


def reasons(measurement: Measurement, spec: ProofSpec = SPEC) -> str:
    evidence, why = judge("chat", "g", (measurement, replace(measurement, probe=LONG)), spec)
    assert (evidence is None) == bool(why)
    return "; ".join(why)


def test_a_good_measurement_becomes_evidence() -> None:
    """Numbers come out with their units, and as they were measured."""
    evidence, why = judge("chat", "g", (GOOD, replace(GOOD, probe=LONG)), SPEC)

    assert why == ()
    assert evidence is not None
    assert evidence.path == "disaggregated"
    assert evidence.kv_gb_per_s == pytest.approx(0.1)
    assert evidence.pairs[0].same_tokens == 3


def test_no_kv_moved_is_a_failure() -> None:
    """The classic: right answers, two prefills, and nobody notices."""
    assert "no KV moved" in reasons(replace(GOOD, moved=KvCounters()))


def test_failed_transfers_are_a_failure() -> None:
    """A pair that sometimes fails is not proven."""
    assert "2 failed KV transfers" in reasons(replace(GOOD, moved=replace(MOVED, failures=2)))


def test_another_transport_is_a_failure() -> None:
    """TCP in place of NVLink serves with 200 OK."""
    assert "KV went over tcp, not over cuda_ipc" in reasons(GOOD, SPEC.model_copy(update={"transport": "cuda_ipc"}))


@pytest.mark.parametrize(("declared", "named"), [("rdma", "rc_mlx5"), ("shm", "cma, posix"), ("efa", "srd")])
def test_a_transport_is_known_by_the_names_of_those_that_carry_it_out(declared: str, named: str) -> None:
    """UCX says rc_mlx5 where a person says RDMA."""
    assert reasons(replace(GOOD, transport=named), SPEC.model_copy(update={"transport": declared})) == ""


def test_one_of_several_transports_may_spoil_it() -> None:
    """Part of the KV over TCP is KV over TCP."""
    spec = SPEC.model_copy(update={"transport": "rdma"})

    assert "went over rc_mlx5, tcp" in reasons(replace(GOOD, transport="rc_mlx5, tcp"), spec)


def test_an_unnamed_transport_is_told_but_not_refused() -> None:
    """Not every build says what it uses; the evidence says so."""
    evidence, _ = judge("chat", "g", (replace(GOOD, transport="unknown"),), SPEC)

    assert evidence is not None
    assert evidence.transport == "unknown"


def test_too_slow_is_a_failure() -> None:
    """The declared floor is kept or the update fails."""
    assert "0.100 GB/s, below the declared floor of 0.2 GB/s" in reasons(
        GOOD, SPEC.model_copy(update={"kv_gb_per_s_min": 0.2})
    )


def test_an_aggregated_path_is_a_failure() -> None:
    """A silent fallback proves nothing of the pair."""
    assert "served the request aggregated" in reasons(replace(GOOD, answer=replace(ANSWER, path="aggregated")))


def test_a_divergence_where_the_reference_was_unsure_passes_with_a_note() -> None:
    """bf16 sums differ by kernel and batch; that is numerics."""
    other = replace(ANSWER, tokens=("Paris", " was", "."))

    evidence, why = judge("chat", "g", (replace(GOOD, answer=other),), SPEC)

    assert why == ()
    assert evidence is not None
    assert "after 1 tokens" in evidence.notes[0]


def test_a_divergence_where_the_reference_was_sure_is_a_failure() -> None:
    """Garbage with 200 OK is what this proof is for."""
    garbage = replace(ANSWER, tokens=("Zebra", " is", "."), text="Zebra is.")

    assert "the KV that arrived is not the KV that was sent" in reasons(replace(GOOD, answer=garbage))


def test_an_empty_answer_is_a_failure() -> None:
    """Nothing is no answer."""
    assert "answered nothing" in reasons(replace(GOOD, answer=replace(ANSWER, tokens=(), text="")))
