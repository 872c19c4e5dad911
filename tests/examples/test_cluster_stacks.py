"""The stacks for GPUs, and the one outside of the repository: what each asks of a cluster, with Pulumi's mocks."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BYO = "examples/byo_cluster/__main__.py"
WORKER, GATEWAY = "registry.example/worker@sha256:1", "registry.example/gateway@sha256:2"
IMAGES = {"images:worker": WORKER, "images:gateway": GATEWAY}
SECRET, MARK = "4dabf18193072939515e22adb298388d", "1b47061264138c4ac30d75fd1eb44270"
"""How Pulumi marks a secret. Source: pulumi/runtime/rpc.py, _special_sig_key and _special_secret_sig."""
OWN = {
    "tandem-images:worker": WORKER,
    "tandem-images:gateway": GATEWAY,
    "tandem-images:kubeconfig": "/home/me/.kube/config",
    "tandem-images:namespace": "llm",
    "tandem-images:claim": "llama-8b",
}


def run(program: str, config: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, Path(__file__).with_name("program.py"), ROOT / program, json.dumps(config))
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def registered(program: str, config: dict[str, str]) -> dict[str, dict[str, Any]]:
    ran = run(program, config)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout, parse_float=_number)


def _number(text: str) -> int | float:
    """Pulumi's wire has floats only."""
    return int(float(text)) if float(text).is_integer() else float(text)


def engines(objects: dict[str, dict[str, Any]]) -> dict[str, list[int]]:
    """GPUs of each container of a worker's pod, by the pool of its workload."""
    found: dict[str, list[int]] = {}
    for inputs in objects.values():
        labels = inputs.get("metadata", {}).get("labels", {})
        if labels.get("app.kubernetes.io/component") == "worker" and "replicas" in inputs.get("spec", {}):
            containers = inputs["spec"]["template"]["spec"]["containers"]
            assert {one["image"] for one in containers} == {WORKER}
            gpus = [int(one["resources"]["limits"]["nvidia.com/gpu"]) for one in containers]
            found[labels["tandem.serving/pool"]] = gpus
    return found


def added(objects: dict[str, dict[str, Any]]) -> set[str]:
    """Capabilities that any pod adds."""
    specs = [inputs.get("spec", {}).get("template", {}).get("spec", {}) for inputs in objects.values()]
    containers = [container for spec in specs for container in spec.get("containers", ())]
    return {name for one in containers for name in one["securityContext"]["capabilities"].get("add", ())}


@pytest.mark.parametrize(
    ("stack", "config", "pools", "capabilities"),
    [
        ("gpt_oss_120b", {}, {"pair": [4, 4]}, set()),
        ("llama_70b", {}, {"pair": [4, 4]}, set()),
        ("llama_70b", {"llama:two-machines": "true"}, {"prefill": [8], "decode": [8]}, {"IPC_LOCK"}),
        ("llama_70b_nvfp4_b200", {}, {"pair": [1, 1]}, set()),
    ],
)
def test_a_stack_asks_for_its_gpus_and_no_more_leave_than_it_needs(
    stack: str, config: dict[str, str], pools: dict[str, list[int]], capabilities: set[str]
) -> None:
    objects = registered(f"stacks/{stack}.py", {**IMAGES, **config})
    assert engines(objects) == pools
    assert added(objects) == capabilities


def test_a_stack_without_images_says_which_setting_is_missing() -> None:
    ran = run("stacks/gpt_oss_120b.py", {})
    assert ran.returncode != 0
    assert "Missing required configuration variable 'images:worker'" in ran.stderr


def test_a_stack_of_ones_own_is_short_and_goes_to_ones_own_cluster() -> None:
    assert len((ROOT / BYO).read_text().splitlines()) < 40
    objects = registered(BYO, OWN)
    assert engines(objects) == {"prefill": [1], "decode": [1]}
    assert objects["chat-cluster"]["clusterIdentifier"] == "mine"
    assert objects["chat-cluster"]["kubeconfig"] == {SECRET: MARK, "value": "/home/me/.kube/config"}
