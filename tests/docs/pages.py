"""The parts of the documentation that are made from the code: `python -m tests.docs.pages` writes them.

A whole page (docs/rules.md, docs/declaration.md) or a block between two marks of a page that is otherwise
written by hand. A test compares what is committed with what would be written.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticUndefined

from pulumi_tandem import check, declare
from pulumi_tandem.declare import (
    architecture,
    auto,
    cluster,
    connector,
    door,
    engine,
    model,
    nodes,
    pod,
    pool,
    service,
    workload,
)
from pulumi_tandem.declare.noun import Noun
from tandem_worker.agent.decide import Exit
from tandem_worker.agent.endpoints import Reading
from tandem_worker.agent.transport import Transport
from tandem_worker.contract import WorkerSpec
from tandem_worker.dialects.vllm_metrics import EngineNumbers
from tandem_worker.gateway import resume
from tandem_worker.gateway.metrics import COUNTED, Metrics
from tandem_worker.gateway.resume import Role
from tests.docs import plans

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from pydantic.fields import FieldInfo

ROOT = Path(__file__).parents[2]
MARK = re.compile(r"(?P<open><!-- made from the code: (?P<name>[a-z0-9-]+) -->\n).*?(?P<close><!-- end -->)", re.DOTALL)
MADE = "<!-- made from the code by `python -m tests.docs.pages`; edit the code, not this page -->"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    shown = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(row) + " |" for row in shown) + "\n"


# --- the rules ------------------------------------------------------------------------------------

GROUPS = {
    "000": "Values and names",
    "001": "What both pools must have in common",
    "002": "Blocks, heads and GPUs",
    "003": "Context, batches and memory",
    "004": "Transport and time limits",
    "005": "Environment, flags and ports",
    "006": "Connectors",
    "007": "Layers, layouts and stages",
    "008": "Ranks, slices and shared GPUs",
    "009": "Numbers, kernels and images",
    "010": "TensorRT-LLM",
    "011": "What does not go with a hand-over",
    "012": "Other connectors, and metrics",
    "020": "Fabric: EFA, RDMA, NVLink",
    "021": "What else KV meets on its way",
    "022": "Machines",
    "023": "Capacity, versions and machine images",
    "024": "Taints, plugins, memory and permissions of pods",
    "025": "Disks, tokens, probes and grace periods",
    "026": "Autoscaling",
    "027": "Roll-out",
    "028": "The front door and ports",
    "029": "Devices of pods, routers, and how soon workers come",
    "030": "Load, objectives and plans",
    "031": "Workers that change between the phases",
}
"""Heading by the code's first three digits; a rule outside of them needs a new row."""


RULES_INTRODUCTION = """\
Every declaration is judged by all of these rules before the first resource of its service is registered, and all
findings come out together.
An `error` stops the preview with exit code 1; a `warning` is shown and lets it go on.
`tandem explain CODE` prints the same text; `tandem check FILE` applies the rules without Pulumi.
A code never changes its meaning.
"""


def rules_page() -> str:
    """docs/rules.md: every rule with its story."""
    rules = check.RULES.values()
    parts = [
        MADE,
        "# The rules\n",
        RULES_INTRODUCTION,
        table(
            ("code", "severity", "what must hold"),
            ((f"[{rule.code}](#{rule.code.lower()})", rule.severity, rule.title) for rule in rules),
        ),
    ]
    group = ""
    for rule in rules:
        if rule.code[3:6] != group:
            group = rule.code[3:6]
            parts.append(f"## {GROUPS[group]}\n")
        parts.append(f"### {rule.code}\n\n*{rule.severity}*: {rule.title}.\n\n{rule.story}\n\nSource: {rule.source}.\n")
    return "\n".join(parts)


# --- the vocabulary -------------------------------------------------------------------------------

NOUNS: tuple[tuple[type[Noun], ModuleType], ...] = (
    (declare.Service, service),
    (declare.Pool, pool),
    (declare.Auto, auto),
    (declare.Workload, workload),
    (declare.Lengths, workload),
    (declare.Objectives, workload),
    (declare.Model, model),
    (declare.Architecture, architecture),
    (declare.Quantisation, architecture),
    (declare.Vllm, engine),
    (declare.TensorRtLlm, engine),
    (declare.Speculation, engine),
    (declare.Transfer, service),
    (declare.Connector, connector),
    (declare.Limits, service),
    (declare.Grace, service),
    (declare.Cluster, cluster),
    (declare.SecurityGroup, cluster),
    (declare.NetworkPolicy, cluster),
    (declare.DevicePlugin, cluster),
    (declare.GpuOperator, cluster),
    (declare.NodePool, nodes),
    (declare.Capacity, nodes),
    (declare.PlacementGroup, nodes),
    (declare.NetworkInterface, nodes),
    (declare.Taint, nodes),
    (declare.Toleration, nodes),
    (declare.Pod, pod),
    (declare.Probe, pod),
    (declare.RollingUpdate, pod),
    (declare.Autoscaler, pod),
    (declare.Ratio, door),
    (declare.FrontDoor, door),
    (declare.TokenSecret, door),
)


