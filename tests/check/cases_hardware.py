"""Rows for ranks, slices, numbers, kernels and images (codes 008x, 009x)."""

from typing import Any

import pulumi_tandem as tandem
from tests.builders import llama_pair
from tests.check.cases import LLAMA, Broken
from tests.check.cases_handover import LATENT, model, on

EXPERTS: dict[str, Any] = {"experts": 60, "intermediate": 1536, "hidden": 2048, "layers": 24}
SPREAD: dict[str, Any] = {"data_parallel": 2, "expert_parallel": True}
BLOCKS = tandem.Quantisation(weights="fp8", activations="fp8", block=(128, 128))
FP8 = tandem.Quantisation(weights="fp8", activations="fp8")
MXFP4 = tandem.Quantisation(weights="mxfp4")
NVFP4 = tandem.Quantisation(weights="nvfp4", activations="nvfp4")
HALF = tandem.Model(name=LLAMA, path="/models/llama", dtype="float16")
SMALL = tandem.Model(name="mine", weights_gib=2.0, architecture=model().architecture)


def pools(**fields: Any) -> dict[str, Any]:
    """Both pools with these fields."""
    return {"prefill": fields, "decode": fields}


def pair(fields: dict[str, Any], **changes: Any) -> tandem.Service:
    """A pair of equal pools."""
    return llama_pair(fields, fields, **changes)


BROKEN = [
    Broken(
        "TND0080", llama_pair({"expert_parallel": True}), ("llama.prefill.expert_parallel",), "no experts to spread"
    ),
    Broken(
        "TND0081",
        pair({"data_parallel": 8, "expert_parallel": True}, model=model(**EXPERTS)),
        ("llama.prefill.data_parallel", "llama.decode.data_parallel"),
        "60 experts cannot be dealt out evenly over 8 GPUs",
    ),
    Broken(
        "TND0082",
        llama_pair({"tensor_parallel": 8, "nodes_per_worker": 3}),
        ("llama.prefill.nodes_per_worker",),
        "8 GPUs cannot be dealt out evenly over 3 nodes",
    ),
    Broken(
        "TND0082",
        llama_pair({"data_parallel": 8, "nodes_per_worker": 2, "extra_args": ("--data-parallel-size-local=2",)}),
        ("llama.prefill.extra_args",),
        "2 ranks on each of 2 nodes are not 8",
    ),
    Broken(
        "TND0083",
        pair({"gpu": "A100-80GB", "mig": "3g.40gb", "tensor_parallel": 2}),
        ("llama.prefill.mig", "llama.decode.mig"),
        "2 ranks cannot work together over MIG slices (3g.40gb)",
    ),
    Broken(
        "TND0084",
        pair({"device": "node-a:0", "memory_fraction": 0.6}, model=SMALL),
        ("llama.prefill.memory_fraction", "llama.decode.memory_fraction"),
        "2 engines on node-a:0 take 1.20 of its memory",
    ),
    Broken("TND0085", llama_pair({"memory_fraction": 0.97}), ("llama.prefill.memory_fraction",), "0.97 of H100's"),
    Broken(
        "TND0086",
        llama_pair(decode={"memory_fraction": 0.6}, engine=on("0.9.0")),
        ("llama.decode.memory_fraction",),
        "asserts that decode has no fewer blocks",
    ),
    Broken(
        "TND0090",
        pair({"gpu": "T4", "tensor_parallel": 4}),
        ("llama.prefill.dtype", "llama.decode.dtype"),
        "T4 (compute capability 7.5) has no bfloat16",
    ),
    Broken(
        "TND0091",
        pair({"gpu": "A10G"}, model=model(quantisation=MXFP4), engine=on("0.10.0")),
        ("llama.prefill.gpu", "llama.decode.gpu"),
        "compute capability 9.0 is needed and it has 8.6",
    ),
    Broken(
        "TND0092",
        pair({"gpu": "H200"}, model=model(quantisation=NVFP4)),
        ("llama.prefill.gpu", "llama.decode.gpu"),
        "H200 does not compute in nvfp4",
    ),
    Broken(
        "TND0093",
        pair({"tensor_parallel": 8}, model=model(quantisation=BLOCKS, experts=64, intermediate=1536)),
        ("llama.prefill.tensor_parallel", "llama.decode.tensor_parallel"),
        "an expert of width 1536 split over 8 GPUs is 192 on each",
    ),
    Broken(
        "TND0093",
        pair({"tensor_parallel": 32}, model=model(quantisation=BLOCKS, intermediate=18432)),
        ("llama.prefill.tensor_parallel", "llama.decode.tensor_parallel"),
        "width 18432 split over 32 GPUs is 576 on each",
    ),
    Broken(
        "TND0094",
        pair({"kv_dtype": "nvfp4"}),
        ("llama.prefill.kv_dtype", "llama.decode.kv_dtype"),
        "nvfp4 needs compute capability 10.0 and H100 has 9.0",
    ),
    Broken(
        "TND0094",
        pair({"kv_dtype": "fp8_ds_mla"}),
        ("llama.prefill.kv_dtype", "llama.decode.kv_dtype"),
        "for latent attention",
    ),
    Broken(
        "TND0099",
        pair({"gpu": "L40S", "kv_dtype": "fp8"}, engine=on("0.33.0", attention_backend="FLASH_ATTN")),
        ("llama.prefill.engine.attention_backend", "llama.decode.engine.attention_backend"),
        "FLASH_ATTN is not valid here: it does not take KV of type fp8 on L40S",
    ),
    Broken(
        "TND0099",
        pair({"gpu": "B200"}, model=model(**LATENT), engine=on("0.33.0", attention_backend="FLASH_ATTN_MLA")),
        ("llama.prefill.engine.attention_backend", "llama.decode.engine.attention_backend"),
        "auto on B200",
    ),
    Broken(
        "TND0099",
        pair({}, engine=on("0.33.0", attention_backend="FLASHMLA")),
        ("llama.prefill.engine.attention_backend", "llama.decode.engine.attention_backend"),
        "has no latent attention",
    ),
    Broken(
        "TND0095",
        pair({"kv_dtype": "fp8", "extra_args": ("--calculate-kv-scales",)}),
        ("llama.prefill.extra_args", "llama.decode.extra_args"),
        "decode would read with others",
    ),
    Broken(
        "TND0096",
        pair({"gpu": "GB200", "image_arch": "amd64"}),
        ("llama.prefill.image_arch", "llama.decode.image_arch"),
        "the image is for amd64 and machines with GB200 are arm64",
    ),
    Broken(
        "TND0097",
        llama_pair({"image": "here/engine:0.33.0"}, {"image": "here/engine:0.33.1"}),
        ("llama.decode.image",),
        "two versions do not shake hands",
    ),
    Broken(
        "TND0098",
        pair({"image": "vllm/vllm-openai:v0.31.0"}),
        ("llama.prefill.image", "llama.decode.image"),
        "the declared vLLM is 0.33.0",
    ),
]

