"""Runs a program in an image's archive as a pod that is as restricted as can be would, with runc and nothing else."""

import json
import shutil
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REFUSED = ("get_mempolicy", "mbind", "set_mempolicy")
"""What RuntimeDefault refuses of what an engine asks for: containerd 1.6, contrib/seccomp/seccomp_default.go gives
these with CAP_SYS_NICE only."""


@dataclass(frozen=True)
class Image:
    """An unpacked image."""

    root: Path
    config: Mapping[str, Any]
    """As in the image: `Env`, `Entrypoint`, `User`, `Labels`."""

    def run(
        self,
        *argv: str,
        uid: int = 65532,
        mounts: Mapping[str, Path] | None = None,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 120.0,
    ) -> subprocess.CompletedProcess[str]:
        """Runs the argv to its end; output is captured, stderr merged."""
        with tempfile.TemporaryDirectory() as folder:
            name = f"tandem-test-{uuid.uuid4().hex}"
            subprocess.run(("runc", "spec", "--bundle", folder), check=True)
            file = Path(folder) / "config.json"
            spec = restricted(json.loads(file.read_text()), mounts or {})
            spec["root"] = {"path": str(self.root), "readonly": True}
            spec["process"] |= {
                "args": list(argv),
                "cwd": "/tmp",
                "env": [*self.config["Env"], *(f"{name}={value}" for name, value in (environment or {}).items())],
                "user": {"uid": uid, "gid": uid},
            }
            file.write_text(json.dumps(spec))
            try:
                return subprocess.run(
                    ("runc", "run", "--bundle", folder, name),
                    text=True,
                    check=False,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    timeout=timeout_s,
                )
            finally:
                subprocess.run(("runc", "delete", "--force", name), check=False, capture_output=True)

    def entrypoint(self, *arguments: str, uid: int = 65532) -> subprocess.CompletedProcess[str]:
        """Runs what a container without a command of its own runs."""
        return self.run(*self.config["Entrypoint"], *arguments, uid=uid)


def restricted(spec: dict[str, Any], mounts: Mapping[str, Path]) -> dict[str, Any]:
    """runc's own default with an empty /tmp, shared memory as pods declare it, no capability and seccomp rules."""
    spec["process"] |= {"terminal": False, "capabilities": {}, "noNewPrivileges": True}
    spec["process"].pop("rlimits", None)
    spec["linux"].pop("resources", None)
    spec["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": list(REFUSED), "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    }
    memory = [
        {"destination": place, "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777", *options]}
        for place, options in (("/dev/shm", ["size=1g"]), ("/tmp", []))
    ]
    bound = [
        {"destination": place, "type": "bind", "source": str(folder), "options": ["bind", "ro"]}
        for place, folder in mounts.items()
    ]
    kept = [each for each in spec["mounts"] if each["type"] != "cgroup" and each["destination"] != "/dev/shm"]
    return spec | {"mounts": [*kept, *memory, *bound]}


@contextmanager
def unpacked(archive: Path, folder: Path) -> Iterator[Image]:
    """The image of an OCI archive, unpacked below the folder and removed afterwards."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        blobs, root = Path(place) / "blobs", Path(place) / "root"
        root.mkdir()
        with tarfile.open(archive) as whole:
            whole.extractall(blobs, filter="tar")

        def blob(described: Mapping[str, Any]) -> Path:
            return blobs / "blobs" / described["digest"].replace(":", "/")

        index = json.loads((blobs / "index.json").read_text())
        manifest = json.loads(blob(index["manifests"][0]).read_text())
        config = json.loads(blob(manifest["config"]).read_text())
        for layer in manifest["layers"]:
            unpack_layer(blob(layer), root)
            blob(layer).unlink()
        yield Image(root=root, config=config["config"])


def unpack_layer(layer: Path, root: Path) -> None:
    """Lays a layer over what is there; its whiteouts remove (image-spec, layer.md)."""
    subprocess.run(("tar", "-xf", layer, "-C", root, "--numeric-owner"), check=True)
    for white in root.rglob(".wh.*"):
        gone = white.with_name(white.name.removeprefix(".wh."))
        white.unlink()
        if gone.is_dir() and not gone.is_symlink():
            shutil.rmtree(gone)
        else:
            gone.unlink(missing_ok=True)
