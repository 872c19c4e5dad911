"""Every rule speaks where it is broken, alone, and is silent where a declaration only looks alike."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pulumi_tandem as tandem
from pulumi_tandem.check import RULES, accept
from pulumi_tandem.check.capacity import weights_gib
from pulumi_tandem.declare.model import GIB
from pulumi_tandem.resolve import resolve
from tests.builders import codes, findings, laptop_pair, laptop_single, llama_flexible, llama_pair
from tests.check import (
    cases,
    cases_around,
    cases_flexible,
    cases_handover,
    cases_hardware,
    cases_network,
    cases_pods,
    cases_tensorrt,
)
from tests.check.cases import Broken
from tests.check.cases_handover import model

ROWS = (cases, cases_handover, cases_hardware, cases_tensorrt, cases_network, cases_pods, cases_around, cases_flexible)
BROKEN = [row for rows in ROWS for row in rows.BROKEN]
FINE = [row for rows in ROWS for row in rows.FINE]


@pytest.mark.parametrize("row", BROKEN, ids=lambda row: f"{row.code}-{row.service.name}-{row.says[:20]}")
def test_a_broken_rule_is_told_where_it_is_broken_and_nothing_else_is(row: Broken):
    found = findings(row.service)
    assert {finding.code for finding in found} == {row.code, *row.also}
    own = [finding for finding in found if finding.code == row.code]
    assert tuple(finding.path for finding in own) == row.paths
    assert row.says in own[0].message
    assert all(finding.severity == RULES[row.code].severity for finding in own)


@pytest.mark.parametrize(("code", "service"), FINE, ids=[f"{code}-{index}" for index, (code, _) in enumerate(FINE)])
def test_a_look_alike_is_left_alone(code: str, service: tandem.Service):
    assert code not in codes(service)


@pytest.mark.parametrize("service", [laptop_pair(), laptop_single(), llama_pair(), llama_flexible()])
def test_plain_declarations_are_clean(service: tandem.Service):
    assert findings(service) == ()


def test_every_rule_has_a_broken_row_and_a_look_alike():
    judged = {code for code, rule in RULES.items() if rule.judge}
    assert judged == {row.code for row in BROKEN} == {code for code, _ in FINE}


POOLS = st.fixed_dictionaries(
    {},
    optional={
        "gpu": st.sampled_from(["cpu", "H100", "H200", "B200", "L40S"]),
        "tensor_parallel": st.sampled_from([1, 2, 3, 4, 8, 16]),
        "block_tokens": st.sampled_from([16, 32, 48, 64, 128]),
        "kv_dtype": st.sampled_from(["auto", "fp8", "fp8_e4m3", "bfloat16"]),
        "dtype": st.sampled_from(["bfloat16", "float16"]),
        "context_tokens": st.sampled_from([2048, 8192]),
        "memory_fraction": st.sampled_from([0.2, 0.5, 0.9]),
        "sequences": st.sampled_from([8, 256]),
        "batch_tokens": st.sampled_from([64, 8192]),
        "engine": st.sampled_from([tandem.Vllm(), tandem.Vllm(version="0.32.0"), tandem.Vllm(hybrid_kv_cache=False)]),
        "workers": st.integers(1, 3),
        "pipeline_parallel": st.sampled_from([1, 2]),
        "expert_parallel": st.booleans(),
        "connector": st.sampled_from(
            [
                tandem.Connector(role="kv_both"),
                tandem.Connector(name="NixlPushConnector"),
                tandem.Connector(extra={"backends": ["LIBFABRIC"]}),
            ]
        ),
    },
)


@given(POOLS)
def test_a_flexible_pool_is_judged_as_the_pair_of_equals_that_it_is(pool: dict[str, object]):
    """What a pair of such pools breaks, the flexible one breaks, and it is told of the pool that was declared."""
    own = {"TND0310", "TND0311", "TND0312", "TND0313", "TND0314", "TND0315"}
    of_one = findings(llama_flexible(pool | {"workers": 4}))
    pools = pool | {"workers": 2}
    assert {each.code for each in of_one} - own == set(codes(llama_pair(pools, pools)))
    assert not [each.path for each in of_one if ".prefill." in each.path or ".decode." in each.path]


@given(POOLS, POOLS)
def test_the_same_is_said_of_equal_declarations(prefill: dict[str, object], decode: dict[str, object]):
    assert findings(llama_pair(prefill, decode)) == findings(llama_pair(prefill, decode))


@given(POOLS, POOLS, st.integers(1, 50))
def test_more_workers_break_no_rule(prefill: dict[str, object], decode: dict[str, object], more: int):
    grown = llama_pair({**prefill, "workers": more}, {**decode, "workers": more})
    assert codes(llama_pair(prefill, decode)) == codes(grown)


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]), st.integers(1, 8), st.integers(1, 8))
def test_blocks_pair_when_decodes_is_a_multiple(split_p: int, split_d: int, block: int, times: int):
    service = llama_pair(
        {"tensor_parallel": split_p, "block_tokens": 16 * block},
        {"tensor_parallel": split_d, "block_tokens": 16 * block * times},
    )
    assert ("TND0020" in codes(service)) == (times > 1 and split_p > split_d)


@given(st.integers(1, 16), st.integers(1, 16))
def test_heads_are_held_against_the_engines_own_arithmetic(prefill: int, decode: int):
    service = llama_pair({"tensor_parallel": prefill}, {"tensor_parallel": decode})
    found = codes(service)
    engine_starts = all(32 % split == 0 and (8 % split == 0 or split % 8 == 0) for split in (prefill, decode))
    assert ("TND0024" in found) == (not engine_starts)
    assert ("TND0022" in found) == (engine_starts and prefill % decode != 0 and decode % prefill != 0)
    assert ("TND0023" in found) == (prefill > decode and prefill > 8)


@given(st.dictionaries(st.sampled_from(["A", "UCX_TLS", "VLLM_PORT", "VLLM_USE_V1"]), st.just("1")), st.randoms())
def test_findings_do_not_depend_on_the_order_in_which_things_are_said(env: dict[str, str], chance: Random):
    shuffled = list(env.items())
    chance.shuffle(shuffled)
    assert findings(llama_pair({"env": env})) == findings(llama_pair({"env": dict(shuffled)}))


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]), st.integers(2, 64))
def test_ranks_that_share_experts_hold_fewer_weights_each_and_never_less_than_the_rest(tp: int, dp: int, experts: int):
    shape = model(experts=experts)
    one, several = (
        weights_gib(each, each.pool("decode"))
        for each in (
            resolve(llama_pair(decode={"tensor_parallel": tp, "data_parallel": ranks}, model=shape))
            for ranks in (1, 2 * dp)
        )
    )
    assert one / (2 * dp) < several < one
    dense = resolve(llama_pair(decode={"tensor_parallel": tp, "data_parallel": dp}))
    assert weights_gib(dense, dense.pool("decode")) == pytest.approx(dense.weights_bytes / GIB / tp)


@given(st.floats(0.01, 1.0), st.integers(1, 131_072))
def test_less_context_breaks_nothing_that_more_did_not(fraction: float, context: int):
    more = llama_pair({"memory_fraction": fraction}, context_tokens=131_072)
    less = llama_pair({"memory_fraction": fraction}, context_tokens=context)
    allowed = set(codes(more))
    if "TND0034" in allowed:
        allowed.add("TND0037")  # what did not fit at all may fit with nothing to spare
    assert set(codes(less)) <= allowed


@given(st.floats(0.2, 1.0))
def test_the_context_that_a_finding_offers_is_the_longest_that_fits(fraction: float):
    told = [
        each
        for each in findings(llama_pair({"memory_fraction": fraction}, context_tokens=131_072))
        if each.code == "TND0034"
    ]
    for finding in told:
        offered = int(finding.fix.split("at most ")[1].split(",")[0])
        pool = {"memory_fraction": fraction}
        assert "TND0034" not in codes(llama_pair(pool, context_tokens=offered))
        assert "TND0034" in codes(llama_pair(pool, context_tokens=offered + 64))


def test_all_findings_of_all_services_are_raised_at_once():
    services = (
        llama_pair({"dtype": "float16"}),
        laptop_pair(context_tokens=9000),
        laptop_pair(name="third", model=tandem.Model(name="SmolLM3")),
        laptop_single(name="chat", grace=tandem.Grace(drain_timeout_s=5)),
        llama_pair({"gpus_per_worker": 2, "tensor_parallel": 1}, name="warned"),
    )
    with pytest.raises(tandem.DeclarationError) as caught:
        accept(*services)
    assert [(finding.code, finding.path) for finding in caught.value.findings] == [
        ("TND0005", "chat.name"),
        ("TND0011", "llama.decode.dtype"),
        ("TND0030", "chat.prefill.context_tokens"),
        ("TND0030", "chat.decode.context_tokens"),
        ("TND0004", "third.model.name"),
        ("TND0026", "warned.prefill.gpus_per_worker"),
    ]


def test_a_warning_alone_is_accepted():
    (resolved,) = accept(llama_pair({"gpus_per_worker": 2, "tensor_parallel": 1}))
    assert resolved.name == "llama"


def test_services_are_accepted_in_their_order():
    assert [each.name for each in accept(llama_pair(), laptop_pair())] == ["llama", "chat"]
