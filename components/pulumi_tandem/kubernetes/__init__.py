"""The Kubernetes target: a service as pods of any cluster, proved before it serves.

Needs `pip install 'pulumi-tandem[kubernetes]'`; the component is imported when it is asked for.
"""

from typing import TYPE_CHECKING

from pulumi_tandem.manifest import MODEL_DIR, Claim, Download, Gateway, HostPath, Images, ImageVolume, Route

if TYPE_CHECKING:
    from pulumi_tandem.kubernetes.inference import Access, Inference, InferenceArgs

__all__ = [
    "MODEL_DIR",
    "Access",
    "Claim",
    "Download",
    "Gateway",
    "HostPath",
    "ImageVolume",
    "Images",
    "Inference",
    "InferenceArgs",
    "Route",
]


def __getattr__(name: str) -> object:
    if name in {"Access", "Inference", "InferenceArgs"}:
        from pulumi_tandem.kubernetes import inference  # noqa: PLC0415 - see above

        return getattr(inference, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
