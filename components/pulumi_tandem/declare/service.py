"""The service: one model behind one front door, on one pool or two."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from pulumi_tandem.declare.auto import Auto, Pins
from pulumi_tandem.declare.cluster import Cluster
from pulumi_tandem.declare.connector import Connector
from pulumi_tandem.declare.door import FrontDoor, Ratio, TokenSecret
from pulumi_tandem.declare.engine import Engine, Vllm
from pulumi_tandem.declare.model import Model
from pulumi_tandem.declare.noun import Noun
from pulumi_tandem.declare.pool import Pool
from pulumi_tandem.declare.workload import Objectives, Workload
from pulumi_tandem.finding import DeclarationError, Finding

Transport = Literal["tcp", "shm", "cuda_ipc", "rdma", "efa"]


class Transfer(Noun):
    """How KV gets from prefill to decode, and what `up` must prove of it."""

    transport: Transport = "tcp"
    """What KV is to travel over; a proof that sees another one fails."""
    kv_gb_per_s_min: float = Field(default=0.0, ge=0)
    """Floor of the measured bandwidth, in 10^9 bytes per second; 0: none."""
    net_devices: str | None = None
    """Network devices as UCX names them: `mlx5_0:1,mlx5_1:1`, `eth0`. Default: UCX chooses."""
    lease_s: int = Field(default=30, ge=6)
    """How long prefill keeps a prompt's KV for a decode worker that gives no sign of life."""
    connector: Connector | None = None
    """What hands KV over. Default: NIXL in pull mode, over what `transport` needs."""
    progress_delay_us: int | None = Field(default=None, ge=0)
    """Pause of the transfer library's polling thread. Default: 5000 on a CPU, where polling would burn a
    core; the library's own (0) on a GPU."""


class Limits(Noun):
    """What the front door admits, and how long anything may take."""

    requests_running_max: int = Field(default=256, ge=1)
    """Requests in the service at once; more wait."""
    requests_waiting_max: int = Field(default=1024, ge=0)
    """Requests waiting for a place; more get 429 with Retry-After."""
    request_timeout_s: float = Field(default=600.0, gt=0)
    """Deadline of a whole request, waiting included."""
    prefill_timeout_s: float = Field(default=120.0, gt=0)
    stall_timeout_s: float = Field(default=60.0, gt=0)
    """Longest silence of an engine that is asked for tokens; after it the worker counts as dead."""
    attempts_max: int = Field(default=4, ge=1)
    """Hand-offs and resumes that one request may use in all."""
    body_bytes_max: int = Field(default=32 * 1024 * 1024, ge=1024)
    resume_tokens_max: int = Field(default=65_536, ge=0)
    """Longest history kept per stream; a longer stream is not resumable."""


class Grace(Noun):
    """How long a worker may take to come and to go."""

    start_timeout_s: float = Field(default=600.0, gt=0)
    """From the process's start to the engine's first healthy answer; loading weights is most of it."""
    settle_s: float = Field(default=2.0, ge=0)
    """How long a draining worker still takes late requests, so that every gateway has seen it leave."""
    drain_timeout_s: float = Field(default=120.0, gt=0)
    """How long running requests and KV leases may take before the engine is stopped regardless."""
    stop_timeout_s: float = Field(default=20.0, gt=0)
    """From SIGTERM of the engine to SIGKILL of its whole process tree."""


