"""Measured rows that a prediction can be held against, and why the others are left out.

The rows are those of silicon_sample.csv in the wheel aiconfigurator-core 0.12.0: public InferenceMAX/InferenceX runs
and NVIDIA's own. Every client sends its next request as soon as the last is answered (a closed loop).
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.estimator.shapes import shape
from benchmarks.estimator.split import is_held_out
from pulumi_tandem import catalog
from pulumi_tandem.estimate import EngineKind, EngineSetup, Workers

FAMILIES = {
    "deepseek-ai/DeepSeek-R1": "DeepSeek-V3",
    "deepseek-ai/DeepSeek-V3": "DeepSeek-V3",
    "nvidia/DeepSeek-R1-NVFP4": "DeepSeek-V3",
    "nvidia/DeepSeek-V3.1-NVFP4": "DeepSeek-V3",
    "zhipuai/GLM-5": "GLM-5",
    "moonshotai/Kimi-K2.5": "Kimi-K2.5",
    "meta-llama/Llama-3.1-70B": "Llama-3.1-70B",
    "meta-llama/Llama-3.1-8B-Instruct": "Llama-3.1-8B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "Llama-3.1-8B",
    "MiniMaxAI/MiniMax-M2.5": "MiniMax-M2.5",
    "Qwen/Qwen3-235B-A22B-FP8": "Qwen3-235B",
    "Qwen/Qwen3-32B": "Qwen3-32B",
    "nvidia/Qwen3-32B-NVFP4": "Qwen3-32B",
    "Qwen/Qwen3.5-397B-A17B": "Qwen3.5-397B",
    "openai/gpt-oss-120b": "gpt-oss-120b",
}
GPUS = {
    "h100_sxm": "H100",
    "h200_sxm": "H200",
    "b200_sxm": "B200",
    "b300_sxm": "B300",
    "gb200": "GB200",
    "gb300": "GB300",
}
ENGINES: dict[str, EngineKind] = {"vllm": "vllm", "trtllm": "tensorrt-llm", "sglang": "sglang"}
WEIGHTS = {"fp8": "fp8", "fp4": "nvfp4", "int4": "int4", "bf16": "bfloat16", "": "bfloat16"}
NODE_GPUS = 8
TTFT_MS_MAX = 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement."""

    id: str
    family: str
    gpu: str
    """As the file names it, so that a GB300 is told from a B300."""
    engine: EngineKind
    mode: Literal["agg", "disagg"]
    prompt_tokens: int
    output_tokens: int
    concurrency: int
    """Clients, over all workers."""
    prefill: Workers
    """Of an aggregated row the one engine, as in `decode`."""
    decode: Workers
    parallelism: str
    ttft_ms: float
    tpot_ms: float
    raw: dict[str, str] = field(repr=False)

    @property
    def held_out(self) -> bool:
        """Whether the row's whole group is kept from the fit."""
        return is_held_out(family=self.family, gpu=self.gpu, engine=self.engine, parallelism=self.parallelism)

    @property
    def ttft_counts(self) -> bool:
        """Whether it is known how often each client asks, which decides how many requests meet the crowd at the start.

        InferenceX sends ten times as many requests as there are clients (benchmark_serving.py, --num-prompts). Of
        NVIDIA's own files it is not told; in that of SGLang 0.5.1 nearly every request waits for half of the clients,
        in those of TensorRT-LLM 1.0.0rc3 TTFT grows with the length of the answers.
        """
        return self.raw["silicon_data_source"].startswith(("db-dump", "source_file=2026"))

    @property
    def tokens_per_s(self) -> float:
        """Output tokens of all clients, from the cycle that each of them goes through."""
        cycle_ms = self.ttft_ms + self.tpot_ms * (self.output_tokens - 1)
        return 1000.0 * self.concurrency * self.output_tokens / cycle_ms


def load(root: Path) -> tuple[list[Row], Counter[str]]:
    """Rows that count, in the file's order, and how many were left out for which reason.

    `root` is the folder of the installed package aiconfigurator_core.
    """
    left_out: Counter[str] = Counter()
    newest: dict[tuple[object, ...], tuple[str, Row]] = {}
    for raw in _table(root / "systems" / "silicon_sample.csv"):
        reason = _unclear(raw)
        row = None if reason else _row(raw, root / "model_configs")
        if row is None:
            left_out[reason] += 1
            continue
        if row.ttft_ms > min(TTFT_MS_MAX, row.tpot_ms * row.output_tokens):
            left_out["overload: waits over 10 s, or longer for the first token than for all others"] += 1
            continue
        key = (row.prefill, row.decode, row.concurrency, row.prompt_tokens, row.output_tokens, row.gpu)
        if key in newest:
            left_out["measured again later, or listed twice"] += 1
        if key not in newest or _measured(raw) >= newest[key][0]:
            newest[key] = (_measured(raw), row)
    return [row for _, row in newest.values()], left_out


