"""Which Kubernetes provider plugin the engine finds: the official one where there is one, else the stand-in."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path

BIN = Path(__file__).parent / "bin"
NAME = "pulumi-resource-kubernetes"


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The environment in which the CLI has a Kubernetes provider, the official one if it is to be had."""
    if has_official(given["PATH"], given.get("PULUMI_HOME")):
        return dict(given)
    return {**given, "PATH": os.pathsep.join([str(BIN), given["PATH"]])}


def cli(backend: Path, **more: str) -> dict[str, str]:
    """The environment of a CLI with a backend and a passphrase of its own, and some Kubernetes provider."""
    given = {key: value for key, value in os.environ.items() if key != "PULUMI_CONFIG_PASSPHRASE_FILE"}
    own = {
        "PULUMI_CONFIG_PASSPHRASE": "test",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_BACKEND_URL": f"file://{backend}",
    }
    return environment({**given, **own, **more})


@cache
def has_official(path: str, pulumi_home: str | None) -> bool:
    """Whether the official plugin is on PATH, or installed where the CLI keeps its plugins."""
    on_path = shutil.which(NAME, path=path)
    if on_path and Path(on_path).parent.resolve() != BIN:
        return True
    environment = {**os.environ, "PATH": path, **({"PULUMI_HOME": pulumi_home} if pulumi_home else {})}
    listed = subprocess.run(
        ["pulumi", "plugin", "ls", "--json"], env=environment, text=True, check=True, capture_output=True
    ).stdout
    return any(plugin["name"] == "kubernetes" and plugin["kind"] == "resource" for plugin in json.loads(listed))
