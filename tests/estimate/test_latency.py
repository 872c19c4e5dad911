"""Prefill, decode, both on one engine and on two pools: values worked by hand, measurements, and properties."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulumi_tandem import catalog, estimate
from pulumi_tandem.declare import Architecture
from pulumi_tandem.estimate import EngineSetup, Fabric, Interval, Workers
from pulumi_tandem.estimate.constants import constants
from pulumi_tandem.estimate.decode import decode_pass
from pulumi_tandem.estimate.forward import pass_time
from pulumi_tandem.estimate.prefill import prefill_passes
from pulumi_tandem.estimate.saturation import saturation_tokens
from pulumi_tandem.estimate.work import Batch, experts_touched, work

H100, B200 = catalog.gpu("H100"), catalog.gpu("B200")
LLAMA_8B = catalog.model("Llama-3.1-8B-Instruct").architecture
LLAMA_70B = catalog.model("Llama-3.3-70B-Instruct").architecture
GPT_OSS = Architecture(
    layers=36,
    hidden=2880,
    attention_heads=64,
    kv_heads=8,
    head_dim=64,
    intermediate=2880,
    vocabulary=201_088,
    positions_max=131_072,
    experts=128,
    experts_per_token=4,
    sliding_window_tokens=128,
    sliding_layers=18,
)
DEEPSEEK = Architecture(
    layers=61,
    hidden=7168,
    attention_heads=128,
    kv_heads=128,
    head_dim=192,
    value_head_dim=128,
    latent_dim=576,
    query_latent_dim=1536,
    intermediate=2048,
    vocabulary=129_280,
    positions_max=163_840,
    experts=256,
    experts_per_token=8,
    shared_experts=1,
    dense_layers=3,
    dense_intermediate=18_432,
)
LLAMA_70B_FP8 = EngineSetup(gpu=H100, shape=LLAMA_70B, weight_dtype="fp8", tensor_parallel=2)
SETUPS = st.builds(
    EngineSetup,
    gpu=st.sampled_from([H100, B200, catalog.gpu("A100-80GB"), catalog.gpu("L40S")]),
    shape=st.sampled_from([LLAMA_8B, LLAMA_70B, GPT_OSS, DEEPSEEK]),
    engine=st.sampled_from(["vllm", "tensorrt-llm", "sglang"]),
    weight_dtype=st.sampled_from(["bfloat16", "fp8", "nvfp4", "mxfp4", "int4"]),
    kv_dtype=st.sampled_from(["auto", "fp8"]),
    tensor_parallel=st.sampled_from([1, 2, 4, 8]),
    data_parallel=st.sampled_from([1, 4]),
    batch_tokens=st.sampled_from([512, 2048, 8192]),
)


def llama(tensor_parallel: int, **changes: Any) -> EngineSetup:
    return replace(LLAMA_70B_FP8, tensor_parallel=tensor_parallel, **changes)


def test_decode_reads_each_weight_once():
    # One layer: attention 8192 x 128 x 2 x (64 + 8) = 151.0 M, feed-forward 3 x 8192 x 28672 = 704.6 M weights of a
    # byte. 80 of them: 68.45 GB. The output layer stays in 16 bits: 128256 x 8192 x 2 = 2.10 GB. Half on each GPU.
    todo = work(LLAMA_70B_FP8, Batch(sequences=1, context_tokens=1000))
    assert todo.weight_bytes == pytest.approx((68.45e9 + 2.10e9) / 2, rel=1e-3)
    # Keys and values: 2 x 80 layers x 8 heads x 128 x 2 bytes = 327,680 a token, half of it here.
    assert todo.kv_bytes == pytest.approx(1000 * 327_680 / 2)
    # 35.28 GB at 3,350 GB/s are 10.5 ms, if the whole bandwidth could be had.
    share = constants(LLAMA_70B_FP8).memory_share
    assert decode_pass(LLAMA_70B_FP8, sequences=1, context_tokens=0).weights_s * share == pytest.approx(
        0.01053, rel=1e-3
    )


def test_prefill_computes_two_operations_per_weight_and_token():
    # 68.45 G weights x 2 x 4,000 tokens = 548 T, half on each GPU; at the FP8 peak of 1,979 T/s that is 138 ms.
    (one,) = prefill_passes(LLAMA_70B_FP8, 4000)
    assert one.matrices_s * constants(LLAMA_70B_FP8).matrix_share == pytest.approx(0.1384, rel=1e-3)


def test_attention_over_a_prompt_grows_with_its_square():
    # Each token attends to half of the prompt on average: 2 x 64 heads x (128 + 128) x 80 layers per pair.
    todo = work(llama(1), Batch(prompt_tokens=2000, prompt_context_tokens=1000))
    assert todo.attention_flops == pytest.approx(2000 * 1000 * 2 * 64 * 256 * 80)


def test_a_batch_touches_the_experts_that_its_tokens_are_sent_to():
    assert experts_touched(GPT_OSS, 1) == pytest.approx(4)
    # 128 x (1 - (124/128)^32) = 128 x (1 - 0.362) = 81.7
    assert experts_touched(GPT_OSS, 32) == pytest.approx(81.7, abs=0.1)
    assert experts_touched(GPT_OSS, 10_000) == pytest.approx(128)


def test_latent_attention_reads_its_latent_vector_on_every_gpu():
    # 576 numbers x 2 bytes x 61 layers = 70,272 bytes a token, however many GPUs share the heads.
    for ways in (1, 8):
        setup = EngineSetup(gpu=H100, shape=DEEPSEEK, weight_dtype="fp8", tensor_parallel=ways)
        assert work(setup, Batch(sequences=1, context_tokens=100)).kv_bytes == pytest.approx(100 * 70_272)


def test_layers_with_a_window_read_no_more_than_it():
    # 18 layers read 4,000 tokens and 18 read 128: 2 x 8 x 64 x 2 bytes = 2,048 a layer and token.
    setup = EngineSetup(gpu=H100, shape=GPT_OSS, weight_dtype="mxfp4")
    assert work(setup, Batch(sequences=1, context_tokens=4000)).kv_bytes == pytest.approx(18 * (4000 + 128) * 2048)


@pytest.mark.parametrize(
    ("weights", "gpu", "peak_tflops"),
    [
        ("fp8", "H100", 1978.9),
        ("nvfp4", "B200", 9000),
        ("nvfp4", "H100", 989.4),  # no FP4 in hardware: unpacked, multiplied in 16 bits
        ("fp8", "A100-80GB", 312),
        ("int4", "B200", 2250),
        ("mxfp4", "B200", 4500),  # with activations in MXFP8
    ],
)
def test_weights_are_multiplied_in_a_type_that_the_gpu_has(weights: str, gpu: str, peak_tflops: float):
    setup = EngineSetup(gpu=catalog.gpu(gpu), shape=LLAMA_8B, weight_dtype=weights)
    batch = Batch(prompt_tokens=1000, prompt_context_tokens=500)
    took_s = pass_time(setup, batch).matrices_s
    assert work(setup, batch).flops / took_s / constants(setup).matrix_share == pytest.approx(peak_tflops * 1e12)


@pytest.mark.parametrize(
    ("ways", "clients", "tokens_in", "ttft_ms", "tpot_ms"),
    [
        (2, 4, 1024, 121.3, 17.41),
        (2, 64, 1024, 415.1, 28.77),
        (4, 16, 8192, 731.5, 21.06),
        (8, 64, 8192, 1150.3, 34.48),
    ],
)
def test_predictions_are_near_what_was_measured(
    ways: int, clients: int, tokens_in: int, ttft_ms: float, tpot_ms: float
):
    # InferenceMAX, 2025-10-29: Llama-3.1-70B FP8 on H100 with vLLM, 1,024 tokens out (silicon_sample.csv).
    told = estimate.aggregated(llama(ways), concurrency=clients, prompt_tokens=tokens_in, output_tokens=1024)
    assert told.tpot_s.mid * 1e3 == pytest.approx(tpot_ms, rel=0.15)
    assert told.ttft_s.mid * 1e3 == pytest.approx(ttft_ms, rel=0.5)


def test_an_interval_is_wider_where_nothing_was_measured():
    def width(gpu: str) -> float:
        told = estimate.prefill_s(EngineSetup(gpu=catalog.gpu(gpu), shape=LLAMA_8B), 1000)
        return told.high / told.low

    assert width("L40S") > 1.5
    assert (
        estimate.decode_step_s(llama(2), sequences=8, context_tokens=100).high
        / (estimate.decode_step_s(llama(2), sequences=8, context_tokens=100).low)
        < 1.6
    )


def test_decode_on_its_own_pool_is_not_slowed_by_prompts():
    load: dict[str, Any] = {"concurrency": 64, "prompt_tokens": 8192, "output_tokens": 256}
    apart = estimate.disaggregated(Workers(setup=llama(2), number=4), Workers(setup=llama(2), number=1), **load)
    together = estimate.aggregated(llama(2), **load)
    assert apart.tpot_s.mid < 0.5 * together.tpot_s.mid


def test_one_prefill_worker_too_few_makes_prompts_wait_for_as_long_as_the_loop_lasts():
    load: dict[str, Any] = {"concurrency": 256, "prompt_tokens": 8192, "output_tokens": 128}
    decode = Workers(setup=llama(4), number=4)
    few, enough = (
        estimate.disaggregated(Workers(setup=llama(2), number=number), decode, **load).ttft_s.mid for number in (1, 64)
    )
    assert few > 20 * enough


def test_transfer_takes_the_slower_sides_share_of_the_network():
    # 4,000 tokens are 63 blocks of 64; 4,032 x 327,680 bytes = 1.321 GB. At 60 % of 12.5 GB/s that is 176 ms;
    # 63 x 80 pieces of 2 us and 2 ms are 12.1 ms more.
    fabric = Fabric(name="EFA", prefill_gb_per_s=50, decode_gb_per_s=12.5)
    took = estimate.transfer_s(llama(2), llama(2), fabric, prompt_tokens=4000)
    assert took.mid == pytest.approx(0.1762 + 0.0121, rel=1e-3)
    halved = estimate.transfer_s(llama(2), llama(2, kv_dtype="fp8"), fabric, prompt_tokens=4000)
    assert halved.mid == pytest.approx(0.0881 + 0.0121, rel=1e-3)


@given(setup=SETUPS, tokens=st.integers(1, 20_000), cached=st.floats(0, 1))
@settings(max_examples=40)
def test_longer_prompts_take_longer_and_cached_ones_never(setup: EngineSetup, tokens: int, cached: float):
    whole = estimate.prefill_s(setup, tokens).mid
    assert estimate.prefill_s(setup, tokens + 1).mid >= whole * (1 - 1e-9)
    assert estimate.prefill_s(setup, tokens, cached_tokens=int(cached * tokens)).mid <= whole * (1 + 1e-9)


@given(setup=SETUPS, sequences=st.integers(1, 500), context=st.integers(1, 50_000))
@settings(max_examples=40)
def test_more_sequences_and_longer_contexts_never_make_a_step_faster(setup: EngineSetup, sequences: int, context: int):
    one = estimate.decode_step_s(setup, sequences=sequences, context_tokens=context).mid
    assert estimate.decode_step_s(setup, sequences=sequences + 1, context_tokens=context).mid >= one
    assert estimate.decode_step_s(setup, sequences=sequences, context_tokens=context + 1).mid >= one


@given(setup=SETUPS, sequences=st.integers(1, 500), context=st.integers(1, 50_000))
@settings(max_examples=40)
def test_more_gpus_slow_a_step_by_their_exchanges_alone(setup: EngineSetup, sequences: int, context: int):
    few, many = (
        decode_pass(replace(setup, tensor_parallel=ways), sequences=sequences, context_tokens=context)
        for ways in (setup.tensor_parallel, 2 * setup.tensor_parallel)
    )
    assert many.total_s - many.exchange_s <= (few.total_s - few.exchange_s) * (1 + 1e-9)


@given(setup=SETUPS, clients=st.integers(1, 300), prompt=st.integers(1, 9_000), answer=st.integers(1, 2_000))
@settings(max_examples=40)
def test_predictions_are_ordered_explained_and_grow_with_clients(
    setup: EngineSetup, clients: int, prompt: int, answer: int
):
    load: dict[str, Any] = {"prompt_tokens": prompt, "output_tokens": answer}
    told = estimate.aggregated(setup, concurrency=clients, **load)
    busier = estimate.aggregated(setup, concurrency=clients + 1, **load)
    for each in (told.ttft_s, told.tpot_s, told.tokens_per_s):
        assert 0 < each.low <= each.mid <= each.high
    assert busier.tpot_s.mid >= told.tpot_s.mid
    assert busier.ttft_s.mid >= told.ttft_s.mid
    terms = estimate.explain_aggregated(setup, concurrency=clients, **load)
    assert sum(term.ms for term in terms) == pytest.approx(told.tpot_s.mid * 1e3)
    reading = estimate.explain_prefill(setup, prompt)
    assert sum(term.ms for term in reading) == pytest.approx(estimate.prefill_s(setup, prompt).mid * 1e3)


@given(setup=SETUPS)
@settings(max_examples=20)
def test_the_saturating_batch_is_the_smallest_that_reads_at_nine_tenths_of_the_best_speed(setup: EngineSetup):
    def speed(tokens: int) -> float:
        return tokens / pass_time(setup, Batch(prompt_tokens=tokens)).total_s

    tokens = saturation_tokens(setup)
    assert speed(tokens) >= 0.9 * speed(65_536)
    assert tokens == 256 or speed(tokens - 256) < 0.9 * speed(65_536)
    assert sum(term.ms for term in estimate.explain_saturation(setup)) == pytest.approx(tokens / speed(tokens) * 1e3)


def test_intervals_scale_and_add_up():
    assert Interval(1, 2, 3) * 2 + Interval(0, 1, 1) == 1 * Interval(2, 5, 7)
    with pytest.raises(AssertionError):
        Interval(2, 1, 3)
