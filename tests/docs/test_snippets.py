"""Every snippet of the documentation does what the page says it does."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from pulumi_tandem import check, declare
from pulumi_tandem.cli.main import app
from pulumi_tandem.finding import DeclarationError, report
from tandem_worker.gateway.request import ANY_WORKER, GENERATING, NOT_SERVED
from tests.docs.pages import ROOT, documents
from tests.docs.snippets import Block, anchors, blocks, commands, links, unresolved

PURPOSES = {"calculation", "declaration", "wrong", "program", "client"}
PULUMI = {"config", "up", "preview", "destroy", "refresh", "stack", "cancel"}
GATEWAY_PATHS = {"/live", "/health", "/metrics", "/fleet", "/v1/models", *GENERATING, *ANY_WORKER, *NOT_SERVED}
HARMLESS = {"kill", "umask", "printf", "git", "pip", "cd", "ruff", "pyright", "docker", "ctr"}
AGENT_PATHS = {"/live", "/ready", "/factors", "/metrics", "/drain"}


def named(block: Block) -> str:
    return block.place


def test_there_are_snippets_of_every_purpose():
    assert {block.purpose for block in blocks("python")} == PURPOSES


@pytest.mark.parametrize("block", blocks("python", "declaration"), ids=named)
def test_declarations_are_accepted(block: Block):
    services = declared(block)
    assert services
    check.accept(*services)


@pytest.mark.parametrize("block", blocks("python", "wrong"), ids=named)
def test_wrong_declarations_are_told_as_the_page_shows(block: Block):
    following = [each for each in blocks("text", "findings") if each.path == block.path and each.line > block.line]
    assert following, "a `text findings` block must follow"
    assert told(block) == following[0].text.rstrip("\n")


def test_programs_construct():
    programs = [*blocks("python", "declaration"), *blocks("python", "program")]
    runner = Path(__file__).with_name("program.py")
    answer = subprocess.run(
        [sys.executable, str(runner)],
        input=json.dumps([block.text for block in programs]),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr
    for block, kinds in zip(programs, json.loads(answer.stdout), strict=True):
        if "local.Inference(" in block.text:
            assert {"tandem:local:Inference", "pulumi-python:dynamic/local:Proof"} <= set(kinds), block.place


@pytest.mark.parametrize("block", blocks("python", "calculation"), ids=named)
def test_calculations_print_what_they_found(block: Block, capsys: pytest.CaptureFixture[str]):
    exec(compile(block.text, block.place, "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("block", [*blocks("python", "client"), *blocks("python", "program")], ids=named)
def test_names_resolve(block: Block):
    assert unresolved(block.text) == []


@pytest.mark.parametrize("block", blocks("sh"), ids=named)
def test_commands_exist(block: Block):
    for words in commands(block):
        assert complaint(words) == "", f"{block.place}: {' '.join(words)}"


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("tandem stop", "stop"),
        ("tandem status --colour", "--colour"),
        ("make serve", "serve"),
        ("tools/run python -m benchmarks.nothing", "benchmarks.nothing"),
        ("curl http://127.0.0.1:1/v2/chat", "/v2/chat"),
        ("launch", "launch"),
    ],
)
def test_a_wrong_command_is_seen(line: str, part: str):
    assert part in complaint(line.split())


def test_unknown_names_are_seen():
    assert unresolved("import os\nos.nothing\nx = y\nfrom json import loud") == ["json.loud", "os.nothing", "y"]


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(path: Path):
    for target in links(path):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name) if name else path
        assert file.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{path.name}: {target}"


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_has_one_title(path: Path):
    text = re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL)
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1


def declared(block: Block) -> list[declare.Service]:
    """The services of a block; its component is left to `test_programs_construct`."""
    text = re.sub(r"^inference = .*", "", block.text, flags=re.DOTALL | re.MULTILINE)
    values: dict[str, object] = {"__file__": str(ROOT / "stacks" / "chat.py")}
    exec(compile(text, block.place, "exec"), values)
    return [value for value in values.values() if isinstance(value, declare.Service)]


def told(block: Block) -> str:
    """The report on a block's services."""
    try:
        check.accept(*declared(block))
    except DeclarationError as error:
        return report(error.findings)
    return ""


def complaint(words: list[str]) -> str:
    """What is wrong with a command line, empty when nothing is."""
    found = words[0] if words[0] not in HARMLESS else ""
    match words:
        case ["tools/run", *rest]:
            found = complaint(rest)
        case ["make", *targets]:
            known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
            found = next((target for target in targets if "=" not in target and target not in known), "")
        case ["tandem", name, *rest]:
            found = about_tandem(name, rest)
        case ["pulumi", name, *_]:
            found = "" if name in PULUMI else name
        case ["python" | "python3", "-m", module, *_]:
            found = "" if importlib.util.find_spec(module) else module
        case ["python" | "python3", script, *_]:
            found = "" if (ROOT / script).exists() else script
        case ["curl", *rest]:
            found = next(filter(None, map(about_address, rest)), "")
        case _:
            pass
    return found


def about_tandem(name: str, rest: list[str]) -> str:
    command = getattr(typer.main.get_command(app), "commands", {}).get(name)
    if command is None:
        return name
    try:
        command.make_context(name, [word for word in rest if not word.endswith(".py")] + existing(rest))
    except typer.TyperException as error:
        return f"{name}: {error.message}"
    return ""


def existing(rest: list[str]) -> list[str]:
    """A file that exists for one that a reader has."""
    return [__file__ for word in rest if word.endswith(".py")]


def about_address(word: str) -> str:
    found = re.match(r"https?://[^/]+(/[^?]*)", word)
    return found[1] if found and found[1] not in GATEWAY_PATHS | AGENT_PATHS else ""