def _table(path: Path) -> Iterable[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _number(text: str, default: int = 1) -> int:
    return int(float(text or 0)) or default


def _concurrency(raw: dict[str, str]) -> int:
    """0 where it is not told."""
    found = re.search(r"silicon_concurrency=(\d+)", raw["silicon_data_source"])
    return int(found.group(1)) if found else 0


def _measured(raw: dict[str, str]) -> str:
    found = re.search(r"measured=([0-9-]+)", raw["silicon_data_source"])
    return found.group(1) if found else ""


def _unclear(raw: dict[str, str]) -> str:
    """Why a row says too little, or the wrong thing, of what was measured; empty when it does not."""
    source = raw["silicon_data_source"]
    if raw["model_path"] == "deepseek-ai/DeepSeek-R1" and source.startswith("source_file=2026"):
        return "unmarked speculative decoding among them: DeepSeek-R1 of the files of 2026-03-25 and 2026-04-06"
    if raw["model_path"] == "nvidia/Llama-3.1-8B-Instruct-FP8":
        # Up to 83 % of the GPU's peak for prompts alone, while it decodes; no other file passes 39 %.
        return "prompts from the prefix cache: Llama-3.1-8B-Instruct-FP8 on vLLM 0.12.0"
    if not _concurrency(raw):
        return "concurrency not told"
    if raw["mode"] == "disagg":
        return "" if raw["prefill_num_workers"] and raw["decode_batch_size"] else "number of workers not told"
    tensor, data = _number(raw["tp_size"]), _number(raw["attention_dp_size"])
    if tensor * data > NODE_GPUS or (tensor > 1 and data > 1):
        return "parallelism contradicts itself: tp x dp beyond a node, or tp and dp counted for each other"
    experts = _number(raw["moe_tp_size"]) * _number(raw["moe_ep_size"])
    if experts not in {1, tensor * data}:
        return "parallelism contradicts itself: experts over more GPUs than attention"
    if _concurrency(raw) != _number(raw["batch_size"]) * data:
        return "several engines behind one address, their number not told"
    return ""


def _row(raw: dict[str, str], configs: Path) -> Row:
    family = FAMILIES[raw["model_path"]]
    roles = ("prefill_", "decode_") if raw["mode"] == "disagg" else ("", "")
    prefill, decode = (_workers(raw, role, family, configs) for role in roles)
    return Row(
        id=raw["id"],
        family=family,
        gpu=raw["system"],
        engine=ENGINES[raw["backend"]],
        mode="disagg" if raw["mode"] == "disagg" else "agg",
        prompt_tokens=int(raw["isl"]),
        output_tokens=int(raw["osl"]),
        concurrency=_concurrency(raw),
        prefill=prefill,
        decode=decode,
        parallelism=" + ".join(dict.fromkeys(_ways(each.setup) for each in (prefill, decode))),
        ttft_ms=float(raw["silicon_ttft_ms"]),
        tpot_ms=float(raw["silicon_tpot_ms"]),
        raw=raw,
    )


def _ways(setup: EngineSetup) -> str:
    return f"tp{setup.tensor_parallel} dp{setup.data_parallel}{' ep' if setup.expert_parallel else ''}"


def _workers(raw: dict[str, str], role: str, family: str, configs: Path) -> Workers:
    engine = ENGINES[raw["backend"]]
    weight_dtype = "mxfp4" if family == "gpt-oss-120b" else WEIGHTS[raw["precision"]]
    return Workers(
        number=_number(raw[f"{role}num_workers"]) if role else 1,
        setup=EngineSetup(
            gpu=catalog.gpu(GPUS[raw["system"]]),
            shape=shape(family, configs),
            engine=engine,
            weight_dtype=weight_dtype,
            kv_dtype="fp8" if engine != "vllm" and weight_dtype in {"fp8", "nvfp4"} else "auto",
            tensor_parallel=_number(raw[f"{role}tp_size"]),
            data_parallel=_number(raw[f"{role}attention_dp_size"]),
            expert_parallel=_number(raw[f"{role}moe_ep_size"]) > 1,
        ),
    )
