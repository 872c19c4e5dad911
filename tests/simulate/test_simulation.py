"""What a user would see of a simulated service, in scenes small enough to be worked out by hand."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulumi_tandem.declare import Lengths, Objectives
from pulumi_tandem.simulate import (
    Arrivals,
    Conversations,
    Death,
    FrontDoor,
    HandOff,
    Scaling,
    Scenario,
    from_rows,
    generate,
    requests_per_worker,
    simulate,
)
from tests.simulate.scene import OPEN, alone, growing_s, pair, pool, requests, worker


def test_one_request_takes_its_reading_and_its_steps():
    found = simulate(alone(requests((0.0, 500, 11))))
    assert found.ttft_s.mean == pytest.approx(0.5)
    assert found.tpot_s.mean == pytest.approx(0.010)
    assert found.e2e_s.mean == pytest.approx(0.5 + 10 * 0.010)


def test_a_hand_off_costs_its_transfer_and_a_step_before_the_first_token():
    hand_off = HandOff(kv_bytes=lambda tokens: tokens * 1e6, posted_s=lambda _: 0.002)
    model = worker(line_gb_per_s=10.0)
    scene = pair(
        requests((0.0, 500, 11)),
        prefill=pool("prefill", model=model),
        decode=pool("decode", model=model),
        hand_off=hand_off,
    )
    found = simulate(scene)
    # 500 tokens of 1 MB over 10 GB/s are 50 ms; then the decode worker's first step gives the first token.
    assert found.ttft_s.mean == pytest.approx(0.5 + 0.050 + 0.002 + 0.010)
    assert found.tpot_s.mean == pytest.approx(0.010)
    assert found.kv_moved_bytes == 500e6


def test_transfers_of_one_worker_share_its_line():
    hand_off = HandOff(kv_bytes=lambda _: 10e9)
    traffic = requests((0.0, 1, 1), (0.0, 1, 1))
    ends = {}
    for senders in (1, 2):
        model = worker(line_gb_per_s=10.0)
        receivers = pool("decode", 2, model=model)
        scene = pair(traffic, prefill=pool("prefill", senders, model=model), decode=receivers, hand_off=hand_off)
        ends[senders] = simulate(scene).e2e_s.p99
    assert ends[1] == pytest.approx(2.0, abs=0.05)
    assert ends[2] == pytest.approx(1.0, abs=0.05)


def test_what_is_between_the_workers_may_be_narrower_than_all_their_lines():
    traffic = requests(*[(0.0, 1, 1)] * 8)
    wide = pair(traffic, prefill=pool("prefill", 8), decode=pool("decode", 8), hand_off=HandOff(kv_bytes=lambda _: 1e9))
    hand_off = HandOff(kv_bytes=lambda _: 1e9, fabric_gb_per_s=2.0)
    assert simulate(wide).e2e_s.p99 < 0.1
    assert simulate(dataclasses.replace(wide, hand_off=hand_off)).e2e_s.p99 == pytest.approx(4.0, rel=0.05)


def test_a_prompt_stops_the_tokens_of_others_on_an_aggregated_worker_only():
    traffic = requests((0.0, 100, 200), (0.5, 1000, 2))
    assert simulate(alone(traffic)).gap_s.p99 == pytest.approx(0.010, rel=0.02)
    long_gaps = simulate(alone(requests((0.0, 100, 20), (0.15, 1000, 2)))).gap_s.p99
    assert long_gaps == pytest.approx(1.010, rel=0.02)
    assert simulate(pair(requests((0.0, 100, 20), (0.15, 1000, 2)))).gap_s.p99 == pytest.approx(0.010, rel=0.02)


def test_long_prompts_are_read_in_chunks_between_which_others_get_tokens():
    traffic = requests((0.0, 100, 60), (0.15, 1000, 2))
    whole = simulate(alone(traffic))
    chunked = simulate(alone(traffic, decode=pool("serve", model=worker(batch_tokens=256))))
    assert chunked.gap_s.p99 < 0.3 < whole.gap_s.p99


def test_the_front_door_lets_so_many_run_and_so_many_wait():
    traffic = requests(*[(0.0, 100, 1)] * 5)
    found = simulate(alone(traffic, door=FrontDoor(requests_running_max=2, requests_waiting_max=1)))
    assert (found.answered, found.turned_away) == (3, 2)


def test_a_decode_worker_without_memory_lets_requests_wait():
    traffic = requests((0.0, 100, 50), (0.0, 100, 50))
    roomy = simulate(pair(traffic))
    tight = simulate(pair(traffic, decode=pool("decode", model=worker(kv_tokens=160))))
    assert tight.answered == 2
    assert tight.e2e_s.p99 > roomy.e2e_s.p99 + 0.3


def test_a_worker_that_runs_out_of_memory_reads_the_last_one_again():
    traffic = requests((0.0, 100, 60), (0.0, 100, 60))
    roomy = simulate(alone(traffic))
    tight = simulate(alone(traffic, decode=pool("serve", model=worker(kv_tokens=250))))
    assert tight.answered == 2
    # The first one ends as before; the second waits for it and is read again, prompt and what the client has.
    assert tight.e2e_s.p99 > roomy.e2e_s.p99 + 0.1


def test_what_fits_into_no_worker_is_told_apart():
    found = simulate(alone(requests((0.0, 100, 60)), decode=pool("serve", model=worker(kv_tokens=150))))
    assert (found.answered, found.too_long) == (0, 1)


def test_a_cached_prefix_is_not_read():
    cold = simulate(alone(requests((0.0, 1000, 1))))
    warm = simulate(alone(requests((0.0, 1000, 1), cached_tokens=900)))
    assert cold.ttft_s.mean == pytest.approx(1.0)
    assert warm.ttft_s.mean == pytest.approx(0.1)


def test_the_next_turn_reads_only_what_is_new_where_its_worker_has_the_rest():
    turns = requests((0.0, 1000, 1), (5.0, 1200, 1), session="a")
    assert simulate(pair(turns)).ttft_s.p99 == pytest.approx(1.010, rel=0.02)
    # The second turn: 200 new tokens instead of 1200; with workers in turn it meets one that never saw the session.
    found = simulate(pair(turns, prefill=pool("prefill", 2, routing="in_turn")))
    assert found.ttft_s.p99 == pytest.approx(1.210, rel=0.02)


def test_the_end_of_a_session_is_forgotten_when_others_need_the_memory():
    rows = [(0.0, 1000, 1), (5.0, 1000, 1), (10.0, 1200, 1)]
    columns = ("arrival_s", "prompt_tokens", "output_tokens")
    traffic = [dict(zip(columns, row, strict=True)) | {"session": who} for row, who in zip(rows, "aba", strict=True)]
    scene = alone(from_rows(traffic), decode=pool("serve", model=worker(kv_tokens=1500)))
    # Of the first session's 1000 tokens the second one's took the last 500: the third prompt finds the other 500.
    assert simulate(dataclasses.replace(scene, warm_up_s=8.0)).ttft_s.mean == pytest.approx(0.7)


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_request_without_a_token_is_handed_off_anew_when_its_worker_dies():
    deaths = (Death(at_s=0.3, pool="prefill", worker=0),)
    found = simulate(pair(requests((0.0, 500, 3)), prefill=pool("prefill", 2), deaths=deaths))
    assert (found.answered, found.retried, found.resumed) == (1, 1, 0)
    assert found.ttft_s.mean == pytest.approx(0.3 + 0.5 + 0.010)


def test_a_stream_goes_on_elsewhere_with_what_the_client_has_as_prompt():
    deaths = (Death(at_s=0.615, pool="decode", worker=0),)
    found = simulate(pair(requests((0.0, 500, 21)), decode=pool("decode", 2), deaths=deaths))
    assert (found.answered, found.retried, found.resumed) == (1, 0, 1)
    # Ten or eleven tokens were sent; they are read again with the prompt, and the rest are written.
    assert found.e2e_s.mean == pytest.approx(0.615 + 0.511 + 10 * 0.010, abs=0.011)
    assert found.gap_s.p99 == pytest.approx(0.525, abs=0.02)


def test_without_resume_a_broken_stream_has_failed():
    deaths = (Death(at_s=0.615, pool="decode", worker=0),)
    door = dataclasses.replace(OPEN, resume=False)
    found = simulate(pair(requests((0.0, 500, 21)), decode=pool("decode", 2), deaths=deaths, door=door))
    assert (found.answered, found.failed) == (0, 1)


def test_a_survivor_of_the_other_phase_serves_whole_requests():
    deaths = (Death(at_s=0.0, pool="prefill", worker=0),)
    traffic = requests((0.0, 10, 1), (1.0, 500, 3))
    scene = pair(traffic, prefill=pool("prefill", model=worker(start_s=60.0)), deaths=deaths)
    found = simulate(scene)
    assert found.answered == 2
    assert found.kv_moved_bytes == 0
    refused = simulate(dataclasses.replace(scene, door=dataclasses.replace(OPEN, survivors_serve_both=False)))
    assert refused.failed == 2


def test_a_dead_worker_comes_back_after_its_start():
    deaths = (Death(at_s=0.0, pool="serve", worker=0),)
    traffic = requests((0.0, 10, 1), (5.0, 10, 1), (15.0, 10, 1))
    found = simulate(alone(traffic, decode=pool("serve", model=worker(start_s=10.0)), deaths=deaths))
    assert (found.answered, found.failed) == (1, 2)


def test_a_death_in_an_unknown_pool_is_told():
    with pytest.raises(ValueError, match="a worker of 'decode' is to die; the pools are serve"):
        alone(requests((0.0, 10, 1)), deaths=(Death(at_s=0.0, pool="decode", worker=0),))


def test_attempts_are_bounded():
    deaths = tuple(Death(at_s=0.1 + at_s, pool="serve", worker=number) for number, at_s in enumerate((0.0, 0.1, 0.2)))
    door = dataclasses.replace(OPEN, attempts_max=2)
    found = simulate(alone(requests((0.0, 500, 3)), decode=pool("serve", 4), deaths=deaths, door=door))
    assert (found.answered, found.failed) == (0, 1)


# --- scaling --------------------------------------------------------------------------------------


def test_a_pool_grows_with_its_load_once_workers_have_started_and_shrinks_when_it_is_calm():
    traffic = generate(
        Arrivals(requests_per_s=30.0, variation=0.0),
        prompt_tokens=Lengths(mean=100, variation=0),
        output_tokens=Lengths(mean=1, variation=0),
        duration_s=60.0,
        seed=0,
    )
    later = requests(*zip(traffic.arrival_s, traffic.prompt_tokens, traffic.output_tokens, strict=True), (200.0, 10, 1))
    scaling = Scaling(policy=requests_per_worker(2.0), workers_min=1, workers_max=8, interval_s=5.0, calm_s=20.0)
    model = worker(start_s=20.0, sequences=1)
    found = simulate(alone(later, decode=pool("serve", model=model, scaling=scaling)), window_s=5.0)
    ready = [window.look.pools[0].ready for window in found.windows]
    assert found.answered == found.requests
    assert max(ready[:4]) == 1
    assert 3 <= max(ready) <= 8
    assert ready[-1] == 1
    assert found.pools[0].gpu_hours < 8 * 200.0 / 3600


# --- always ---------------------------------------------------------------------------------------


@st.composite
def scenes(draw: st.DrawFn) -> Scenario:
    """Services that are short of everything, under load and failures."""
    sequences = draw(st.sampled_from([1, 4, 64]))
    model = worker(
        pass_s=growing_s,
        kv_tokens=draw(st.sampled_from([600, 3000, 10**6])),
        sequences=sequences,
        batch_tokens=draw(st.sampled_from([64, 1024])),
        start_s=draw(st.sampled_from([0.0, 5.0])),
        line_gb_per_s=draw(st.sampled_from([0.01, 10.0])),
        jitter=draw(st.sampled_from([0.0, 0.2])),
    )
    scaling = Scaling(policy=requests_per_worker(4.0), workers_min=1, workers_max=4, interval_s=1.0, calm_s=2.0)
    is_pair = draw(st.booleans())
    names = ["prefill", "decode"] if is_pair else ["serve"]
    pools = {name: pool(name, draw(st.integers(1, 3)), model=model) for name in names}
    if draw(st.booleans()):
        pools[names[-1]] = dataclasses.replace(pools[names[-1]], scaling=scaling)
    traffic = generate(
        Arrivals(requests_per_s=draw(st.sampled_from([1.0, 10.0])), variation=draw(st.sampled_from([0.0, 1.0, 2.0]))),
        prompt_tokens=Lengths(mean=200),
        output_tokens=Lengths(mean=20),
        duration_s=10.0,
        seed=draw(st.integers(0, 99)),
        conversations=draw(st.sampled_from([None, Conversations(turns=3, pause_s=1.0)])),
    )
    deaths = st.builds(Death, at_s=st.floats(0.0, 12.0), pool=st.sampled_from(names), worker=st.integers(0, 3))
    return Scenario(
        traffic=traffic,
        prefill=pools.get("prefill"),
        decode=pools[names[-1]],
        hand_off=HandOff(kv_bytes=lambda tokens: tokens * 1e5),
        door=FrontDoor(
            requests_running_max=draw(st.sampled_from([2, 1000])),
            requests_waiting_max=draw(st.sampled_from([0, 1000])),
            resume=draw(st.booleans()),
        ),
        clients=draw(st.sampled_from([None, 3])),
        deaths=tuple(draw(st.lists(deaths, max_size=4))),
        seed=draw(st.integers(0, 99)),
    )


@settings(max_examples=40, deadline=None)
@given(scene=scenes())
def test_every_request_ends_once_and_equal_scenarios_give_equal_outcomes(scene: Scenario):
    found = simulate(scene)
    assert found.unanswered == 0
    assert found.answered + found.turned_away + found.failed + found.too_long == found.requests
    assert found.requests == len(scene.traffic)
    assert found.ttft_s.p99 <= found.e2e_s.p99
    last = found.windows[-1].look if found.windows else None
    assert last is None or last.running == 0 or found.simulated_s >= last.at_s
    assert simulate(scene) == found


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), workers=st.integers(1, 4))
def test_more_workers_never_make_the_mean_first_token_later(seed: int, workers: int):
    traffic = generate(
        Arrivals(requests_per_s=8.0),
        prompt_tokens=Lengths(mean=100),
        output_tokens=Lengths(mean=1, variation=0),
        duration_s=20.0,
        seed=seed,
    )
    few, many = (
        simulate(alone(traffic, decode=pool("serve", count, model=worker(sequences=1, batch_tokens=10**6))))
        for count in (workers, 4 * workers)
    )
    assert many.ttft_s.mean <= few.ttft_s.mean + 1e-9


def test_requests_of_the_warm_up_load_the_service_and_do_not_count():
    traffic = requests((0.0, 1000, 1), (0.1, 100, 1))
    found = simulate(alone(traffic, warm_up_s=0.05))
    assert found.requests == 1
    assert found.ttft_s.mean == pytest.approx(1.0)


def test_goodput_counts_what_is_within_every_objective():
    traffic = requests((0.0, 100, 5), (10.0, 1000, 5))
    strict = alone(traffic, objectives=Objectives(ttft_ms=500, tpot_ms=20))
    assert simulate(strict).good == pytest.approx(0.5)
    slower = dataclasses.replace(strict, objectives=Objectives(ttft_ms=500, tpot_ms=5))
    assert simulate(slower).good == 0.0
    assert simulate(dataclasses.replace(strict, objectives=None)).good is None


def test_workers_of_two_kinds_share_a_pool():
    slow = worker(pass_s=lambda *size: 4 * growing_s(*size), sequences=4)
    fast = worker(pass_s=growing_s, sequences=64)
    traffic = generate(
        Arrivals(requests_per_s=20.0),
        prompt_tokens=Lengths(mean=200),
        output_tokens=Lengths(mean=50),
        duration_s=20.0,
        seed=3,
    )
    mixed = dataclasses.replace(pool("serve"), workers=((fast, 1), (slow, 1)))
    times = [simulate(alone(traffic, decode=each)).e2e_s.mean for each in (pool("serve", 2, model=fast), mixed)]
    assert times[0] < times[1]


def test_a_beginning_that_sessions_share_is_read_once_by_each_worker():
    """Two sessions with one system prompt of 600 tokens, in turn to two workers: each reads it once."""
    traffic = dataclasses.replace(
        requests(*((5.0 * number, 1000, 1) for number in range(4))),
        session=[0, 1, 2, 3],
        beginning=[7] * 4,
        beginning_tokens=[600] * 4,
    )
    found = simulate(alone(traffic, decode=pool("serve", 2, routing="in_turn")))
    assert found.ttft_s.mean == pytest.approx((1.0 + 1.0 + 0.4 + 0.4) / 4)
    assert found.prefix_hit == pytest.approx(2 * 600 / 4000)


def test_a_prefix_is_found_in_whole_blocks():
    turns = requests((0.0, 1000, 1), (5.0, 1200, 1), session="a")
    found = simulate(alone(turns, decode=pool("serve", model=worker(block_tokens=64))))
    assert found.prefix_hit == pytest.approx(960 / 2200)
