"""TensorRT-LLM's two JSON pages, in the neutral numbers that the agent publishes. Not run on hardware.

`/metrics` holds the iterations since it was last asked (`enable_iter_perf_stats`), `/perf_metrics` the requests
that ended since it was last asked (`return_perf_metrics`, `perf_metrics_max_requests`): asking empties both, so
whoever else asks takes numbers away from the agent. The Prometheus page (`/prometheus/metrics`) has no KV
transfers and no progress, and is for people's dashboards.
Source: `get_iteration_stats` and `get_perf_metrics` of serve/openai_server.py in TensorRT-LLM's repository (the
wheel of 1.2.1 is on no registry that could be read).
"""

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from tandem_worker.dialects.vllm_metrics import EngineNumbers


class _Batch(msgspec.Struct, rename="camel"):
    num_scheduled_requests: int = 0


class _Iteration(msgspec.Struct, rename="camel"):
    num_active_requests: int = 0
    num_queued_requests: int = 0
    inflight_batching_stats: _Batch | None = None


class _Timing(msgspec.Struct):
    kv_cache_size: int = 0
    """Bytes of KV that were received; the server leaves it out where there were none."""
    kv_cache_transfer_start: float = 0.0
    kv_cache_transfer_end: float = 0.0


class _Metrics(msgspec.Struct):
    timing_metrics: _Timing


class _Ended(msgspec.Struct):
    perf_metrics: _Metrics


_ITERATIONS = msgspec.json.Decoder(list[_Iteration])
_REQUESTS = msgspec.json.Decoder(list[_Ended])


class TensorRtLlmMeter:
    """Adds up what the pages tell since they were last read."""

    paths = ("/metrics", "/perf_metrics")

    def __init__(self) -> None:
        self._numbers = EngineNumbers()

    def read(self, pages: Sequence[str]) -> EngineNumbers:
        """The numbers since the start. Raises: ValueError when a page is not the JSON that it should be.

        Only iterations in which a request was scheduled count as steps: a server whose KV pool is exhausted goes on
        iterating and answers `/health` with 200 (TensorRT-LLM#12313).
        """
        try:
            iterations, ended = _ITERATIONS.decode(pages[0]), _REQUESTS.decode(pages[1])
        except msgspec.DecodeError as error:
            msg = f"not the JSON of TensorRT-LLM's metrics: {error}"
            raise ValueError(msg) from error
        before = self._numbers
        moved = [each.perf_metrics.timing_metrics for each in ended]
        received = [each for each in moved if each.kv_cache_size > 0]
        steps = [
            each for each in iterations if (batch := each.inflight_batching_stats) and batch.num_scheduled_requests
        ]
        last = iterations[-1] if iterations else None
        self._numbers = replace(
            before,
            requests_running=last.num_active_requests if last else before.requests_running,
            requests_waiting=last.num_queued_requests if last else before.requests_waiting,
            kv_transfers_count=before.kv_transfers_count + len(received),
            kv_bytes=before.kv_bytes + sum(each.kv_cache_size for each in received),
            kv_seconds=before.kv_seconds
            + sum(max(0.0, each.kv_cache_transfer_end - each.kv_cache_transfer_start) for each in received),
            steps_count=before.steps_count + len(steps),
        )
        return self._numbers