DECLARATION_INTRODUCTION = """\
Values that a program writes, as `tandem.Service(...)` after `import pulumi_tandem as tandem`.
They are frozen, take keywords only, and refuse fields that they do not have. Units stand in the names.
"""


def declaration_page() -> str:
    """docs/declaration.md: every noun and field."""
    parts = [
        MADE,
        "# The declaration\n",
        DECLARATION_INTRODUCTION,
    ]
    for noun, module in NOUNS:
        texts = _field_texts(noun, module)
        rows = ((f"`{name}`", f"`{_kind(field)}`", _default(field), texts[name]) for name, field in _fields(noun))
        parts += [f"## {noun.__name__}\n", f"{_prose(noun.__doc__)}\n", table(("field", "type", "default", ""), rows)]
    return "\n".join(parts)


def _fields(noun: type[Noun]) -> "Iterator[tuple[str, FieldInfo]]":
    yield from noun.model_fields.items()


def _field_texts(noun: type[Noun], module: ModuleType) -> dict[str, str]:
    """The string that stands under each field in the source."""
    texts = dict.fromkeys(noun.model_fields, "")
    (found,) = (
        node
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.ClassDef) and node.name == noun.__name__
    )
    for before, after in zip(found.body, found.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name) and isinstance(after, ast.Expr):
            assert isinstance(after.value, ast.Constant)
            texts[before.target.id] = _prose(after.value.value)
    return texts


def _prose(text: Any) -> str:
    return " ".join(textwrap.dedent(str(text)).split())


def _kind(field: "FieldInfo") -> str:
    annotation = field.annotation
    kind = annotation.__name__ if isinstance(annotation, type) and not _has_arguments(annotation) else str(annotation)
    kind = re.sub(r"pulumi_tandem\.declare\.\w+\.|typing\.", "", kind)
    return re.sub(r"^Optional\[(.*)\]$", r"\1 | None", kind)


def _has_arguments(annotation: object) -> bool:
    return bool(getattr(annotation, "__args__", ()))


def _default(field: "FieldInfo") -> str:
    if field.default is PydanticUndefined and field.default_factory is None:
        return "needed"
    value = field.get_default(call_default_factory=True, validated_data={})
    return f"`{type(value).__name__}()`" if isinstance(value, Noun) else f"`{value!r}`"


# --- what the gateway may take up again -----------------------------------------------------------


@dataclass(frozen=True)
class Condition:
    """When a field leaves a stream resumable, in words and as two samples that a test judges."""

    words: str
    allowed: Any
    refused: Any


CONDITIONS = {
    "messages": Condition("text only", [{"role": "user", "content": "a"}],
                          [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]),
    "prompt": Condition("one prompt, as text or as ids", "a", ["a", "b"]),
    "stream_options": Condition("`include_usage` only", {"include_usage": True}, {"continuous_usage_stats": True}),
    "n": Condition("1", 1, 2),
    "best_of": Condition("1", 1, 2),
    "use_beam_search": Condition("`false`", False, True),
    "echo": Condition("`false`", False, True),
    "suffix": Condition("absent or `null`", None, "a"),
    "stop": Condition("absent, `null` or empty", [], ["a"]),
    "logprobs": Condition("absent, `null` or `false`", False, True),
    "top_logprobs": Condition("0", 0, 2),
    "prompt_logprobs": Condition("absent or `null`", None, 1),
    "presence_penalty": Condition("0", 0.0, 0.5),
    "frequency_penalty": Condition("0", 0, 0.5),
    "repetition_penalty": Condition("1", 1.0, 1.1),
    "bad_words": Condition("absent, `null` or empty", [], ["a"]),
    "response_format": Condition("absent or `text`", {"type": "text"}, {"type": "json_object"}),
    "structured_outputs": Condition("absent or `null`", None, {"regex": "a"}),
    "return_token_ids": Condition("`false`", False, True),
}  # fmt: skip
"""Every field of the allow-list that is not allowed at any value."""

WHAT_BECOMES = {
    Role.PROMPT: "shaped the prompt, which goes as ids",
    Role.CARRY: "sent again as it is",
    Role.LENGTH: "sent again, less the tokens that the client has",
    Role.MUTE: "left out: without effect at these values",
}


