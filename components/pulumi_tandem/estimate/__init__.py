"""Formulas: plain functions of a model's shape and a pool's settings, each with its unit.

Rule of the room: closed forms only; no lookups, no search.
"""

from pulumi_tandem.estimate.memory import (
    GIB,
    KvCache,
    dtype_bytes,
    kv_bytes,
    kv_bytes_per_token,
    kv_dtype_bytes,
    parameters,
    weights_bytes,
)

__all__ = [
    "GIB",
    "KvCache",
    "dtype_bytes",
    "kv_bytes",
    "kv_bytes_per_token",
    "kv_dtype_bytes",
    "parameters",
    "weights_bytes",
]
