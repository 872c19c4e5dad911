"""Moving a prompt's keys and values from the engine that read it to the one that decodes."""

from dataclasses import dataclass

from pulumi_tandem.estimate.engine import EngineSetup
from pulumi_tandem.estimate.interval import Interval
from pulumi_tandem.estimate.memory import KvCache, kv_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """The network between two workers."""

    name: str
    prefill_gb_per_s: float
    """What a prefill worker's share of its machine's network sends."""
    decode_gb_per_s: float
    """What a decode worker's share receives."""
    efficiency: float = 0.6
    """Share of the line's speed that transfers reach; the interval takes 0.4 to 0.9, as it was not measured on EFA."""
    descriptor_us: float = 2.0
    """Per contiguous piece that is posted: a layer's keys and values of one block."""
    setup_ms: float = 2.0
    """Once per request: the notice to the decode worker and its allocation."""


def transfer_s(prefill: EngineSetup, decode: EngineSetup, fabric: Fabric, *, prompt_tokens: int) -> Interval:
    """Seconds from the end of prefill until the decode worker holds all keys and values.

    The slower side decides; every rank posts its own pieces, all ranks at once.
    """
    cache = KvCache(kv_dtype=decode.kv_dtype, dtype=decode.dtype, block_tokens=decode.block_tokens)
    moved_bytes = kv_bytes(decode.shape, cache, prompt_tokens)
    line = min(fabric.prefill_gb_per_s, fabric.decode_gb_per_s) * 1e9
    blocks = -(-prompt_tokens // min(prefill.block_tokens, decode.block_tokens))
    posted_s = blocks * decode.shape.layers * fabric.descriptor_us * 1e-6 + fabric.setup_ms * 1e-3
    low, mid, high = (
        posted_s + moved_bytes / (line * share)
        for share in (max(0.9, fabric.efficiency), fabric.efficiency, min(0.4, fabric.efficiency))
    )
    return Interval(low, mid, high)
