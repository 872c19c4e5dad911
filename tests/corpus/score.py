"""How much of a corpus the rules catch: `python -m tests.corpus.score FILE [--min-caught 0.95] [--max-false 0]`.

Every case becomes a declaration (`translate`), which goes through the same `resolve` and `check` as a preview. A
`reject` case is caught for the right reason when exactly one rule has an error for it, at a path in the part of the
declaration that violates the rule; a `warn` case when there is a finding at such a path and no error anywhere else; an
`allow` case is hit by any error, and by a warning unless it says `warn_ok`.

A case does not name its part as a path, so it is derived from its `layer` and from what it declares, and never from
its rule's words:

- memory, parallelism, quantisation and hardware violate arithmetic over a few fields: those of `LAYERS`;
- engine-compat: fields of the keys that are not ordinary. Ordinary are an image, NIXL with the role's own kv_role, the
  pod's own address, a connector's backend, and GPUs and ranks that are alike on both roles (`_ordinary`);
- the other layers are about what stands around the engines: their fields of `LAYERS`.

Exit status: 0 within the bounds, 1 below them, 2 for a wrong command line. The last line is the sum.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pulumi_tandem.check import check
from pulumi_tandem.finding import DeclarationError, Finding
from pulumi_tandem.resolve import resolve
from tests.corpus.translate import Case, LeftOut, translate

SHAPE = (
    *("tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel"),
    *("gpus_per_worker", "nodes_per_worker"),
)
AROUND = ("cluster", "pod", "pods", "transfer", "front_door", "autoscalers", "prefill_per_decode", "token_secret")

KEPT = ("batch_tokens", "transfer", "connector")
LAYERS: dict[str, tuple[str, ...]] = {
    "memory": (
        "gpu",
        "memory_fraction",
        "context_tokens",
        "kv_cache_gib",
        "device",
        "tensor_parallel",
        "sequences",
        *KEPT,
    ),
    "parallelism": (*SHAPE, "extra_args"),
    "quantisation": ("gpu", "dtype", "kv_dtype", "engine.attention_backend", "extra_args", *SHAPE),
    "hardware": ("gpu", "dtype", "image", "image_arch", "mig", "device", "workers", *SHAPE, *AROUND),
    "network": (*AROUND, "env", "connector", "extra_args", "workers", "nodes_per_worker", "block_tokens"),
    "aws": (*AROUND, "gpu", "workers", "env"),
    "kubernetes": (*AROUND, "workers", "env", "grace", "nodes_per_worker"),
    "autoscaling": (*AROUND, "workers"),
    "rollout": (*AROUND, "rollout", "grace", "workers", "image", "engine", "env", "connector"),
    "gateway": (*AROUND, "block_tokens", "limits", "env"),
    "security": (*AROUND, "env"),
    "observability": (*AROUND, "env", "engine", "extra_args", "metrics_path"),
}
"""Fields of the declaration in which a case of a layer violates its rule."""

FIELDS: dict[str, tuple[str, ...]] = {
    "attention_backend": ("engine.attention_backend", "tensor_parallel"),
    "block_size": ("block_tokens",),
    "cache_transceiver_config": ("engine.transceiver", "engine.max_tokens_in_buffer"),
    "disable_overlap_scheduler": ("engine.overlap_scheduler",),
    "enable_chunked_prefill": ("batch_tokens", "engine.chunked_prefill"),
    "enable_sleep_mode": ("extra_args",),
    "data_parallel": ("data_parallel", "gpus_per_worker"),
    "engine_version": ("engine.version",),
    "env": ("env",),
    "gpu": ("gpu", "engine.attention_backend"),
    "gpu_memory_utilization": ("memory_fraction",),
    "hybrid": ("env", "engine.hybrid_kv_cache", "tensor_parallel", "block_tokens", "pipeline_parallel"),
    "hybrid_kv_cache_manager": ("engine.hybrid_kv_cache",),
    "image": ("image", "engine.version"),
    "calculate_kv_scales": ("extra_args",),
    "dp_mode": ("extra_args",),
    "free_gpu_memory_fraction": ("memory_fraction",),
    "kv_cache_dtype": ("kv_dtype", "engine.attention_backend"),
    "max_batch_size": ("sequences", "batch_tokens"),
    "max_beam_width": ("engine.beams",),
    "max_num_seqs": ("sequences", "batch_tokens"),
    "rope_override": ("extra_args", "context_tokens"),
    "kv_connector": ("connector", "env.PYTHONHASHSEED"),
    "kv_connector_extra_config": ("connector", "tensor_parallel"),
    "kv_buffer_device": ("connector.buffer_device", "block_tokens"),
    "prefill_tokens_per_s": ("transfer", "connector"),
    "kv_role": ("connector.role",),
    "kv_transfer_config": ("connector",),
    "max_isl": ("engine.max_tokens_in_buffer", "batch_tokens", "context_tokens"),
    "max_model_len": ("context_tokens",),
    "max_num_batched_tokens": ("batch_tokens",),
    "max_num_tokens": ("batch_tokens",),
    "max_seq_len": ("context_tokens",),
    "model_ref": ("model_path",),
    "model_revision": ("model_revision",),
    "nixl_version": ("engine.nixl_version",),
    "server_role": ("engine.server_role",),
    "speculative": ("engine.speculation",),
    "tensor_parallel": ("tensor_parallel",),
    "tokens_per_block": ("block_tokens", "engine.max_tokens_in_buffer"),
    "architecture": ("model",),
}
"""First part of a case's key: fields that say it; a key that is not here is said by the field of its own name."""

