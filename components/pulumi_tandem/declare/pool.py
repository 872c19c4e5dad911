"""A pool: equal workers that do one phase."""

from pydantic import Field

from pulumi_tandem.declare.engine import Vllm
from pulumi_tandem.declare.model import Dtype
from pulumi_tandem.declare.noun import Noun
from pulumi_tandem.declare.pod import Autoscaler, Pod


class Pool(Noun):
    """Equal workers; one worker is one engine on its own GPUs (or CPU cores)."""

    gpu: str
    """Catalog name (`H100`), or `cpu` for the engine's CPU build."""
    workers: int = Field(default=1, ge=1)
    tensor_parallel: int | None = Field(default=None, ge=1)
    """GPUs that share one copy of the weights. Default: all of the worker's."""
    gpus_per_worker: int | None = Field(default=None, ge=1)
    """Default: as many as `tensor_parallel` says, else 1."""
    sequences: int | None = Field(default=None, ge=1)
    """Requests that one worker runs at once. Default: 256 on a GPU, 8 on a CPU."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens in one engine step: longer makes prefill faster and other streams wait longer.
    Default: 8192 on a GPU, 2048 on a CPU; never fewer than `sequences`."""
    block_tokens: int | None = Field(default=None, ge=1)
    """Tokens in one KV block. Default: 64 on a GPU (a hand-off costs per block), 128 on a CPU."""
    context_tokens: int | None = Field(default=None, ge=1)
    """Default: the service's."""
    memory_fraction: float = Field(default=0.9, gt=0, le=1)
    """Share of a GPU's whole memory that the engine may take. No meaning on a CPU."""
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
    engine: Vllm | None = None
    """Default: the service's."""
    dtype: Dtype | None = None
    """Default: the model's."""
    model_path: str | None = None
    """Default: the model's."""
    pod: Pod = Pod()
    """What its pods are given, where the service runs in Kubernetes."""
    autoscalers: tuple[Autoscaler, ...] = ()
    """What moves `workers`; more than one is a mistake. Default: nothing does."""
