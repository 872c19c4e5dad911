"""Codes 0090 to 0099: numbers, kernels and images against the hardware."""

import re
from collections.abc import Iterator

from pulumi_tandem import catalog
from pulumi_tandem.check.registry import Breach, rule
from pulumi_tandem.declare import Architecture
from pulumi_tandem.resolve import BACKENDS, Resolved, ResolvedPool, split_flags

VLLM_NEEDS = {"fp8": 75, "int8": 75, "int4": 75, "nvfp4": 75, "mxfp4": 80}
"""Smallest compute capability that vLLM has kernels for, by the type of the weights; below the native one they are
unpacked on the way. Source: get_min_capability in vLLM 0.33 model_executor/layers/quantization."""
VLLM_NEEDED = {"mxfp4": ((0, 10, 2), 90), "nvfp4": ((0, 9, 2), 100)}
"""What earlier releases needed: first release with more, and what it was before. Source: Marlin kernels for MXFP4
(vllm#22259, after 0.10.1's Hopper-only ones) and NVFP4 (vllm#18312)."""
TENSORRT_NEEDS = {"fp8": 89, "int8": 80, "int4": 80, "nvfp4": 100, "mxfp4": 90}
"""Source: TensorRT-LLM 1.2 support matrix, hardware against precision."""
BACKENDS_READ = (0, 32)
"""First vLLM whose attention backends were read."""
BLACKWELL_EXPERTS = ("TRTLLM", "CUTEDSL", "DEEPGEMM")
"""Kernels for experts of TensorRT-LLM that were written for compute capability 10.x. Source: TensorRT-LLM 1.2
_torch/modules/fused_moe: asserts on the SM version."""
NATIVE = {"fp8": 89, "nvfp4": 100, "mxfp8": 100, "int8": 75, "bfloat16": 0}
"""Compute capability from which activations of a type are computed with as they are."""


@rule(
    code="TND0090",
    title="the GPU computes in the dtype",
    story="""bfloat16 came with compute capability 8.0. A T4 or V100 has float16 only, and the engine refuses the
    dtype at start.""",
    source="vLLM 0.32/0.33 platforms/cuda.py check_if_supports_dtype",
)
def dtype_exists(resolved: Resolved) -> Iterator[Breach]:
    """bfloat16 stands on compute capability 8.0 or newer."""
    for pool in resolved.pools:
        if pool.dtype == "bfloat16" and 0 < pool.gpu.compute_capability < 80:
            message = (
                f"{pool.gpu.name} (compute capability {_capability(pool)}) has no bfloat16, which needs 8.0; the "
                "engine would not start"
            )
            yield Breach(path=f"{pool.name}.dtype", message=message, fix="set dtype='float16' on the model")


@rule(
    code="TND0091",
    title="the engine has kernels for the checkpoint's quantisation on the GPU",
    story="""Each way of storing weights needs a compute capability, which differs between engines and fell with their
    releases: vLLM 0.10.0 had MXFP4 for Hopper only and has it for Ampere since; TensorRT-LLM needs Blackwell for NVFP4,
    which vLLM unpacks on older GPUs.""",
    source="vLLM 0.33 get_min_capability; vllm#22422; TensorRT-LLM 1.2 support matrix",
)
def kernels_exist(resolved: Resolved) -> Iterator[Breach]:
    """Compute capability is at least what the engine's kernels need."""
    quantisation = resolved.architecture.quantisation
    for pool in resolved.pools if quantisation else ():
        assert quantisation
        needed = _needed(pool, quantisation.weights)
        if 0 < pool.gpu.compute_capability < needed:
            message = (
                f"{pool.engine_name} {pool.engine.version} has no kernels for {quantisation.weights} weights on "
                f"{pool.gpu.name}: compute capability {needed / 10:.1f} is needed and it has {_capability(pool)}"
            )
            fix = "use a newer GPU, another checkpoint, or a newer release"
            yield Breach(path=f"{pool.name}.gpu", message=message, fix=fix)


@rule(
    code="TND0092",
    severity="warning",
    title="the GPU computes in the checkpoint's numbers",
    story="""Where the hardware lacks them, weights are unpacked to 16 bits before every product: the memory is saved,
    the speed is that of 16 bits or less. A plan made from the data sheet of the format is then wrong.""",
    source="vLLM 0.33 quantization: Marlin kernels below the native capability",
)
def numbers_are_native(resolved: Resolved) -> Iterator[Breach]:
    """Activations of the checkpoint exist in hardware, where the engine can do without."""
    quantisation = resolved.architecture.quantisation
    for pool in resolved.pools if quantisation else ():
        assert quantisation
        capability = pool.gpu.compute_capability
        native = NATIVE.get(quantisation.activations, 0)
        if _needed(pool, quantisation.weights) <= capability < native:
            message = (
                f"{pool.gpu.name} does not compute in {quantisation.activations}, which needs compute capability "
                f"{native / 10:.1f}; weights are unpacked, at the speed of 16 bits"
            )
            fix = "use a GPU that has it, or plan with 16-bit speed"
            yield Breach(path=f"{pool.name}.gpu", message=message, fix=fix)


