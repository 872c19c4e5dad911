"""Every image that is built here runs as a pod under `restricted` would: any uid, a read-only root, no capability."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import pulumi_tandem as tandem
from pulumi_tandem.lower import lower
from pulumi_tandem.resolve import resolve
from steps.frame import Place
from steps.images import RECIPES, TESTED, archive
from tests.builders import laptop_pair
from tests.cluster.container import Image, unpacked

ROOT = Path(__file__).parents[2]
ANY_UID = 1_000_680_000
"""As OpenShift picks them; no image has a passwd entry for it."""

AGENT_SERVES_AND_DRAINS = """
import signal, subprocess, urllib.request
ports = {"http": 8000, "agent": 8001, "side_channel": 5600, "transfer": 20000}
argv = ["tandem-worker", "agent", "--spec", "/test/worker.json", "--name", "w", "--address", "127.0.0.1"]
argv += [word for name, port in ports.items() for word in ("--port", f"{name}={port}")]
agent = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
assert any(line.endswith("ready\\n") for line in agent.stderr)
answers = [urllib.request.urlopen(f"http://127.0.0.1:{path}").status for path in ("8001/ready", "8000/health")]
agent.send_signal(signal.SIGTERM)
print("answers", *answers, "exit", agent.wait())
"""
ENGINE_ANSWERS = """
from nixl._api import nixl_agent, nixl_agent_config
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    assert "UCX" in nixl_agent("test", nixl_agent_config(backends=["UCX"])).backends
    engine = LLM(model="/model", enforce_eager=True, max_model_len=256, max_num_seqs=1)
    answer = engine.generate(["The capital of France is"], SamplingParams(max_tokens=8, temperature=0))
    print("answer:", answer[0].outputs[0].text)
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Image]]:
    """Images by name, built where they are not, unpacked when first asked for, and removed at the end."""
    if os.geteuid() != 0 or not sys.platform.startswith("linux"):
        pytest.skip("containers need root on Linux")
    if not shutil.which("runc"):
        pytest.skip("runc is not installed (Debian: apt-get install runc)")
    place = Place.here()
    there: dict[str, Image] = {}
    with ExitStack() as stack:

        def get(name: str) -> Image:
            if name not in there:
                step = RECIPES[name].step_name
                subprocess.run((place.python, "tools/bootstrap.py", "--only", step), cwd=ROOT, check=True)
                folder = tmp_path_factory.mktemp(name)
                there[name] = stack.enter_context(unpacked(archive(RECIPES[name], place), folder))
            return there[name]

        yield get


@pytest.mark.parametrize("uid", [65532, ANY_UID])
@pytest.mark.parametrize("name", TESTED)
def test_an_image_runs_under_any_uid_and_writes_to_tmp_only(name: str, uid: int, image: Callable[[str], Image]):
    each = image(name)
    assert each.config["User"] == "65532:65532"
    helped = each.entrypoint("--help", uid=uid)
    assert helped.returncode == 0, helped.stdout
    assert helped.stdout.startswith("usage: tandem-worker")
    script = "id -u; touch /here && echo root; touch /opt/tandem/here && echo opt; touch $HOME/here && echo home"
    assert [line for line in each.run("sh", "-c", script, uid=uid).stdout.splitlines() if "touch" not in line] == [
        str(uid),
        "home",
    ]


@pytest.mark.parametrize("name", TESTED)
def test_an_image_lists_its_packages_and_holds_no_settings_of_the_machine_that_built_it(
    name: str, image: Callable[[str], Image]
):
    each = image(name)
    listed = (each.root / "usr/share/tandem/sbom.json").read_text()
    assert '"bomFormat": "CycloneDX"' in listed
    assert '"name": "tandem-worker"' in listed
    assert not list(each.root.glob("run/secrets/*"))
    assert not (each.root / "etc/pip.conf").exists()


def test_the_prover_loads_without_pulumi(image: Callable[[str], Image]):
    script = "import pulumi_tandem.prove.run, importlib.util; print(importlib.util.find_spec('pulumi'))"
    assert image("gateway").run("python", "-c", script).stdout == "None\n"


def test_the_agent_brings_the_fake_engine_up_and_drains(image: Callable[[str], Image], tmp_path: Path):
    pair = laptop_pair(model=tandem.Model(name="SmolLM2-135M-Instruct", path="/test"))
    worker = lower(resolve(pair)).pools[0]
    (tmp_path / "worker.json").write_text(worker.spec.model_dump_json())
    for name in ("config.json", "model.safetensors"):  # what preflight looks for; the fake engine reads neither
        (tmp_path / name).write_text("{}")
    tmp_path.chmod(0o755)
    ran = image("worker-fake").run("python", "-c", AGENT_SERVES_AND_DRAINS, uid=ANY_UID, mounts={"/test": tmp_path})
    assert ran.stdout.splitlines()[-1] == "answers 200 200 exit 0", ran.stdout


def test_the_cpu_engine_answers_where_numa_calls_are_refused(image: Callable[[str], Image], tmp_path: Path):
    (tmp_path / "answers.py").write_text(ENGINE_ANSWERS)
    mounts = {"/model": Place.here().model, "/test": tmp_path}
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1"}
    tmp_path.chmod(0o755)
    ran = image("worker-cpu").run("python", "/test/answers.py", mounts=mounts, environment=settings, timeout_s=300)
    assert ran.returncode == 0, ran.stdout
    assert "answer:  Paris" in ran.stdout
