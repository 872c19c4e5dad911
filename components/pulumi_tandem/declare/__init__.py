"""What the user says: frozen nouns with units in their names.

Rule of the room: values only; no Pulumi, no I/O, no facts about GPUs or models. A noun refuses
what cannot be meant (an unknown field, a wrong type, a number out of range) and raises
`DeclarationError` with everything that is wrong with it, in the user's words. Whether the parts
fit together is the business of `check`.
"""

from pulumi_tandem.declare.engine import Vllm
from pulumi_tandem.declare.model import Architecture, Model, Quantisation
from pulumi_tandem.declare.pool import Pool
from pulumi_tandem.declare.service import Grace, Limits, Service, Transfer
from pulumi_tandem.finding import DeclarationError

__all__ = [
    "Architecture",
    "DeclarationError",
    "Grace",
    "Limits",
    "Model",
    "Pool",
    "Quantisation",
    "Service",
    "Transfer",
    "Vllm",
]
