"""The controller of LeaderWorkerSet, with its webhooks: they write each pod's place in its group."""

import json
from typing import Any

from cluster.api import Api, kinds_in
from cluster.keys import authority
from cluster.place import WEBHOOK_PORT, Site
from cluster.probe import listens
from cluster.processes import Processes
from steps.frame import write_whole

READY_TIMEOUT_S = 60.0
HEALTH_PORT = 8089
_WEBHOOKS = "/apis/admissionregistration.k8s.io/v1"
_LWS, _SETS = "leaderworkerset.x-k8s.io", "disaggregatedset.x-k8s.io"
_OF_A_GROUP = {"matchExpressions": [{"key": "leaderworkerset.sigs.k8s.io/name", "operator": "Exists"}]}
"""Pods of no group are none of its business."""


def start_groups(site: Site, processes: Processes) -> None:
    """Start the controller once its kinds are served; its webhooks are called from then on."""
    api = Api(site)
    for path, file in kinds_in(site.binaries / "crds").items():
        api.apply(path, file.read_bytes())
    config = {
        "apiVersion": "config.lws.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
        "webhook": {"port": WEBHOOK_PORT, "certDir": str(site.keys / "lws")},
        "metrics": {"bindAddress": "0"},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{HEALTH_PORT}"},
    }
    write_whole(site.home / "lws.json", json.dumps(config))
    processes.until(
        "LeaderWorkerSets are served",
        lambda: api.answers(f"/apis/{_LWS}/v1/leaderworkersets") and api.answers(f"/apis/{_SETS}/v1/disaggregatedsets"),
        name="apiserver",
        timeout_s=READY_TIMEOUT_S,
    )
    processes.start(
        "lws",
        [site.binaries / "lws", "--config", site.home / "lws.json"],
        {"KUBECONFIG": str(site.keys / "kubeconfig")},
    )
    processes.until("the webhooks answer", lambda: listens(WEBHOOK_PORT), name="lws", timeout_s=READY_TIMEOUT_S)
    for kind, body in (("mutating", _mutating(site)), ("validating", _validating(site))):
        plural = f"{kind}webhookconfigurations"
        api.apply(f"{_WEBHOOKS}/{plural}/lws-{kind}", json.dumps(body).encode())


def _mutating(site: Site) -> dict[str, Any]:
    hooks = [
        _hook(site, "mleaderworkerset", f"/mutate-{_dashed(_LWS)}-v1-leaderworkerset", _LWS, "leaderworkersets"),
        _hook(site, "mpod", "/mutate--v1-pod", "", "pods", operations=("CREATE",)),
    ]
    return _configuration("Mutating", "lws-mutating", hooks)


def _validating(site: Site) -> dict[str, Any]:
    hooks = [
        _hook(site, "vleaderworkerset", f"/validate-{_dashed(_LWS)}-v1-leaderworkerset", _LWS, "leaderworkersets"),
        _hook(site, "vpod", "/validate--v1-pod", "", "pods"),
        _hook(site, "vdisaggregatedset", f"/validate-{_dashed(_SETS)}-v1-disaggregatedset", _SETS, "disaggregatedsets"),
    ]
    return _configuration("Validating", "lws-validating", hooks)


def _dashed(group: str) -> str:
    return group.replace(".", "-")


def _hook(
    site: Site, name: str, path: str, group: str, resource: str, operations: tuple[str, ...] = ("CREATE", "UPDATE")
) -> dict[str, Any]:
    """Source: config/webhook/manifests.yaml of LeaderWorkerSet 0.9."""
    rule = {"apiGroups": [group], "apiVersions": ["v1"], "operations": list(operations), "resources": [resource]}
    return {
        "name": f"{name}.kb.io",
        "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": f"https://127.0.0.1:{WEBHOOK_PORT}{path}", "caBundle": authority(site)},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "rules": [rule],
        **({"objectSelector": _OF_A_GROUP} if resource == "pods" else {}),
    }


def _configuration(kind: str, name: str, hooks: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": f"{kind}WebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": hooks,
    }
