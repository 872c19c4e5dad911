"""The Job that fetches a model's weights once, before any worker starts."""

from typing import Any

from pulumi_tandem.manifest.hardened import HOME, TMP_MOUNT, container_security, pod_security, pull_secrets, tmp
from pulumi_tandem.manifest.naming import Child, Head, Scope, digest
from pulumi_tandem.manifest.setting import MODEL_DIR, Download, Setting

DOWNLOAD_S = 4 * 3600
"""A terabyte at 70 MB/s."""
HUB = "hf://"


def of_weights(model_path: str | None, scope: Scope, setting: Setting) -> list[Child]:
    """The download, where one is declared; every generation that wants the same weights shares its Job."""
    download = setting.weights
    if not isinstance(download, Download):
        return []
    target = model_path or MODEL_DIR
    fetched = digest(f"{download.source} {target} {' '.join(download.command)}")
    labels = scope.labels("weights")
    container: dict[str, Any] = {
        "name": "download",
        "image": download.image or setting.images.worker,
        "command": _command(download, target),
        "env": [HOME],
        "resources": {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "4Gi"}},
        "securityContext": container_security(),
        "volumeMounts": [{"name": "model", "mountPath": MODEL_DIR}, TMP_MOUNT],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if download.secret is not None:
        container["envFrom"] = [{"secretRef": {"name": download.secret}}]
    pod: dict[str, Any] = {
        "restartPolicy": "OnFailure",
        "enableServiceLinks": False,
        "automountServiceAccountToken": download.service_account is not None,
        "serviceAccountName": download.service_account or scope.of("worker"),
        "securityContext": pod_security(),
        "containers": [container],
        "volumes": [
            {"name": "model", "persistentVolumeClaim": {"claimName": download.into.name}},
            tmp("10Gi"),
        ],
        **pull_secrets(setting),
    }
    spec = {
        "backoffLimit": 4,
        "activeDeadlineSeconds": DOWNLOAD_S,
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    head = Head(
        api="batch/v1",
        kind="Job",
        name=scope.of(f"weights-{fetched}"),
        labels=labels,
        annotations={"pulumi.com/replaceUnready": "true"},
    )
    job = head.manifest(scope, spec=spec)
    return [Child(key="weights", manifest=job, after=("worker-account",), timeout_s=DOWNLOAD_S + 600)]


def _command(download: Download, target: str) -> list[str]:
    """What fetches: it goes on where it was cut off, and leaves what is there already."""
    if download.command:
        filled = {"$(SOURCE)": download.source, "$(TARGET)": target}
        return [filled.get(word, word) for word in download.command]
    model, _, revision = download.source.removeprefix(HUB).partition("@")
    words = ["hf", "download", model, "--local-dir", target]
    return [*words, "--revision", revision] if revision else words
