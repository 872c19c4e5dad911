"""The JSON contract between what is declared and what runs.

`lower` writes these values, the worker reads them; this module imports nothing of ours.
A reader accepts its own contract version and the one before it, so that a gateway can be
rolled before or after its workers.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

CONTRACT_VERSION = 2
"""Raised whenever a field changes its meaning; readers accept this version and the one before."""

FLEXIBLE_POOL = "flexible"
"""Name of a pool whose workers take the phase that the gateway gives them; they begin with `decode`."""

Phase = Literal["prefill", "decode"]
Dialect = Literal["vllm-nixl-pull", "trtllm-disagg"]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Port(_Value):
    """A named run of consecutive TCP ports; the target picks the numbers, lowering never does.

    `argv` and `env` refer to the first one as `$(TANDEM_PORT_NAME)` and to the last one as
    `$(TANDEM_PORT_NAME_LAST)`, NAME being the name in upper case.
    """

    name: str
    count: int = 1


class WorkerSpec(_Value):
    """Everything about one engine process that does not depend on where it runs.

    `$(TANDEM_ADDRESS)`, `$(TANDEM_PORT_...)`, `$(TANDEM_FILE_...)` and, over several nodes,
    `$(TANDEM_LEADER_ADDRESS)`, `$(TANDEM_NODE_RANK)`, `$(TANDEM_FIRST_RANK)` and `$(TANDEM_LAUNCH_DIR)`, where
    `tandem-worker launch` leaves what the other machines are to start, in `argv` and `env` are filled in by the agent.
    `argv[0] == "python"` means the interpreter that runs the agent.
    """

    contract: int = CONTRACT_VERSION
    service: str
    pool: str
    phase: Phase
    """The phase this worker takes when every worker is well."""
    phases: tuple[Phase, ...]
    """The phases it may take at all; both, where the service lets survivors serve both."""
    dialect: Dialect
    engine: str
    """Engine and version, as `vllm 0.32.0`."""
    generation: str
    """Hash of the whole lowered service: no replica counts, no ports. Workers of another one are strangers."""
    pair_key: str
    """Hash of what must be equal for two workers to exchange KV."""
    argv: tuple[str, ...]
    env: dict[str, str] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)
    """Text by name. The agent writes each, readable for its own user only, before it starts the engine; `argv` and
    `env` refer to its path as `$(TANDEM_FILE_NAME)`, NAME being the name in upper case."""
    nodes: int = 1
    """Machines that one worker's engine spans, an agent on each; only the first one has an HTTP server."""
    ranks_per_node: int = 1
    """Data-parallel ranks of each machine; the first one of a machine is `$(TANDEM_FIRST_RANK)`."""
    follower_argv: tuple[str, ...] = ()
    """`argv` of the machines after the first; empty when there is one only."""
    ports: tuple[Port, ...]
    """Always holds `http`, `agent` and, where KV moves, `side_channel` and `transfer`."""
    model_path: str | None = None
    """A folder that must be readable before the engine starts; None when the engine fetches by name."""
    served_names: tuple[str, ...]
    factors: dict[str, str]
    """What both sides of a pair must agree on, in words; the pair key is its hash."""
    gpus: int = 0
    """GPUs of each machine; 0: none are looked for."""
    gpu_memory_gib: float = 0.0
    """Memory that each GPU must have in all; 0: not checked."""
    memory_gib: float = 0.0
    """What the worker needs in all; preflight compares it with the machine. 0: not checked."""
    shm_gib: float = 0.0
    kv_transport: str = "tcp"
    """The transport that the declaration expects: tcp, shm, cuda_ipc, rdma or efa."""
    kv_gb_per_s_min: float = 0.0
    """Floor of the effective KV bandwidth, in 10^9 bytes per second; 0: none declared."""
    start_timeout_s: float = 600.0
    settle_s: float = 2.0
    """How long a draining worker still takes late requests, so that every gateway has seen it leave."""
    drain_timeout_s: float = 120.0
    """How long running requests and KV leases may take before the engine is stopped regardless."""
    stop_timeout_s: float = 20.0
    """From SIGTERM of the engine to SIGKILL of its whole process tree."""


