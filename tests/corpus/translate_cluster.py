"""The cluster's side of a case: what stands around the engines, as keyword arguments of `Service` and `Pool`."""

from typing import Any

Case = dict[str, Any]

KEYS: frozenset[str] = frozenset()
"""Keys of a case that are said here."""


def cluster_parts(case: Case) -> dict[str, object]:
    """Keyword arguments for the service beyond those of the engine's side."""
    del case
    return {}


def pod_parts(case: Case, role: str) -> dict[str, object]:
    """Keyword arguments for the pool of `role` beyond those of the engine's side."""
    del case, role
    return {}
