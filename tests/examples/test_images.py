"""The example that builds and pushes: what it asks of the provider, with Pulumi's mocks."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from steps.images import RECIPES

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "examples" / "images" / "__main__.py"


def run(**settings: str) -> subprocess.CompletedProcess[str]:
    config = json.dumps({f"tandem-images:{name}": value for name, value in settings.items()})
    command = (sys.executable, Path(__file__).with_name("program.py"), PROGRAM, config)
    return subprocess.run(command, capture_output=True, text=True, check=False)


def registered(**settings: str) -> dict[str, dict[str, Any]]:
    ran = run(**settings)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_gateway_and_gpu_worker_are_pushed_unless_others_are_named():
    images = registered(registry="registry.example/team")
    assert set(images) == {"gateway", "vllm"}
    for name, image in images.items():
        assert image["push"] is True
        assert image["tags"] == [f"registry.example/team/tandem-{name}:0.1.0"]


def test_every_recipe_for_users_can_be_named():
    names = ["gateway", "vllm", "vllm-cpu", "tensorrt-llm"]
    images = registered(registry="registry.example/team", images=json.dumps(names)).values()
    built = {str(Path(image["dockerfile"]["location"]).relative_to(ROOT)) for image in images}
    assert built == {one.containerfile for one in RECIPES.values() if not one.containerfile.startswith("tests/")}
    assert {image["context"]["location"] for image in images} == {str(ROOT)}


def test_without_a_registry_it_says_which_setting_is_missing():
    ran = run()
    assert ran.returncode != 0
    assert "Missing required configuration variable 'tandem-images:registry'" in ran.stderr
