"""The supervisor on a disk without room: it says so, leaves nothing behind, and goes on once there is room."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pulumi_tandem.local.client import SupervisorError, call
from tests.local.test_supervisor import Stack, accepts, marked, until

SIZE_BYTES = 1 << 20
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
"""What the smallest file takes of a tmpfs."""


class SmallDisk:
    """A file system of its own that tests fill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, pages_free: int) -> None:
        """Leave room for so many more small files."""
        self._ballast.unlink(missing_ok=True)
        room = os.statvfs(self.folder)
        self._ballast.write_bytes(bytes(room.f_bavail * room.f_frsize - pages_free * PAGE_BYTES))

    def clear(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield SmallDisk(folder)
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def stack(disk: SmallDisk) -> Iterator[Stack]:
    stack = Stack(disk.folder / "stack")
    yield stack
    call(stack.folder, "shutdown", start=False)


@pytest.mark.parametrize("pages_free", [0, 1, 2, 3], ids=["none", "entry", "entry and spec", "all but the log"])
def test_a_worker_that_there_is_no_room_for_is_refused_and_starts_once_there_is(
    pages_free: int, disk: SmallDisk, stack: Stack
) -> None:
    stack.call("ping")
    disk.fill(pages_free)

    with pytest.raises(SupervisorError, match=f"no space is left in {stack.folder}") as refusal:
        stack.start()

    assert "nothing of it is left running" in str(refusal.value)
    assert stack.processes() == {}
    disk.clear()
    assert stack.start()["alive"]


def test_a_gateway_that_there_is_no_room_for_is_refused_and_starts_once_there_is(disk: SmallDisk, stack: Stack) -> None:
    stack.call("ping")
    disk.fill(1)

    with pytest.raises(SupervisorError, match=f"no space is left in {stack.folder}"):
        stack.gateway()

    assert stack.processes() == {}
    disk.clear()
    assert accepts(stack.gateway()["url"])


def test_a_worker_that_dies_while_the_disk_is_full_comes_back_once_there_is_room(disk: SmallDisk, stack: Stack) -> None:
    worker = stack.start()
    disk.fill(0)
    (process,) = [one for one in marked(worker["instance"]) if one.pid == worker["pid"]]
    process.kill()
    until(lambda: "no space is left" in stack.processes()[worker["name"]]["last_failure"])

    disk.clear()

    until(lambda: stack.processes()[worker["name"]]["alive"])
    assert stack.processes()[worker["name"]]["pid"] != worker["pid"]


def test_a_worker_is_stopped_although_the_disk_is_full(disk: SmallDisk, stack: Stack) -> None:
    worker = stack.start()
    disk.fill(0)

    stack.call("remove", name=worker["name"])

    assert not accepts(worker["agent_url"])
    assert stack.processes() == {}
