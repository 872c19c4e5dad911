"""The pods that clients talk to, and how they are reached: a service's own gateway's, or those in front of several.

Both are the same program with the specs of the services that it serves.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pulumi_tandem.lower import GatewaySpec
from pulumi_tandem.manifest.hardened import HOME, TMP_MOUNT, container_security, pod_security, pull_secrets, tmp
from pulumi_tandem.manifest.naming import HTTP_PORT, SCALE_PORT, SPEC_DIR, Child, Head, Scope, digest
from pulumi_tandem.manifest.setting import Gateway, Route, Setting

KEYS_DIR = "/etc/tandem-keys"
GRACE_MARGIN_S = 15.0
"""The preStop's wait, and the last answers' way out."""
LEAVE_S = 5
"""Between a pod's leaving the Service's endpoints and its listener's end, for every node's proxy to hear of it."""
CPU_PERCENT = 70


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What the pods of one door serve."""

    component: str
    """`gateway` or `front`."""
    scope: Scope
    specs: Mapping[str, GatewaySpec]
    """What they do for each service, by the name of the file that tells them."""
    pod_labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Further labels of the pods."""

    @property
    def name(self) -> str:
        """Of nearly every object."""
        return self.scope.of(self.component)

    @property
    def labels(self) -> dict[str, str]:
        """Of every object."""
        return self.scope.labels(self.component)

    @property
    def selector(self) -> dict[str, str]:
        """The labels by which the pods are found."""
        return self.scope.selector(self.component)

    @property
    def is_asked(self) -> bool:
        """Whether autoscalers want figures."""
        return any(spec.scaling is not None for spec in self.specs.values())

    def key(self, part: str) -> str:
        """A child's key."""
        return f"{self.component}-{part}"


def of_door(door: Door, setting: Setting, *, after: tuple[str, ...] = ()) -> list[Child]:
    """The door's objects but its access and its policy, which stand before it; `after` stands before the pods, too."""
    texts = {file: spec.model_dump_json() for file, spec in door.specs.items()}
    config = Head(api="v1", kind="ConfigMap", name=f"{door.name}-{digest(''.join(texts.values()))}", labels=door.labels)
    needed = (door.key("spec"), *after, door.key("account"), door.key("role"), door.key("binding"))
    children = [
        Child(key=door.key("spec"), manifest=config.manifest(door.scope, data=texts)),
        Child(key=door.key("service"), manifest=_service(door, setting.gateway)),
        Child(
            key=door.component,
            manifest=_deployment(door, setting, config.name),
            after=needed,
            ignored=("spec.replicas",) if setting.gateway.is_scaled else (),
        ),
        Child(key=door.key("budget"), manifest=_budget(door)),
    ]
    if setting.gateway.is_scaled:
        children.append(Child(key=door.key("scaling"), manifest=_scaling(door, setting.gateway)))
    if setting.gateway.route is not None:
        children.append(Child(key=door.key("route"), manifest=_route(door, setting.gateway.route)))
    return children


def _service(door: Door, gateway: Gateway) -> dict[str, Any]:
    head = Head(api="v1", kind="Service", name=door.name, labels=door.labels, annotations=gateway.service_annotations)
    spec = {
        "type": gateway.service_type,
        "selector": door.selector,
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
    }
    return head.manifest(door.scope, spec=spec)


def _deployment(door: Door, setting: Setting, config: str) -> dict[str, Any]:
    gateway = setting.gateway
    patience_s = max(spec.request_timeout_s for spec in door.specs.values())
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": door.selector},
    }
    volumes: list[dict[str, Any]] = [{"name": "spec", "configMap": {"name": config}}, tmp("1Gi")]
    if gateway.keys_secret is not None:
        # For root, and for the pod's own group: the gateway takes no keys that anybody could read.
        volumes.append({"name": "keys", "secret": {"secretName": gateway.keys_secret, "defaultMode": 0o440}})
    pod = {
        "serviceAccountName": door.name,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        # A stream may run as long as a request may; nothing of it is cut by a roll-out.
        "terminationGracePeriodSeconds": math.ceil(patience_s + GRACE_MARGIN_S),
        "topologySpreadConstraints": [spread],
        "containers": [_container(door, setting)],
        "volumes": volumes,
        **pull_secrets(setting),
    }
    spec = {
        "replicas": gateway.replicas_min,
        "selector": {"matchLabels": door.selector},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "revisionHistoryLimit": 2,
        "template": {"metadata": {"labels": {**door.labels, **door.pod_labels}}, "spec": pod},
    }
    head = Head(
        api="apps/v1",
        kind="Deployment",
        name=door.name,
        labels=door.labels,
        annotations={"pulumi.com/patchForce": "true"},
    )
    return head.manifest(door.scope, spec=spec)