ORDINARY = frozenset({"image", "gpus_per_worker", "server_role", "replicas"})


@dataclass(frozen=True)
class Verdict:
    """What the rules made of one case."""

    id: str
    kind: str
    layer: str
    verdict: str
    """`caught`, `missed`, `other reason`, `passed`, `hit` or `left out`."""
    codes: tuple[str, ...]
    paths: tuple[str, ...]
    note: str = ""


def judge(case: Case) -> Verdict:
    """The verdict on one case."""
    try:
        translation = translate(case)
    except LeftOut as reason:
        return _verdict(case, "left out", (), str(reason))
    try:
        findings = check(resolve(translation.service()))
    except KeyError as key:
        return _verdict(case, "left out", (), f"the case does not say {key}")
    except DeclarationError as error:
        findings = error.findings
    note = f"not translated: {', '.join(translation.unknown)}" if translation.unknown else ""
    return _verdict(case, _word(case, findings), findings, note)


def _verdict(case: Case, word: str, findings: Iterable[Finding], note: str) -> Verdict:
    told = tuple(findings)
    marks = dict.fromkeys(f"{each.code}{'' if each.severity == 'error' else 'w'}" for each in told)
    paths = tuple(each.path for each in told)
    return Verdict(case["id"], case["kind"], case["layer"], word, tuple(marks), paths, note)


def _word(case: Case, findings: tuple[Finding, ...]) -> str:
    errors = [each for each in findings if each.severity == "error"]
    if case["kind"] == "allow":
        return "hit" if errors or (findings and not case.get("warn_ok")) else "passed"
    wanted = errors if case["kind"] == "reject" else findings
    if not wanted:
        return "missed"
    parts = violated(case)
    right = {each.code for each in wanted if _within(each.path, parts)}
    stray = {each.code for each in errors} - right
    return "caught" if right and not stray and len({each.code for each in errors}) <= 1 else "other reason"


def _within(path: str, parts: Iterable[str]) -> bool:
    """Whether a finding's path is one of the fields, or below one; names of service and pool do not count."""
    words = path.split(".")[1:]
    words = words[1:] if words[:1] in (["prefill"], ["decode"], ["engine"]) and len(words) > 1 else words
    below = ".".join(words)
    return any(below == part or below.startswith(f"{part}.") or part.endswith(f".{below}") for part in parts)


def violated(case: Case) -> tuple[str, ...]:
    """Fields of the declaration in which the case violates its rule: see the module's docstring."""
    if case["layer"] != "engine-compat":
        return LAYERS.get(case["layer"], AROUND)
    keys = list(dict.fromkeys(_unusual(case)))
    return tuple(field for key in keys for field in FIELDS.get(key, (key,)))


