"""The Pulumi CLI: the one on PATH, else the official installer's, else one built with Go from pinned modules."""

import functools
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from steps.frame import Failure, Place, Run, Step, digest, made_beside

INSTALLER = "https://get.pulumi.com/install.sh"
INSTALLER_TIMEOUT_S = 5
"""Enough to learn whether the installer can be reached; where it cannot, some networks never answer at all."""

MODULE = "github.com/pulumi/pulumi/pkg/v3"
SDK_MODULE = "github.com/pulumi/pulumi/sdk/v3"
SDK_SCRIPTS = ("python/cmd/pulumi-language-python-exec", "python/dist/pulumi-resource-pulumi-python")
"""Of the official release's helpers these two lie in the SDK's module."""

LANGUAGE_HOST = "pulumi-language-python"
"""The third helper lies in no module; tools/pulumi holds one written for this."""

Version = tuple[int, ...]


def wanted_version(go_mod: str) -> Version:
    """The version that go.mod pins: what is built, what is installed, and the oldest on PATH that will do."""
    found = re.search(rf"{re.escape(MODULE)} v(\S+)", go_mod)
    assert found, f"tools/pulumi/go.mod does not require {MODULE}"
    return parse_version(found[1])


def parse_version(text: str) -> Version:
    """`v3.259.0` or `3.259.0-dev.1+abc` as (3, 259, 0); empty where there is no version in the text."""
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    return tuple(int(part) for part in found.groups()) if found else ()


def sources(place: Place) -> Path:
    """The folder of the pinned modules and of our language host."""
    return place.checkout / "tools/pulumi"


def cached(place: Place) -> Path:
    """Where the CLI lies when this machine has none."""
    return place.cache / f"pulumi-{key(place)}"


@functools.cache
def ambient(place: Place) -> Path | None:
    """A recent enough `pulumi` on PATH that is not ours."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    others = [folder for folder in folders if folder and place.cache not in Path(folder).resolve().parents]
    found = shutil.which("pulumi", path=os.pathsep.join(others))
    if found is None:
        return None
    quiet = {**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"}
    told = subprocess.run([found, "version"], env=quiet, capture_output=True, text=True, check=False)
    wanted = wanted_version((sources(place) / "go.mod").read_text())
    return Path(found) if told.returncode == 0 and parse_version(told.stdout) >= wanted else None


def search_path(place: Place) -> list[Path]:
    """The folders that the CLI and its plugins need on PATH; none before the step is done."""
    folder = cached(place) / "bin"
    return [folder] if folder.exists() and not ambient(place) else []


def key(place: Place) -> str:
    """The pinned modules and our language host, which the CLI finds, without a warning, only in its own folder."""
    folder = sources(place)
    return digest(os.uname().machine, folder / "go.mod", folder / "go.sum", folder / LANGUAGE_HOST)


def stamp(place: Place) -> Path:
    """Lies with the cached CLI; with one on PATH there is nothing to make, only to note."""
    return (place.private if ambient(place) else cached(place)) / "pulumi-stamp"


def make(place: Place, run: Run) -> None:
    """Takes the first of the three ways that is open here."""
    if found := ambient(place):
        run.report(f"{found} is recent enough")
        return
    version = ".".join(str(part) for part in wanted_version((sources(place) / "go.mod").read_text()))
    with made_beside(cached(place)) as folder:
        if installer_answers():
            run.report(f"the official installer, version {version}")
            install(place, run, folder, version)
        else:
            run.report(f"no pulumi {version} on PATH, the official installer cannot be reached: building with Go")
            build(place, run, folder, version)
        run(folder / "bin/pulumi", "version", why="start the Pulumi CLI")


def installer_answers() -> bool:
    """Whether this machine can reach the official installer."""
    try:
        with urllib.request.urlopen(INSTALLER, timeout=INSTALLER_TIMEOUT_S):
            return True
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def install(place: Place, run: Run, folder: Path, version: str) -> None:
    """The Python SDK fetches and runs the official installer."""
    script = (
        "import sys; from semver import VersionInfo; from pulumi.automation import PulumiCommand;"
        "PulumiCommand.install(root=sys.argv[1], version=VersionInfo.parse(sys.argv[2]))"
    )
    run(place.library / "bin/python", "-c", script, folder, version, why="run Pulumi's installer")


def build(place: Place, run: Run, folder: Path, version: str) -> None:
    """Builds the CLI and takes the SDK's helpers from the same pinned modules."""
    if shutil.which("go") is None:
        raise Failure(
            f"there is no Pulumi CLI of version {version} or newer on PATH, its installer ({INSTALLER}) cannot be "
            "reached, and there is no Go to build it with; install one of the three (Go 1.21 or newer will do)"
        )
    code, told = run.attempt("go", "mod", "download", "-json", SDK_MODULE, cwd=sources(place))
    found = re.search(r'"Dir": "(.+)"', told)
    if code or not found:
        raise Failure(f"cannot fetch the Go module {SDK_MODULE}; the Go module proxy must be reachable, see {run.log}")
    binaries = folder / "bin"
    binaries.mkdir()
    for helper in (*(Path(found[1]) / script for script in SDK_SCRIPTS), sources(place) / LANGUAGE_HOST):
        copy = shutil.copy(helper, binaries)
        Path(copy).chmod(0o755)
    run.report("compiling takes minutes (five on two cores), with nothing to see meanwhile")
    run(
        *("go", "build", "-trimpath", "-o", binaries / "pulumi"),
        *("-ldflags", f"-s -w -X {SDK_MODULE}/go/common/version.Version=v{version}"),
        f"{MODULE}/cmd/pulumi",
        why="build the Pulumi CLI",
        cwd=sources(place),
        env={"CGO_ENABLED": "0"},
    )


STEP = Step(
    name="pulumi",
    summary="the Pulumi CLI",
    key=key,
    stamp=stamp,
    make=make,
    needs=("library",),
    shared=True,
)
