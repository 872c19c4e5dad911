"""Names and labels of a service's objects; the gateway and the prover find their workers by them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

Manifest = dict[str, Any]
"""One Kubernetes object, as its JSON."""

PREFIX = "tandem.serving/"
SPEC_DIR = "/etc/tandem"
HTTP_PORT = 8080
"""Of the gateway's pods."""
SCALE_PORT = 8081
"""Of the same pods: figures, for autoscalers and for each other."""


def digest(text: str, digits: int = 8) -> str:
    """What tells objects of different content apart in their names: so many hex digits."""
    return sha256(text.encode()).hexdigest()[:digits]


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One object with what Pulumi has to know of it."""

    key: str
    """What it is within its service: `gateway`, `prefill-policy`; the name that transforms go by."""
    manifest: Manifest
    after: tuple[str, ...] = ()
    """Keys of children that must be there (and ready) before."""
    ignored: tuple[str, ...] = ()
    """Fields that others write while the service runs."""
    timeout_s: float | None = None
    """How long it may take to be ready. Default: the provider's 10 minutes."""

    @property
    def name(self) -> str:
        """The object's name."""
        return self.manifest["metadata"]["name"]

    @property
    def part(self) -> str:
        """The name without that of what it belongs to."""
        whole: str = self.manifest["metadata"]["labels"]["app.kubernetes.io/name"]
        return self.name.removeprefix(f"{whole}-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What every object of one service shares."""

    service: str
    namespace: Any
    generation: str
    in_place: bool
    """Whether workers keep their names from one generation to the next."""

    def of(self, part: str) -> str:
        """Name of an object that all generations share."""
        return f"{self.service}-{part}"

    def generated(self, part: str) -> str:
        """Name of an object of this generation."""
        return self.of(part) if self.in_place else f"{self.service}-{part}-{self.generation}"

    def labels(self, component: str, **more: str) -> dict[str, str]:
        """Labels of an object: `component` is gateway, worker, prover or front."""
        return {
            "app.kubernetes.io/name": self.service,
            "app.kubernetes.io/component": component,
            "app.kubernetes.io/managed-by": "pulumi-tandem",
            f"{PREFIX}service": self.service,
            **{f"{PREFIX}{key}": value for key, value in more.items()},
        }

    def selector(self, component: str, **more: str) -> dict[str, str]:
        """The labels by which pods of a component are found."""
        chosen = {f"{PREFIX}service": self.service, "app.kubernetes.io/component": component}
        return chosen | {f"{PREFIX}{key}": value for key, value in more.items()}

    @property
    def fronts(self) -> dict[str, str]:
        """The label of pods that stand in front of the service beside others, whatever is in front of them."""
        return {f"{PREFIX}fronts.{self.service}": "true"}

    def workers(self, pool: str) -> dict[str, str]:
        """The labels by which the workers of a pool are found: of this generation, where each has its own objects."""
        own = {} if self.in_place else {"generation": self.generation}
        return self.selector("worker", pool=pool, **own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Kind and metadata of an object."""

    api: str
    kind: str
    name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def manifest(self, scope: Scope, **body: Any) -> Manifest:  # noqa: ANN401 - JSON
        """The whole object; `body` are its other top-level fields."""
        metadata: Manifest = {"name": self.name, "namespace": scope.namespace, "labels": dict(self.labels)}
        if self.annotations:
            metadata["annotations"] = dict(self.annotations)
        return {"apiVersion": self.api, "kind": self.kind, "metadata": metadata, **body}
