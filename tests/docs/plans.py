"""The tables of docs/plans.md: plans of `examples/plans`, and what others published of the same deployments."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from math import inf
from pathlib import Path

import pulumi_tandem as tandem
from pulumi_tandem.cli.plan import Planned, interval_text, planned
from pulumi_tandem.plan import Kind, capacity, frontier, points
from pulumi_tandem.plan.verdict import binding

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "plans"
TPOTS_MS = (10, 15, 20, 25, 30, 40, 60)
KINDS: tuple[Kind, Kind] = ("disaggregated", "aggregated")


@cache
def service(name: str) -> tandem.Service:
    """The service of an example."""
    path = EXAMPLES / f"{name}.py"
    values: dict[str, object] = {"__file__": str(path)}
    exec(compile(path.read_text("utf-8"), str(path), "exec"), values)
    (found,) = (value for value in values.values() if isinstance(value, tandem.Service))
    return found


def _table(heads: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    shown = [heads, ("---",) * len(heads), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in shown) + "\n"


def plan_table(name: str) -> str:
    """An example's ways, and the verdict."""
    (one,) = planned([service(name)], by="cost")
    assert one.plan.service.objectives
    share = f"{one.plan.service.objectives.quantile * 100:g} %"
    heads = ("", "pools", "GPUs", "USD/h", f"TTFT {share}", f"TPOT {share}", "KV GB/s", "nearest to its limit")
    return f"{_table(heads, _ways(one))}\n> {one.plan.verdict.words}\n"


def _ways(one: Planned) -> Iterator[tuple[str, ...]]:
    found = one.plan
    assert found.service.objectives
    ways = {"declared": found.declared, "disaggregated": found.disaggregated, "aggregated": found.aggregated}
    for name, option in ways.items():
        if option:
            price = option.usd_per_hour
            yield (
                name,
                option.label,
                str(option.gpus),
                "-" if price is None else f"{price:.2f}",
                interval_text(option.ttft_s),
                interval_text(option.tpot_s),
                f"{option.kv_gb_per_s:.2f}" if option.kv_gb_per_s else "-",
                binding(option, found.service.objectives).upper(),
            )


@dataclass(frozen=True)
class Question:
    """A deployment of which something was published."""

    name: str
    gpus: int
    words: str
    prompt_tokens: int
    output_tokens: int
    kinds: tuple[Kind, ...]
    published: str
    changes: tuple[tuple[str, float], ...] = ()
    gpu: str = ""
    """Another GPU than the example's."""


QUESTIONS = (
    Question("llama_70b_fp8", 8, "Llama 70B FP8, one node of 8 H100", 3000, 150, KINDS,
             "NVIDIA on Dynamo: 1.3 times (vendor's claim, no objectives stated)"),
    Question("llama_70b_fp8", 16, "Llama 70B FP8, two nodes of 8 H100", 3000, 150, KINDS,
             "NVIDIA on Dynamo: over 2 times (vendor's claim, no objectives stated)"),
    Question("gpt_oss_120b", 8, "gpt-oss-120b, one node of 8 H100", 4000, 500, KINDS,
             "aiconfigurator 0.12.0: 1890 against 2227, 0.85 (computed for vLLM 0.24; TensorRT-LLM 0.79)"),
    Question("llama_70b_fp8", 8, "Llama 70B FP8, H100, TPOT 30 ms", 1024, 1024, ("aggregated",),
             "InferenceMAX, vLLM, measured: 1112 (TP2)", (("ttft_ms", 2000), ("tpot_ms", 30))),
    Question("llama_70b_fp8", 8, "Llama 70B FP8, H100, TPOT 30 ms", 8192, 1024, ("aggregated",),
             "InferenceMAX, vLLM, measured: 190 (TP4)", (("ttft_ms", 2000), ("tpot_ms", 30))),
    Question("gpt_oss_120b", 8, "gpt-oss-120b on H200, TPOT 30 ms", 8192, 1024, ("aggregated",),
             "InferenceMAX, vLLM, measured: 1290 (TP1)", gpu="H200"),
    Question("llama_70b_nvfp4", 1, "Llama 3.3 70B NVFP4, one B200, TPOT 30 ms", 1024, 1024, ("aggregated",),
             "InferenceMAX, vLLM, measured: 3587"),
    Question("llama_70b_nvfp4", 1, "Llama 3.3 70B NVFP4, one B200, TPOT 30 ms", 8192, 1024, ("aggregated",),
             "InferenceMAX, vLLM, measured: 764"),
)  # fmt: skip


def published_table() -> str:
    """Output tokens per second and GPU at the highest load within the objectives, and what others say."""
    heads = ("deployment", "tokens in, out", "disaggregated", "aggregated", "ratio", "published, tokens/s per GPU")
    return _table(heads, (_answer(question) for question in QUESTIONS))


def _answer(question: Question) -> tuple[str, ...]:
    base = service(question.name)
    assert base.workload
    assert base.objectives
    lengths = {"prompt_tokens": question.prompt_tokens, "output_tokens": question.output_tokens}
    asked = base.model_copy(
        update={
            "workload": tandem.Workload(requests_per_s=1, **lengths),
            "objectives": base.objectives.model_copy(update=dict(question.changes)),
        }
    )
    if question.gpu:
        auto = tandem.Auto(gpus=(question.gpu,))
        asked = asked.model_copy(update={"prefill": auto, "decode": auto})
    found: dict[Kind, float] = {}
    shown: dict[Kind, str] = dict.fromkeys(KINDS, "-")
    for kind in question.kinds:
        most = capacity(asked, kind, gpus=question.gpus)
        if most:
            found[kind] = most.requests_per_s * question.output_tokens / question.gpus
            shown[kind] = f"{found[kind]:.0f} ({most.option.label})"
    ratio = f"{found['disaggregated'] / found['aggregated']:.2f}" if len(found) == 2 else "-"
    sizes = f"{question.prompt_tokens}, {question.output_tokens}"
    return question.words, sizes, shown["disaggregated"], shown["aggregated"], ratio, question.published


def ratio_table(name: str) -> str:
    """Best throughput per GPU of both ways within each objective for TPOT, in a large deployment."""
    found = points(service(name))

    def most(kind: Kind, limit_ms: float) -> float:
        within = [point for point in found if point.kind == kind and point.tpot_ms <= limit_ms]
        best = frontier(within, against="tpot_ms")
        return best[-1].tokens_per_s_gpu if best else 0.0

    def rows() -> Iterator[tuple[str, ...]]:
        for limit_ms in (*TPOTS_MS, inf):
            pair, serve = (most(kind, limit_ms) for kind in KINDS)
            ratio = f"{pair / serve:.2f}" if serve else "-"
            yield ("any" if limit_ms == inf else f"{limit_ms} ms", f"{pair:.0f}", f"{serve:.0f}", ratio)

    return _table(("TPOT at most", "disaggregated", "aggregated", "ratio"), rows())


BLOCKS: dict[str, Callable[[], str]] = {
    "published": published_table,
    "ratio-llama": lambda: ratio_table("llama_70b_fp8"),
    "ratio-gpt-oss": lambda: ratio_table("gpt_oss_120b"),
    "plan-llama": lambda: plan_table("llama_70b_fp8"),
    "plan-gpt-oss": lambda: plan_table("gpt_oss_120b"),
    "plan-nvfp4": lambda: plan_table("llama_70b_nvfp4"),
    "plan-factory": lambda: plan_table("factory"),
}
"""Blocks of docs/plans.md by their name."""
