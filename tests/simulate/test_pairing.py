"""The gateway's choice of a prefill worker, driving the simulation; docs/pairing.md has the whole comparison."""

from dataclasses import replace

import pytest

from benchmarks.pairing.chats import chats, conversations
from benchmarks.pairing.simulated import run
from benchmarks.pairing.ways import Counting, Ours, one_of_several, several, told


@pytest.mark.parametrize("number", [0, 1])
def test_the_gateway_finds_more_of_a_conversation_than_turns_do_and_answers_sooner(number: int):
    """A tenth of all tokens more, at a low load, with one gateway; on CPU workers and on H100s."""
    chat = replace(list(chats())[number], duration_s=120.0)
    traffic = conversations(chat, 0.5, seed=1)
    ours, in_turn = run(chat, Ours, traffic), run(chat, Counting, traffic)
    assert ours.prefix_hit > in_turn.prefix_hit + 0.1
    assert ours.ttft_s.p50 < in_turn.ttft_s.p50


def test_several_gateways_that_no_client_stays_with_find_most_of_what_one_finds():
    """More than half of what one gateway finds beyond turns, and sooner answers in the tail too."""
    chat = replace(next(chats()), duration_s=600.0)
    traffic = conversations(chat, 0.5, seed=1)
    in_turn, one, three = (run(chat, make, traffic) for make in (Counting, Ours, several(one_of_several)))
    assert three.prefix_hit - in_turn.prefix_hit > 0.5 * (one.prefix_hit - in_turn.prefix_hit)
    assert (three.ttft_s.p50, three.ttft_s.p90) < (in_turn.ttft_s.p50, in_turn.ttft_s.p90)


def test_knowing_what_caches_hold_in_truth_would_gain_one_gateway_next_to_nothing():
    """Why vLLM's KV events are not read: at the load where caches are full, less than two points of hits."""
    chat = replace(list(chats())[1], duration_s=60.0)
    traffic = conversations(chat, 0.85, seed=1)
    as_it_is, if_told = run(chat, Ours, traffic), run(chat, told, traffic)
    assert if_told.prefix_hit < as_it_is.prefix_hit + 0.02
    assert as_it_is.ttft_s.p50 < 1.02 * if_told.ttft_s.p50
