"""The front door's objects: the pods, how they are reached, and the two objects by which they agree."""

import math
from typing import Any

from pulumi_tandem.lower import Fleet
from pulumi_tandem.manifest.hardened import HOME, TMP_MOUNT, container_security, pod_security, pull_secrets, tmp
from pulumi_tandem.manifest.naming import HTTP_PORT, SCALE_PORT, SPEC_DIR, Child, Head, Scope, digest
from pulumi_tandem.manifest.setting import Gateway, Route, Setting

KEYS_DIR = "/etc/tandem-keys"
GRACE_MARGIN_S = 15.0
"""The preStop's wait, and the last answers' way out."""
LEAVE_S = 5
"""Between a pod's leaving the Service's endpoints and its listener's end, for every node's proxy to hear of it."""
CPU_PERCENT = 70


def of_gateway(fleet: Fleet, scope: Scope, setting: Setting) -> list[Child]:
    """Every object of the front door; all generations share them."""
    labels = scope.labels("gateway")
    spec = fleet.gateway.model_dump_json()
    config = Head(api="v1", kind="ConfigMap", name=f"{scope.of('gateway')}-{digest(spec)}", labels=labels)
    state = Head(api="v1", kind="ConfigMap", name=scope.of("state"), labels=labels)
    children = [
        Child(key="gateway-spec", manifest=config.manifest(scope, data={"gateway.json": spec})),
        # The prover writes which generation serves. It is created without data, so that whoever creates it again takes
        # nothing away.
        Child(key="state", manifest=state.manifest(scope), ignored=("data",)),
        Child(key="gateway-service", manifest=_service(scope, labels, setting.gateway)),
        Child(
            key="gateway",
            manifest=_deployment(fleet, scope, setting, config.name),
            after=("gateway-spec", "state", "gateway-account", "gateway-role", "gateway-binding"),
            ignored=("spec.replicas",) if setting.gateway.is_scaled else (),
        ),
        Child(key="gateway-budget", manifest=_budget(scope, labels)),
    ]
    if fleet.gateway.scaling is not None:
        children.append(Child(key="scale-service", manifest=_scale_service(scope, labels)))
    if setting.gateway.is_scaled:
        children.append(Child(key="gateway-scaling", manifest=_scaling(scope, labels, setting.gateway)))
    if setting.gateway.route is not None:
        children.append(Child(key="gateway-route", manifest=_route(scope, labels, setting.gateway.route)))
    return children


def _service(scope: Scope, labels: dict[str, str], gateway: Gateway) -> dict[str, Any]:
    head = Head(
        api="v1", kind="Service", name=scope.of("gateway"), labels=labels, annotations=gateway.service_annotations
    )
    spec = {
        "type": gateway.service_type,
        "selector": scope.selector("gateway"),
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
    }
    return head.manifest(scope, spec=spec)


def _scale_service(scope: Scope, labels: dict[str, str]) -> dict[str, Any]:
    """Where autoscalers ask, and gateways each other: not the Service for clients, which may be public."""
    spec = {
        "clusterIP": "None",
        "selector": scope.selector("gateway"),
        "ports": [{"name": "scale", "port": SCALE_PORT, "targetPort": SCALE_PORT}],
    }
    return Head(api="v1", kind="Service", name=scope.of("scale"), labels=labels).manifest(scope, spec=spec)


def _deployment(fleet: Fleet, scope: Scope, setting: Setting, config: str) -> dict[str, Any]:
    gateway, labels = setting.gateway, scope.labels("gateway")
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": scope.selector("gateway")},
    }
    volumes: list[dict[str, Any]] = [{"name": "spec", "configMap": {"name": config}}, tmp("1Gi")]
    if gateway.keys_secret is not None:
        volumes.append({"name": "keys", "secret": {"secretName": gateway.keys_secret}})
    pod = {
        "serviceAccountName": scope.of("gateway"),
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        # A stream may run as long as a request may; nothing of it is cut by a roll-out.
        "terminationGracePeriodSeconds": math.ceil(fleet.gateway.request_timeout_s + GRACE_MARGIN_S),
        "topologySpreadConstraints": [spread],
        "containers": [_container(setting, is_asked=fleet.gateway.scaling is not None)],
        "volumes": volumes,
        **pull_secrets(setting),
    }
    spec = {
        "replicas": gateway.replicas_min,
        "selector": {"matchLabels": scope.selector("gateway")},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "revisionHistoryLimit": 2,
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    head = Head(
        api="apps/v1",
        kind="Deployment",
        name=scope.of("gateway"),
        labels=labels,
        annotations={"pulumi.com/patchForce": "true"},
    )
    return head.manifest(scope, spec=spec)


def _container(setting: Setting, *, is_asked: bool) -> dict[str, Any]:
    """`is_asked`: whether autoscalers want figures."""
    gateway = setting.gateway
    args = ["gateway", "--spec", f"{SPEC_DIR}/gateway.json", "--kubernetes", "--listen", f"0.0.0.0:{HTTP_PORT}"]
    mounts: list[dict[str, Any]] = [
        {"name": "spec", "mountPath": SPEC_DIR, "readOnly": True},
        TMP_MOUNT,
    ]
    ports = {"http": HTTP_PORT}
    if is_asked:
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


def _budget(scope: Scope, labels: dict[str, str]) -> dict[str, Any]:
    head = Head(api="policy/v1", kind="PodDisruptionBudget", name=scope.of("gateway"), labels=labels)
    return head.manifest(scope, spec={"maxUnavailable": 1, "selector": {"matchLabels": scope.selector("gateway")}})


def _scaling(scope: Scope, labels: dict[str, str], gateway: Gateway) -> dict[str, Any]:
    head = Head(api="autoscaling/v2", kind="HorizontalPodAutoscaler", name=scope.of("gateway"), labels=labels)
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": scope.of("gateway")},
        "minReplicas": gateway.replicas_min,
        "maxReplicas": gateway.replicas_max,
        "metrics": [
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": CPU_PERCENT}},
            }
        ],
    }
    return head.manifest(scope, spec=spec)


def _route(scope: Scope, labels: dict[str, str], route: Route) -> dict[str, Any]:
    name = scope.of("gateway")
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
            labels=labels,
            annotations=route.annotations,
        )
        return head.manifest(scope, spec=spec)
    backend = {"service": {"name": name, "port": {"name": "http"}}}
    spec = {
        "rules": [{"host": route.host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]
    }
    if route.tls_secret is not None:
        spec["tls"] = [{"hosts": [route.host], "secretName": route.tls_secret}]
    if route.ingress_class is not None:
        spec["ingressClassName"] = route.ingress_class
    head = Head(api="networking.k8s.io/v1", kind="Ingress", name=name, labels=labels, annotations=route.annotations)
    return head.manifest(scope, spec=spec)
