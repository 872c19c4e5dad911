"""Thousands of fault schedules through the gateway's pure core. `SEED=n` runs one of them again."""

import json
import os
from collections import Counter

import pytest

from tests.simulation.checkers import broken_rules
from tests.simulation.world import World

SCHEDULES = int(os.environ.get("SCHEDULES", "600"))
BATCHES = 6
WORDS = ["once", "upon", "a", "time", "there", "was", "a", "gateway", "that", "lost", "no", "token"]


def schedule(seed: int) -> World:
    """Run one schedule: requests arrive, things break, in the end all is answered."""
    world = World(seed)
    dice = world.rng
    requests = dice.randint(1, 14)
    arrived = 0

    def arrive() -> None:
        nonlocal arrived
        arrived += 1
        chat = dice.random() < 0.6
        said = " ".join(dice.choices(WORDS, k=dice.randint(1, 12)))
        body: dict[str, object] = {"model": "fake", "stream": True, "max_tokens": dice.randint(1, 40)}
        body |= {"messages": [{"role": "user", "content": said}]} if chat else {"prompt": said}
        if dice.random() < 0.5:
            body["stream_options"] = {"include_usage": True}
        if dice.random() < 0.2:
            body["min_tokens"] = dice.randint(1, 20)
        world.arrive(
            json.dumps(body).encode(),
            "/v1/chat/completions" if chat else "/v1/completions",
            resumable=dice.random() < 0.8,
            timeout_s=dice.choice((60.0, 60.0, 3.0)),
            attempts_max=dice.choice((2, 4, 8)),
        )
        flight = world.flights[-1]
        if dice.random() < 0.1:
            world.at(dice.uniform(0.0, 3.0), lambda: world.hang_up(flight))
        if arrived < requests:
            world.at(dice.uniform(0.0, 0.5), arrive)

    world.at(0.1, arrive)
    world.at(0.2, world.mishap)
    if dice.random() < 0.3:
        world.at(dice.uniform(0.0, 3.0), world.roll_out)
    world.run(until=lambda: arrived == requests and all(flight.ended for flight in world.flights), limit_s=500.0)
    return world


def check(seed: int) -> World:
    world = schedule(seed)
    rules = broken_rules(world)
    assert not rules, f"SEED={seed}: " + "; ".join(rules[:5])
    return world


@pytest.mark.parametrize("batch", range(BATCHES))
def test_no_schedule_of_faults_breaks_a_rule(batch: int):
    if "SEED" in os.environ:
        if batch == 0:
            check(int(os.environ["SEED"]))
        return
    for seed in range(batch, SCHEDULES, BATCHES):
        check(seed)


def test_the_schedules_reach_every_branch_that_matters():
    """A simulation that never resumes, retries or refuses would prove nothing."""
    seen: Counter[str] = Counter()
    for seed in range(150):
        world = schedule(seed)
        for flight in world.flights:
            seen["retried" if flight.state.attempts > 1 and not flight.received else "other"] += 1
            seen["resumed"] += flight.leg is not flight.request
            seen["handed off"] += bool(flight.used)
            seen["typed error"] += flight.refused_in_stream
            seen[f"status {flight.refusal.status}" if flight.refusal else "answered"] += 1
            seen["fell back"] += bool(flight.state.route and flight.state.route.fallback)
            seen["changed generation"] += "b" in flight.streamed_in
    for what in ("resumed", "handed off", "typed error", "answered", "fell back", "status 429", "status 504"):
        assert seen[what] >= 5, f"{what}: {seen}"
    assert seen["answered"] > 400, seen
