"""Weights that a Job downloads before any worker starts: once, all or nothing, and with the reason when it cannot.

The hub and the storage are stand-ins on this machine (tests/fakes/weights.py), since neither is reached from here;
their clients are the real ones. The tests are one story: each begins where the one before has left the stack.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pulumi_tandem as tandem
from pulumi_tandem.manifest import Claim, Download, Images, Setting
from tests.builders import laptop_pair
from tests.cluster.api import APPS, BATCH, CORE, Api, until
from tests.cluster.service import MODEL, STACK, InCluster, Stacks
from tests.fakes.weights import COMMIT, Weights, served
from tests.manifest.test_manifests import made

BRIDGE = "10.244.0.1"
"""Where pods reach this machine."""
NODE = "tandem"
MIB = 2**20
TOKEN = "hf_canary_7Qm2"
FILES = {"config.json": b"{}", "model.safetensors": b"\x01" * 6 * MIB, "tokenizer.json": b"{}"}
PLACE = "/model/tiny"


def declared(source: str = "hf://tiny/model@main") -> dict[str, Any]:
    """Two services of one model, whose workers find what is downloaded from there."""
    return {
        "model": {"path": PLACE},
        "weights": {"source": source, "into": "weights", "secret": "place"},
        "service": {"token_secret": {"name": "hub"}},
        "second": {"served_names": ["code"]},
    }


@pytest.fixture(scope="module")
def server() -> Iterator[Weights]:
    with served(Weights(FILES, token=TOKEN), host="0.0.0.0") as weights:
        weights.url = weights.url.replace("0.0.0.0", BRIDGE)
        yield weights


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small disk of the machine, at first too small."""
    folder = tmp_path_factory.mktemp("disk")
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=4m,mode=0755", "tmpfs", folder), check=True)
    yield folder
    subprocess.run(("umount", "--lazy", folder), check=True)


@pytest.fixture(scope="module")
def service(stacks: Stacks, api: Api, disk: Path, server: Weights) -> Iterator[InCluster]:
    """A stack beside a claim on the disk, and the Secrets that say where weights are fetched from."""
    with stacks() as made:
        place = made.namespace
        api.ask("POST", f"{CORE}/persistentvolumes", {"metadata": {"name": place.name}, "spec": on(disk)})
        claim = {**CLAIM, "volumeName": place.name, "resources": {"requests": CLAIM_SIZE}}
        place.create(CORE, "persistentvolumeclaims", {"metadata": {"name": "weights"}, "spec": claim})
        storage = {"AWS_ENDPOINT_URL": server.url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
        keys = {"AWS_ACCESS_KEY_ID": TOKEN, "AWS_SECRET_ACCESS_KEY": "secret"}
        for name, data in {"place": {"HF_ENDPOINT": server.url, **storage, **keys}, "hub": {"HF_TOKEN": "-"}}.items():
            place.create(CORE, "secrets", {"metadata": {"name": name}, "stringData": data})
        yield made
    api.call("DELETE", f"{CORE}/persistentvolumes/{place.name}")


CLAIM: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "storageClassName": ""}
CLAIM_SIZE = {"storage": "64Mi"}


def on(disk: Path) -> dict[str, Any]:
    """A volume on a disk of the one machine."""
    term = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    return {
        **CLAIM,
        "capacity": CLAIM_SIZE,
        "persistentVolumeReclaimPolicy": "Retain",
        "local": {"path": str(disk)},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [term]}]}},
    }


def refused(place: InCluster, reason: str, declaration: dict[str, Any]) -> None:
    """Updates, which fails for that reason."""
    up = place.up(**declaration)
    assert up.returncode != 0
    assert reason in up.stdout, up.stdout


def test_a_token_that_the_hub_refuses_fails_the_update_with_the_reason(service: InCluster, disk: Path) -> None:
    refused(service, "HF_TOKEN is not valid there", declared())
    assert service.generations() == set()
    service.namespace.merge(CORE, "secrets/hub", {"stringData": {"HF_TOKEN": TOKEN}})


def test_a_disk_that_is_too_small_fails_the_update_with_the_reason(service: InCluster, disk: Path) -> None:
    refused(service, "6.0 MiB more: make the volume larger", declared())
    assert service.generations() == set()
    assert not (disk / "tiny/config.json").exists()
    subprocess.run(("mount", "-o", "remount,size=64m", disk), check=True)