FINE = [
    ("TND0080", pair(SPREAD, model=model(**EXPERTS))),
    ("TND0081", pair(SPREAD, model=model(**EXPERTS))),
    ("TND0081", pair(SPREAD | {"data_parallel": 8, "extra_args": ("--eplb-config.num_redundant_experts", "4")},
                     model=model(**EXPERTS))),
    ("TND0082", pair({"tensor_parallel": 8, "nodes_per_worker": 2})),
    ("TND0083", pair({"gpu": "A100-80GB", "mig": "3g.40gb"})),
    ("TND0084", pair({"device": "node-a:0", "memory_fraction": 0.45})),
    ("TND0084", llama_pair({"device": "node-a:0"}, {"device": "node-a:1"})),
    ("TND0085", pair({"memory_fraction": 0.95})),
    ("TND0086", llama_pair(decode={"memory_fraction": 0.6})),
    ("TND0086", llama_pair({"memory_fraction": 0.6}, engine=on("0.9.0"))),
    ("TND0090", pair({"gpu": "T4", "tensor_parallel": 4}, model=HALF)),
    ("TND0091", pair({"gpu": "A10G"}, model=model(quantisation=MXFP4))),
    ("TND0091", pair({"gpu": "H100"}, model=model(quantisation=MXFP4), engine=on("0.10.0"))),
    ("TND0092", pair({"gpu": "B200"}, model=model(quantisation=NVFP4))),
    ("TND0092", pair({"gpu": "L40S"}, model=model(quantisation=FP8))),
    ("TND0093", pair({"tensor_parallel": 4}, model=model(quantisation=BLOCKS, experts=64, intermediate=1536))),
    ("TND0093", pair({"tensor_parallel": 8, "expert_parallel": True},
                     model=model(quantisation=BLOCKS, experts=64, intermediate=1536))),
    ("TND0093", pair({"tensor_parallel": 16}, model=model(quantisation=BLOCKS, intermediate=18432))),
    ("TND0093", pair({"tensor_parallel": 8}, model=model(quantisation=FP8, experts=64, intermediate=1536))),
    ("TND0094", pair({"kv_dtype": "fp8"})),
    ("TND0094", pair({"gpu": "L40S", "kv_dtype": "fp8"})),
    ("TND0094", pair({"kv_dtype": "fp8_ds_mla"}, model=model(**LATENT))),
    ("TND0095", pair({"kv_dtype": "fp8"})),
    ("TND0099", pair({"gpu": "B200"}, engine=on("0.33.0", attention_backend="FLASH_ATTN"))),
    ("TND0099", pair({"kv_dtype": "fp8"}, model=model(**LATENT), engine=on("0.33.0", attention_backend="FLASHMLA"))),
    ("TND0099", pair({}, engine=on("0.33.0", attention_backend="MINE"))),
    ("TND0096", pair({"gpu": "GB200", "image_arch": "arm64"})),
    ("TND0096", pair({"image_arch": "amd64"})),
    ("TND0097", pair({"image": "here/engine:0.33.0"})),
    ("TND0097", llama_pair({"image": "here/engine:a"}, {"image": "here/engine:b"})),
    ("TND0098", pair({"image": "vllm/vllm-openai:v0.33.0"})),
    ("TND0098", pair({"image": "here/engine:7"})),
]  # fmt: skip
