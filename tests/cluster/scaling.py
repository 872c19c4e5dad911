"""A service whose pools are scaled, and the load under which they grow: what tests of each kind of autoscaler share."""

import asyncio
from typing import Any

from tests.cluster.service import STACK, InCluster
from tests.serving.load import Answer, kinds, undisturbed

POOLS = ("prefill", "decode")
SMALL, LARGE = dict.fromkeys(POOLS, 1), dict.fromkeys(POOLS, 2)
ASKED = kinds(max_tokens=20)
QUIET_WAIT_S = 300.0
"""How busy readers are is known of the last two minutes, and then a minute must have been quiet."""
CLIENTS = 24
"""One worker reads 2.5 prompts a second, and one writes 4 answers: prefill is short at first, and then decode."""


def scaled(kind: str) -> dict[str, Any]:
    """A declaration whose pools have one worker or two; its autoscalers wait one minute, and not five."""
    scaler = {"kind": kind, "workers_max": 2}
    return {
        "prefill": {"autoscalers": [scaler], "extra_args": ["--fake-prefill-ms", "400", "--fake-one-prefill"]},
        "decode": {"autoscalers": [scaler], "extra_args": ["--fake-step-ms", "100"]},
        "impatient": POOLS,
    }


def sizes(service: InCluster) -> dict[str, int]:
    """Ready workers of each pool."""
    return {pool: len(service.workers(pool)) for pool in POOLS}


def answers(service: InCluster) -> dict[str, Answer]:
    """What the load is to be answered."""
    return asyncio.run(undisturbed(service.url, ASKED))


async def unchanged(service: InCluster, declaration: dict[str, Any]) -> None:
    """A preview finds nothing to do."""
    words = ("preview", "--stack", STACK, "--expect-no-changes")
    preview = await asyncio.to_thread(service.run, *words, **declaration)
    assert preview.returncode == 0, preview.stdout
