"""The Job that fetches a model's weights once, before any worker starts."""

from collections.abc import Iterator
from typing import Any

from pulumi_tandem.check.registry import Breach
from pulumi_tandem.finding import DeclarationError
from pulumi_tandem.lower.refused import RULE
from pulumi_tandem.manifest.hardened import HOME, TMP_MOUNT, container_security, pod_security, pull_secrets, tmp
from pulumi_tandem.manifest.naming import Child, Head, Scope, digest
from pulumi_tandem.manifest.network import policy
from pulumi_tandem.manifest.setting import MODEL_DIR, Download, Setting
from pulumi_tandem.manifest.worker_pod import tolerations
from pulumi_tandem.resolve import Resolved

DOWNLOAD_S = 4 * 3600
"""A terabyte at 70 MB/s."""
SCHEMES = ("hf://", "s3://", "gs://", "az://")
"""What `tandem-worker weights` fetches from."""


def of_weights(resolved: Resolved, scope: Scope, setting: Setting) -> list[Child]:
    """The download, where one is declared; every generation that wants the same weights shares its Job.

    Raises DeclarationError when weights are mounted where no worker looks for them, or come from nowhere.
    """
    breaches = tuple(RULE.finding(resolved, breach, source=__name__) for breach in _breaches(resolved, setting))
    if breaches:
        raise DeclarationError(breaches)
    download = setting.weights
    if not isinstance(download, Download):
        return []
    folder = resolved.pools[0].model_path
    assert folder is not None
    labels = scope.labels("weights")
    spec = {
        # One pod, one verdict: the provider fails at once on BackoffLimitExceeded, and on no other reason. The program
        # tries again by itself, and a pod that fails is kept for its last word.
        "backoffLimit": 0,
        "activeDeadlineSeconds": DOWNLOAD_S,
        "podFailurePolicy": {
            "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
        },
        "template": {"metadata": {"labels": labels}, "spec": _pod(resolved, download, folder, scope, setting)},
    }
    head = Head(
        api="batch/v1",
        kind="Job",
        name=scope.of(f"weights-{digest(f'{download.source} {folder}')}"),
        labels=labels,
        # One that failed is tried anew by the next update, and goes on with what is there.
        annotations={"pulumi.com/replaceUnready": "true"},
    )
    job = head.manifest(scope, spec=spec)
    return [
        # A storage may be anywhere, at any port; nobody has anything to ask of a download.
        policy(scope, "weights", ingress=[], egress=[{}]),
        Child(key="weights", manifest=job, after=("worker-account", "weights-network"), timeout_s=DOWNLOAD_S + 600),
    ]


def _breaches(resolved: Resolved, setting: Setting) -> Iterator[Breach]:
    if setting.weights is None:
        return
    for pool in resolved.pools:
        path = pool.model_path
        if path is None or not f"{path}/".startswith(f"{MODEL_DIR}/") or ".." in path:
            where = f"at {path}" if path else "at the hub"
            message = f"weights are mounted at {MODEL_DIR}, and workers look for them {where}"
            yield Breach(path="model.path", message=message, fix=f"use path={MODEL_DIR!r}, or a folder below it")
            break
    if isinstance(setting.weights, Download) and not setting.weights.source.startswith(SCHEMES):
        message = f"the weights' source is {setting.weights.source!r}, which nothing fetches from"
        yield Breach(path="weights.source", message=message, fix=f"begin it with {', '.join(SCHEMES)}")


def _pod(resolved: Resolved, download: Download, folder: str, scope: Scope, setting: Setting) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": "download",
        "image": setting.images.gateway,
        "args": ["weights", "--source", download.source, "--folder", folder],
        "env": [HOME, *_token(resolved, download)],
        "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "4Gi"}},
        "securityContext": container_security(),
        "volumeMounts": [{"name": "model", "mountPath": MODEL_DIR}, TMP_MOUNT],
        # Why it failed is the pod's last word, and so the update's error.
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if download.secret is not None:
        container["envFrom"] = [{"secretRef": {"name": download.secret}}]
    return {
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "automountServiceAccountToken": download.service_account is not None,
        "serviceAccountName": download.service_account or scope.of("worker"),
        "securityContext": pod_security(),
        "containers": [container],
        "volumes": [{"name": "model", "persistentVolumeClaim": {"claimName": download.into.name}}, tmp("1Gi")],
        # A claim may lie on a machine that is kept for workers.
        "tolerations": tolerations(resolved.pools[0]),
        **pull_secrets(setting),
    }


def _token(resolved: Resolved, download: Download) -> list[dict[str, Any]]:
    """The hub's token is named once, whoever fetches."""
    secret = resolved.token_secret
    if secret is None or not download.source.startswith("hf://"):
        return []
    return [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}]
