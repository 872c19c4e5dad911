"""Which Kubernetes provider plugin the engine finds: the official one where there is one, else the stand-in."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

BIN = Path(__file__).parent / "bin"
NAME = "pulumi-resource-kubernetes"


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The environment in which the CLI has a Kubernetes provider, the official one if it is to be had."""
    if has_official(given):
        return dict(given)
    return {**given, "PATH": os.pathsep.join([str(BIN), given["PATH"]])}


def has_official(given: Mapping[str, str]) -> bool:
    """Whether the official plugin is installed, or on PATH."""
    on_path = shutil.which(NAME, path=given["PATH"])
    if on_path and Path(on_path).parent.resolve() != BIN:
        return True
    listed = subprocess.run(
        ["pulumi", "plugin", "ls", "--json"], env=dict(given), text=True, check=True, capture_output=True
    ).stdout
    return any(plugin["name"] == "kubernetes" and plugin["kind"] == "resource" for plugin in json.loads(listed))
