"""The two hashes that say who may take whose place, and who may talk to whom."""

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

from tandem_worker.contract import WorkerSpec

GENERATION_DIGITS = 8
PAIR_KEY_DIGITS = 12


def generation_of(specs: Iterable[WorkerSpec]) -> str:
    """Hash of all workers of a service, the whole of each: eight hex digits.

    Left out are the hashes themselves and the ports: a target that moves a worker to other ports has
    not changed it. Replica counts are not in a spec, so scaling keeps the generation.
    """
    drafts = [spec.model_dump(mode="json", exclude={"generation", "pair_key", "ports"}) for spec in specs]
    return _digest(drafts, GENERATION_DIGITS)


def sealed(generation: str, around: Sequence[str]) -> str:
    """A generation together with what stands around its workers."""
    return _digest([generation, *around], GENERATION_DIGITS)


def pair_key_of(factors: Mapping[str, str]) -> str:
    """Hash of what must be equal for two workers to exchange KV: twelve hex digits."""
    return _digest(dict(factors), PAIR_KEY_DIGITS)


def _digest(value: object, digits: int) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return sha256(text.encode("ascii")).hexdigest()[:digits]
