"""`tandem render --target kubernetes`, read as kubectl reads it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pulumi_tandem.cli.main import main
from pulumi_tandem.cli.rendered import _yaml
from tests.cli.test_declared import BAD, GOOD

IMAGES = ("--image-worker", "worker:1", "--image-gateway", "gateway:1")
ASLEEP = GOOD.replace(
    'decode=tandem.Pool(gpu="cpu")',
    'decode=tandem.Pool(gpu="cpu", autoscalers=(tandem.Autoscaler(workers_min=0, workers_max=4),))',
)


@pytest.fixture
def render(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Renders a program for a cluster; exit code, standard output, standard error."""

    def run(program: str, *words: str) -> tuple[int, str, str]:
        file = tmp_path / "program.py"
        file.write_text(program)
        monkeypatch.setattr(sys, "argv", ["tandem", "render", str(file), "--target", "kubernetes", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_every_document_is_an_object_in_its_namespace(render):
    code, out, _ = render(GOOD, *IMAGES, "--namespace", "llm")
    objects: list[dict[str, Any]] = list(yaml.safe_load_all(out))
    assert code == 0
    assert {one["metadata"]["namespace"] for one in objects} == {"llm"}
    kinds = [one["kind"] for one in objects]
    assert kinds.count("Deployment") == 3
    assert kinds.index("ServiceAccount") < kinds.index("Deployment") < kinds.index("Job")
    pods = [one["spec"]["template"]["spec"] for one in objects if one["kind"] in {"Deployment", "Job"}]
    assert {container["image"] for pod in pods for container in pod["containers"]} == {"worker:1", "gateway:1"}


def test_as_json_it_is_one_list_of_the_same_objects(render):
    as_yaml = list(yaml.safe_load_all(render(GOOD, *IMAGES)[1]))
    whole = json.loads(render(GOOD, *IMAGES, "--json")[1])
    assert (whole["kind"], whole["items"]) == ("List", as_yaml)


def test_no_object_refers_to_another_documents_part(render):
    lines = render(GOOD, *IMAGES)[1].splitlines()
    assert [line for line in lines if ": &" in line or ": *" in line] == []


@pytest.mark.parametrize("text", ["1234567e", "12345e67", "0x1f", "0o17", "y", "n", "1_000", ".5", "-1", "", "~"])
def test_a_string_that_another_parser_might_take_for_more_is_quoted(text: str):
    assert _yaml([{"label": text}]) == f'---\nlabel: "{text}"\n'


def test_what_cannot_run_in_a_cluster_is_not_rendered(render):
    assert "program.py" not in render(BAD, *IMAGES)[1]
    code, out, err = render(ASLEEP, *IMAGES)
    assert (code, out) == (1, "")
    assert "chat.decode.autoscalers.0" in err


def test_images_must_be_named(render):
    code, _, err = render(GOOD, "--image-worker", "worker:1")
    assert code == 2
    assert "--image-gateway" in err