@rule(
    code="TND0093",
    title="blocks of FP8 scales are not cut by tensor parallelism",
    story="""In checkpoints like DeepSeek's, 128 x 128 weights share a scale. Each GPU's part of a matrix must hold
    whole blocks: 1536 wide experts split over 8 are 192, one and a half. Experts that stay whole (expert parallelism)
    are not cut.""",
    source="vLLM 0.32/0.33 quantization/fp8.py, fp8_utils.py validate_fp8_block_shape; vllm#17569; sglang#3345",
)
def scales_are_whole(resolved: Resolved) -> Iterator[Breach]:
    """Widths per GPU are multiples of the scale's block."""
    shape = resolved.architecture
    block = shape.quantisation.block if shape.quantisation else None
    for pool in resolved.pools if block else ():
        assert block
        for what, width, split in _cuts(shape, pool):
            if split > 1 and (width % split or (width // split) % max(block)):
                whole = [n for n in range(1, split) if width % n == 0 and (width // n) % max(block) == 0]
                message = (
                    f"{what} of width {width} split over {split} GPUs is {width / split:g} on each, no multiple of the "
                    f"{max(block)} weights that share a scale; the engine would stop while it loads"
                )
                fix = f"use tensor_parallel={max(whole, default=1)}"
                if shape.experts > 1 and not pool.expert_parallel:
                    fix += ", or expert_parallel=True, which leaves experts whole"
                yield Breach(path=f"{pool.name}.tensor_parallel", message=message, fix=fix)
                break


@rule(
    code="TND0094",
    title="the KV type exists for the model and the GPU",
    story="""KV in NVFP4 needs Blackwell and is not there for latent attention; the _ds_mla types are for latent
    attention only. FP8 in FLASH_ATTN needs compute capability 9.0: on older GPUs the engine changes to FLASHINFER,
    unless the backend is named.""",
    source="vLLM 0.32/0.33 v1/attention/backends, platforms/cuda.py",
)
def kv_type_exists(resolved: Resolved) -> Iterator[Breach]:
    """KV types fit the attention and the compute capability."""
    latent = resolved.architecture.latent_dim > 0
    for pool in resolved.pools:
        if pool.on_cpu or not pool.vllm:
            continue
        capability, kv = pool.gpu.compute_capability, pool.kv_dtype
        reasons = {
            f"{kv} is for latent attention, which {resolved.model_name} does not have": "ds_mla" in kv and not latent,
            f"{kv} cannot hold latent attention": kv in {"nvfp4", "nvfp4_4over6"} and latent,
            f"{kv} needs compute capability 10.0 and {pool.gpu.name} has {_capability(pool)}": (
                kv.startswith("nvfp4") and capability < 100
            ),
            f"{kv} needs compute capability 8.0 and {pool.gpu.name} has {_capability(pool)}": (
                kv.startswith("fp8") and capability < 80
            ),
        }
        for reason, holds in reasons.items():
            if holds:
                message = f"{reason}; the engine would not start"
                yield Breach(path=f"{pool.name}.kv_dtype", message=message, fix="use 'auto' or 'fp8'")
                break


@rule(
    code="TND0095",
    title="scales of FP8 KV come with the checkpoint when KV is handed over",
    story="""--calculate-kv-scales measures them at the first prompts, on each engine for itself. They are not part of
    what is handed over, so decode reads prefill's numbers with scales of its own: fluent, wrong answers.""",
    source="vLLM docs, NIXL connector compatibility: dynamic KV scales are not transferred",
)
def scales_travel(resolved: Resolved) -> Iterator[Breach]:
    """No pool of a pair computes its KV scales."""
    for pool in resolved.pools:
        computes = any(flag[0] == "--calculate-kv-scales" for flag in split_flags(pool.extra_args))
        if resolved.disaggregated and computes and pool.kv_dtype.startswith("fp8"):
            message = "KV scales that an engine computes are not handed over; decode would read with others"
            fix = "take --calculate-kv-scales out: use a checkpoint with scales, or none"
            yield Breach(path=f"{pool.name}.extra_args", message=message, fix=fix)


@rule(
    code="TND0096",
    title="the image runs on the machine's processor",
    story="""Grace machines (GH200, GB200, GB300) are arm64. An x86 image ends with 'exec format error', or is not found
    for the platform at all, after the node was paid for.""",
    source="OCI image index: platform.architecture; InferenceX#1582",
)
def image_runs(resolved: Resolved) -> Iterator[Breach]:
    """The image was built for the architecture that the GPU comes with."""
    for pool in resolved.pools:
        machine = pool.gpu.architecture
        if pool.image_arch and machine and pool.image_arch != machine:
            message = f"the image is for {pool.image_arch} and machines with {pool.gpu.name} are {machine}"
            yield Breach(path=f"{pool.name}.image_arch", message=message, fix=f"use an image for {machine}")


@rule(
    code="TND0097",
    title="both pools run one engine image",
    story="""The engine's version is in the handshake, down to its patch and build. Two tags of one image are two
    versions; a pool that is upgraded alone stops exchanging KV with the other.""",
    source="vLLM 0.32/0.33 .../nixl/metadata.py compute_nixl_compatibility_hash: vllm_version",
)
def same_image(resolved: Resolved) -> Iterator[Breach]:
    """Images of the pair do not state different versions."""
    if not resolved.disaggregated:
        return
    prefill, decode = resolved.pool("prefill"), resolved.pool("decode")
    versions = [_version(pool.image) for pool in (prefill, decode)]
    if all(versions) and versions[0] != versions[1] and prefill.engine.version == decode.engine.version:
        message = f"decode's image is {decode.image!r} and prefill's {prefill.image!r}; two versions do not shake hands"
        yield Breach(path="decode.image", message=message, fix=f"use {prefill.image!r} on both")


@rule(
    code="TND0098",
    title="the image has the engine's version",
    story="""Every rule here goes by the declared version. An image with another one is another engine, with other
    rules, and its handshake says so.""",
    source="vLLM's image tags: vllm/vllm-openai:vVERSION",
)
def image_is_the_version(resolved: Resolved) -> Iterator[Breach]:
    """vLLM's own images carry the declared version in their tag."""
    for pool in resolved.pools:
        name, _, tag = (pool.image or "").rpartition(":")
        if name.rpartition("/")[2] != "vllm-openai" or not pool.vllm or not catalog.version(tag):
            continue
        if catalog.version(tag) != pool.release_numbers:
            message = f"the image is {pool.image!r} and the declared vLLM is {pool.engine.version}"
            yield Breach(path=f"{pool.name}.image", message=message, fix=f"use {name}:v{pool.engine.version}")


@rule(
    code="TND0099",
    title="a named attention backend is one for the model, the GPU and the KV type",
    story="""A backend that is left to the engine is one that fits. A named one is taken at its word: on another
    generation of GPUs, with a KV type that it does not have, or for a model with latent attention where it has none,
    the engine says that the selected backend is not valid, and stops.""",
    source="vLLM 0.32 v1/attention/backends: supported_kv_cache_dtypes, supports_compute_capability, is_mla",
)
def backend_fits(resolved: Resolved) -> Iterator[Breach]:
    """Attention backends that are named can be had."""
    latent = resolved.architecture.latent_dim > 0
    for pool in resolved.pools:
        name = pool.vllm.attention_backend if pool.vllm else None
        backend = BACKENDS.get(name or "")
        if backend is None or pool.on_cpu or pool.release_numbers < BACKENDS_READ:
            continue
        if backend.latent != latent:
            why = f"{resolved.model_name} has {'' if latent else 'no '}latent attention"
        elif not backend.takes(pool.gpu, pool.kv_dtype):
            why = f"it does not take KV of type {pool.kv_dtype} on {pool.gpu.name}"
        else:
            continue
        message = f"the attention backend {name} is not valid here: {why}; the engine would not start"
        fix = "name none where both pools have one kind of GPU, or one that both can have"
        yield Breach(path=f"{pool.name}.engine.attention_backend", message=message, fix=fix)


def _needed(pool: ResolvedPool, weights: str) -> int:
    if not pool.vllm:
        return TENSORRT_NEEDS[weights]
    first, before = VLLM_NEEDED.get(weights, ((), 0))
    return before if pool.release_numbers < first else VLLM_NEEDS[weights]


def _capability(pool: ResolvedPool) -> str:
    return f"{pool.gpu.compute_capability / 10:.1f}"


def _cuts(shape: Architecture, pool: ResolvedPool) -> Iterator[tuple[str, int, int]]:
    """Matrices that are split: what they are, how wide, over how many GPUs."""
    split = pool.tensor_parallel
    if shape.experts == 1:
        yield "the feed-forward block", shape.intermediate, split
        return
    if not pool.expert_parallel:
        yield "an expert", shape.intermediate, split * pool.data_parallel
    if shape.shared_experts:
        yield "the shared expert", shape.intermediate * shape.shared_experts, split
    if shape.dense_layers and shape.dense_intermediate:
        yield "the dense feed-forward block", shape.dense_intermediate, split


def _version(image: str | None) -> str:
    """The version that an image's tag begins with; empty: none."""
    found = re.search(r":v?(\d+\.\d+(?:\.\d+)?)", image or "")
    return found[1] if found else ""
