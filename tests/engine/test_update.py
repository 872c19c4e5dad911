"""Updates of a service with the real Pulumi CLI: forward, back, broken, killed."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
import pytest

from pulumi_tandem.local.client import call
from tests.engine.conftest import Project, fake_engines, make_project

pytestmark = pytest.mark.engine

IMPOSSIBLE = {"transfer": {"kv_gb_per_s_min": 1e6}}
"""A floor that no fabric reaches: the proof of this generation fails."""
DEADLINE_S = 60.0


def until(condition: Callable[[], Any]) -> Any:
    """Poll a condition that processes make true in their own time."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < deadline_s, "the condition never came true"
        time.sleep(0.02)
    return value


def workers(project: Project) -> set[str]:
    return {name for name in project.running() if "gateway" not in name}


def ask(url: str) -> str:
    """One chat request; the answer's text."""
    body = {"model": "SmolLM2-135M-Instruct", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
    response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]["content"]


def processes_of(project: Project) -> list[psutil.Process]:
    """Every live process whose command line or environment names the project's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(str(project.folder) in word for word in words):
            found.append(process)
    return found


def test_up_proves_serves_and_is_clean_afterwards(project: Project) -> None:
    """`up` ends with evidence and an answer; a second one, and a preview, change nothing; `down` leaves nothing."""
    first = project.up()
    assert first.returncode == 0, first.stdout
    outputs = project.outputs()
    assert outputs["evidence"]["kv_bytes"] > 0
    assert outputs["evidence"]["path"] == "disaggregated"
    assert ask(outputs["url"])
    assert "is disaggregated, proven" in first.stdout

    second = project.up()
    assert second.returncode == 0, second.stdout
    assert "6 unchanged" in second.stdout
    assert project.preview("--expect-no-changes").returncode == 0

    down = project.down()
    assert down.returncode == 0, down.stdout
    until(lambda: not processes_of(project))
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{outputs['url']}/live")


def test_a_wrong_declaration_fails_the_preview_with_every_finding(project: Project) -> None:
    """All findings at once, no traceback, an exit code, and nothing touched."""
    wrong = {"prefill": {"kv_dtype": "fp8"}, "decode": {"context_tokens": 1_000_000}}

    preview = project.run("tandem", "up", "--stack", project.stack, **wrong)

    assert preview.returncode != 0
    assert "Traceback" not in preview.stdout
    assert "chat.decode.context_tokens" in preview.stdout
    assert "kv_dtype" in preview.stdout
    assert project.running() == set()
    assert not project.state_dir.exists()


def test_a_change_is_a_new_generation_and_the_old_one_goes(project: Project) -> None:
    """Another batch size: new workers, proof, traffic, then the old workers leave."""
    project.up()
    before, url = workers(project), project.outputs()["url"]

    after_update = project.up(pool={"sequences": 4})

    assert after_update.returncode == 0, after_update.stdout
    assert not before & workers(project)
    assert project.outputs()["url"] == url
    assert ask(url)


def test_environment_is_part_of_the_generation(project: Project) -> None:
    """A variable can change what an engine does, so it is another generation."""
    project.up()
    before = project.outputs()["generation"]

    project.up(decode={"env": {"OMP_NUM_THREADS": "1"}})

    assert project.outputs()["generation"] != before


def test_more_workers_are_no_new_generation(project: Project) -> None:
    """Scaling adds a worker, proves it, and touches nothing else."""
    project.up()
    before = project.outputs()["generation"]

    project.up(decode={"workers": 2})

    outputs = project.outputs()
    assert outputs["generation"] == before
    assert len(workers(project)) == 3
    assert len({pair["decode"] for pair in outputs["evidence"]["pairs"] if "decode" in pair["decode"]}) == 2
    assert project.up().returncode == 0
    assert len(workers(project)) == 2


def test_a_failed_proof_leaves_the_old_generation_serving(project: Project) -> None:
    """The update fails with the reason; the old pair serves; its own workers are stopped; going back is clean."""
    project.up()
    before, url = workers(project), project.outputs()["url"]

    failed = project.up(**IMPOSSIBLE, pool={"sequences": 4})

    assert failed.returncode != 0
    assert "below the declared floor" in failed.stdout
    assert "Traceback" not in failed.stdout
    assert workers(project) == before
    assert ask(url)

    back = project.up()

    assert back.returncode == 0, back.stdout
    assert workers(project) == before
    assert len(project.status()["processes"]) == 3


def test_a_failed_generation_can_be_fixed_forward(project: Project) -> None:
    """The next attempt of the same workers starts them again and proves them."""
    project.up()
    project.up(**IMPOSSIBLE, pool={"sequences": 4})

    fixed = project.up(pool={"sequences": 4})

    assert fixed.returncode == 0, fixed.stdout
    assert len(workers(project)) == 2
    assert ask(project.outputs()["url"])


def test_abort_gives_a_kept_failure_up(project: Project) -> None:
    """`keep_failed` leaves the workers to be looked at; `tandem abort` stops them and nothing else."""
    project.up()
    before = workers(project)
    failed = project.up(**IMPOSSIBLE, service={"keep_failed": True}, pool={"sequences": 4})
    assert "keep_failed" in failed.stdout
    assert len(workers(project)) == 4

    aborted = project.run("tandem", "abort", "--stack", project.stack)

    assert aborted.returncode == 0
    assert workers(project) == before


def test_traffic_that_moved_without_pulumi_is_brought_back(project: Project) -> None:
    """An `up` killed between activation and its note leaves another generation serving; the next `up` sees it."""
    project.up()
    before = workers(project)
    project.up(**IMPOSSIBLE, service={"keep_failed": True}, pool={"sequences": 4})
    (other,) = {process["generation"] for process in project.status()["processes"]} - {
        "",
        project.outputs()["generation"],
    }
    call(project.state_dir, "activate", service="chat", generation=other)

    back = project.up()

    assert back.returncode == 0, back.stdout
    assert project.status()["active"] == {"chat": project.outputs()["generation"]}
    assert workers(project) == before
    assert ask(project.outputs()["url"])


def test_a_lost_state_folder_is_made_again(project: Project) -> None:
    """Everything of the supervisor gone, Pulumi's state still there: `up` starts and proves the service anew."""
    project.up()
    call(project.state_dir, "shutdown")
    until(lambda: not processes_of(project))
    shutil.rmtree(project.state_dir)

    again = project.up()

    assert again.returncode == 0, again.stdout
    assert ask(project.outputs()["url"])


