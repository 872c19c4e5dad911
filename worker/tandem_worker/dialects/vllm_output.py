"""What vLLM says on its output that its HTTP does not."""

from collections.abc import Sequence

_WORK_DONE = "[shutdown] EngineCore: request processing complete"
"""Said by an engine core that was told to stop, once no request and no KV lease is left
(vllm 0.32 `v1/engine/core.py`, `_handle_shutdown`)."""


def says_work_is_done(line: str) -> bool:
    """Whether an engine core says that from now on it only tears itself down."""
    return _WORK_DONE in line


def has_one_core(argv: Sequence[str]) -> bool:
    """Whether one engine core's word stands for the whole engine; not with data parallelism."""
    return not any(word.startswith(("--data-parallel", "-dp")) for word in argv)
