"""Which rows are held out, fixed before any constant was fitted.

Whole groups are held out (model family, GPU, engine, parallelism), so that no row is judged by constants
that were fitted on its neighbours of another concurrency or prompt length.
"""

import hashlib

SALT = "tandem estimator, held out, 1"
"""Committed before the first fit and never changed: another salt is another lottery ticket."""
HELD_OUT_SHARE = 0.3


def draw(name: str) -> float:
    """A number in [0, 1) that the name decides, the same on every machine."""
    digest = hashlib.sha256(f"{SALT}|{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def is_held_out(*, family: str, gpu: str, engine: str, parallelism: str) -> bool:
    """Whether every row of the group is kept from the fit."""
    return draw(f"{family}|{gpu}|{engine}|{parallelism}") < HELD_OUT_SHARE
