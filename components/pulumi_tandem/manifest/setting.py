"""What the user says of the place where a service runs; the service itself says what it is.

Values that only name things may be unknown until the update runs (a Pulumi output): they are passed on as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

Name = Any
"""A name, or something that becomes one while the update runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """Container images, by digest where a roll-out must be repeatable; they are part of a worker's generation."""

    worker: str
    """Engine and agent; `Pool.image` of a pool goes before it."""
    gateway: str
    """The front door and the prover."""
    pull_secrets: tuple[Name, ...] = ()
    """Names of Secrets that the registry wants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How clients outside of the cluster reach the gateway: one host name over TLS."""

    host: str
    tls_secret: Name | None = None
    """Secret with the certificate. Default: the controller's own; needed by an Ingress that is to speak TLS."""
    ingress_class: str | None = None
    """Default: the cluster's."""
    parent: tuple[Name, Name] | None = None
    """Namespace and name of a Gateway of the Gateway API, which brings its own TLS: an HTTPRoute is made in place of
    an Ingress."""
    annotations: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The front door's pods."""

    replicas_min: int = 2
    replicas_max: int = 2
    """More than `replicas_min`: an autoscaler on CPU use, which needs the cluster's metrics server."""
    keys_secret: Name | None = None
    """Secret whose key `keys` holds one API key a line. Default: no keys, for clients inside the cluster only."""
    route: Route | None = None
    """Default: reached inside the cluster."""
    service_type: Literal["ClusterIP", "LoadBalancer"] = "ClusterIP"
    service_annotations: dict[str, Any] = field(default_factory=dict[str, Any])
    cpu_request: str = "250m"
    memory_request: str = "256Mi"
    memory_limit: str = "1Gi"

    @property
    def is_scaled(self) -> bool:
        """Whether an autoscaler decides how many there are."""
        return self.replicas_max > self.replicas_min


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Weights in a PersistentVolumeClaim; `Model.path` is below `/model`."""

    name: Name
    read_only: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPath:
    """Weights in a folder of each machine, its NVMe cache for one; the namespace must allow hostPath volumes.

    Pod Security `restricted` and `baseline` refuse it: whoever may name a path of the machine may read its secrets.
    """

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageVolume:
    """Weights in an image, mounted as a volume; needs Kubernetes 1.33 and containerd 2.1."""

    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """Weights that one Job fetches once into a claim, before any worker starts.

    The Job is named after what it fetches: another source or another `Model.path` is another Job. What is in the folder
    already is not fetched again, whichever service fetched it; other weights there are refused, not overwritten, since
    workers may read them. The claim is yours: nothing removes what lies in it.
    """

    source: str
    """`hf://ORGANISATION/MODEL[@REVISION]`, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://ACCOUNT/CONTAINER/PREFIX`.
    A branch is what it was when it was fetched first."""
    into: Claim
    """The claim must be writable by many pods, or lie on one machine."""
    secret: Name | None = None
    """Secret whose keys become environment variables: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL,
    HF_ENDPOINT. Default: none. The hub's token is the service's `token_secret`."""
    service_account: Name | None = None
    """An account with an identity of the cloud (IRSA, workload identity). Default: none."""


Weights = Claim | HostPath | ImageVolume | Download

MODEL_DIR = "/model"
"""Where every worker finds weights that are mounted: engines hash the path, so it is one path on both sides."""


def _concat(*words: str) -> str:
    return "".join(words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Everything that is not the service's own."""

    images: Images
    namespace: Name = "default"
    gateway: Gateway = field(default_factory=Gateway)
    weights: Weights | None = None
    """Default: the engine fetches the model by name, or finds it in its image."""
    concat: Callable[..., Name] = _concat
    """Puts words and names together to one text; names may be unknown, so whoever knows them says how."""