def test_the_next_update_downloads_once_for_two_services_as_the_pods_own_user(
    service: InCluster, disk: Path, server: Weights
) -> None:
    server.asked.clear()
    up = service.up(**declared())
    assert up.returncode == 0, up.stdout
    assert len([path for path in server.asked if path.startswith("GET") and path.endswith(".safetensors")]) == 1
    jobs = service.namespace.get(BATCH, "jobs?labelSelector=app.kubernetes.io/component=weights")["items"]
    assert {job["metadata"]["labels"]["app.kubernetes.io/name"] for job in jobs} == {"chat", "code"}
    assert {name: (disk / "tiny" / name).read_bytes() for name in FILES} == FILES
    assert {(disk / "tiny" / name).stat().st_uid for name in FILES} == {65532}


def test_both_sides_serve_what_lies_there_under_one_path(service: InCluster) -> None:
    assert service.ask().path == "disaggregated"
    for pool in ("prefill", "decode"):
        (pod,) = service.namespace.pods(service="chat", pool=pool)
        (config,) = [one["configMap"]["name"] for one in pod["spec"]["volumes"] if "configMap" in one]
        spec = json.loads(service.namespace.get(CORE, f"configmaps/{config}")["data"]["worker.json"])
        assert spec["argv"][spec["argv"].index("--model") + 1] == PLACE


def test_the_token_is_in_no_object_log_or_state(service: InCluster) -> None:
    pods = service.namespace.get(CORE, "pods?labelSelector=app.kubernetes.io/component=weights")["items"]
    assert pods
    logs = [service.namespace.text(CORE, f"pods/{pod['metadata']['name']}/log") for pod in pods]
    assert sum("fetches hf://tiny/model@main" in log for log in logs) == 1
    assert sum("nothing is fetched" in log for log in logs) == 1
    state = service.run("stack", "export", "--stack", STACK).stdout
    assert "chat-weights" in state
    objects = [service.namespace.get(group, kind) for group, kind in ((CORE, "pods"), (BATCH, "jobs"))]
    assert TOKEN not in json.dumps([logs, state, objects])


def test_a_second_update_changes_nothing_and_asks_the_hub_nothing(service: InCluster, server: Weights) -> None:
    server.asked.clear()
    preview = service.run("preview", "--stack", STACK, "--expect-no-changes", **declared())
    assert preview.returncode == 0, preview.stdout
    assert server.asked == []


def test_other_weights_are_not_laid_over_those_that_workers_read(service: InCluster, server: Weights) -> None:
    serving = service.state["active_generation"]
    refused(service, "which workers may read", declared(f"hf://tiny/model@{COMMIT}"))
    assert service.state["active_generation"] == serving


def test_weights_of_an_object_storage_are_downloaded_by_the_same_job(service: InCluster, disk: Path) -> None:
    download = Download(source="s3://models/tiny", into=Claim(name="weights"), secret="place")
    images = Images(worker="tandem.local/worker-fake:test", gateway="tandem.local/gateway:test")
    setting = Setting(images=images, namespace=service.namespace.name, weights=download)
    pair = laptop_pair(model=tandem.Model(name=MODEL, path="/model/stored"))
    job = made(pair, setting).child("weights").manifest
    service.namespace.create(BATCH, "jobs", job)
    path = f"jobs/{job['metadata']['name']}"
    until(lambda: service.namespace.get(BATCH, path)["status"].get("succeeded"))
    assert {name: (disk / "stored" / name).read_bytes() for name in FILES} == FILES
    service.namespace.delete(BATCH, f"{path}?propagationPolicy=Foreground")


def test_destroy_leaves_the_claim_with_the_weights_and_nothing_else(service: InCluster, disk: Path) -> None:
    destroyed = service.run("destroy", "--stack", STACK, "--yes", "--skip-preview", **declared())
    assert destroyed.returncode == 0, destroyed.stdout
    for group, kind in ((CORE, "pods"), (CORE, "services"), (BATCH, "jobs"), (APPS, "deployments")):
        until(lambda group=group, kind=kind: not service.namespace.get(group, kind)["items"])
    (claim,) = service.namespace.get(CORE, "persistentvolumeclaims")["items"]
    assert claim["status"]["phase"] == "Bound"
    assert (disk / "tiny/model.safetensors").stat().st_size == 6 * MIB
