"""The library's virtual environment: pulumi-tandem and tandem-worker as they lie in the checkout, and the tools."""

import json
import tomllib
from pathlib import Path

from steps.frame import Place, Run, Step, digest, python_tag, read_stamp, venv


def key(place: Place) -> str:
    """The pins, what is installed of both distributions, the Python, and the path: an environment cannot be moved."""
    root = place.checkout
    own = (installed_part(root / "pyproject.toml"), installed_part(root / "worker/pyproject.toml"))
    return digest(python_tag(), str(place.python), str(root), root / "tools/requirements.txt", *own)


def installed_part(pyproject: Path) -> str:
    """What an editable installation depends on; the settings of linters and tests are not part of it."""
    whole = tomllib.loads(pyproject.read_text())
    tables = (whole.get("build-system"), whole.get("project"), whole.get("tool", {}).get("setuptools"))
    return json.dumps(tables, sort_keys=True)


def stamp(place: Place) -> Path:
    """Lies in the environment, so it goes when that goes."""
    return place.library / "tandem-stamp"


def make(place: Place, run: Run) -> None:
    """Updates a whole environment in place; one that a killed attempt left behind is made anew."""
    if read_stamp(stamp(place)) is None:
        venv(run, place.python, place.library, "--clear")
    stamp(place).unlink(missing_ok=True)
    run.report("packages of tools/requirements.txt, and this checkout's two distributions")
    pip = (place.library / "bin/python", "-m", "pip", "install", "--disable-pip-version-check")
    run(*pip, "-r", "tools/requirements.txt", why="install the library's packages", cwd=place.checkout)
    own = ("--no-deps", "--no-build-isolation", "--editable", "worker/", "--editable", ".")
    run(*pip, *own, why="install this checkout's distributions", cwd=place.checkout)
    run(place.library / "bin/python", "-m", "pip", "check", why="fit the pinned packages to pyproject.toml")
    link_for_dynamic_providers(place)


def link_for_dynamic_providers(place: Place) -> None:
    """Makes `virtualenv: .venv` of Pulumi.yaml true from stacks/ too.

    Pulumi looks for it from the project's root when it runs the program, and from the folder of `main`
    when it runs a dynamic provider (3.259, the CLI's own script pulumi-resource-pulumi-python).
    """
    link = place.checkout / "stacks/.venv"
    link.unlink(missing_ok=True)
    link.symlink_to("../.venv")


STEP = Step(
    name="library",
    summary="virtual environment .venv: pulumi-tandem, tandem-worker, test tools",
    key=key,
    stamp=stamp,
    make=make,
)
