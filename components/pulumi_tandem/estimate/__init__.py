"""Formulas: plain functions of a model's shape and a pool's settings, each with its unit.

Rule of the room: closed forms only; no lookups, no search.
"""

from pulumi_tandem.estimate.aggregated import Latency, aggregated
from pulumi_tandem.estimate.decode import decode_step_s
from pulumi_tandem.estimate.disaggregated import Workers, disaggregated
from pulumi_tandem.estimate.engine import EngineKind, EngineSetup
from pulumi_tandem.estimate.explain import (
    Term,
    explain_aggregated,
    explain_decode,
    explain_prefill,
    explain_saturation,
)
from pulumi_tandem.estimate.interval import Interval
from pulumi_tandem.estimate.memory import KvCache, kv_bytes, kv_bytes_per_token, kv_dtype_bytes
from pulumi_tandem.estimate.prefill import prefill_s
from pulumi_tandem.estimate.queueing import wait_s
from pulumi_tandem.estimate.saturation import saturation_tokens
from pulumi_tandem.estimate.transfer import Fabric, transfer_s

__all__ = [
    "EngineKind",
    "EngineSetup",
    "Fabric",
    "Interval",
    "KvCache",
    "Latency",
    "Term",
    "Workers",
    "aggregated",
    "decode_step_s",
    "disaggregated",
    "explain_aggregated",
    "explain_decode",
    "explain_prefill",
    "explain_saturation",
    "kv_bytes",
    "kv_bytes_per_token",
    "kv_dtype_bytes",
    "prefill_s",
    "saturation_tokens",
    "transfer_s",
    "wait_s",
]
