"""Every image that is built here runs as a pod under `restricted` would: any uid, a read-only root, no capability."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from steps.frame import Place
from steps.images import RECIPES, TESTED, archive
from tests.cluster.container import Image, unpacked

ROOT = Path(__file__).parents[2]
ANY_UID = 1_000_680_000
"""As OpenShift picks them; no image has a passwd entry for it."""

FAKE_ANSWERS = """
import subprocess, sys, urllib.request
argv = ["-m", "vllm.entrypoints.openai.api_server", "--model", "m", "--host", "127.0.0.1", "--port", "8000"]
engine = subprocess.Popen([sys.executable, *argv], stderr=subprocess.PIPE, text=True)
assert "running on" in next(line for line in engine.stderr if "running on" in line)
print(urllib.request.urlopen("http://127.0.0.1:8000/health").status)
engine.kill()
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


def test_the_fake_engine_answers_under_vllms_name(image: Callable[[str], Image]):
    ran = image("worker-fake").run("python", "-c", FAKE_ANSWERS, uid=ANY_UID)
    assert ran.stdout == "200\n"


def test_the_cpu_engine_answers_where_numa_calls_are_refused(image: Callable[[str], Image], tmp_path: Path):
    (tmp_path / "answers.py").write_text(ENGINE_ANSWERS)
    mounts = {"/model": Place.here().model, "/test": tmp_path}
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1"}
    tmp_path.chmod(0o755)
    ran = image("worker-cpu").run("python", "/test/answers.py", mounts=mounts, environment=settings, timeout_s=300)
    assert ran.returncode == 0, ran.stdout
    assert "answer:  Paris" in ran.stdout
