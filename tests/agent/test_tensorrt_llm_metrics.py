"""TensorRT-LLM's two pages, which tell only what is new, as the agent's numbers since the start."""

import json
from typing import Any

import pytest

from tandem_worker.dialects.tensorrt_llm_metrics import TensorRtLlmMeter


def iteration(active: int, queued: int, scheduled: int) -> dict[str, Any]:
    return {
        "iter": 1,
        "numActiveRequests": active,
        "numQueuedRequests": queued,
        "kvCacheStats": {"usedNumBlocks": 4},
        "inflightBatchingStats": {"numScheduledRequests": scheduled},
    }


def ended(**timing: Any) -> dict[str, Any]:
    return {"request_id": 3, "perf_metrics": {"first_iter": 1, "timing_metrics": {"arrival_time": 1.0, **timing}}}


MOVED = {"kv_cache_size": 4_000_000, "kv_cache_transfer_start": 10.0, "kv_cache_transfer_end": 10.5}


def pages(iterations: list[Any], requests: list[Any]) -> tuple[str, str]:
    return json.dumps(iterations), json.dumps(requests)


def test_what_is_new_adds_up():
    meter = TensorRtLlmMeter()
    meter.read(pages([iteration(2, 5, 2), iteration(3, 4, 3)], [ended(**MOVED)]))
    numbers = meter.read(pages([iteration(1, 0, 1)], [ended(**MOVED), ended()]))
    assert (numbers.requests_running, numbers.requests_waiting, numbers.steps_count) == (1, 0, 3)
    assert (numbers.kv_transfers_count, numbers.kv_bytes, numbers.kv_seconds) == (2, 8_000_000, 1.0)
    assert numbers.kv_gigabytes_per_second == 0.008


def test_a_server_that_tells_nothing_new_is_as_it_was():
    meter = TensorRtLlmMeter()
    before = meter.read(pages([iteration(2, 1, 2)], []))
    assert meter.read(pages([], [])) == before


def test_iterations_that_schedule_nothing_are_no_progress():
    """Else a server whose KV pool is exhausted, and which answers /health with 200, would look alive."""
    meter = TensorRtLlmMeter()
    before = meter.read(pages([iteration(2, 0, 2)], []))
    assert meter.read(pages([iteration(2, 0, 0)] * 50, [])).steps_count == before.steps_count


@pytest.mark.parametrize("page", ["", "# HELP vllm:x", '{"detail":"Not Found"}', '[{"numActiveRequests":"two"}]'])
def test_another_page_is_an_error(page: str):
    with pytest.raises(ValueError, match="not the JSON of TensorRT-LLM's metrics"):
        TensorRtLlmMeter().read((page, "[]"))
