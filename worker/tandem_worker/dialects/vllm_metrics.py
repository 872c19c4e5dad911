"""vLLM's Prometheus text, in the neutral numbers that the agent publishes.

Source: vllm 0.32 `distributed/kv_transfer/kv_connector/v1/nixl/stats.py` (`vllm:nixl_*`) and
`v1/metrics/loggers.py` (the rest). Histograms show as `_sum` and `_count`, counters as `_total`.
With several engine cores behind one API server every series comes once per `engine`: they add up.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

_RUNNING = "vllm:num_requests_running"
_WAITING = "vllm:num_requests_waiting"
_KV_USED = "vllm:kv_cache_usage_perc"
_KV_ROOM = "vllm:cache_config_info"
_TRANSFER_SECONDS = "vllm:nixl_xfer_time_seconds"
_TRANSFER_BYTES = "vllm:nixl_bytes_transferred"
_FAILED = "vllm:nixl_num_failed_transfers_total"
_EXPIRED = "vllm:nixl_num_kv_expired_reqs_total"
_PROMPT_BY_SOURCE = "vllm:prompt_tokens_by_source_total"
_GENERATED = "vllm:generation_tokens_total"
_STEPS = "vllm:iteration_tokens_total_count"
_WANTED = (
    f"{_RUNNING}{{",
    f"{_WAITING}{{",
    f"{_KV_USED}{{",
    f"{_KV_ROOM}{{",
    f"{_TRANSFER_SECONDS}_sum",
    f"{_TRANSFER_SECONDS}_count",
    f"{_TRANSFER_BYTES}_sum",
    _FAILED,
    _EXPIRED,
    _PROMPT_BY_SOURCE,
    _GENERATED,
    _STEPS,
)


@dataclass(frozen=True)
class EngineNumbers:
    """One reading of an engine; counters since the engine started."""

    requests_running: int = 0
    requests_waiting: int = 0
    kv_share: float | None = None
    """Share of the memory for KV that running requests take; of several cores the fullest. None: not told."""
    kv_tokens: int | None = None
    """Tokens that the memory for KV has room for, over all cores. None: not told."""
    kv_transfers_count: int = 0
    kv_bytes: int = 0
    kv_seconds: float = 0.0
    """Sum over transfers of the time from posting to completion; transfers may overlap."""
    kv_failures_count: int = 0
    kv_expired_count: int = 0
    """Requests whose KV was given up because nobody read it before its lease ended."""
    prompt_tokens: Mapping[str, int] = field(default_factory=dict[str, int])
    """Prompt tokens by where their KV came from: local_compute, local_cache_hit, external_kv_transfer."""
    generated_tokens: int = 0
    steps_count: int = 0
    """Model steps that gave tokens; an engine with running requests that is well moves it."""

    @property
    def kv_gigabytes_per_second(self) -> float | None:
        """Effective KV bandwidth, 10^9 bytes per second; None before the first transfer."""
        return self.kv_bytes / self.kv_seconds / 1e9 if self.kv_seconds > 0 else None


class VllmMeter:
    """vLLM tells everything on one page, and since its start."""

    paths = ("/metrics",)

    def read(self, pages: Sequence[str]) -> EngineNumbers:
        """Raises: ValueError when a wanted line is not Prometheus text."""
        return read_metrics(pages[0])


def read_metrics(text: str) -> EngineNumbers:
    """Raises: ValueError when a wanted line is not Prometheus text."""
    # A page has some 1,500 lines, mostly histogram buckets; parsing all of them costs 30 ms.
    wanted = "\n".join(line for line in text.splitlines() if line.startswith(_WANTED)) + "\n"
    totals: dict[str, float] = {}
    by_source: dict[str, int] = {}
    kv_shares: list[float] = []
    kv_tokens = 0
    for family in text_string_to_metric_families(wanted):
        for sample in family.samples:
            if not math.isfinite(sample.value):
                raise ValueError(f"{sample.name} is {sample.value}, which no count or gauge of an engine is")
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
            if sample.name == _KV_USED:
                kv_shares.append(sample.value)
            if sample.name == _KV_ROOM:
                # Every core's line has what one core has room for (v1/engine/core_client.py, kv_cache_size_tokens).
                room = sample.labels.get("kv_cache_size_tokens", "")
                kv_tokens += int(room) if room.isdigit() else 0
            if sample.name == _PROMPT_BY_SOURCE:
                source = sample.labels.get("source", "")
                by_source[source] = by_source.get(source, 0) + int(sample.value)

    def count(name: str) -> int:
        return int(totals.get(name, 0.0))

    return EngineNumbers(
        requests_running=count(_RUNNING),
        requests_waiting=count(_WAITING),
        kv_share=max(kv_shares, default=None),
        kv_tokens=kv_tokens or None,
        kv_transfers_count=count(f"{_TRANSFER_SECONDS}_count"),
        kv_bytes=count(f"{_TRANSFER_BYTES}_sum"),
        kv_seconds=totals.get(f"{_TRANSFER_SECONDS}_sum", 0.0),
        kv_failures_count=count(_FAILED),
        kv_expired_count=count(_EXPIRED),
        prompt_tokens=by_source,
        generated_tokens=count(_GENERATED),
        steps_count=count(_STEPS),
    )