def _container(door: Door, setting: Setting) -> dict[str, Any]:
    gateway = setting.gateway
    specs = [word for file in door.specs for word in ("--spec", f"{SPEC_DIR}/{file}")]
    args = ["gateway", *specs, "--kubernetes", "--listen", f"0.0.0.0:{HTTP_PORT}"]
    mounts: list[dict[str, Any]] = [
        {"name": "spec", "mountPath": SPEC_DIR, "readOnly": True},
        TMP_MOUNT,
    ]
    ports = {"http": HTTP_PORT}
    if door.is_asked:
        args += ["--scale-listen", f"0.0.0.0:{SCALE_PORT}"]
        ports["scale"] = SCALE_PORT
    if gateway.keys_secret is not None:
        args += ["--api-keys-file", f"{KEYS_DIR}/keys"]
        mounts.append({"name": "keys", "mountPath": KEYS_DIR, "readOnly": True})

    def asks(path: str, failures: int) -> dict[str, Any]:
        get = {"path": path, "port": "http"}
        return {"httpGet": get, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": failures}

    return {
        "name": "gateway",
        "image": setting.images.gateway,
        "args": args,
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            HOME,
        ],
        "ports": [{"name": name, "containerPort": number} for name, number in ports.items()],
        "resources": {
            "requests": {"cpu": gateway.cpu_request, "memory": gateway.memory_request},
            "limits": {"memory": gateway.memory_limit},
        },
        "securityContext": container_security(),
        # Ready is who can listen: whether there are workers is for the answer to say, not for the endpoints.
        "readinessProbe": asks("/live", 2),
        "livenessProbe": asks("/live", 10),
        "lifecycle": {"preStop": {"sleep": {"seconds": LEAVE_S}}},
        "volumeMounts": mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _budget(door: Door) -> dict[str, Any]:
    head = Head(api="policy/v1", kind="PodDisruptionBudget", name=door.name, labels=door.labels)
    return head.manifest(door.scope, spec={"maxUnavailable": 1, "selector": {"matchLabels": door.selector}})


def _scaling(door: Door, gateway: Gateway) -> dict[str, Any]:
    head = Head(api="autoscaling/v2", kind="HorizontalPodAutoscaler", name=door.name, labels=door.labels)
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": door.name},
        "minReplicas": gateway.replicas_min,
        "maxReplicas": gateway.replicas_max,
        "metrics": [
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": CPU_PERCENT}},
            }
        ],
    }
    return head.manifest(door.scope, spec=spec)


def _route(door: Door, route: Route) -> dict[str, Any]:
    name = door.name
    if route.parent is not None:
        namespace, parent = route.parent
        spec: dict[str, Any] = {
            "parentRefs": [{"namespace": namespace, "name": parent}],
            "hostnames": [route.host],
            # Streams last as long as a request may; the gateway itself ends those that take longer.
            "rules": [{"backendRefs": [{"name": name, "port": 80}], "timeouts": {"request": "0s"}}],
        }
        head = Head(
            api="gateway.networking.k8s.io/v1",
            kind="HTTPRoute",
            name=name,
            labels=door.labels,
            annotations=route.annotations,
        )
        return head.manifest(door.scope, spec=spec)
    backend = {"service": {"name": name, "port": {"name": "http"}}}
    spec = {
        "rules": [{"host": route.host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]
    }
    if route.tls_secret is not None:
        spec["tls"] = [{"hosts": [route.host], "secretName": route.tls_secret}]
    if route.ingress_class is not None:
        spec["ingressClassName"] = route.ingress_class
    head = Head(
        api="networking.k8s.io/v1", kind="Ingress", name=name, labels=door.labels, annotations=route.annotations
    )
    return head.manifest(door.scope, spec=spec)
