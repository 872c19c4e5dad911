"""Finding and ending real process trees, and what they leave in /dev/shm."""

import json
import os
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tandem_worker import tree
from tandem_worker.tree import MARKER, Segment, end_tree, record_path, record_shm, tree_members, tree_shm
from tests.agent.place import TREE_ENGINE

TIMEOUT_S = 20.0


class Running:
    """A tree of three processes: API server, core, worker (which is in a session of its own)."""

    def __init__(self, instance: str) -> None:
        self.instance = instance
        self.top = subprocess.Popen(
            [sys.executable, str(TREE_ENGINE), "--stop", "ignore"],
            env={**os.environ, MARKER: instance},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.top.stdout is not None
        lines = [json.loads(self.top.stdout.readline()) for _ in range(3)]
        self.pids: dict[str, int] = {line["role"]: line["pid"] for line in lines}

    def end(self) -> tree.Cleaned:
        """End what is left of it, and collect the child."""
        cleaned = end_tree(self.instance, TIMEOUT_S)
        self.top.communicate()
        return cleaned

    def kill(self, role: str) -> None:
        """Kill one process and wait until it is gone."""
        pidfd = os.pidfd_open(self.pids[role])
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        # Not `wait`: the parent of a part may be the API server, which never collects it.
        assert select.select([pidfd], [], [], TIMEOUT_S)[0]
        os.close(pidfd)


@pytest.fixture
def running() -> Iterator[Running]:
    """A running tree; whatever is left of it in the end is ended."""
    running = Running(f"test-{uuid.uuid4()}")
    yield running
    running.end()


def alive(pids: dict[str, int]) -> list[str]:
    return [
        role
        for role, pid in pids.items()
        if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    ]


def test_finds_the_whole_tree_by_its_marker(running: Running) -> None:
    """Re-parented processes and those of other sessions belong; other instances do not."""
    members = {process.pid for process in tree_members(running.instance)}

    assert members == set(running.pids.values())
    assert tree_members(f"test-{uuid.uuid4()}") == []


def test_finds_children_that_lost_the_marker(running: Running) -> None:
    """A child that cleared its environment is found through its parent."""
    script = "import os, subprocess, sys; print(subprocess.Popen(['sleep', '600'], env={}).pid, flush=True); input()"
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, MARKER: running.instance},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    bare = int(parent.stdout.readline())

    assert bare in {process.pid for process in tree_members(running.instance)}
    assert bare in end_tree(running.instance, TIMEOUT_S).pids
    parent.communicate()


@pytest.mark.parametrize("first", ["api", "core", "worker", None])
def test_ends_everything_whichever_process_died_first(running: Running, first: str | None) -> None:
    """After any death the rest is ended, SIGTERM ignored or not, and no segment is left."""
    segments = tree_shm(running.instance)
    record_shm(running.instance, segments)
    if first is not None:
        running.kill(first)
    cleaned = end_tree(running.instance, TIMEOUT_S)

    assert len(segments) == 2
    assert set(cleaned.pids) == {pid for role, pid in running.pids.items() if role != first}
    assert set(cleaned.shm_paths) == {segment.path for segment in segments}
    assert cleaned.left_pids == ()
    assert alive(running.pids) == []
    assert not record_path(running.instance).exists()


def test_cleans_up_after_a_tree_that_is_all_dead(running: Running) -> None:
    """What was written down while the tree lived is removed when nobody of it is left to ask."""
    segments = tree_shm(running.instance)
    record_shm(running.instance, segments)
    for role in ("api", "core", "worker"):
        running.kill(role)
    cleaned = end_tree(running.instance, TIMEOUT_S)

    assert (cleaned.pids, set(cleaned.shm_paths)) == ((), {segment.path for segment in segments})


def test_keeps_segments_that_another_process_maps(running: Running) -> None:
    """A segment is only removed when no live process maps it any more."""
    other = Running(f"test-{uuid.uuid4()}")
    shared = tree_shm(other.instance)
    record_shm(running.instance, shared)
    cleaned = end_tree(running.instance, TIMEOUT_S)

    assert all(Path(segment.path).exists() for segment in shared)
    assert not {segment.path for segment in shared} & set(cleaned.shm_paths)
    assert len(other.end().shm_paths) == 2


def test_keeps_a_later_file_of_the_same_name() -> None:
    """The inode tells a segment from one that took its name."""
    instance, path = f"test-{uuid.uuid4()}", Path(f"/dev/shm/test-tandem-{uuid.uuid4().hex}")
    path.write_bytes(b"x")
    record_shm(instance, [Segment(str(path), path.stat().st_ino + 1)])
    try:
        assert end_tree(instance, TIMEOUT_S).shm_paths == ()
        assert path.exists()
    finally:
        path.unlink()


def test_finds_a_semaphore_behind_its_other_name(running: Running) -> None:
    """glibc maps a named semaphore under a name that is gone by then; the inode finds the file."""
    script = (
        "import multiprocessing as m, sys; lock = m.get_context('spawn').Lock();"
        "print(lock._semlock.name, flush=True); input()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, MARKER: running.instance},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    path = f"/dev/shm/sem.{child.stdout.readline().strip().lstrip('/')}"

    assert path in {segment.path for segment in tree_shm(running.instance)}
    assert path in end_tree(running.instance, TIMEOUT_S).shm_paths
    child.communicate()


def test_is_not_stopped_by_a_spoiled_record() -> None:
    """Half a record is no reason to leave processes behind."""
    instance = f"test-{uuid.uuid4()}"
    record_path(instance).write_text('[["/dev/shm/x"')

    assert end_tree(instance, TIMEOUT_S) == tree.Cleaned((), ())
    assert not record_path(instance).exists()


def test_spares_the_caller() -> None:
    """An agent ends its own tree and lives."""
    instance = f"test-{uuid.uuid4()}"
    script = (
        "import subprocess, sys; from tandem_worker.tree import end_tree;"
        "child = subprocess.Popen(['sleep', '600']);"
        f"cleaned = end_tree({instance!r}, 20.0); print(cleaned.pids == (child.pid,), child.wait())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, MARKER: instance}, capture_output=True, text=True, check=True
    )

    assert answer.stdout.split() == ["True", str(-signal.SIGKILL)]


def test_refuses_an_empty_marker() -> None:
    """An empty marker would match every process of the machine."""
    with pytest.raises(ValueError, match="instance '' is not a usable marker"):
        end_tree("", TIMEOUT_S)
