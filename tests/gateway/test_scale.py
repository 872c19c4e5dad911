"""What autoscalers are told: work of all gateways added up, workers counted once, both pools held to their ratio."""

from typing import Any

import pytest

from tandem_worker.contract import GatewaySpec, Scaling
from tandem_worker.gateway.backlog import Meter
from tandem_worker.gateway.scale import Figures, Scale, Work, together

IDLE = Work(pending=0, done=0, busy_s=0)
TARGETS = Scaling(prefill_backlog_s=2.0, prefill_usage=0.8, decode_kv_usage=0.8, decode_slot_usage=0.8, answers_max=10)


def spec(at_least: float = 0.0, at_most: float = 0.0) -> GatewaySpec:
    return GatewaySpec(
        service="chat",
        served_names=("m",),
        dialect="vllm-nixl-pull",
        prefill_per_decode_min=at_least,
        prefill_per_decode_max=at_most,
        scaling=TARGETS,
    )


def one(name: str = "a", *, prefills: int = 1, decodes: int = 1, **known: Any) -> Figures:
    terms: dict[str, Any] = {"prefill": IDLE, "decode": IDLE, "reading": {}, "kv_usage": 0.0, **known}
    return Figures(gateway=name, workers={"prefill": prefills, "decode": decodes}, **terms)


def told(*known: Figures, at_least: float = 0.0, at_most: float = 0.0) -> Scale:
    return together(known, spec(at_least, at_most))


def test_two_gateways_that_share_a_load_tell_what_one_would_that_has_all_of_it() -> None:
    whole = told(one(prefill=Work(pending=600, done=1000, busy_s=10)))
    half = Work(pending=300, done=500, busy_s=10)
    assert told(one("a", prefill=half), one("b", prefill=half)) == whole
    assert whole.prefill_backlog_s == pytest.approx(6)


def test_a_gateway_that_has_nothing_to_do_changes_no_figure() -> None:
    busy = one("a", prefill=Work(pending=600, done=1000, busy_s=10), kv_usage=0.5)
    assert told(busy, one("b", kv_usage=0.5)) == told(busy)


def test_nothing_is_behind_where_nothing_was_measured_yet() -> None:
    assert told(one(prefill=Work(pending=600, done=0, busy_s=0))).prefill_backlog_s == 0


def test_a_worker_that_reads_for_several_gateways_is_busy_for_all_of_them() -> None:
    assert told(one(reading={"x": 0.5, "y": 0.0}), one("b", reading={"x": 0.3, "y": 0.2})).prefill_usage == 0.5
    assert told(one(reading={"x": 0.9}), one("b", reading={"x": 0.9})).prefill_usage == 1


def test_readers_that_keep_up_without_time_to_spare_are_not_fewer_beside_the_others() -> None:
    busy = one(prefills=4, decodes=4, reading=dict.fromkeys("wxyz", 0.8))
    assert told(busy, at_least=1, at_most=1).decode_workers_min == 4


def test_answers_wait_that_find_no_place() -> None:
    writing = Work(pending=15, done=100, busy_s=10)
    found = told(one(decode=writing), one("b", decode=writing), one("c"))
    assert found.decode_slot_usage == pytest.approx(3)
    assert found.backlog_s == pytest.approx(20 * 10 / 200)
    assert told(one(decode=Work(pending=10, done=100, busy_s=10))).backlog_s == 0


def test_both_pools_grow_together_whichever_is_short() -> None:
    slow = one(prefills=2, decodes=2, prefill=Work(pending=400, done=1000, busy_s=10))
    assert told(slow, at_least=1, at_most=1).decode_workers_min == 4
    full = one(prefills=2, decodes=2, kv_usage=1.6)
    assert told(full, at_least=1, at_most=1).prefill_workers_min == 4


@pytest.mark.parametrize(("at_least", "at_most", "prefills", "decodes"), [(1, 1, 4, 4), (2, 2, 8, 4), (0.5, 0.5, 4, 8)])
def test_idle_pools_shrink_to_the_least_and_are_never_far_from_their_ratio(
    at_least: float, at_most: float, prefills: int, decodes: int
) -> None:
    steps = 0
    while prefills > 1 or decodes > 1:
        found = told(one(prefills=prefills, decodes=decodes), at_least=at_least, at_most=at_most)
        after = max(prefills - 1, found.prefill_workers_min, 1), max(decodes - 1, found.decode_workers_min, 1)
        assert after != (prefills, decodes), "each holds the other up"
        prefills, decodes = after
        assert prefills >= at_least * (decodes - 1)
        assert decodes >= (prefills - 1) / at_most
        steps += 1
    assert steps <= 8


def test_a_pool_that_is_as_full_as_it_should_be_takes_no_other_with_it() -> None:
    near = one(prefills=4, decodes=4, kv_usage=0.8 * 1.05, prefill=Work(pending=190, done=1000, busy_s=10))
    found = told(near, at_least=1, at_most=1)
    assert (found.prefill_workers_min, found.decode_workers_min) == (4, 4)


def test_without_a_ratio_no_pool_holds_the_other() -> None:
    found = told(one(prefills=4, decodes=4, kv_usage=1.0))
    assert (found.prefill_workers_min, found.decode_workers_min) == (0, 0)


def test_a_meter_knows_how_much_of_the_time_it_was_busy() -> None:
    meter = Meter()
    for second in range(600):
        meter.begin(1, second)
        meter.end(1, second + 0.5, finished=True)
    assert meter.busy_share(600) == pytest.approx(0.5, rel=0.02)


def test_a_meter_tells_what_has_faded_since() -> None:
    meter = Meter()
    meter.begin(10, 0.0)
    meter.end(10, 1.0, finished=True)
    assert meter.now(61.0) == (0.0, pytest.approx(5), pytest.approx(0.5))
