"""The pods of a pool: what they may, what they are given, how they come and go."""

from typing import Literal

from pydantic import Field

from pulumi_tandem.declare.nodes import Toleration
from pulumi_tandem.declare.noun import Noun


class Probe(Noun):
    """How often the kubelet asks, and how many bad answers it takes, in Kubernetes' words."""

    initial_delay_s: float = Field(default=0, ge=0)
    period_s: float = Field(default=10, ge=1)
    timeout_s: float = Field(default=1, ge=1)
    failure_threshold: int = Field(default=3, ge=1)

    @property
    def budget_s(self) -> float:
        """Seconds from the container's start until the probe gives it up."""
        return self.initial_delay_s + self.period_s * self.failure_threshold


class RollingUpdate(Noun):
    """How a Deployment replaces its pods in place, in Kubernetes' words."""

    max_surge: int = Field(default=1, ge=0)
    max_unavailable: int = Field(default=0, ge=0)
    pairs_revisions: bool = True
    """Whether prefill and decode of one revision only are paired, as Tandem's gateway does."""


class Autoscaler(Noun):
    """What moves the number of workers of a pool after they were created."""

    kind: Literal["HorizontalPodAutoscaler", "ScaledObject", "other"] = "ScaledObject"
    """`ScaledObject`: KEDA's."""
    workers_min: int = Field(default=1, ge=0)
    workers_max: int | None = Field(default=None, ge=1)
    """Default: as many as the node pool's GPUs hold beside the other pools; where its GPUs are not known, `workers`."""
    owns_workers: bool = True
    """Whether `workers` counts at creation only, and is the autoscaler's from then on."""


class Pod(Noun):
    """Pods of one pool. Default of every field: what the pool's engine, transport and time limits need."""

    node_pool: str | None = None
    """Name of the node pool they go to. Default: the only one."""
    node: str | None = None
    """The one machine they go to."""
    same_zone: bool | None = None
    """Whether they must be in one zone with the other pool's pods (required affinity). Default: where EFA needs it."""
    host_network: bool = False
    tolerations: tuple[Toleration, ...] | None = None
    """Default: the taints of their node pool."""
    resources: dict[str, int] = Field(default_factory=dict)
    """Extended resources of one pod: `{"nvidia.com/gpu": 8, "vpc.amazonaws.com/efa": 32}`."""
    memory_gib: float | None = Field(default=None, gt=0)
    """Memory limit."""
    shm_gib: float | None = Field(default=None, ge=0)
    """Size of /dev/shm; 0: the container runtime's 64 MiB."""
    memlock_kib: int | None = Field(default=None, ge=0)
    """Limit of locked memory. Default: none."""
    capabilities: tuple[str, ...] | None = None
    """Linux capabilities that are added."""
    privileged: bool = False
    run_as_non_root: bool = True
    host_paths: tuple[str, ...] = ()
    """Paths of the machine that are mounted."""
    ports: dict[str, int] = Field(default_factory=dict)
    """Ports that are written down, by name (`http`, `side_channel`, `kv_events`); the engine adds its rank to
    `side_channel` and `kv_events`."""
    startup: Probe | None = None
    """Default: as long as `grace.start_timeout_s`."""
    has_startup_probe: bool = True
    liveness: Probe | None = None
    pre_stop_s: float = Field(default=0, ge=0)
    """What the preStop hook sleeps."""
    termination_grace_s: float | None = Field(default=None, ge=0)
    """terminationGracePeriodSeconds. Default: as long as a drain can take."""
    disruption_min_available: int | None = Field(default=None, ge=0)
    """minAvailable of the pool's PodDisruptionBudget. Default: one pod may be away."""
    image_cuda: str | None = None
    """CUDA that the image was built for: `13.0`. Default: not known."""
    image_libfabric: str | None = None
    """Version of libfabric in the image. Default: not known."""
    image_gb: float | None = Field(default=None, gt=0)
    """Size of the image as unpacked."""
    image_pull_s: float | None = Field(default=None, ge=0)
    """How long a new machine takes to have the image; 0: it is there already. Default: not known."""
    weights_volume: Literal["emptyDir", "hostPath", "ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany"] | None = None
    """Where weights lie: a scratch folder, a folder of the machine, or a claim of that access mode."""
    load_gb_per_s: float | None = Field(default=None, gt=0)
    """How fast one worker reads its weights, in 10^9 bytes per second. Default: not known."""
    group_pods: int | None = Field(default=None, ge=1)
    """Pods of a LeaderWorkerSet group. Default: one on each of the worker's nodes."""
    group_start: Literal["LeaderCreated", "LeaderReady"] = "LeaderCreated"
    """LeaderWorkerSet's startupPolicy, where a worker is spread over nodes."""
    rolling_update: RollingUpdate | None = None
    """Default: none; `Service.rollout` says how workers are replaced."""
