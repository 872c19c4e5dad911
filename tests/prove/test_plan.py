"""Which requests prove a generation."""

from hypothesis import given
from hypothesis import strategies as st

from pulumi_tandem.prove.plan import Candidate, plan_probes
from tandem_worker.contract import Phase

BOTH: tuple[Phase, ...] = ("prefill", "decode")


def pool(phase: Phase, count: int, phases: tuple[Phase, ...]) -> tuple[Candidate, ...]:
    return tuple(Candidate(f"{phase}-{i}", phase, phases, f"http://{phase}-{i}") for i in range(count))


@given(prefill=st.integers(1, 5), decode=st.integers(1, 5), flexible=st.booleans())
def test_every_worker_is_used_in_each_phase_that_it_may_take(prefill: int, decode: int, flexible: bool) -> None:
    """A worker that is proven in one phase only would serve the other one unproven."""
    workers = pool("prefill", prefill, BOTH if flexible else ("prefill",)) + pool(
        "decode", decode, BOTH if flexible else ("decode",)
    )

    probes = plan_probes(workers, disaggregated=True, salt="s", context_tokens=2048)

    used = {(probe.prefill.name, "prefill") for probe in probes if probe.prefill} | {
        (probe.decode.name, "decode") for probe in probes
    }
    assert used == {(worker.name, phase) for worker in workers for phase in worker.phases}


@given(count=st.integers(2, 5))
def test_flexible_workers_are_each_used_in_both_phases(count: int) -> None:
    """They have no side of their own, so each reads for another one and writes what another one read."""
    workers = pool("decode", count, BOTH)

    probes = plan_probes(workers, disaggregated=True, salt="s", context_tokens=2048)

    names = {worker.name for worker in workers}
    assert {probe.prefill.name for probe in probes if probe.prefill} == {probe.decode.name for probe in probes} == names
    assert all(probe.prefill is not probe.decode for probe in probes)


def test_a_flexible_worker_that_is_alone_is_asked_alone() -> None:
    """It has nobody to hand over to, and answers whole requests."""
    (probe,) = plan_probes(pool("decode", 1, BOTH), disaggregated=True, salt="s", context_tokens=2048)

    assert probe.prefill is None


@given(count=st.integers(1, 4))
def test_an_aggregated_service_is_asked_worker_by_worker(count: int) -> None:
    """Without a hand-off every worker answers alone."""
    probes = plan_probes(pool("decode", count, BOTH), disaggregated=False, salt="s", context_tokens=2048)

    assert [probe.decode.name for probe in probes] == [f"decode-{i}" for i in range(count)]
    assert all(probe.prefill is None for probe in probes)


def test_no_two_probes_share_a_cache() -> None:
    """What a prefix cache knows would not have to move."""
    probes = plan_probes(
        pool("prefill", 2, BOTH) + pool("decode", 2, BOTH),
        disaggregated=True,
        salt="s",
        context_tokens=2048,
    )

    assert len({probe.salt for probe in probes}) == len(probes)


def test_prompts_fit_a_short_context() -> None:
    """A service of few context tokens is not asked for more than half of them."""
    probes = plan_probes(
        pool("prefill", 1, BOTH) + pool("decode", 1, BOTH),
        disaggregated=True,
        salt="s",
        context_tokens=128,
    )

    assert max(len(probe.prompt.split()) for probe in probes) < 128
