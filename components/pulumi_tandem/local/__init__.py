"""The local target: a service as real processes on this machine, under one detached supervisor a stack.

The component is imported when it is asked for: the supervisor lives in this room too, and needs nothing of Pulumi.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pulumi_tandem.local.inference import Inference, InferenceArgs

__all__ = ["Inference", "InferenceArgs"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from pulumi_tandem.local import inference  # noqa: PLC0415 - see above

        return getattr(inference, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
