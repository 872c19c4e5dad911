"""Who may talk to whom: engines to the workers of their service, gateways and the prover to engines, and nobody else.

A cluster without a controller that enforces NetworkPolicies takes them and lets everything through.
"""

from collections.abc import Sequence
from typing import Any

from pulumi_tandem.manifest.naming import HTTP_PORT, PREFIX, SCALE_PORT, Child, Head, Scope
from pulumi_tandem.manifest.worker_pod import PORT_STEP, PORTS
from pulumi_tandem.resolve import Resolved

SCRAPER = {f"{PREFIX}scrapes": "allowed"}
"""Label of namespaces whose pods may read the metrics of agents and the figures of gateways: monitoring, KEDA."""
_SCALE = [{"protocol": "TCP", "port": SCALE_PORT}]
_DNS = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
_HTTPS = {"ports": [{"protocol": "TCP", "port": 443}, {"protocol": "TCP", "port": 6443}]}
"""The API server, a model hub, an object storage: none of them is a pod with a label."""


def of_network(resolved: Resolved, scope: Scope) -> list[Child]:
    """The policies of the workers, of the gateways and of the prover."""
    fetches = any(pool.model_path is None for pool in resolved.pools)
    workers, gateways, prover = (_pods(scope, component) for component in ("worker", "gateway", "prover"))
    fronts = _fronts(scope)
    scrapers = {"namespaceSelector": {"matchLabels": SCRAPER}}
    step = PORT_STEP if resolved.paired_pods else 0
    agents = sorted(
        {pool.pod.ports.get("agent", PORTS["agent"] + step * index) for index, pool in enumerate(resolved.pools)}
    )
    return [
        policy(
            scope,
            "worker",
            ingress=[
                {"from": [workers, gateways, fronts, prover]},
                {"from": [scrapers], "ports": [{"protocol": "TCP", "port": port} for port in agents]},
            ],
            egress=[{"to": [workers]}, _DNS, *([_HTTPS] if fetches else [])],
        ),
        policy(
            scope,
            "gateway",
            ingress=[
                {"ports": [{"protocol": "TCP", "port": HTTP_PORT}]},
                {"from": [gateways, fronts, scrapers], "ports": _SCALE},
            ],
            egress=[{"to": [workers, gateways, fronts]}, _DNS, _HTTPS],
        ),
        policy(scope, "prover", ingress=[], egress=[{"to": [workers, gateways, fronts]}, _DNS, _HTTPS]),
    ]


def of_front_network(scope: Scope, services: Sequence[Scope]) -> Child:
    """The policy of pods in front of several services: what those of the gateways of each allow."""
    workers = [_pods(service, "worker") for service in services]
    peers = [peer for service in services for peer in (_pods(service, "gateway"), _fronts(service))]
    return policy(
        scope,
        "front",
        ingress=[{"ports": [{"protocol": "TCP", "port": HTTP_PORT}]}, {"from": peers, "ports": _SCALE}],
        egress=[{"to": [*workers, *peers]}, _DNS, _HTTPS],
    )


def _fronts(scope: Scope) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": scope.fronts}}


def _pods(scope: Scope, component: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": scope.selector(component)}}


def policy(scope: Scope, component: str, *, ingress: list[Any], egress: list[Any]) -> Child:
    """What pods of a component take, and where they go."""
    head = Head(
        api="networking.k8s.io/v1", kind="NetworkPolicy", name=scope.of(component), labels=scope.labels(component)
    )
    spec = {
        **_pods(scope, component),
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
        "egress": egress,
    }
    return Child(key=f"{component}-network", manifest=head.manifest(scope, spec=spec))
