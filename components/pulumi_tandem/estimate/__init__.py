"""Formulas: plain functions of a model's shape and a pool's settings, each with its unit.

Rule of the room: closed forms only; no lookups, no search.
"""

from pulumi_tandem.estimate.memory import KvCache, kv_bytes, kv_bytes_per_token, kv_dtype_bytes

__all__ = ["KvCache", "kv_bytes", "kv_bytes_per_token", "kv_dtype_bytes"]