def test_destroy_after_a_failed_update_leaves_nothing(project: Project) -> None:
    """`down` needs no other word when a generation has failed."""
    project.up()
    project.up(**IMPOSSIBLE, pool={"sequences": 4})

    down = project.down()

    assert down.returncode == 0, down.stdout
    until(lambda: not processes_of(project))


@pytest.mark.parametrize("victim", ["cli", "provider"])
def test_a_killed_up_is_continued_by_the_next(project: Project, victim: str) -> None:
    """kill -9 in the middle: the next `up` goes on, and nothing is orphaned."""
    slow = {"pool": {"env": {"FAKE_ENGINE_START_S": "3"}}}
    command = project.command("tandem", "up", "--stack", project.stack, **slow)
    with (project.folder / "up.log").open("w") as log:
        up = subprocess.Popen(command, cwd=project.folder, env=project.environment, stdout=log, stderr=log)
    until(lambda: len(workers(project)) == 2)
    started = {process["name"]: process["pid"] for process in project.status()["processes"]}
    names = {"cli": "pulumi up", "provider": "pulumi.dynamic"}
    for process in processes_of(project):
        if names[victim] in " ".join(process.cmdline()):
            process.kill()
    up.wait(timeout=DEADLINE_S)

    again = project.up(**slow)

    assert again.returncode == 0, again.stdout
    now = {process["name"]: process["pid"] for process in project.status()["processes"]}
    assert now.items() >= started.items()
    assert len(now) == 3
    assert ask(project.outputs()["url"])
    assert project.preview("--expect-no-changes", **slow).returncode == 0
    assert project.down().returncode == 0
    until(lambda: not processes_of(project))


def test_a_second_command_at_the_same_time_ends_at_once_and_touches_nothing(project: Project) -> None:
    """One sentence says who is at it; the first `up` ends as if it were alone, and what served serves on."""
    project.up()
    command = project.command("tandem", "up", "--stack", project.stack, pool={"env": {"FAKE_ENGINE_START_S": "5"}})
    with (project.folder / "up.log").open("w") as log:
        first = subprocess.Popen(command, cwd=project.folder, env=project.environment, stdout=log, stderr=log)
    until(lambda: len(workers(project)) == 4)

    up = project.up(pool={"sequences": 4})
    down = project.down()

    assert project.status()["active"]["chat"], "the traffic was taken from what serves"
    for second in (up, down):
        assert second.returncode != 0
        assert re.fullmatch(r"Error: stack test is being changed by process \d+ of .*\n", second.stdout)
    assert first.wait(timeout=DEADLINE_S) == 0, (project.folder / "up.log").read_text()
    assert len(workers(project)) == 2


def test_a_stack_comes_back_after_everything_was_killed(project: Project) -> None:
    """As after a reboot: `up` finds no change to make, and makes the stack run again."""
    project.up()
    for process in processes_of(project):
        process.send_signal(signal.SIGKILL)
    until(lambda: not processes_of(project))

    again = project.up()

    assert again.returncode == 0, again.stdout
    url = project.outputs()["url"]
    until(lambda: httpx.get(f"{url}/health").status_code == 200)
    assert ask(url)


def test_two_stacks_do_not_collide(project: Project, tmp_path: Path) -> None:
    """The same service twice on one machine: two addresses, two supervisors; one's end is not the other's."""
    other = make_project(tmp_path / "other", fake_engines())
    try:
        assert project.up().returncode == 0
        assert other.up().returncode == 0
        url = project.outputs()["url"]
        assert url != other.outputs()["url"]

        assert other.down().returncode == 0

        assert ask(url)
    finally:
        call(other.state_dir, "shutdown", start=False)


def test_no_secret_reaches_the_state(project: Project) -> None:
    """The proof token and API keys stay in files of mode 0600."""
    project.up()
    token = next((project.state_dir / "secrets").glob("*.proof-token"))

    state = project.run("pulumi", "stack", "export", "--show-secrets", "--stack", project.stack).stdout

    assert token.stat().st_mode & 0o077 == 0
    assert token.read_text() not in state
