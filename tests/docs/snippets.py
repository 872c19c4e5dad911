"""Fenced blocks, links and headings of the documentation.

What a Python block is for stands after the language:

    calculation  plain Python; it runs, and prints something
    declaration  a declaration, with or without its component; must pass every rule and construct
    wrong        a declaration with errors; a block `text findings` after it holds the whole report
    program      a Pulumi program; must construct under mocks
    client       needs a running stack: it is compiled and its names are looked up
"""

import ast
import builtins
import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.docs.pages import ROOT, documents

if TYPE_CHECKING:
    from types import ModuleType

_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    path: Path
    line: int
    language: str
    purpose: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def blocks(language: str = "", purpose: str = "") -> list[Block]:
    """Every block of a language and purpose, of all when none is given."""
    found = [block for path in documents() for block in _blocks(path)]
    return [each for each in found if language in ("", each.language) and purpose in ("", each.purpose)]


def _blocks(path: Path) -> Iterator[Block]:
    text = path.read_text("utf-8")
    for fence in _FENCE.finditer(text):
        language, _, purpose = fence["info"].partition(" ")
        yield Block(path, text.count("\n", 0, fence.start()) + 1, language, purpose.strip(), fence["text"])


def prose(path: Path) -> str:
    """A page without its fenced blocks and comments."""
    return _COMMENT.sub("", _FENCE.sub("", path.read_text("utf-8")))


def links(path: Path) -> list[str]:
    """Targets of a page's links and pictures."""
    return [link["target"] for link in _LINK.finditer(prose(path))]


def anchors(path: Path) -> set[str]:
    """What links may name after the #, by GitHub's rule."""
    texts = (heading["text"].lower().replace("`", "") for heading in _HEADING.finditer(prose(path)))
    return {re.sub(r"[^\w\- ]", "", text).strip().replace(" ", "-") for text in texts}


def commands(block: Block) -> Iterator[list[str]]:
    """The words of every command of a shell block; comments and assignments left out."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words:
            yield words


def unresolved(text: str) -> list[str]:
    """Names that a program uses and that nothing defines: unknown modules, attributes of modules, and variables."""
    nodes = list(ast.walk(ast.parse(text)))
    modules: dict[str, ModuleType] = {}
    missing: list[str] = []
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                modules[alias.asname or alias.name.partition(".")[0]] = importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            missing += [f"{node.module}.{alias.name}" for alias in node.names if not hasattr(module, alias.name)]
    known = {*vars(builtins), *modules, *(name for node in nodes for name in _bound(node))}
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in known:
            missing.append(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = modules.get(node.value.id)
            if module is not None and not hasattr(module, node.attr):
                missing.append(f"{node.value.id}.{node.attr}")
    return missing


def _bound(node: ast.AST) -> list[str]:
    """Names that a node gives a meaning."""
    match node:
        case ast.ImportFrom():
            return [alias.asname or alias.name for alias in node.names]
        case ast.Name(ctx=ast.Store()):
            return [node.id]
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.arg():
            return [node.arg]
        case _:
            return []
