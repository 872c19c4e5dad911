"""Plans of whole services: small ones reasoned by hand, and what must hold of all."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pulumi_tandem as tandem
from pulumi_tandem.check import accept
from pulumi_tandem.plan import Plan, capacity, frontier, plan, points
from pulumi_tandem.plan.answer import declared_option
from pulumi_tandem.plan.search import with_option
from pulumi_tandem.plan.verdict import limits
from tests.builders import planned_pair

FEW = settings(max_examples=6, deadline=None)
LOADS = st.floats(0.1, 200)
TTFTS_MS = st.floats(150, 5000)
TPOTS_MS = st.floats(8, 100)


def objectives(ttft_ms: float, tpot_ms: float, **more: float) -> tandem.Objectives:
    return tandem.Objectives(ttft_ms=ttft_ms, tpot_ms=tpot_ms, **more)


def gpus(found: Plan) -> tuple[float, float]:
    """GPUs of both ways; infinite where there is none."""
    ways = (found.disaggregated, found.aggregated)
    return tuple(option.gpus if option else float("inf") for option in ways)  # type: ignore[return-value]


def test_a_light_load_needs_one_gpu_aggregated_and_two_disaggregated():
    # One request in ten seconds leaves any GPU idle; the fewest that a pair can have is one each.
    found = plan(planned_pair(0.1), by="gpus")
    assert gpus(found) == (2, 1)
    assert found.verdict.winner == "aggregated"
    assert found.verdict.saving == 0.5
    assert "of two pools this load would use" in found.verdict.words


def test_weights_that_do_not_fit_are_no_shape():
    # 141 GB of weights: two H100 hold them, one does not.
    found = plan(planned_pair(1, model=tandem.Model(name="Llama-3.3-70B-Instruct")), by="gpus")
    assert "TND0033" in {finding.code for finding in found.refused}
    assert found.disaggregated
    assert min(pool.shape.tensor_parallel for pool in found.disaggregated.pools) >= 2


def test_a_tight_tpot_makes_disaggregation_worth_it():
    # 7000 tokens to read for 100 to write: an aggregated engine reads most of its time, and every token waits for it.
    load = tandem.Workload(requests_per_s=40, prompt_tokens=7000, output_tokens=100)
    found = plan(planned_pair(workload=load, objectives=objectives(2000, 12)), by="gpus")
    assert found.verdict.winner == "disaggregated"
    assert "An aggregated engine reads prompts" in found.verdict.words


def test_the_objective_that_no_shape_meets_is_named():
    found = plan(planned_pair(objectives=objectives(5, 30)), by="gpus")
    assert found.verdict.winner is None
    assert "for one prompt that nobody disturbs, and TTFT is to be 5 ms" in found.verdict.words
    found = plan(planned_pair(objectives=objectives(1000, 0.5)), by="gpus")
    assert "per token for one request, and TPOT is to be 0.5 ms" in found.verdict.words


def test_a_whole_answer_has_its_own_objective():
    free = plan(planned_pair(), by="gpus")
    bound = plan(planned_pair(objectives=objectives(1000, 30, e2e_ms=1600)), by="gpus")
    assert bound.disaggregated
    assert bound.disaggregated.e2e_s.mid <= 1.6
    assert gpus(free) <= gpus(bound)


def test_a_prefix_that_is_cached_is_not_read_again():
    load = {"requests_per_s": 100, "prompt_tokens": 3000, "output_tokens": 150}
    cold = plan(planned_pair(workload=tandem.Workload(**load)), by="gpus")
    warm = plan(planned_pair(workload=tandem.Workload(**load, prefix_hit=0.8)), by="gpus")
    assert all(one < other for one, other in zip(gpus(warm), gpus(cold), strict=True))


def test_a_slow_network_costs_prefill_workers():
    over_efa = plan(planned_pair(50), by="gpus")
    over_tcp = plan(planned_pair(50, transfer=tandem.Transfer(transport="tcp")), by="gpus")
    assert gpus(over_tcp)[0] > gpus(over_efa)[0]
    assert gpus(over_tcp)[1] == gpus(over_efa)[1]


def test_gpus_of_different_kinds_are_mixed_where_that_is_cheaper():
    mixed = planned_pair(20, gpus=("H100", "L40S"), usd_per_gpu_hour={"H100": 4.0, "L40S": 0.5})
    found = plan(mixed, by="cost").disaggregated
    assert found
    assert {pool.shape.gpu for pool in found.pools} & {"L40S"}
    dear = planned_pair(20, gpus=("H100", "L40S"), usd_per_gpu_hour={"H100": 4.0, "L40S": 40.0})
    found = plan(dear, by="cost").disaggregated
    assert found
    assert {pool.shape.gpu for pool in found.pools} == {"H100"}


@FEW
@given(load=LOADS, more=st.floats(1, 4), ttft_ms=TTFTS_MS, tpot_ms=TPOTS_MS)
def test_more_load_never_needs_fewer_gpus(load: float, more: float, ttft_ms: float, tpot_ms: float):
    wanted = objectives(ttft_ms, tpot_ms)
    small = plan(planned_pair(load, objectives=wanted), by="gpus")
    large = plan(planned_pair(load * more, objectives=wanted), by="gpus")
    assert all(one <= other for one, other in zip(gpus(small), gpus(large), strict=True))


@FEW
@given(load=LOADS, ttft_ms=TTFTS_MS, tpot_ms=TPOTS_MS, looser=st.tuples(st.floats(1, 3), st.floats(1, 3)))
def test_looser_objectives_never_cost_more(load: float, ttft_ms: float, tpot_ms: float, looser: tuple[float, float]):
    tight = plan(planned_pair(load, objectives=objectives(ttft_ms, tpot_ms)), by="cost")
    wanted = objectives(ttft_ms * looser[0], tpot_ms * looser[1])
    loose = plan(planned_pair(load, objectives=wanted), by="cost")
    assert all(one <= other for one, other in zip(gpus(loose), gpus(tight), strict=True))


@FEW
@given(load=LOADS, ttft_ms=TTFTS_MS, tpot_ms=TPOTS_MS, variation=st.floats(0, 2))
def test_what_is_planned_passes_every_rule_and_meets_its_objectives(
    load: float, ttft_ms: float, tpot_ms: float, variation: float
):
    workload = tandem.Workload(
        requests_per_s=load, prompt_tokens=tandem.Lengths(mean=2000, variation=variation), output_tokens=200
    )
    service = planned_pair(workload=workload, objectives=objectives(ttft_ms, tpot_ms))
    found = plan(service, by="gpus")
    for option in (found.disaggregated, found.aggregated):
        if option:
            accept(with_option(service, option))
            assert all(time_ms.mid <= limit for _, time_ms, limit in limits(option, objectives(ttft_ms, tpot_ms)))


def test_a_plan_is_the_same_each_time_and_in_any_order_of_gpus():
    one = plan(planned_pair(30, gpus=("H100", "L40S")), by="cost")
    assert one == plan(planned_pair(30, gpus=("H100", "L40S")), by="cost")
    other = plan(planned_pair(30, gpus=("L40S", "H100")), by="cost")
    assert (one.disaggregated, one.aggregated, one.verdict) == (other.disaggregated, other.aggregated, other.verdict)


def test_what_is_planned_is_what_declared_pools_of_that_shape_would_do():
    service = planned_pair(30)
    planned = plan(service, by="gpus").disaggregated
    assert planned
    declared = declared_option(with_option(service, planned))
    assert declared
    assert declared.ttft_s.mid == pytest.approx(planned.ttft_s.mid, rel=1e-4)
    assert declared.tpot_s.mid == pytest.approx(planned.tpot_s.mid, rel=1e-4)


def test_capacity_is_the_highest_load_that_fits():
    service = planned_pair()
    for kind in ("disaggregated", "aggregated"):
        most = capacity(service, kind, gpus=4)
        assert most
        assert most.option.gpus <= 4
        more = planned_pair(most.requests_per_s * 1.01)
        option = plan(more, by="gpus").disaggregated if kind == "disaggregated" else plan(more, by="gpus").aggregated
        assert option
        assert option.gpus > 4


def test_a_pair_has_no_capacity_on_one_gpu():
    assert capacity(planned_pair(), "disaggregated", gpus=1) is None


def test_without_a_price_costs_are_not_compared():
    with pytest.raises(tandem.DeclarationError, match=r"what an hour of GB200 costs is not known") as told:
        plan(planned_pair(gpus=("GB200",)), by="cost")
    assert {finding.code for finding in told.value.findings} == {"TND0306"}
    assert plan(planned_pair(gpus=("GB200",)), by="gpus").aggregated


def test_a_cpu_is_not_planned():
    with pytest.raises(tandem.DeclarationError, match=r"how fast 'cpu' is is not known"):
        plan(planned_pair(gpus=("cpu",)), by="gpus")


def test_on_the_frontier_more_throughput_costs_time():
    best = frontier(points(planned_pair()), against="tpot_ms")
    assert len(best) > 3
    for fast, slow in pairwise(best):
        assert fast.tpot_ms <= slow.tpot_ms
        assert fast.tokens_per_s_gpu < slow.tokens_per_s_gpu
