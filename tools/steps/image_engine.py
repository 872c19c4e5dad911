"""The image with vLLM's CPU build and NIXL in /opt/engine, from the packages that the step `engine` has cached.

Where the package index has no CPU build of torch, the cached one is the CUDA build, whose dynamic linker asks for
2.7 GB of NVIDIA's libraries that a machine without a GPU never calls. In the image small stand-ins take their
place: they export what torch's libraries link to, and every function answers cudaErrorNoDevice. CUDA's runtime
itself stays, so torch finds out for itself, and rightly, that there is no device.
"""

import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from steps import engine, image_base
from steps.builder import Builder
from steps.frame import Failure, Place, Run, digest, system_package

NAME = "tandem.local/engine"
STAND_IN_BYTES_MIN = 10_000_000
"""Smaller libraries of NVIDIA's stay as they are, the CUDA runtime (0.7 MB) among them."""
CUDA_ERROR_NO_DEVICE = 100
"""cudaErrorNoDevice and CUDA_ERROR_NO_DEVICE, cuda_runtime_api.h and cuda.h of CUDA 13."""
LEFT_OUT = ("pip", "pip-*", "setuptools/_vendor/*.whl", "nixl_ep_cu13", "torch/include", "torch/share", "torch/test")
"""Compiling against torch, installing packages, and NIXL's expert-parallel kernels for GPUs."""
NUMA_CONTAINERFILE = """\
ARG BASE
FROM ${BASE}
RUN ldconfig -p | grep -q libnuma.so.1 \\
    || { apt-get update && apt-get install -y --no-install-recommends libnuma1 && rm -rf /var/lib/apt/lists/*; }
COPY site /opt/engine
"""
"""vLLM's kernels are linked with libnuma; the base that is made here has it."""


def key(place: Place) -> str:
    """The engine's packages, what is done to them, and what they stand on."""
    return digest(engine.key(place), Path(__file__), image_base.key(place))


def make(place: Place, run: Run, builder: Builder, base: str) -> str:
    """The reference of the engine's image, in the builder's store."""
    reference = f"{NAME}:{key(place)}"
    if image_base.has(run, builder, reference):
        return reference
    packages = engine.packages(engine.site(place))
    # on the cache's own disk, where a copy is but further names of the same files
    with tempfile.TemporaryDirectory(dir=place.cache) as folder:
        context = Path(folder)
        site = context / "site"
        run("cp", "--archive", "--link", packages, site, why="copy the engine's packages")
        slim(site, run)
        (context / "Containerfile").write_text(NUMA_CONTAINERFILE)
        words = builder.build(
            containerfile=context / "Containerfile",
            context=context,
            tag=reference,
            arguments={"BASE": base},
            secrets={},
        )
        run.report(f"the engine's layer, {folder_bytes(site) / 1e9:.1f} GB")
        run(*words, why="make the engine's image")
    return reference


def folder_bytes(folder: Path) -> int:
    """What the files of a folder hold."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def slim(site: Path, run: Run) -> None:
    """Removes what serving on a CPU never reads."""
    for pattern in LEFT_OUT:
        for path in site.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for file in site.rglob("__pycache__"):
        shutil.rmtree(file)
    if not (site / "nvidia").is_dir():
        return
    libraries = {file.name: file for file in (site / "nvidia").rglob("*.so*") if not file.is_symlink()}
    linked = reachable(torch_libraries(site), libraries, run)
    for name, file in libraries.items():
        if name not in linked:
            file.unlink()
    large = {name: libraries[name] for name in linked if libraries[name].stat().st_size >= STAND_IN_BYTES_MIN}
    kept = [*torch_libraries(site), *(libraries[name] for name in linked - set(large))]
    wanted = {symbol.name for file in kept for symbol in symbols(file, "--undefined-only", run)}
    for file in large.values():
        stand_in(file, wanted, run)
    for file in [*(site / "nvidia").rglob("*")]:
        if file.is_file() and ".so" not in file.name:
            file.unlink()


def torch_libraries(site: Path) -> list[Path]:
    """The libraries by which torch, and no one else, is linked with NVIDIA's."""
    return sorted((site / "torch" / "lib").glob("*.so*"))


def reachable(roots: Iterable[Path], libraries: dict[str, Path], run: Run) -> set[str]:
    """Names of the libraries that the roots are linked with, directly or through one another."""
    found: set[str] = set()
    queue = list(roots)
    while queue:
        _, output = run.attempt("readelf", "--dynamic", queue.pop())
        new = {name for name in re.findall(r"\(NEEDED\).*\[(.+)\]", output) if name in libraries} - found
        found |= new
        queue += [libraries[name] for name in new]
    return found


@dataclass(frozen=True)
class Symbol:
    """A dynamic symbol."""

    name: str
    version: str
    """Empty where the library knows none."""
    is_code: bool


def symbols(file: Path, which: str, run: Run) -> list[Symbol]:
    """The dynamic symbols that a library exports (`--defined-only`) or asks for (`--undefined-only`)."""
    code, output = run.attempt("nm", "--dynamic", which, file)
    if code:
        raise Failure(f"nm cannot read {file}: {output}")
    rows = re.findall(r"^[0-9a-f ]*([A-Za-z]) (\w+)@*(\S*)$", output, re.MULTILINE)
    return [Symbol(name=name, version=version, is_code=kind in "TtWi") for kind, name, version in rows]


def stand_in(file: Path, wanted: set[str], run: Run) -> None:
    """Puts a library in the place of a large one that exports the same of what is wanted, and does nothing."""
    if not shutil.which("cc"):
        system_package(run, "gcc", "stand-ins for CUDA's libraries are compiled")
    exported = {symbol.name: symbol for symbol in symbols(file, "--defined-only", run) if symbol.name in wanted}
    # glibc's loader insists that a library has the versions that others were linked with (dl-lookup.c, check_match)
    versions: dict[str, list[str]] = {}
    for symbol in exported.values():
        versions.setdefault(symbol.version, []).append(f"{symbol.name};")
    source, script = file.with_suffix(".c"), file.with_suffix(".map")
    source.write_text("\n".join([*map(definition, exported.values()), ""]))
    nodes = [f"{name} {{ global: {' '.join(names)} }};\n" for name, names in versions.items() if name]
    script.write_text("".join(nodes) or "{ global: *; };\n")
    file.unlink()
    words = ("cc", "-shared", "-fPIC", "-fno-builtin", "-w", f"-Wl,-soname,{file.name}")
    run(*words, f"-Wl,--version-script={script}", "-o", file, source, why=f"make the stand-in of {file.name}")
    source.unlink()
    script.unlink()


def definition(symbol: Symbol) -> str:
    """C that gives the symbol something: a function that says there is no device, or empty room for data."""
    if symbol.is_code:
        return f"int {symbol.name}(void) {{ return {CUDA_ERROR_NO_DEVICE}; }}"
    return f"char {symbol.name}[8192];"
