"""What a plan says of pools that are declared."""

import pulumi_tandem as tandem
from pulumi_tandem.plan import judge, plan
from pulumi_tandem.plan.search import with_option
from tests.builders import laptop_pair, llama_pair, planned_pair

H100 = tandem.Pool(gpu="H100")


def test_too_few_workers_are_told_with_the_estimate():
    service = planned_pair(100, prefill=H100, decode=H100)
    told = [finding for finding in judge(service) if finding.code == "TND0304"]
    assert told[0].path == "chat.objectives.ttft_ms"
    assert "under 100 requests/s the queue would only grow" in told[0].message
    assert {finding.severity for finding in told} == {"warning"}


def test_a_pair_that_one_gpu_could_serve_is_told_that_it_is_not_worth_it():
    (told,) = judge(planned_pair(0.1, prefill=H100, decode=H100))
    assert told.code == "TND0305"
    assert told.path == "chat"
    assert "Aggregated wins: 1 GPU " in told.message


def test_an_aggregated_service_is_not_told_of_pairs():
    assert judge(planned_pair(0.1, prefill=None, decode=None, serve=H100)) == ()


def test_a_planned_pair_that_wins_is_not_warned_of():
    load = tandem.Workload(requests_per_s=40, prompt_tokens=7000, output_tokens=100)
    service = planned_pair(workload=load, objectives=tandem.Objectives(ttft_ms=2000, tpot_ms=12))
    planned = plan(service, by="cost").disaggregated
    assert planned
    assert judge(with_option(service, planned)) == ()


def test_nothing_is_said_without_a_load_or_of_cpus():
    assert judge(llama_pair()) == ()
    load = tandem.Workload(requests_per_s=1, prompt_tokens=100, output_tokens=100)
    wanted = tandem.Objectives(ttft_ms=1, tpot_ms=1)
    assert judge(laptop_pair(workload=load, objectives=wanted)) == ()


def test_the_favourable_end_must_miss_before_it_is_said():
    service = planned_pair(prefill=H100, decode=H100, workload=planned_pair(2).workload)
    assert [finding.code for finding in judge(service) if finding.code == "TND0304"] == []
