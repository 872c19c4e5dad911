"""The part of vLLM 0.32's /metrics that an agent reads, in Prometheus text."""

from typing import Protocol

from tests.fakes.kv import Transfers


class Counts(Protocol):
    """What an engine counts."""

    served_names: tuple[str, ...]
    prompt_tokens_by_source: dict[str, int]
    generation_tokens: int
    steps: int
    success: dict[str, int]

    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def transfers(self) -> Transfers: ...


def render(engine: Counts) -> bytes:
    """The whole text."""
    label = f'engine="0",model_name="{engine.served_names[0]}"'
    lines: list[str] = []

    def add(kind: str, name: str, value: float, more: str = "", suffix: str = "") -> None:
        family = f"# TYPE vllm:{name} {kind}"
        if family not in lines:
            lines.extend((f"# HELP vllm:{name} As vLLM counts it.", family))
        lines.append(f"vllm:{name}{suffix}{{{label}{more}}} {float(value)}")

    add("gauge", "num_requests_running", engine.running)
    add("gauge", "num_requests_waiting", engine.waiting)
    add("gauge", "kv_cache_usage_perc", 0.0)
    add("counter", "prompt_tokens_total", sum(engine.prompt_tokens_by_source.values()))
    for source, count in engine.prompt_tokens_by_source.items():
        add("counter", "prompt_tokens_by_source_total", count, f',source="{source}"')
    add("counter", "generation_tokens_total", engine.generation_tokens)
    add("histogram", "iteration_tokens_total", engine.steps, ',le="+Inf"', "_bucket")
    add("histogram", "iteration_tokens_total", engine.steps, suffix="_count")
    for reason, count in engine.success.items():
        add("counter", "request_success_total", count, f',finished_reason="{reason}"')
    moved = engine.transfers
    for name, total in (("nixl_xfer_time_seconds", moved.seconds), ("nixl_bytes_transferred", moved.bytes)):
        add("histogram", name, moved.count, ',le="+Inf"', "_bucket")
        add("histogram", name, moved.count, suffix="_count")
        add("histogram", name, total, suffix="_sum")
    add("counter", "nixl_num_failed_transfers_total", moved.failed)
    add("counter", "nixl_num_kv_expired_reqs_total", 0)
    return ("\n".join(lines) + "\n").encode()