def resume_table() -> str:
    """The allow-list of docs/gateway.md."""
    rows: dict[tuple[Role, str], list[str]] = {}
    for name, rule in resume.RULES.items():
        words = CONDITIONS[name].words if name in CONDITIONS else "any"
        rows.setdefault((rule.role, words), []).append(f"`{name}`")
    ordered = sorted(rows.items(), key=lambda row: (list(Role).index(row[0][0]), row[0][1] != "any", row[0][1]))
    return table(
        ("fields", "allowed values", "in the continuation"),
        ((", ".join(names), words, WHAT_BECOMES[role]) for (role, words), names in ordered),
    )


# --- why a request ran whole, and errors ----------------------------------------------------------

ASKED = {
    "n": ("`n` above 1", "/v1/chat/completions", {"n": 2}),
    "best_of": ("`best_of` above 1", "/v1/completions", {"best_of": 2}),
    "beam-search": ("`use_beam_search`", "/v1/completions", {"use_beam_search": True}),
    "echo": ("`echo`", "/v1/completions", {"echo": True}),
    "prompt-logprobs": ("`prompt_logprobs`", "/v1/completions", {"prompt_logprobs": 1}),
    "prompt-embeds": ("`prompt_embeds`", "/v1/completions", {"prompt_embeds": "a"}),
    "several-prompts": ("a list of prompts", "/v1/completions", {"prompt": ["a", "b"]}),
    "responses-tools": ("`tools` on `/v1/responses`", "/v1/responses", {"tools": [{"type": "function"}]}),
}
"""What a client asked for, by the reason that the gateway gives; with a sample that a test judges."""

FOUND = {
    "no-prefill-ready": "no prefill worker is ready; a survivor serves",
    "no-decode-ready": "no decode worker is ready; a survivor serves",
    "pair-failed": "every ready pair has failed this request; a survivor serves",
    "one-pool": "the service is aggregated",
    "proof": "a proof asked for it",
}
"""What the gateway found, by its reason."""

ERRORS = {
    "invalid_request": ("400, 408, 413, ...", "invalid_request_error", "no JSON object, wrong types, a bad body"),
    "unsupported_parameter": ("400", "invalid_request_error", "`/v1/responses` asked to keep state between requests"),
    "invalid_api_key": ("401", "invalid_request_error", "keys are configured and none of them was sent"),
    "proof_token_required": ("403", "permission_error", "a header that chooses workers came without the proof token"),
    "model_not_found": ("404", "invalid_request_error", "a model that is none of the served names"),
    "not_found": ("404", "invalid_request_error", "no such path"),
    "method_not_allowed": ("405", "invalid_request_error", "the path takes another method, see `allow`"),
    "queue_full": ("429", "overloaded", "the service's queue is full; `retry-after` says when a place may be free"),
    "engine_queue_full": ("429", "overloaded", "every engine that could serve it has a full queue of its own"),
    "internal_error": ("500", "internal_error", "a fault of the gateway; it is in its log"),
    "not_implemented": ("501", "not_implemented_error", "embeddings, reranking, scoring, audio, images"),
    "engine_lost": ("502", "engine_lost", "no engine could finish the request, or a stream could not go on"),
    "no_worker": ("503", "service_unavailable", "no worker was ready in time"),
    "not_ready": ("503", "service_unavailable", "`/health` only: the active generation cannot serve"),
    "too_many_connections": ("503", "service_unavailable", "too many open connections"),
    "deadline_exceeded": ("504", "timeout", "longer than `limits.request_timeout_s`, waiting included"),
}  # fmt: skip
"""Status, type and cause of every error of the gateway's own, by its code."""


def reasons_table() -> str:
    """Values of `x-tandem-reason`."""
    rows = [(f"`{reason}`", f"the client asked for {words}") for reason, (words, _, _) in ASKED.items()]
    return table(("x-tandem-reason", "why the request ran whole on one worker"), rows + [
        (f"`{reason}`", words) for reason, words in FOUND.items()
    ])  # fmt: skip


def errors_table() -> str:
    """Errors of the gateway."""
    rows = ((status, f"`{kind}`", f"`{code}`", words) for code, (status, kind, words) in ERRORS.items())
    return table(("status", "type", "code", "when"), rows)


def refusals() -> set[tuple[str, str, str]]:
    """Status, type and code of every `Refusal(...)` in the gateway's source; the status `...` where it is computed."""
    found: set[tuple[str, str, str]] = set()
    for file in (ROOT / "worker/tandem_worker/gateway").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Refusal":
                first = [str(arg.value) if isinstance(arg, ast.Constant) else "..." for arg in node.args[:3]]
                found.add((first[0], first[1], first[2]))
    return found


