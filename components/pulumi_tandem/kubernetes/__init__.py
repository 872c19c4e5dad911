"""The Kubernetes target: a service as pods of any cluster, proved before it serves.

Needs `pip install 'pulumi-tandem[kubernetes]'`; the component is imported when it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from pulumi_tandem.manifest import MODEL_DIR, Claim, Download, Gateway, HostPath, Images, ImageVolume, Route

if TYPE_CHECKING:
    from pulumi_tandem.kubernetes.access import Access
    from pulumi_tandem.kubernetes.front import Front, FrontArgs
    from pulumi_tandem.kubernetes.inference import Inference, InferenceArgs

__all__ = [
    "MODEL_DIR",
    "Access",
    "Claim",
    "Download",
    "Front",
    "FrontArgs",
    "Gateway",
    "HostPath",
    "ImageVolume",
    "Images",
    "Inference",
    "InferenceArgs",
    "Route",
]

_COMPONENTS = {
    "Access": "access",
    "Front": "front",
    "FrontArgs": "front",
    "Inference": "inference",
    "InferenceArgs": "inference",
}
"""What needs Pulumi, with its module."""


def __getattr__(name: str) -> object:
    if name in _COMPONENTS:
        return getattr(import_module(f"{__name__}.{_COMPONENTS[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
