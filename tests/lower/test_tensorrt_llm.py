"""What a declaration of TensorRT-LLM becomes: golden files, and what its configuration must say."""

import json
from collections.abc import Callable
from typing import Any

import pytest

import pulumi_tandem as tandem
from pulumi_tandem.lower import Fleet
from tests.builders import codes, fleet
from tests.check.cases_tensorrt import EAGLE, servers, trt

WIDE = {"tensor_parallel": 4}

SERVICES = {
    "trtllm-gpt-oss-120b": servers(
        WIDE,
        WIDE | {"expert_parallel": True},
        model=tandem.Model(name="gpt-oss-120b", path="/models/gpt-oss-120b"),
        transfer=tandem.Transfer(transport="rdma", net_devices="mlx5_0:1"),
    ),
    "trtllm-llama-70b": servers(
        {"tensor_parallel": 8},
        trt(overlap_scheduler=True) | WIDE | {"sequences": 128},
        model=tandem.Model(name="Llama-3.3-70B-Instruct", path="/models/llama-70b"),
        transfer=tandem.Transfer(transport="efa", lease_s=90),
        prompt_tokens_max=6000,
    ),
    "trtllm-machines": servers(
        {"tensor_parallel": 8, "pipeline_parallel": 2, "nodes_per_worker": 2},
        WIDE,
        model=tandem.Model(name="Llama-3.3-70B-Instruct", path="/models/llama-70b"),
    ),
    "trtllm-drafts": servers(
        trt(speculation=EAGLE, transceiver="UCX", max_tokens_in_buffer=8192),
        trt(speculation=EAGLE, transceiver="UCX", max_tokens_in_buffer=8192, moe_backend="CUTLASS"),
    ),
}


@pytest.mark.parametrize("name", SERVICES)
def test_golden(name: str, is_golden: Callable[[str, Fleet], None]):
    is_golden(name, fleet(SERVICES[name]))


@pytest.mark.parametrize("name", SERVICES)
def test_golden_declarations_are_accepted(name: str):
    assert codes(SERVICES[name]) == []


def config(lowered: Fleet, pool: str) -> dict[str, Any]:
    """A worker's configuration file."""
    return json.loads(lowered.pool(pool).spec.files["config.yaml"])


def test_what_nobody_reads_is_given_up_after_the_lease_and_the_longest_prompt_fits():
    for pool in ("prefill", "decode"):
        transceiver = config(fleet(SERVICES["trtllm-llama-70b"]), pool)["cache_transceiver_config"]
        assert transceiver == {"backend": "DEFAULT", "kv_transfer_timeout_ms": 90_000, "max_tokens_in_buffer": 6016}


def test_only_a_generation_server_overlaps_and_captures_graphs():
    lowered = fleet(SERVICES["trtllm-llama-70b"])
    prefill, decode = config(lowered, "prefill"), config(lowered, "decode")
    assert (prefill["disable_overlap_scheduler"], decode["disable_overlap_scheduler"]) == (True, False)
    assert prefill["cuda_graph_config"] is None
    assert decode["cuda_graph_config"] == {"enable_padding": True, "max_batch_size": 128}


def test_a_worker_has_one_phase_and_no_stream_is_resumed_whatever_is_declared():
    lowered = fleet(servers({}, {}, survivors_serve_both=True, resume=True))
    assert [pool.phases for pool in lowered.pools] == [("prefill",), ("decode",)]
    assert not lowered.gateway.survivors_serve_both
    assert not lowered.gateway.resume


def test_the_command_names_the_file_that_the_agent_writes():
    argv = fleet(servers({}, {})).pool("decode").spec.argv
    assert argv[:4] == ("trtllm-serve", "/models/llama", "--backend", "pytorch")
    assert argv[argv.index("--config") + 1] == "$(TANDEM_FILE_CONFIG_YAML)"


def test_without_a_pair_there_is_no_transceiver():
    served = servers({}, {}).model_copy(update={"prefill": None, "decode": None, "serve": tandem.Pool(gpu="H100")})
    served = served.model_copy(update={"engine": tandem.TensorRtLlm()})
    lowered = fleet(served)
    assert "cache_transceiver_config" not in config(lowered, "serve")
    assert [port.name for port in lowered.pool("serve").spec.ports] == ["http", "agent"]


@pytest.mark.parametrize("change", [{"chunked_prefill": True}, {"moe_backend": "TRTLLM"}, {"max_tokens_in_buffer": 64}])
def test_a_change_of_the_file_is_another_generation_and_the_same_pair(change: dict[str, Any]):
    plain, changed = fleet(servers({}, {})), fleet(servers({}, trt(**change)))
    assert changed.generation != plain.generation
    assert changed.pair_key == plain.pair_key
