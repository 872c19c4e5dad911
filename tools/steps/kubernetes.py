"""A Kubernetes of one node, built from its Go modules: what the test cluster runs, in the cache.

Its parts are Kubernetes' own five components in one binary, CoreDNS, and the controller of LeaderWorkerSet; etcd,
containerd, runc and the CNI plugins are packages of the system.
"""

import io
import json
import os
import re
import shutil
import sys
import tarfile
from hashlib import sha256
from pathlib import Path

from steps.frame import Failure, Place, Run, Step, digest, made_beside, system_package
from steps.gomodule import build, folder_of

PACKAGES = {
    "etcd": ("etcd-server", "the API server keeps its objects in etcd"),
    "containerd": ("containerd", "it runs the containers"),
    "runc": ("runc", "containerd starts containers with it"),
    "iptables": ("iptables", "Services are its rules"),
    "openssl": ("openssl", "it makes the cluster's keys"),
    "ip": ("iproute2", "it makes the pods' bridge"),
    "gcc": ("gcc", "it compiles the pause program"),
}
"""Program to the package that has it, and why."""
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}
"""What networks, mounts and namespaces of pods take; numbers of linux/capability.h."""
CNI_BIN = Path("/usr/lib/cni")
PAUSE = "tandem.local/pause:test"
VERSION_PACKAGE = "k8s.io/component-base/version"
PAUSE_SOURCE = """
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int n) { (void)n; _exit(0); }
static void reap(int n) { (void)n; while (waitpid(-1, 0, WNOHANG) > 0) ; }
int main(void) { signal(SIGTERM, end); signal(SIGINT, end); signal(SIGCHLD, reap); for (;;) pause(); }
"""
"""Holds a pod's namespaces, and reaps what its containers leave where they share the process namespace."""


def sources(place: Place) -> Path:
    """The pinned modules."""
    return place.checkout / "tools/cluster/go"


def pinned(place: Place) -> list[Path]:
    """Every file that decides what is built."""
    return sorted(file for file in sources(place).glob("*/*") if file.suffix in {".mod", ".sum", ".go"})


def key(place: Place) -> str:
    """The modules, and the recipe for the rest."""
    return digest(os.uname().machine, PAUSE_SOURCE, *pinned(place))


def cached(place: Place) -> Path:
    """Where the binaries lie: `kube`, `coredns`, `lws`, `crds/*.yaml`, `pause.tar`."""
    return place.cache / f"kubernetes-{key(place)}"


def stamp(place: Place) -> Path:
    """Beside the binaries."""
    return cached(place) / "stamp"


def unable() -> str | None:
    """Why no cluster can run on this machine; None where one can."""
    if not sys.platform.startswith("linux"):
        return "containers need Linux"
    if os.geteuid() != 0:
        return "a node needs root"
    if missing := [name for name, bit in CAPABILITIES.items() if not _capabilities() >> bit & 1]:
        return f"root here lacks {' and '.join(missing)}, as in a container"
    if not Path("/sys/fs/cgroup").is_dir() or not os.access("/sys/fs/cgroup", os.W_OK):
        return "this machine's control groups cannot be written"
    return None


def _capabilities() -> int:
    """Of this process, as a set of bits."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1], 16) if found else 0


def packages(run: Run) -> None:
    """Installs what of the system's packages is missing.

    Raises: Failure where the machine cannot run a cluster, or a package cannot be had.
    """
    if reason := unable():
        raise Failure(f"no cluster can run here: {reason}; use a virtual machine with root, or a cluster that is there")
    for program, (package, why) in PACKAGES.items():
        if shutil.which(program) is None:
            system_package(run, package, why)
    if not (CNI_BIN / "bridge").exists():
        system_package(run, "containernetworking-plugins", "pods get their addresses from it")


def make(place: Place, run: Run) -> None:
    """Builds everything; four to seven minutes on two cores with an empty Go cache."""
    packages(run)
    with made_beside(cached(place)) as folder:
        run.report("compiling Kubernetes takes four minutes on two cores, with nothing to see meanwhile")
        version = _version_of(sources(place) / "kubernetes/go.mod", "k8s.io/kubernetes")
        numbers = {"gitVersion": version, "gitMajor": "1", "gitMinor": version.split(".")[1]}
        flags = " ".join(f"-X {VERSION_PACKAGE}.{name}={value}" for name, value in numbers.items())
        build(run, sources(place) / "kubernetes", ".", folder / "kube", flags)
        run.report("compiling CoreDNS takes one minute")
        build(run, sources(place) / "coredns", ".", folder / "coredns")
        run.report("compiling the controller of LeaderWorkerSet takes a minute and a half")
        lws = sources(place) / "lws"
        build(run, lws, "sigs.k8s.io/lws/cmd", folder / "lws")
        shutil.copytree(folder_of(run, lws, "sigs.k8s.io/lws") / "config/crd/bases", folder / "crds")
        _pause(run, folder)


def _version_of(go_mod: Path, module: str) -> str:
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", go_mod.read_text(), re.MULTILINE)
    assert found, f"{go_mod} requires no {module}"
    return found[1]


def _pause(run: Run, folder: Path) -> None:
    """An image of one static program, as `docker load` takes it."""
    source, program = folder / "pause.c", folder / "pause"
    source.write_text(PAUSE_SOURCE)
    run("gcc", "-Os", "-static", "-o", program, source, why="compile the pause program")
    layer = _tar({"pause": program.read_bytes()})
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]
    whole = {
        "config.json": json.dumps(config).encode(),
        "layer.tar": layer,
        "manifest.json": json.dumps(manifest).encode(),
    }
    (folder / "pause.tar").write_bytes(_tar(whole))


def _tar(files: dict[str, bytes]) -> bytes:
    """The same bytes for the same files, whenever it is made."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
    return whole.getvalue()


STEP = Step(
    name="kubernetes",
    summary="a Kubernetes of one node, for tests",
    key=key,
    stamp=stamp,
    make=make,
    needs=("environment",),
    shared=True,
    when_named=True,
)