class Scaling(_Value):
    """Where autoscalers that follow a gateway's figures are to keep them."""

    prefill_backlog_s: float
    """Seconds of prompts that may wait."""
    prefill_usage: float
    """Share of their time in which prefill workers have prompts to read; above it there are too few."""
    decode_kv_usage: float
    """Share of the decode workers' memory for KV; above it there are too few."""
    decode_slot_usage: float
    """Answers under way over those that the decode workers write at once; likewise."""
    answers_max: int
    """Answers that one decode worker writes at once."""


class GatewaySpec(_Value):
    """What the front door of one service does; addresses, keys and the fleet's place come as flags."""

    contract: int = CONTRACT_VERSION
    service: str
    served_names: tuple[str, ...]
    """Model names that clients may ask for while no worker says its own; the first is the canonical one."""
    dialect: Dialect
    disaggregated: bool = True
    """False: one pool that serves both phases; no hand-off."""
    survivors_serve_both: bool = True
    """Whether a worker of one phase may serve whole requests while the other phase has none ready."""
    context_tokens_max: int = 0
    requests_running_max: int = 256
    """Requests in the service at once; more wait."""
    requests_waiting_max: int = 1024
    """Requests waiting for a place; more get 429 with Retry-After."""
    request_timeout_s: float = 600.0
    """Deadline of a whole request, waiting included; 504 or a typed error event after it."""
    prefill_timeout_s: float = 120.0
    stall_timeout_s: float = 60.0
    """Longest silence of an engine that is asked for tokens; after it the worker counts as dead."""
    attempts_max: int = 4
    """Hand-offs and resumes that one request may use in all."""
    body_bytes_max: int = 32 * 1024 * 1024
    resume: bool = True
    resume_tokens_max: int = 65_536
    """Longest history of prompt and output ids kept per stream; a longer stream is not resumable."""
    drain_timeout_s: float = 120.0
    prefill_per_decode_min: float = 0.0
    """Fewest prefill workers per decode worker that autoscaling keeps; 0: no bound. So for the next."""
    prefill_per_decode_max: float = 0.0
    scaling: Scaling | None = None
    """None: nobody reads figures to scale by, and none are served."""
    decodes_max: int = 0
    """Answers that one flexible worker can write at once; 0: there are no flexible workers."""
    hand_off_tokens_min: int = 0
    """Prompts with fewer tokens to read go whole to a decode worker, as a hand-off would not pay; 0: none does."""
    prefix_cached: bool = True
    """Whether engines keep what they have read of prompts; False: every prompt is read anew, wherever it goes."""


def why_apart(specs: Sequence[GatewaySpec]) -> str | None:
    """Why these services cannot share a door, where a request's model says whose it is; None where they can."""
    for one, other in combinations(specs, 2):
        if one.service == other.service:
            return f"the service {one.service!r} is there twice; name it once"
        if shared := sorted(set(one.served_names) & set(other.served_names)):
            return (
                f"the services {one.service!r} and {other.service!r} both serve the model {shared[0]!r}, so a request "
                "for it would not say whose it is; give them different `served_names`"
            )
    return None


class WorkerRecord(_Value):
    """One worker as a gateway sees it: a file `workers/NAME.json` in the fleet folder (local target)."""

    contract: int = CONTRACT_VERSION
    name: str
    """Unique in the service: `chat-prefill-1a2b3c4d-0`."""
    service: str
    pool: str
    phase: Phase
    phases: tuple[Phase, ...]
    dialect: Dialect
    generation: str
    pair_key: str
    address: str
    http_port: int
    agent_port: int
    served_names: tuple[str, ...] = ()
    """Model names that its engine knows; empty: those of the gateway's spec."""
    zone: str = ""
    """Where it stands: KV for a worker of another zone costs time and money. Empty: not known."""
    draining: bool = False


class ServiceState(_Value):
    """The one watched object of a service.

    Local target: the file `service.json` in the fleet folder. Kubernetes: the key `service.json` of the ConfigMap
    `SERVICE-state`; whoever writes it reads it first and names the version that it read.
    """

    contract: int = CONTRACT_VERSION
    service: str
    active_generation: str | None = None
    """The generation that serves clients; None before the first proof."""
    proved: tuple[str, ...] = ()
    """Generations that were proved, the newest last. When the active one has no workers at all, the newest of these
    that has serves: an update that was cut off after its proof, and then turned back, must not leave nobody."""
    proof_token_sha256: str | None = None
    """Hex digest of the token by which a prover may address workers; None while none proves."""
