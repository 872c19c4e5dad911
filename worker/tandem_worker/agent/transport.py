"""Naming the transport that KV really takes.

UCX says, with UCX_PROTO_INFO=y or UCX_LOG_LEVEL=info, which transports each endpoint of a
configuration uses; nothing else in the engine knows. What it does not say is not claimed.
"""

from typing import Literal, NamedTuple

Evidence = Literal["log", "allowed"]


class Transport(NamedTuple):
    """One transport, and how it is known."""

    name: str
    """UCX's own name, as `tcp`, `rc_mlx5`, `cuda_ipc`."""
    evidence: Evidence
    """`log`: UCX named it for an endpoint; `allowed`: the settings leave no other."""
