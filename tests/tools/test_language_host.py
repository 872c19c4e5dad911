"""The language host under the CLI that bootstrap found or built; the official host must pass the same tests."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.timeout(60)]

CHECKOUT = Path(__file__).resolve().parents[2]
HOST = CHECKOUT / "tools/pulumi/pulumi-language-python"
PROGRAM = Path(__file__).with_name("program")
STACK = "test"
UNHANDLED = "error: an unhandled error occurred: the program exited with"
COMMAND_TIMEOUT_S = 120
HOST_END_TIMEOUT_S = 30


@dataclass(frozen=True)
class Project:
    """A project of its own: folder, backend, stack."""

    folder: Path

    def pulumi(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        own = {
            "PULUMI_BACKEND_URL": f"file://{self.folder}",
            "PULUMI_HOME": str(self.folder / "home"),
            "PULUMI_CONFIG_PASSPHRASE": "passphrase",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
        }
        return subprocess.run(
            ["pulumi", "--non-interactive", "--color=never", "--stack", STACK, *arguments],
            cwd=self.folder,
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )

    def holds(self, *arguments: str) -> str:
        told = self.pulumi(*arguments)
        assert told.returncode == 0, told.stdout + told.stderr
        return told.stdout

    def outputs(self) -> dict[str, Any]:
        return json.loads(self.holds("stack", "output", "--json", "--show-secrets"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Generator[Project]:
    assert shutil.which("pulumi"), "no Pulumi CLI on PATH; run the tests with make test, or through tools/run"
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(PROGRAM, folder, dirs_exist_ok=True)
    for place in (folder, folder / "stacks", folder / "pack"):
        (place / ".venv").symlink_to(sys.prefix)
    project = Project(folder)
    project.holds("stack", "init")
    project.holds("config", "set", "word", "hello")
    project.holds("config", "set", "--secret", "secret", "hush")
    project.holds("up", "--yes", "--skip-preview")
    yield project
    project.holds("destroy", "--yes", "--skip-preview")


@pytest.fixture
def configured(project: Project) -> Generator[Any]:
    """Sets a key for one test."""
    before = (settings := project.folder / f"stacks/Pulumi.{STACK}.yaml").read_text()
    yield lambda key, value: project.holds("config", "set", key, value)
    settings.write_text(before)


def test_a_program_gets_its_configuration_its_interpreter_and_its_dynamic_provider(project: Project):
    outputs = project.outputs()
    assert (outputs["word"], outputs["secret"]) == ("hello", "hush")
    assert Path(outputs["interpreter"]).resolve() == Path(sys.prefix).resolve()


def test_a_secret_stays_one_on_its_way_through_the_program(project: Project):
    state = project.holds("stack", "export")
    assert "hello" in state
    assert "hush" not in state


def test_a_second_preview_finds_no_change_and_says_nothing_more(project: Project):
    """Whatever the host printed would stand in every user's preview."""
    told = project.holds("preview", "--expect-no-changes")
    assert "2 unchanged" not in told
    assert "3 unchanged" in told
    assert "warning" not in told
    assert "Diagnostics" not in told


@pytest.mark.parametrize(
    ("end", "diagnostics"),
    [
        pytest.param(
            "user-error",
            [
                "error: two things are wrong:",
                " - this",
                " - that",
                f"{UNHANDLED} 1",
            ],
            id="a user's error is shown whole and without a traceback",
        ),
        pytest.param("exit", [f"{UNHANDLED} 5"], id="an exit code is told"),
        pytest.param("kill", [f"{UNHANDLED} -9"], id="so is a signal"),
    ],
)
def test_a_failing_program_fails_the_preview(end: str, diagnostics: list[str], project: Project, configured: Any):
    configured("end", end)
    told = project.pulumi("preview")
    assert told.returncode != 0
    assert "Traceback" not in told.stdout + told.stderr
    _, _, after = told.stdout.partition("Diagnostics:")
    section, _, _ = after.partition("\n\n")
    lines = [line.removeprefix("    ").rstrip() for line in section.strip().splitlines()[1:]]
    assert lines == diagnostics


def test_a_bug_shows_one_traceback(project: Project, configured: Any):
    configured("end", "bug")
    told = project.pulumi("preview")
    assert told.returncode != 0
    _, _, diagnostics = told.stdout.partition("Diagnostics:")
    assert diagnostics.count("Traceback") == 1
    assert diagnostics.count("ValueError: a bug") == 1
    assert "the program exited" not in diagnostics


def test_a_policy_pack_judges_the_program(project: Project, configured: Any):
    pack = ("preview", "--policy-pack", "pack")
    assert "words" in project.holds(*pack)

    configured("word", "forbidden")
    told = project.pulumi(*pack)
    assert told.returncode != 0
    assert "the word is forbidden" in told.stdout


def started_host() -> subprocess.Popen[str]:
    command = [sys.executable, HOST, "127.0.0.1:1"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_host_ends_quietly(number: signal.Signals):
    with started_host() as host:
        assert host.stdout
        assert int(host.stdout.readline()) > 0
        host.send_signal(number)
        assert host.communicate(timeout=HOST_END_TIMEOUT_S) == ("", "")
        assert host.returncode == 0


def test_the_host_ends_when_its_engine_is_killed():
    """The engine is stood for by a shell that starts the host and is then killed."""
    command = ["sh", "-c", '"$0" "$1" 127.0.0.1:1 & echo $!; wait', sys.executable, HOST]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as engine:
        assert engine.stdout
        host_pid, port = int(engine.stdout.readline()), int(engine.stdout.readline())
        assert port > 0
        engine.kill()
        assert engine.stdout.read() == ""  # ends when its last writer does, which is the host
    deadline_s = time.monotonic() + HOST_END_TIMEOUT_S
    while Path(f"/proc/{host_pid}").exists():
        assert time.monotonic() < deadline_s
        os.sched_yield()