class Service(Noun):
    """One model behind one front door: disaggregated (`prefill` and `decode`, `flexible`) or aggregated (`serve`)."""

    names_itself: ClassVar[bool] = True

    name: str = Field(pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$", max_length=40)
    model: Model
    engine: Engine = Vllm()
    prefill: Pool | Auto | None = None
    """Workers that read prompts; needs `decode` beside it."""
    decode: Pool | Auto | None = None
    """Workers that write answers; needs `prefill` beside it."""
    serve: Pool | Auto | None = None
    """Workers that do both, in place of `prefill` and `decode`."""
    flexible: Pool | None = None
    """Equal workers in place of `prefill` and `decode`: the gateway moves each between the two as the load shifts."""
    context_tokens: int | None = Field(default=None, ge=1)
    """Longest prompt and answer together. Default: all that the model was made for."""
    prompt_tokens_max: int | None = Field(default=None, ge=1)
    """Longest prompt that clients send. Default: not known; the context bounds it."""
    served_names: tuple[str, ...] = ()
    """Model names that clients may ask for; all mean the same model. Default: the model's name."""
    workload: Workload | None = None
    """What it is asked; with `objectives`, what `tandem plan` plans for."""
    objectives: Objectives | None = None
    """How fast it must answer."""
    plan: Pins | None = None
    """`tandem.plan_of(__file__)`: the shapes that are pinned for pools that are `Auto`."""
    usd_per_gpu_hour: dict[str, float] = Field(default_factory=dict)
    """What an hour of each GPU costs, by catalog name. Default: the catalog's dated price on demand."""
    transfer: Transfer = Transfer()
    limits: Limits = Limits()
    grace: Grace = Grace()
    survivors_serve_both: bool = True
    """Whether workers of one phase serve whole requests while the other phase has none ready. With TensorRT-LLM they
    never do: a context server is not made to decode."""
    hand_off_tokens_min: int | None = Field(default=None, ge=0)
    """Prompts with fewer tokens that no cache has go whole to a decode worker; 0: none does. Default: where a hand-off
    begins to pay by the estimate; 0 on a CPU and with TensorRT-LLM."""
    resume: bool = True
    """Whether a stream whose worker died goes on elsewhere. With TensorRT-LLM none can: its streams have no token
    ids, and a broken one ends with a typed error event."""
    rollout: Literal["generations", "in_place"] = "generations"
    """`generations`: the new workers start, prove and take over while the old ones serve; needs room for both.
    `in_place`: the old ones stop first, and the service is away meanwhile."""
    keep_failed: bool = False
    """Whether workers whose proof failed keep running, to be looked at."""
    divergence_gap_nats_max: float | None = Field(default=None, ge=0)
    """Where the pair's answer first differs from one engine's alone, the largest gap between that engine's two
    best log-probabilities that still counts as numerics. Default: 0.5, for float32 0.01."""
    cluster: Cluster | None = None
    """The Kubernetes cluster that it runs in. Default: not known, and not judged."""
    pods: Literal["separate", "paired"] = "separate"
    """`separate`: a pod for each worker; KV goes over the network. `paired`: a prefill and a decode engine in one pod
    that share a process namespace; KV can go from GPU to GPU, and the two scale together."""
    front_door: FrontDoor | None = None
    """What stands before the gateway. Default: nothing."""
    prefill_per_decode: Ratio | None = None
    """What autoscaling keeps. Default: no bounds."""
    token_secret: TokenSecret | None = None
    """Token for the model hub. Default: none; an open model, or one that lies at a path, needs none."""

    @model_validator(mode="after")
    def _says_what_to_plan_for(self) -> "Service":
        autos = [name for name in ("prefill", "decode", "serve") if isinstance(getattr(self, name), Auto)]
        missing = [name for name in ("workload", "objectives") if getattr(self, name) is None]
        if not autos or not missing:
            return self
        message = f"{' and '.join(autos)} {'are' if len(autos) > 1 else 'is'} to be planned, for an unknown load"
        fix = f"give {' and '.join(f'{name}=tandem.{name.capitalize()}(...)' for name in missing)}"
        raise DeclarationError(
            [Finding(code="TND0302", severity="error", path="", message=message, fix=fix, source=__name__)]
        )

    @model_validator(mode="after")
    def _has_one_shape(self) -> "Service":
        pair = [name for name in ("prefill", "decode") if getattr(self, name) is not None]
        alone = [name for name in ("serve", "flexible") if getattr(self, name) is not None]
        if (not alone and len(pair) == 2) or (len(alone) == 1 and not pair):
            return self
        if alone:
            first, *others = alone + pair
            message = f"{first} is given together with {' and '.join(others)}; a service has one way of serving"
            fix = f"keep {' or '.join(alone)}{', or prefill and decode' if pair else ''}"
        elif pair:
            missing = "decode" if pair == ["prefill"] else "prefill"
            message, fix = f"{pair[0]} is given without {missing}", f"add {missing}, or say serve for one pool"
        else:
            message, fix = "no pool is given", "add prefill and decode, flexible, or serve"
        raise DeclarationError(
            [Finding(code="TND0003", severity="error", path="", message=message, fix=fix, source=__name__)]
        )
