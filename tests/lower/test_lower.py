"""What a declaration becomes: golden files, the two hashes, and what the engine's flags must say."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pulumi_tandem as tandem
from pulumi_tandem.check.owned import OWNED_ENV, OWNED_FLAGS, RESERVED_ENV_PREFIX
from pulumi_tandem.lower import Fleet
from pulumi_tandem.lower.vllm import shutdown_timeout_s
from tandem_worker.contract import WorkerSpec
from tests.builders import codes, fleet, laptop_pair, laptop_single, llama_flexible, llama_pair

EFA = tandem.Transfer(transport="efa", kv_gb_per_s_min=2.5, lease_s=60)
EVERYTHING: dict[str, Any] = {
    "kv_dtype": "fp8",
    "tensor_parallel": 2,
    "sequences": 64,
    "batch_tokens": 4096,
    "block_tokens": 32,
    "memory_fraction": 0.8,
    "kv_cache_gib": 20,
    "eager": True,
    "env": {"VLLM_LOGGING_LEVEL": "DEBUG"},
    "extra_args": ("--seed", "1"),
}
EXPERTS = tandem.Model(name="Qwen/Qwen3-30B-A3B", path="/models/qwen")
SERVICES = {
    "experts-pair": llama_pair(
        {"pipeline_parallel": 2, "expert_parallel": True},
        {"tensor_parallel": 2, "expert_parallel": True},
        model=EXPERTS,
        transfer=tandem.Transfer(connector=tandem.Connector(load_failure="recompute", extra={"num_threads": 8})),
    ),
    "laptop-pair": laptop_pair(),
    "laptop-single": laptop_single(served_names=("smol", "chat"), rollout="in_place"),
    "llama-flexible": llama_flexible(transfer=EFA),
    "llama-pair": llama_pair({"workers": 2}, {"workers": 3}),
    "llama-efa": llama_pair(transfer=EFA, survivors_serve_both=False, keep_failed=True),
    "llama-everything": llama_pair(
        EVERYTHING,
        EVERYTHING,
        model=tandem.Model(name="meta-llama/Llama-3.1-8B-Instruct", revision="0e9e39f"),
        engine=tandem.Vllm(
            version="0.32.0",
            attention_backend="FLASHINFER",
            prefix_caching=False,
            hybrid_kv_cache=False,
            tool_call_parser="llama3_json",
            reasoning_parser="deepseek_r1",
            kv_load_failure="recompute",
            speculation=tandem.Speculation(method="eagle3", model="/models/draft", tokens=3),
        ),
        transfer=tandem.Transfer(transport="rdma", net_devices="mlx5_0:1", progress_delay_us=100),
        limits=tandem.Limits(requests_running_max=7, request_timeout_s=30),
        grace=tandem.Grace(start_timeout_s=900, settle_s=1, drain_timeout_s=60, stop_timeout_s=9),
        resume=False,
        divergence_gap_nats_max=0.25,
    ),
}


@pytest.mark.parametrize("name", SERVICES)
def test_golden(name: str, is_golden: Callable[[str, Fleet], None]):
    is_golden(name, fleet(SERVICES[name]))


@pytest.mark.parametrize("name", SERVICES)
def test_golden_declarations_are_accepted(name: str):
    assert codes(SERVICES[name]) == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_fleet_survives_json(name: str):
    lowered = fleet(SERVICES[name])
    assert Fleet.model_validate_json(lowered.model_dump_json()) == lowered


def flags(spec: WorkerSpec) -> dict[str, str]:
    """Flags of a worker with the word that follows each."""
    words = spec.argv[3:]
    return {word: following for word, following in zip(words, (*words[1:], "--"), strict=True) if word.startswith("--")}


def transfer_config(spec: WorkerSpec) -> dict[str, Any]:
    return json.loads(flags(spec)["--kv-transfer-config"])


@pytest.mark.parametrize("name", SERVICES)
def test_flags_and_variables_are_all_among_the_owned_ones(name: str):
    for pool in fleet(SERVICES[name]).pools:
        own = set(flags(pool.spec)) - {"--seed"}
        assert {flag.replace("--no-", "--") for flag in own} <= set(OWNED_FLAGS)
        free = {"VLLM_LOGGING_LEVEL", "TORCH_COMPILE_DISABLE"}
        names = {each for each in pool.spec.env if not each.startswith(RESERVED_ENV_PREFIX)} - free
        assert names <= set(OWNED_ENV)


def test_every_owned_flag_is_set_by_some_declaration():
    emitted = {
        flag.replace("--no-", "--")
        for each in SERVICES.values()
        for pool in fleet(each).pools
        for flag in flags(pool.spec)
    }
    aliases = {"--device-memory-utilization", "--uds"}
    assert set(OWNED_FLAGS) - aliases <= emitted


def test_the_two_roles_differ_in_nothing_but_what_they_are_for():
    prefill, decode = (fleet(llama_pair()).pool(name).spec for name in ("prefill", "decode"))
    assert transfer_config(prefill)["kv_role"] == "kv_producer"
    assert transfer_config(decode)["kv_role"] == "kv_consumer"
    differing = {field for field in WorkerSpec.model_fields if getattr(prefill, field) != getattr(decode, field)}
    assert differing == {"pool", "phase", "argv"}


def test_an_aggregated_worker_moves_no_kv():
    (pool,) = fleet(laptop_single()).pools
    assert "--kv-transfer-config" not in flags(pool.spec)
    assert [port.name for port in pool.spec.ports] == ["http", "agent"]
    assert not [name for name in pool.spec.env if name.startswith(("UCX", "VLLM_NIXL"))]
    assert pool.phases == ("prefill", "decode")


def test_addresses_and_ports_are_only_named():
    for pool in fleet(laptop_pair()).pools:
        assert flags(pool.spec)["--host"] == "$(TANDEM_ADDRESS)"
        assert flags(pool.spec)["--port"] == "$(TANDEM_PORT_HTTP)"
        assert pool.spec.env["VLLM_NIXL_SIDE_CHANNEL_PORT"] == "$(TANDEM_PORT_SIDE_CHANNEL)"


def test_a_worker_without_a_folder_may_fetch_its_model():
    (pool,) = fleet(laptop_single(model=tandem.Model(name="SmolLM2-135M-Instruct", revision="v1"))).pools
    assert pool.spec.model_path is None
    assert flags(pool.spec)["--revision"] == "v1"
    assert "HF_HUB_OFFLINE" not in pool.spec.env


def test_an_eager_cpu_engine_compiles_nothing_unless_it_is_told_to():
    def compiles(**pool: Any) -> str | None:
        (only,) = fleet(laptop_single(serve=tandem.Pool(gpu="cpu", **pool))).pools
        return only.spec.env.get("TORCH_COMPILE_DISABLE")

    assert [compiles(), compiles(eager=False), compiles(env={"TORCH_COMPILE_DISABLE": "0"})] == ["1", None, "0"]


@pytest.mark.parametrize(("stop_s", "engine_s"), [(20, 10), (9, 4), (1, 1), (0.5, 1)])
def test_the_engine_has_half_of_the_time_to_stop_and_never_zero(stop_s: float, engine_s: int):
    assert shutdown_timeout_s(stop_s) == engine_s


@pytest.mark.parametrize("cached", [True, False])
def test_the_gateway_counts_on_caches_where_there_are_any(cached: bool):
    engine = tandem.Vllm(version="0.32.0", prefix_caching=cached)
    assert fleet(laptop_pair(engine=engine)).gateway.prefix_cached is cached


def test_the_gateway_takes_no_more_than_its_engines():
    pair = llama_pair({"context_tokens": 4096}, {"context_tokens": 2048})
    assert fleet(pair).gateway.context_tokens_max == 2048


CHANGES: list[dict[str, Any]] = [
    {"prefill": {"env": {"A": "1"}}},
    {"decode": {"batch_tokens": 4096}},
    {"decode": {"sequences": 100}},
    {"prefill": {"extra_args": ("--seed=2",)}},
    {"engine": tandem.Vllm(version="0.32.0")},
    {"model": tandem.Model(name="Llama-3.1-8B-Instruct", path="/models/llama", revision="2")},
    {"transfer": tandem.Transfer(lease_s=31)},
    {"grace": tandem.Grace(settle_s=3)},
    {"survivors_serve_both": False},
    {"served_names": ("x",)},
    {"context_tokens": 8191},
    {"name": "other"},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_any_change_of_a_worker_is_another_generation(change: dict[str, Any]):
    assert fleet(llama_pair(**change)).generation != fleet(llama_pair()).generation


SAME: list[dict[str, Any]] = [
    {"prefill": {"workers": 5}, "decode": {"workers": 9}},
    {"limits": tandem.Limits(requests_running_max=1)},
    {"keep_failed": True},
    {"divergence_gap_nats_max": 0.1},
    {"rollout": "in_place"},
    {"prefill": {"env": {}}, "decode": {"tensor_parallel": 1}},
    {"model": tandem.Model(name="Llama-3.1-8B-Instruct", path="/models/llama", dtype="bfloat16")},
]


@pytest.mark.parametrize("change", SAME, ids=str)
def test_what_leaves_the_workers_as_they_are_leaves_the_generation(change: dict[str, Any]):
    assert fleet(llama_pair(**change)).generation == fleet(llama_pair()).generation


POOLS = st.fixed_dictionaries(
    {},
    optional={
        "gpu": st.sampled_from(["H100", "H200", "B200"]),
        "tensor_parallel": st.sampled_from([1, 2, 4]),
        "kv_dtype": st.sampled_from(["auto", "fp8"]),
        "dtype": st.sampled_from(["bfloat16", "float16"]),
        "model_path": st.sampled_from(["/models/llama", "/x"]),
        "env": st.dictionaries(st.sampled_from(["A", "B", "C"]), st.text(max_size=3)),
        "sequences": st.integers(1, 512),
        "engine": st.sampled_from([tandem.Vllm(), tandem.Vllm(version="0.32.0"), tandem.Vllm(hybrid_kv_cache=False)]),
        "extra_args": st.sampled_from([(), ("--spec-method=mtp",), ("--seed=1",)]),
    },
)


@given(POOLS, POOLS)
def test_equal_declarations_lower_equal(prefill: dict[str, Any], decode: dict[str, Any]):
    assert fleet(llama_pair(prefill, decode)) == fleet(llama_pair(prefill, decode))


@given(POOLS, POOLS, st.integers(1, 64), st.integers(1, 64))
def test_replicas_are_in_no_hash(prefill: dict[str, Any], decode: dict[str, Any], more: int, most: int):
    grown = fleet(llama_pair({**prefill, "workers": more}, {**decode, "workers": most}))
    plain = fleet(llama_pair(prefill, decode))
    assert (grown.generation, grown.pair_key) == (plain.generation, plain.pair_key)
    assert [pool.workers for pool in grown.pools] == [more, most]


@given(POOLS, POOLS, st.text(min_size=1, max_size=5))
def test_any_environment_is_in_the_generation(prefill: dict[str, Any], decode: dict[str, Any], value: str):
    changed = {**decode, "env": {**decode.get("env", {}), "Z": value}}
    assert fleet(llama_pair(prefill, changed)).generation != fleet(llama_pair(prefill, decode)).generation


@given(POOLS, POOLS)
def test_the_rules_of_the_pair_are_the_factors_of_its_key(prefill: dict[str, Any], decode: dict[str, Any]):
    """The check and the lowering judge by two paths: they must come to one answer."""
    service = llama_pair(prefill, decode)
    keys = {pool.spec.pair_key for pool in fleet(service).pools}
    refused = any("TND0010" <= code <= "TND0016" for code in codes(service))
    assert (len(keys) == 1) == (not refused)


@given(POOLS)
def test_generations_are_eight_hex_digits(pool: dict[str, Any]):
    lowered = fleet(llama_pair(pool, pool))
    assert len(lowered.generation) == 8
    assert int(lowered.generation, 16) >= 0
    assert {each.spec.generation for each in lowered.pools} == {lowered.generation}
