"""Workers that take either phase: where requests go, what a change of roles leaves alone, and what it is worth."""

from collections.abc import Mapping, Sequence

import pytest

from benchmarks.flexible import closed, cores, fixed, flexible, in_turn, tokens_per_s
from pulumi_tandem.simulate import Flexible, Role, Scenario, WorkerView, simulate
from tests.simulate.scene import OPEN, pair, pool, requests, worker

TRAFFIC = requests((0.0, 500, 50), (0.1, 800, 20), (0.3, 200, 90))


def one_pool(roles: Mapping[int, Role], workers: int = 2) -> Scenario:
    """Workers whose roles never change."""
    return Scenario(
        traffic=TRAFFIC, decode=pool("flexible", workers), flexible=Flexible(policy=lambda *_: roles), door=OPEN
    )


def test_with_roles_that_stay_a_flexible_pool_is_a_pair():
    split, flexible_pool = simulate(pair(TRAFFIC)), simulate(one_pool({0: "prefill", 1: "decode"}))
    assert (flexible_pool.ttft_s, flexible_pool.e2e_s) == (split.ttft_s, split.e2e_s)


def test_where_nobody_reads_for_others_requests_run_whole():
    found = simulate(one_pool({0: "decode", 1: "decode"}))
    assert (found.answered, found.kv_moved_bytes) == (3, 0.0)


def test_a_change_of_roles_leaves_what_runs_where_it_is_and_moves_what_comes():
    """Worker 1 writes the first answer, until 2.5 s, and is told at 1 s to read from then on."""
    read_tokens: dict[int, int] = {}

    def changing(now_s: float, workers: Sequence[WorkerView]) -> Mapping[int, Role]:
        read_tokens.update({each.number: each.read_tokens for each in workers})
        return {0: "prefill", 1: "decode"} if now_s < 1.0 else {0: "decode", 1: "prefill"}

    traffic = requests((0.0, 500, 201), (4.0, 300, 50))
    scene = Scenario(traffic=traffic, decode=pool("flexible", 2), flexible=Flexible(policy=changing), door=OPEN)
    found, undisturbed = simulate(scene), simulate(pair(traffic))
    assert (found.e2e_s, found.retried, found.resumed) == (undisturbed.e2e_s, 0, 0)
    assert read_tokens == {0: 500, 1: 300}


def test_a_policy_sees_what_workers_have_to_read_and_to_write():
    seen: dict[float, list[WorkerView]] = {}

    def watching(now_s: float, workers: Sequence[WorkerView]) -> Mapping[int, Role]:
        seen[now_s] = list(workers)
        return {0: "prefill", 1: "decode"}

    policy = Flexible(policy=watching, interval_s=0.25)
    simulate(
        Scenario(
            traffic=requests((0.0, 500, 50), (0.1, 400, 50)),
            decode=pool("flexible", 2, model=worker(batch_tokens=500)),
            flexible=policy,
            door=OPEN,
        )
    )
    # A millisecond a token, 500 at a time: the first prompt is read at 0.5 s, the second one 0.4 s later.
    reader, writer = seen[0.75]
    assert (reader.unread_tokens, reader.read_tokens, writer.decodes) == (400, 500, 1)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_load_that_shifts_is_served_faster_than_by_any_fixed_split(seed: int):
    """The gateway's own roles on the calibrated workers, prompts for a minute, then answers; docs/flexible.md.

    By a fifth at least; the whole benchmark shows more.
    """
    machine = cores()
    traffic = in_turn(machine, (66, 170), 2, seed)
    splits = [closed(machine, fixed(readers), traffic) for readers in range(1, machine.workers)]
    best = max(tokens_per_s(run, traffic) for run in splits)
    assert tokens_per_s(closed(machine, flexible, traffic), traffic) > 1.2 * best
