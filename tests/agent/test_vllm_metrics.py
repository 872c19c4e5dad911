"""Reading vLLM's metrics page."""

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tandem_worker.dialects.vllm_metrics import EngineNumbers, read_metrics

# From the decode side of two vLLM 0.32 CPU engines after three hand-offs; buckets and other names cut.
PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="smol"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="smol"} 3.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="smol"} 0.375
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="128",engine="0",kv_cache_size_tokens="46592",num_gpu_blocks="364"} 1.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="smol",reason="capacity"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="smol",reason="deferred"} 2.0
# TYPE vllm:nixl_xfer_time_seconds histogram
vllm:nixl_xfer_time_seconds_bucket{engine="0",le="0.1",model_name="smol"} 3.0
vllm:nixl_xfer_time_seconds_bucket{engine="0",le="+Inf",model_name="smol"} 3.0
vllm:nixl_xfer_time_seconds_count{engine="0",model_name="smol"} 3.0
vllm:nixl_xfer_time_seconds_sum{engine="0",model_name="smol"} 0.073751
vllm:nixl_bytes_transferred_count{engine="0",model_name="smol"} 3.0
vllm:nixl_bytes_transferred_sum{engine="0",model_name="smol"} 3.538944e+07
vllm:nixl_bytes_transferred_created{engine="0",model_name="smol"} 1.795451513682262e+09
vllm:nixl_num_failed_transfers_total{engine="0",model_name="smol"} 1.0
vllm:nixl_num_failed_transfers_created{engine="0",model_name="smol"} 1.795451513682375e+09
vllm:nixl_num_failed_notifications_total{engine="0",model_name="smol"} 7.0
vllm:nixl_num_kv_expired_reqs_total{engine="0",model_name="smol"} 4.0
vllm:prompt_tokens_total{engine="0",model_name="smol"} 1231.0
vllm:prompt_tokens_by_source_total{engine="0",model_name="smol",source="local_compute"} 1.0
vllm:prompt_tokens_by_source_total{engine="0",model_name="smol",source="local_cache_hit"} 0.0
vllm:prompt_tokens_by_source_total{engine="0",model_name="smol",source="external_kv_transfer"} 1230.0
vllm:prompt_tokens_by_source_created{engine="0",model_name="smol",source="local_compute"} 1.7954515136827705e+09
vllm:generation_tokens_total{engine="0",model_name="smol"} 24.0
vllm:generation_tokens_created{engine="0",model_name="smol"} 1.795451513682888e+09
vllm:iteration_tokens_total_count{engine="0",model_name="smol"} 27.0
vllm:iteration_tokens_total_sum{engine="0",model_name="smol"} 1254.0
"""


def test_reads_what_the_engine_tells() -> None:
    """Every number has one name of the engine's, and its neighbours do not count."""
    numbers = read_metrics(PAGE)

    assert numbers == EngineNumbers(
        requests_running=2,
        requests_waiting=3,
        kv_share=0.375,
        kv_tokens=46_592,
        kv_transfers_count=3,
        kv_bytes=35_389_440,
        kv_seconds=0.073751,
        kv_failures_count=1,
        kv_expired_count=4,
        prompt_tokens={"local_compute": 1, "local_cache_hit": 0, "external_kv_transfer": 1230},
        generated_tokens=24,
        steps_count=27,
    )
    assert numbers.kv_gigabytes_per_second == pytest.approx(0.47985)


def test_adds_up_engine_cores() -> None:
    """With data parallelism every series comes once per engine core."""
    fuller = PAGE.replace('engine="0"', 'engine="1"').replace("0.375", "0.5")
    twice = read_metrics(PAGE + fuller)

    assert (twice.requests_running, twice.kv_bytes, twice.steps_count, twice.kv_share) == (4, 70_778_880, 54, 0.5)
    assert twice.kv_tokens == 93_184
    assert twice.prompt_tokens["external_kv_transfer"] == 2460


def test_knows_no_speed_without_a_transfer() -> None:
    """An engine that moved nothing has no bandwidth, and an empty page no numbers."""
    assert read_metrics("") == EngineNumbers()
    assert EngineNumbers().kv_gigabytes_per_second is None


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=8), st.floats(1e-6, 1e6))
def test_reads_any_number_of_cores(bytes_by_core: list[int], seconds: float) -> None:
    """Sums hold for any values, printed as the engine prints them."""
    page = "".join(
        f'vllm:nixl_bytes_transferred_sum{{engine="{core}"}} {float(count)!r}\n'
        f'vllm:nixl_xfer_time_seconds_sum{{engine="{core}"}} {seconds!r}\n'
        for core, count in enumerate(bytes_by_core)
    )
    numbers = read_metrics(page)

    assert numbers.kv_bytes == sum(bytes_by_core)
    assert numbers.kv_gigabytes_per_second == pytest.approx(sum(bytes_by_core) / (seconds * len(bytes_by_core)) / 1e9)


@given(st.text(max_size=40))
@example("} NaN")
@example("} +Inf")
@example('a="')
@example("}")
def test_raises_nothing_but_value_errors(text: str) -> None:
    """A page that is no metrics page is refused in one way."""
    with contextlib.suppress(ValueError):
        read_metrics(f"vllm:generation_tokens_total{{{text}\n{text}")