# --- metrics --------------------------------------------------------------------------------------

COUNTED_WORDS = {
    "requests": "arrived at a path that generates",
    "completed": "answered in full",
    "rejected": "turned away with 429, by the gateway's queue or because every engine's queue was full",
    "refused": "wrong requests: other 4xx",
    "failed": "error answers of status 5xx",
    "retried": "whole hand-offs repeated before the client had received anything",
    "resumed": "streams taken up on another worker",
    "fallback": "attempts served whole by a survivor because a phase had no worker or the pair failed",
    "typed_errors": "streams that ended with an error event",
    "client_gone": "requests whose client hung up",
    "timeouts": "requests that met their deadline",
}


def gateway_metrics() -> str:
    """The gateway's metrics of docs/gateway.md."""
    return _metrics_table(
        Metrics()._registry.collect(), lambda name: COUNTED_WORDS.get(name.removeprefix("tandem_gateway_"), "")
    )


def agent_metrics() -> str:
    """The agent's metrics of docs/gateway.md."""
    spec = WorkerSpec.model_construct(kv_gb_per_s_min=0.0)
    numbers = EngineNumbers(kv_seconds=1.0, kv_bytes=1, prompt_tokens={"local_compute": 1})
    reading = Reading(spec, numbers, (Transport("tcp", "log"),), 1.0)
    return _metrics_table(reading.collect(), lambda _: "")


def _metrics_table(metrics: "Iterable[Metric]", words: Callable[[str], str]) -> str:
    rows: list[tuple[str, str, str, str]] = []
    for metric in metrics:
        suffix = "_total" if metric.type == "counter" else ""
        labels = sorted({label for sample in metric.samples for label in sample.labels} - {"le"})
        labels = labels or list(_declared_labels(metric.name))
        text = words(metric.name) or metric.documentation
        rows.append((f"`{metric.name}{suffix}`", metric.type, ", ".join(f"`{label}`" for label in labels), text))
    return table(("metric", "type", "labels", ""), rows)


def _declared_labels(name: str) -> tuple[str, ...]:
    """Labels of a gateway metric that has no sample yet."""
    collectors = Metrics()._registry._names_to_collectors
    return tuple(getattr(collectors.get(name), "_labelnames", ()))


# --- exit codes -----------------------------------------------------------------------------------

EXIT_WORDS = {
    Exit.DRAINED: "drained, and every process of the engine has ended",
    Exit.BAD_SPEC: "the spec or the command line cannot be used",
    Exit.PREFLIGHT_FAILED: "the machine cannot run this worker: every problem is in the reason",
    Exit.START_FAILED: "the engine did not come up in time, or died while it was starting",
    Exit.ENGINE_DIED: "the engine died while it was serving",
    Exit.DRAIN_TIMED_OUT: "the drain ran out of time, or a second signal cut it short",
}


def exit_codes() -> str:
    """The agent's exit codes of docs/running.md."""
    return table(("exit code", "means"), ((str(int(code)), EXIT_WORDS[code]) for code in Exit))


def file_of_cluster(name: str) -> str:
    """A file with which the test cluster's parts run, for users to copy."""
    return f"```yaml\n{(ROOT / 'tools/cluster' / name).read_text('utf-8')}```\n"


# --- writing --------------------------------------------------------------------------------------

PAGES: dict[str, Callable[[], str]] = {"docs/rules.md": rules_page, "docs/declaration.md": declaration_page}
BLOCKS: dict[str, Callable[[], str]] = {
    "resume": resume_table,
    "reasons": reasons_table,
    "errors": errors_table,
    "gateway-metrics": gateway_metrics,
    "agent-metrics": agent_metrics,
    "exit-codes": exit_codes,
    "scrape-job": lambda: file_of_cluster("hpa/prometheus.yaml"),
    "adapter-rule": lambda: file_of_cluster("hpa/adapter.yaml"),
    **plans.BLOCKS,
}


def documents() -> list[Path]:
    """Every page of documentation."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def as_made(path: Path) -> str:
    """What a page should hold: itself, with everything that is made from the code made anew."""
    if maker := PAGES.get(str(path.relative_to(ROOT))):
        return maker()
    return MARK.sub(lambda found: found["open"] + BLOCKS[found["name"]]() + found["close"], path.read_text("utf-8"))


def main() -> None:
    """Write every page and block."""
    for path in {*documents(), *(ROOT / name for name in PAGES)}:
        path.write_text(as_made(path), "utf-8")


assert set(COUNTED_WORDS) == set(COUNTED), "an event is counted that the documentation has no words for"

if __name__ == "__main__":
    main()
