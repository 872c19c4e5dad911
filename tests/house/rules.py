"""The house's rules as functions of one parsed file: each gives the breaches, as file:line and what is wrong."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

ROOMS = (
    "finding",
    "declare",
    "catalog",
    "estimate",
    "resolve",
    "check",
    "plan",
    "simulate",
    "lower",
    "manifest",
    "prove",
    "pins",
    "accept",
)
"""Rooms of pulumi_tandem in the way of the data: a room imports what stands before it, never what stands after."""
TARGETS = ("local", "kubernetes", "aws")
"""All stand after the rooms, and know nothing of each other."""
PURE_ROOMS = frozenset(ROOMS[: ROOMS.index("prove")])

IMPURE = frozenset({
    "aiohttp", "asyncio", "datetime", "httpx", "multiprocessing", "os", "pathlib", "pulumi", "random", "secrets",
    "shutil", "signal", "socket", "subprocess", "tempfile", "threading", "time", "urllib", "uuid",
})  # fmt: skip
"""Modules that bring Pulumi, a clock, chance or the outside world."""

BANNED_NAMES = frozenset({"utils", "util", "helpers", "helper", "common", "base", "manager", "misc", "shared"})
MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60


@dataclass(frozen=True)
class Source:
    """One Python file of the repository."""

    path: Path
    """From the root."""
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, str(self.path))

    @property
    def room(self) -> str | None:
        """The room of pulumi_tandem that the file is in; None outside of the package and for its own __init__."""
        if self.path.parts[:2] != ("components", "pulumi_tandem"):
            return None
        room = Path(self.path.parts[2]).stem
        return None if room == "__init__" else room


def sources(*folders: str) -> list[Source]:
    """Every Python file below the folders, in their order."""
    files = sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py") if "site" not in file.parts)
    return [Source(file.relative_to(ROOT), file.read_text("utf-8")) for file in files]


def imports(source: Source) -> Iterator[tuple[int, str]]:
    """Line and full name of every module that a file imports, wherever in the file it does."""
    package = source.path.with_suffix("").parts[1:-1]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) + 1 - node.level]) if node.level else ""
            module = ".".join(part for part in (above, node.module) if part)
            # `from package import room` imports a module, if there is one of that name
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def too_long(source: Source) -> Iterator[str]:
    """Modules and functions beyond the house's sizes."""
    lines = source.text.count("\n")
    if lines > MODULE_LINES_MAX:
        yield f"{source.path}:1: {lines} lines; at most {MODULE_LINES_MAX}, split it by noun"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield f"{source.path}:{node.lineno}: {node.name} has {length} lines; at most {FUNCTION_LINES_MAX}"


def badly_named(source: Source) -> Iterator[str]:
    """Modules and folders whose name says nothing."""
    for part in source.path.with_suffix("").parts:
        if part.strip("_") in BANNED_NAMES:
            yield f"{source.path}:1: {part!r} says nothing of what is in it"


def impure(source: Source) -> Iterator[str]:
    """Imports that a pure room must not have."""
    if source.room in PURE_ROOMS:
        for line, module in imports(source):
            if module.partition(".")[0] in IMPURE:
                yield f"{source.path}:{line}: the pure room {source.room!r} imports {module}"


def opens_files(source: Source) -> Iterator[str]:
    """Files that a pure room opens, but for the config.json that a program names."""
    if source.room in PURE_ROOMS and source.path.parts[2:] != ("declare", "config_json", "files.py"):
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
                yield f"{source.path}:{node.lineno}: the pure room {source.room!r} opens a file"


def against_the_way(source: Source) -> Iterator[str]:
    """Imports from a later room into an earlier one, between targets, and from the worker into the library."""
    for line, module in imports(source):
        where = f"{source.path}:{line}: "
        top, _, rest = module.partition(".")
        if source.path.parts[0] == "worker" and top in {"pulumi", "pulumi_tandem", "stacks"}:
            yield f"{where}the worker imports {module}; it is a distribution of its own"
        if source.path.name == "contract.py" and top == "tandem_worker":
            yield f"{where}the contract imports {module}; it imports nothing of ours"
        if source.path.parts[0] == "policies" and top == "pulumi_tandem" and _room(rest) not in {"finding", "catalog"}:
            yield f"{where}policies judge by a second path, and import finding and catalog only, not {module}"
        if source.room is None:
            continue
        if top == "tandem_worker" and source.room in PURE_ROOMS - {"lower"}:
            yield f"{where}{source.room} imports {module}; of the pure rooms only lower knows the contract"
        if top == "tandem_worker" and source.room == "lower" and not rest.startswith("contract"):
            yield f"{where}lower imports {module}; of the worker it knows the contract only"
        if top == "pulumi_tandem" and not _is_before(_room(rest), source.room):
            yield f"{where}{source.room} imports {module}, which comes after it"


def _room(module: str) -> str:
    return module.partition(".")[0]


def _is_before(imported: str, importer: str) -> bool:
    """Whether `importer` may know `imported`."""
    if importer in {imported, "cli"}:
        return True
    if importer in TARGETS:
        return imported in ROOMS
    if importer not in ROOMS:
        return False
    return imported in ROOMS[: ROOMS.index(importer)]


def undocumented(source: Source) -> Iterator[str]:
    """Public modules, classes and functions of the library's vocabulary that say nothing of themselves."""
    if source.room not in {
        "declare",
        "finding",
        "check",
        "lower",
        "resolve",
        "catalog",
        "estimate",
        "plan",
        "simulate",
        "manifest",
    }:
        return
    if ast.get_docstring(source.tree) is None:
        yield f"{source.path}:1: the module has no docstring"
    scopes = [source.tree, *(node for node in source.tree.body if isinstance(node, ast.ClassDef))]
    for node in (node for scope in scopes for node in scope.body):
        named = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if named and not node.name.startswith("_") and ast.get_docstring(node) is None:
            yield f"{source.path}:{node.lineno}: {node.name} has no docstring"


def unfinished(source: Source) -> Iterator[str]:
    """Lines that say that something is still to be done."""
    marks = tuple(f"# {word}" for word in ("TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK"))
    for number, line in enumerate(source.text.splitlines(), start=1):
        if any(mark in line for mark in marks):
            yield f"{source.path}:{number}: {line.strip()!r}; do it, or open an issue"
