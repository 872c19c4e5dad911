"""Where weights come from: one path on both sides, one Job before any worker, and no place where nobody looks."""

from typing import Any

import pytest

import pulumi_tandem as tandem
from pulumi_tandem.finding import DeclarationError
from pulumi_tandem.manifest import Claim, Download, HostPath, ImageVolume, Setting
from tests.builders import laptop_pair
from tests.manifest.test_manifests import IMAGES, made, pod_specs

MOUNTED = tandem.Model(name="SmolLM2-135M-Instruct", path="/model/smollm2")


@pytest.mark.parametrize(
    ("weights", "source"),
    [
        (Claim(name="weights"), {"persistentVolumeClaim": {"claimName": "weights", "readOnly": True}}),
        (HostPath(path="/nvme"), {"hostPath": {"path": "/nvme", "type": "Directory"}}),
        (ImageVolume(reference="w:1"), {"image": {"reference": "w:1", "pullPolicy": "IfNotPresent"}}),
    ],
)
def test_weights_are_mounted_under_one_path(weights: Any, source: dict[str, Any]) -> None:
    for key in ("prefill", "decode"):
        spec = pod_specs(made(laptop_pair(model=MOUNTED), Setting(images=IMAGES, weights=weights)))[key]["spec"]
        assert {"name": "model", **source} in spec["volumes"]
        mounted = {"name": "model", "mountPath": "/model", "readOnly": True}
        assert mounted in spec["containers"][0]["volumeMounts"]


def test_a_download_is_one_job_before_any_worker() -> None:
    download = Download(source="s3://b/m", into=Claim(name="weights"), secret="keys")
    of = made(laptop_pair(model=MOUNTED), Setting(images=IMAGES, weights=download))
    pod = pod_specs(of)["weights"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == ["weights", "--source", "s3://b/m", "--folder", "/model/smollm2"]
    assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
    assert {"name": "model", "mountPath": "/model"} in container["volumeMounts"]
    assert of.child("weights-network").manifest["spec"]["ingress"] == []
    for pool in ("prefill", "decode"):
        assert "weights" in of.child(pool).after
        (spec,) = [child.manifest["data"]["worker.json"] for child in of.children if child.key == f"{pool}-spec"]
        assert '"/model/smollm2"' in spec


def test_a_download_from_a_hub_has_the_token_that_the_service_names() -> None:
    token = tandem.TokenSecret(name="hub", key="token")
    hub, storage = (Download(source=one, into=Claim(name="w")) for one in ("hf://org/model@main", "s3://b/m"))
    service = laptop_pair(model=MOUNTED, token_secret=token)
    (container,) = pod_specs(made(service, Setting(images=IMAGES, weights=hub)))["weights"]["spec"]["containers"]
    assert {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}} in container["env"]
    (container,) = pod_specs(made(service, Setting(images=IMAGES, weights=storage)))["weights"]["spec"]["containers"]
    assert "HF_TOKEN" not in {each["name"] for each in container["env"]}


def test_a_download_is_another_job_for_other_weights_only() -> None:
    def job(source: str, **changes: Any) -> str:
        download = Download(source=source, into=Claim(name="w"))
        return (
            made(laptop_pair(model=MOUNTED, **changes), Setting(images=IMAGES, weights=download)).child("weights").name
        )

    assert job("hf://org/model@1") == job("hf://org/model@1", context_tokens=1024) != job("hf://org/model@2")


@pytest.mark.parametrize(
    ("path", "source", "problem"),
    [
        (None, "hf://org/model", r"weights are mounted at /model, and workers look for them at the hub"),
        ("/models/m", "hf://org/model", r"weights are mounted at /model, and workers look for them at /models/m"),
        ("/model/m", "org/model", r"the weights' source is 'org/model', which nothing fetches from"),
    ],
)
def test_weights_that_no_worker_would_find_are_refused(path: str | None, source: str, problem: str) -> None:
    model = tandem.Model(name="SmolLM2-135M-Instruct", path=path)
    download = Download(source=source, into=Claim(name="w"))
    with pytest.raises(DeclarationError, match=problem):
        made(laptop_pair(model=model), Setting(images=IMAGES, weights=download))
