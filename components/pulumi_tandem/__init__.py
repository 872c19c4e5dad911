"""Tandem: disaggregated LLM serving, declared in Python, checked at preview, proved at up.

Importing this package loads the declared nouns only; whatever needs Pulumi is loaded when it is first named.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from pulumi_tandem.declare import (
    Architecture,
    Auto,
    Autoscaler,
    Capacity,
    Cluster,
    Connector,
    DevicePlugin,
    FrontDoor,
    GpuOperator,
    Grace,
    Lengths,
    Limits,
    Model,
    NetworkInterface,
    NetworkPolicy,
    NodePool,
    Objectives,
    PlacementGroup,
    Pod,
    Pool,
    Probe,
    Quantisation,
    Ratio,
    RollingUpdate,
    SecurityGroup,
    Service,
    Speculation,
    Taint,
    TensorRtLlm,
    TokenSecret,
    Toleration,
    Transfer,
    Vllm,
    Workload,
)
from pulumi_tandem.finding import DeclarationError, Finding

if TYPE_CHECKING:
    from pulumi_tandem import check, kubernetes, local, lower, plan, resolve
    from pulumi_tandem.accept import accept
    from pulumi_tandem.check import explain
    from pulumi_tandem.pins import plan_of

__all__ = [
    "Architecture",
    "Auto",
    "Autoscaler",
    "Capacity",
    "Cluster",
    "Connector",
    "DeclarationError",
    "DevicePlugin",
    "Finding",
    "FrontDoor",
    "GpuOperator",
    "Grace",
    "Lengths",
    "Limits",
    "Model",
    "NetworkInterface",
    "NetworkPolicy",
    "NodePool",
    "Objectives",
    "PlacementGroup",
    "Pod",
    "Pool",
    "Probe",
    "Quantisation",
    "Ratio",
    "RollingUpdate",
    "SecurityGroup",
    "Service",
    "Speculation",
    "Taint",
    "TensorRtLlm",
    "TokenSecret",
    "Toleration",
    "Transfer",
    "Vllm",
    "Workload",
    "accept",
    "check",
    "explain",
    "kubernetes",
    "local",
    "lower",
    "plan",
    "plan_of",
    "resolve",
]

_ROOMS = ("check", "kubernetes", "local", "lower", "plan", "resolve")
"""Named as modules (`tandem.lower.lower(...)`): a module and a function cannot share a name."""


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name == "accept":
        return import_module(f"{__name__}.accept").accept
    if name == "explain":
        return import_module(f"{__name__}.check").explain
    if name == "plan_of":
        return import_module(f"{__name__}.pins").plan_of
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps `tandem.accept` the function, whoever imports the module `pulumi_tandem.accept`, and when.

    The import system binds a submodule in its package under its own name.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name == "accept" and isinstance(value, ModuleType):
            value = vars(value)["accept"]
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
