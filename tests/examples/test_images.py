"""The example that builds and pushes: what it asks of the provider, with Pulumi's mocks."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

import pulumi
from steps.images import RECIPES

PROGRAM = Path(__file__).resolve().parents[2] / "examples" / "images" / "__main__.py"


class Registered(pulumi.runtime.Mocks):
    """Keeps what the program registers."""

    def __init__(self) -> None:
        self.inputs: dict[str, dict[str, Any]] = {}

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        self.inputs[args.name] = args.inputs
        (tag,) = args.inputs["tags"]
        return f"{args.name}-id", {**args.inputs, "ref": f"{tag}@sha256:0"}

    def call(self, args: pulumi.runtime.MockCallArgs) -> Any:
        raise AssertionError(args.token)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Registered:
    mocks = Registered()
    pulumi.runtime.set_mocks(mocks, project="tandem-images", stack="test")
    monkeypatch.setattr(pulumi, "export", lambda _name, _value: None)  # mocks make no stack resource
    return mocks


def run(**settings: Any) -> None:
    pulumi.runtime.set_all_config({f"tandem-images:{name}": value for name, value in settings.items()})

    @pulumi.runtime.test
    def program() -> None:
        runpy.run_path(str(PROGRAM))

    program()


def test_gateway_and_gpu_worker_are_pushed_unless_others_are_named(registered: Registered):
    run(registry="registry.example/team")
    assert set(registered.inputs) == {"gateway", "vllm"}
    for name, image in registered.inputs.items():
        assert image["push"] is True
        assert image["tags"] == [f"registry.example/team/tandem-{name}:0.1.0"]


def test_every_recipe_for_users_can_be_named(registered: Registered):
    names = ["gateway", "vllm", "vllm-cpu", "tensorrt-llm"]
    run(registry="registry.example/team", images=json.dumps(names))
    root = PROGRAM.parents[2]
    built = {str(Path(image["dockerfile"]["location"]).relative_to(root)) for image in registered.inputs.values()}
    assert built == {recipe.containerfile for recipe in RECIPES.values()} - {"tests/fakes/Containerfile"}
    assert {image["context"]["location"] for image in registered.inputs.values()} == {str(root)}


def test_without_a_registry_it_says_which_setting_is_missing(registered: Registered):
    with pytest.raises(pulumi.ConfigMissingError, match="registry"):
        run()
