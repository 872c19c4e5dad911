"""Programs that are built from a folder whose go.mod and go.sum pin them."""

import shutil
from pathlib import Path

from steps.frame import Failure, Run


def build(run: Run, sources: Path, package: str, target: Path, flags: str = "", *, tags: str = "") -> None:
    """Build one static program; `flags` are the linker's, `tags` choose among the sources.

    Raises: Failure.
    """
    if shutil.which("go") is None:
        raise Failure(f"there is no Go to build {target.name} with; install Go 1.26 or newer")
    run(
        *("go", "build", "-mod=mod", "-trimpath", "-tags", tags, "-ldflags", f"-s -w {flags}", "-o", target, package),
        why=f"build {target.name}",
        cwd=sources,
        env={"CGO_ENABLED": "0"},
    )


def folder_of(run: Run, sources: Path, module: str) -> Path:
    """Where the files of a pinned module lie.

    Raises: Failure.
    """
    code, told = run.attempt("go", "list", "-m", "-f", "{{.Dir}}", module, cwd=sources)
    if code:
        raise Failure(f"cannot find the sources of {module}; the log is {run.log}")
    return Path(told.strip().splitlines()[-1])
