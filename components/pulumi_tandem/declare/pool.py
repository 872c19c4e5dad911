"""A pool: equal workers that do one phase."""

from typing import Literal

from pydantic import Field

from pulumi_tandem.declare.connector import Connector
from pulumi_tandem.declare.engine import Engine
from pulumi_tandem.declare.model import Dtype
from pulumi_tandem.declare.noun import Noun
from pulumi_tandem.declare.pod import Autoscaler, Pod


class Pool(Noun):
    """Equal workers; one worker is one engine on its own GPUs (or CPU cores)."""

    gpu: str
    """Catalog name (`H100`), or `cpu` for the engine's CPU build."""
    workers: int = Field(default=1, ge=1)
    tensor_parallel: int | None = Field(default=None, ge=1)
    """GPUs that share one layer. Default: all of the worker's that no other parallelism takes."""
    pipeline_parallel: int = Field(default=1, ge=1)
    """Stages that each hold some of the layers."""
    data_parallel: int = Field(default=1, ge=1)
    """Engine cores of one worker, each with attention and requests of its own; they share the experts."""
    expert_parallel: bool = False
    """Whether a GPU holds whole experts, and not a slice of each."""
    gpus_per_worker: int | None = Field(default=None, ge=1)
    """GPUs of one engine over all its nodes. Default: what its parallelism takes."""
    nodes_per_worker: int = Field(default=1, ge=1)
    """Machines that one worker is spread over."""
    sequences: int | None = Field(default=None, ge=1)
    """Requests that one worker runs at once. Default: 256 on a GPU, 8 on a CPU."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens in one engine step: longer makes prefill faster and other streams wait longer.
    Default: the smallest batch that saturates a prefill pool's GPUs; 8192 on other GPUs, 2048 on a CPU; never fewer
    than `sequences`."""
    block_tokens: int | None = Field(default=None, ge=1)
    """Tokens in one KV block. Default: 64 on a GPU (a hand-off costs per block), 128 on a CPU."""
    context_tokens: int | None = Field(default=None, ge=1)
    """Default: the service's."""
    memory_fraction: float = Field(default=0.9, gt=0, le=1)
    """Share of a GPU's whole memory that the engine may take (with TensorRT-LLM: share for KV of what the weights
    leave). No meaning on a CPU."""
    kv_cache_gib: float | None = Field(default=None, gt=0)
    """Memory for KV, per GPU. Default: what `memory_fraction` leaves; 1 GiB on a CPU."""
    kv_dtype: str = "auto"
    """Type of cached keys and values: `auto` (the model's), `fp8`, ... Both pools must spell it alike."""
    cpu_cores: str | None = None
    """Cores that a CPU engine computes on: `0-3`, `0,2`; one list per rank, joined by `|`.
    Default: not bound."""
    eager: bool | None = None
    """Skip compilation and graphs: starts sooner, runs slower. Default: True on a CPU only."""
    host_memory_gib: float | None = Field(default=None, gt=0)
    """What one worker takes of the machine's memory. Default: estimated on a CPU, not stated on a GPU."""
    env: dict[str, str] = Field(default_factory=dict)
    """Further environment of the engine. Names that Tandem sets are refused."""
    extra_args: tuple[str, ...] = ()
    """Further flags of the engine, as typed. Flags that Tandem sets are refused."""
    engine: Engine | None = None
    """Default: the service's."""
    connector: Connector | None = None
    """Default: the transfer's."""
    dtype: Dtype | None = None
    """Default: the model's."""
    model_path: str | None = None
    """Default: the model's."""
    model_revision: str | None = None
    """Default: the model's."""
    image: str | None = None
    """Container image with the engine. Default: Tandem's for the engine's version."""
    image_arch: Literal["amd64", "arm64"] | None = None
    """What the image was built for. Default: what the machine is."""
    metrics_path: str | None = None
    """Where Prometheus scrapes the engine itself. Default: nowhere; the agent passes on what it has."""
    device: str | None = None
    """The one GPU that the worker is pinned to, as machine and index: `node-a:0`. Workers that name the same one
    share its memory. Default: a GPU of its own."""
    mig: str | None = None
    """Profile of the slice that stands for each GPU: `3g.20gb`. Default: whole GPUs."""
    pod: Pod = Pod()
    """What its pods are given, where the service runs in Kubernetes."""
    autoscalers: tuple[Autoscaler, ...] = ()
    """What moves `workers`; more than one is a mistake. Default: nothing does."""
