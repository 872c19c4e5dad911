"""What the user says: frozen nouns with units in their names.

Rule of the room: values only; no Pulumi, no I/O, no facts about GPUs or models. A noun refuses
what cannot be meant (an unknown field, a wrong type, a number out of range) and raises
`DeclarationError` with everything that is wrong with it, in the user's words. Whether the parts
fit together is the business of `check`.
"""

from pulumi_tandem.declare.auto import Auto, Pin, Pins, PoolShape
from pulumi_tandem.declare.cluster import Cluster, DevicePlugin, GpuOperator, NetworkPolicy, SecurityGroup
from pulumi_tandem.declare.connector import Connector
from pulumi_tandem.declare.door import FrontDoor, Ratio, TokenSecret
from pulumi_tandem.declare.engine import Engine, Speculation, TensorRtLlm, Vllm
from pulumi_tandem.declare.model import Architecture, Model, Quantisation
from pulumi_tandem.declare.nodes import Capacity, NetworkInterface, NodePool, PlacementGroup, Taint, Toleration
from pulumi_tandem.declare.pod import Autoscaler, Pod, Probe, RollingUpdate
from pulumi_tandem.declare.pool import Pool
from pulumi_tandem.declare.service import Grace, Limits, Service, Transfer
from pulumi_tandem.declare.workload import Lengths, Objectives, Workload
from pulumi_tandem.finding import DeclarationError

__all__ = [
    "Architecture",
    "Auto",
    "Autoscaler",
    "Capacity",
    "Cluster",
    "Connector",
    "DeclarationError",
    "DevicePlugin",
    "Engine",
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
    "Pin",
    "Pins",
    "PlacementGroup",
    "Pod",
    "Pool",
    "PoolShape",
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
]
