"""Defaults, facts and what is said of unknown names."""

import pytest

import pulumi_tandem as tandem
from pulumi_tandem import catalog
from pulumi_tandem.estimate import EngineSetup, saturation_tokens
from pulumi_tandem.resolve import attention_backend, resolve, split_flags
from tests.builders import laptop_pair, laptop_single, llama_pair


def test_equal_services_resolve_equal():
    assert resolve(laptop_pair()) == resolve(laptop_pair())


def test_a_cpu_pool_gets_the_defaults_of_a_laptop():
    pool = resolve(laptop_pair(prefill=tandem.Pool(gpu="cpu"))).pool("prefill")
    assert (pool.sequences, pool.batch_tokens, pool.block_tokens, pool.kv_cache_gib) == (8, 2048, 128, 1.0)
    assert (pool.eager, pool.cpu_cores, pool.gpus_per_worker, pool.attention_backend) == (True, "nobind", 0, "CPU_ATTN")
    assert pool.host_memory_gib == 3.25  # 0.25 of weights, 1 of KV, 2 of processes


def test_a_gpu_pool_gets_the_defaults_of_a_gpu():
    pool = resolve(llama_pair()).pool("decode")
    assert (pool.sequences, pool.batch_tokens, pool.block_tokens, pool.kv_cache_gib) == (256, 8192, 64, None)
    assert (pool.eager, pool.gpus_per_worker, pool.attention_backend) == (False, 1, "FLASH_ATTN")


@pytest.mark.parametrize(
    ("given", "split", "gpus"),
    [
        ({}, 1, 1),
        ({"tensor_parallel": 2}, 2, 2),
        ({"gpus_per_worker": 4}, 4, 4),
        ({"tensor_parallel": 1, "gpus_per_worker": 2}, 1, 2),
    ],
)
def test_gpus_and_tensor_parallelism_follow_each_other(given: dict[str, int], split: int, gpus: int):
    pool = resolve(llama_pair(decode=given)).pool("decode")
    assert (pool.tensor_parallel, pool.gpus_per_worker) == (split, gpus)


def test_a_large_pool_of_sequences_gets_a_batch_that_holds_them():
    assert resolve(llama_pair(decode={"sequences": 10_000})).pool("decode").batch_tokens == 10_000


def test_context_is_the_pools_then_the_services_then_the_models():
    assert resolve(laptop_pair(context_tokens=None)).pool("prefill").context_tokens == 8192
    assert resolve(laptop_pair()).pool("prefill").context_tokens == 2048
    assert resolve(llama_pair(prefill={"context_tokens": 7})).pool("prefill").context_tokens == 7


@pytest.mark.parametrize(("service", "delay_us"), [(laptop_pair(), 5000), (llama_pair(), None)])
def test_the_transfer_thread_pauses_on_a_cpu(service: tandem.Service, delay_us: int | None):
    assert resolve(service).progress_delay_us == delay_us


def test_a_declared_pause_is_kept_even_when_it_is_none_at_all():
    assert resolve(laptop_pair(transfer=tandem.Transfer(progress_delay_us=0))).progress_delay_us == 0


def test_the_bound_on_divergence_follows_the_dtype():
    exact = tandem.Model(name="SmolLM2-135M-Instruct", dtype="float32")
    assert resolve(laptop_pair()).divergence_gap_nats_max == 0.5
    assert resolve(laptop_pair(model=exact)).divergence_gap_nats_max == 0.01
    assert resolve(laptop_pair(model=exact, divergence_gap_nats_max=0.0)).divergence_gap_nats_max == 0.0


@pytest.mark.parametrize(
    ("service", "phases"),
    [
        (laptop_pair(), [("prefill", "decode"), ("prefill", "decode")]),
        (laptop_pair(survivors_serve_both=False), [("prefill",), ("decode",)]),
        (laptop_single(survivors_serve_both=False), [("prefill", "decode")]),
    ],
)
def test_phases_that_a_worker_may_take(service: tandem.Service, phases: list[tuple[str, ...]]):
    assert [pool.phases for pool in resolve(service).pools] == phases


def test_the_first_served_name_is_the_models_unless_names_are_given():
    assert resolve(laptop_pair()).served_names == ("SmolLM2-135M-Instruct",)
    assert resolve(laptop_pair(served_names=("a", "b", "a"))).served_names == ("a", "b")


def test_every_unknown_name_is_told_at_once():
    service = llama_pair(
        {"gpu": "H1000"},
        {"gpu": "toaster"},
        model=tandem.Model(name="Llama-3.1-8B"),
        engine=tandem.Vllm(version="0.34.0"),
    )
    with pytest.raises(tandem.DeclarationError) as caught:
        resolve(service)
    assert [(finding.path, finding.code) for finding in caught.value.findings] == [
        ("llama.model.name", "TND0004"),
        ("llama.prefill.gpu", "TND0004"),
        ("llama.engine.version", "TND0004"),
        ("llama.decode.gpu", "TND0004"),
    ]
    fixes = [finding.fix for finding in caught.value.findings]
    assert fixes[0].startswith("write 'Llama-3.1-8B-Instruct', or give architecture=")
    assert fixes[1] == "write 'H100'"
    assert fixes[3].startswith("use one of: cpu, ")


def test_a_model_that_the_catalog_does_not_have_is_declared_with_its_shape():
    shape = catalog.model("SmolLM2-135M-Instruct").architecture
    mine = tandem.Model(name="mine", architecture=shape, weights_gib=1.0)
    resolved = resolve(laptop_pair(model=mine))
    assert (resolved.architecture, resolved.weights_bytes) == (shape, 1024**3)


@pytest.mark.parametrize(
    ("gpu", "kv_dtype", "backend"),
    [
        ("cpu", "fp8", "CPU_ATTN"),
        ("H100", "fp8", "FLASH_ATTN"),
        ("L40S", "auto", "FLASH_ATTN"),
        ("L40S", "fp8", "FLASHINFER"),
        ("B200", "auto", "FLASHINFER"),
    ],
)
def test_the_engines_choice_of_an_attention_backend(gpu: str, kv_dtype: str, backend: str):
    assert attention_backend(catalog.gpu(gpu), kv_dtype) == backend


def test_flags_are_read_as_the_engine_reads_them():
    words = ("stray", "--a=1", "--b_c", "2", "-3", "--kv-transfer-config.kv_role", "x", "-tp", "2")
    assert split_flags(words) == [
        ("--a", "1"),
        ("--b-c", "2", "-3"),
        ("--kv-transfer-config.kv-role", "x"),
        ("-tp", "2"),
    ]


def test_a_prefill_batch_is_the_smallest_that_saturates_its_gpus():
    """A larger one makes prompts wait for each other; decode, and a pool that does both, keep room for a crowd."""
    resolved = resolve(llama_pair())
    prefill = resolved.pool("prefill")
    setup = EngineSetup(gpu=prefill.gpu, shape=resolved.architecture, tensor_parallel=prefill.tensor_parallel)
    assert prefill.batch_tokens == saturation_tokens(setup) < resolved.pool("decode").batch_tokens
    assert resolve(llama_pair({"batch_tokens": 4096})).pool("prefill").batch_tokens == 4096


def test_a_prefill_pool_that_reads_prompts_whole_keeps_the_large_batch():
    whole = resolve(llama_pair({"extra_args": ("--no-enable-chunked-prefill",)}))
    assert whole.pool("prefill").batch_tokens == whole.pool("decode").batch_tokens
