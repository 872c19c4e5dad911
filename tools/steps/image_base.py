"""The image that the others stand on: the official slim Python, or Debian made here where no registry is reached."""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path

from steps.builder import Builder
from steps.frame import Failure, Place, Run, digest, system_package

CONTAINERFILE = "worker/Containerfile.gateway"
BASE = re.compile(r"^ARG BASE=(\S+)$", re.MULTILINE)
OWN = "tandem.local/base"
SUITE = "bookworm"
"""Debian 12, which the official image is made of too: Python 3.11 and the same C library."""
PACKAGES = ("python3", "python3-venv", "ca-certificates", "libnuma1")
LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/lib/apt/lists", "var/cache/apt")
"""Of 275 MB they are 140; nothing reads them in a container."""


def official(place: Place) -> str:
    """The base that the Containerfiles name, or the one that the environment puts in its place."""
    found = BASE.search((place.checkout / CONTAINERFILE).read_text())
    if found is None:
        raise Failure(f"{CONTAINERFILE} names no BASE")
    return os.environ.get("TANDEM_BASE_IMAGE") or found[1]


def key(place: Place) -> str:
    """The name of the official one and the contents of ours: either can stand below an image."""
    return digest(official(place), SUITE, *PACKAGES, *LEFT_OUT)


def make(place: Place, run: Run, builder: Builder) -> str:
    """The reference of a base image that is in the builder's store."""
    own = f"{OWN}:{key(place)}"
    if has(run, builder, own):
        return own
    if run.attempt(builder.name, "pull", official(place))[0] == 0:
        return official(place)
    run.report(f"no registry gives {official(place)}: Debian {SUITE} with debootstrap")
    with tempfile.TemporaryDirectory(dir=place.cache) as folder:
        context = Path(folder)
        bootstrap(run, context / "root")
        run("tar", "--numeric-owner", "-C", context / "root", "-cf", context / "root.tar", ".", why="pack Debian")
        shutil.rmtree(context / "root")
        (context / "Containerfile").write_text("FROM scratch\nADD root.tar /\n")
        words = builder.build(
            containerfile=context / "Containerfile", context=context, tag=own, arguments={}, secrets={}
        )
        run(*words, why="make the base image")
    return own


def has(run: Run, builder: Builder, reference: str) -> bool:
    """Whether the builder's store has the image."""
    code, output = run.attempt(builder.name, "inspect", "--type", "image", reference)
    return code == 0 and bool(json.loads(output))


def bootstrap(run: Run, root: Path) -> None:
    """Debian's smallest set with Python, without its documentation."""
    if os.geteuid() != 0:
        raise Failure(
            "no registry can be reached for the base image, and only root can make one with debootstrap; "
            "name one that this machine can pull: TANDEM_BASE_IMAGE=REFERENCE"
        )
    if not shutil.which("debootstrap"):
        system_package(run, "debootstrap", "no registry can be reached for the base image, so one is made here")
    include = f"--include={','.join(PACKAGES)}"
    run("debootstrap", "--variant=minbase", include, SUITE, root, why="fetch Debian's smallest set")
    for name in LEFT_OUT:
        shutil.rmtree(root / name, ignore_errors=True)