def _unusual(case: Case) -> Iterator[str]:
    prefill, decode = (case.get(role) or {} for role in ("prefill", "decode"))
    for role, keys in (("prefill", prefill), ("decode", decode)):
        other = decode if role == "prefill" else prefill
        yield from (key for key, value in keys.items() if not _ordinary(role, key, value, other))
        if case["engine"] == "vllm" and "kv_connector" not in keys:
            yield "kv_connector"
    yield from (key for key in ("hybrid", "architecture") if key in (case.get("model") or {}))
    yield from (case.get("workload") or {})


def _ordinary(role: str, key: str, value: Any, other: Case) -> bool:
    same = other.get(key) == value
    ordinary = {
        "kv_connector": value == "NixlConnector" and same,
        "kv_role": value == {"prefill": "kv_producer", "decode": "kv_consumer"}[role],
        "env": value == {"VLLM_NIXL_SIDE_CHANNEL_HOST": "fieldRef:status.podIP"} and same,
        "tensor_parallel": same,
        "pipeline_parallel": value == 1,
        "gpu": same,
        "image": same,
    }
    return ordinary.get(key, key in ORDINARY)


# --- the sum --------------------------------------------------------------------------------------


def score(cases: Iterable[Case]) -> list[Verdict]:
    """Verdicts of all cases, in their order."""
    return [judge(case) for case in cases]


def summary(verdicts: list[Verdict]) -> str:
    """The last line: `caught 85/89 reject, 30/32 warn, 1 for another reason; false 0/47 allow`."""
    count = Counter((each.kind, each.verdict) for each in verdicts)
    counted = Counter(each.kind for each in verdicts if each.verdict != "left out")
    other = count["reject", "other reason"] + count["warn", "other reason"]
    reject, warn = (f"{count[kind, 'caught']}/{counted[kind]} {kind}" for kind in ("reject", "warn"))
    return (
        f"caught {reject}, {warn}, {other} for another reason; false {count['allow', 'hit']}/{counted['allow']} allow"
    )


def caught_share(verdicts: list[Verdict]) -> float:
    """Share of the counted reject and warn cases that are caught for the right reason; 1 where there are none."""
    bad = [each for each in verdicts if each.kind != "allow" and each.verdict != "left out"]
    return sum(each.verdict == "caught" for each in bad) / len(bad) if bad else 1.0


def _table(verdicts: list[Verdict]) -> Iterator[str]:
    for each in verdicts:
        if each.verdict != "left out":
            words = f"{each.verdict:12} {each.kind:6} {each.layer:14} {each.id:48} {' '.join(each.codes)} {each.note}"
            yield words.rstrip()
    layers = sorted({each.layer for each in verdicts})
    yield ""
    for layer in layers:
        yield f"{layer:14} {summary([each for each in verdicts if each.layer == layer])}"
    left_out = [each for each in verdicts if each.verdict == "left out"]
    yield f"\nleft out {len(left_out)}:"
    yield from (f"  {each.id:48} {each.note}" for each in left_out)


def main(words: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.corpus.score", description="How much of a corpus the rules catch."
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--min-caught", type=float, default=0.0, help="least share of reject and warn cases caught")
    parser.add_argument("--max-false", type=int, default=None, help="most allow cases that may be hit")
    parser.add_argument("--json", action="store_true", help="verdicts as JSON, one a line, before the sum")
    parser.add_argument("--layer", help="cases of one layer only")
    asked = parser.parse_args(words)
    lines = asked.file.read_text("utf-8").splitlines()
    cases = [json.loads(line) for line in lines if line.strip()]
    verdicts = score(case for case in cases if asked.layer in (None, case["layer"]))
    for line in (json.dumps(asdict(each)) for each in verdicts) if asked.json else _table(verdicts):
        print(line)
    print(summary(verdicts))
    hits = sum(each.verdict == "hit" for each in verdicts)
    within = caught_share(verdicts) >= asked.min_caught and (asked.max_false is None or hits <= asked.max_false)
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
