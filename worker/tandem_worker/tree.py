"""The process tree of one worker, found, ended and cleaned up after from any process.

An engine is many processes (API server, engine core, workers, resource trackers); any of them may
die first and leave the others to init. What they share is the variable `TANDEM_INSTANCE` in the
environment that they inherited, so that is how a tree is found, by its agent and by the agent's
supervisor alike. A process is known by (pid, create time); signals go through a pidfd, so a pid
that is used again is never hit.

Shared memory outlives a killed process. The agent writes down which segments its tree maps while
the tree lives (`record_shm`), beside them in /dev/shm; `end_tree` unlinks those that are still the
same file and that no live process maps. Linux only.
"""

import json
import os
import re
import select
import signal
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

MARKER = "TANDEM_INSTANCE"
"""Environment variable that every process of a worker's tree carries; its value is unique per start."""

SHM_DIR = Path("/dev/shm")  # noqa: S108 - where the kernel and glibc keep segments
_INSTANCE = re.compile(r"[A-Za-z0-9._-]{4,64}")
_MAPPED_INODE = re.compile(rb" (\d+) +" + re.escape(bytes(SHM_DIR)) + rb"/")


class Segment(NamedTuple):
    """One file in /dev/shm; the inode tells it from a later one of the same name."""

    path: str
    inode: int


class Cleaned(NamedTuple):
    """What `end_tree` did."""

    pids: tuple[int, ...]
    """Processes that were ended."""
    shm_paths: tuple[str, ...]
    """Segments that were unlinked."""
    left_pids: tuple[int, ...] = ()
    """Processes that still ran at the timeout; empty but for processes stuck in the kernel."""


def tree_members(instance: str) -> list[psutil.Process]:
    """Every live process of the tree but the caller: those with the marker, and all their children.

    Zombies are left out: they have ended, and whoever started them collects them.
    """
    _require_instance(instance)
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARKER) == instance:
                found[process.pid] = process
                # A child may have emptied its environment or overwritten it with its title.
                found.update((child.pid, child) for child in process.children(recursive=True))
    found.pop(os.getpid(), None)
    return [process for process in found.values() if _is_alive(process)]


def tree_shm(instance: str) -> frozenset[Segment]:
    """The segments in /dev/shm that the tree's processes map now."""
    return segments_of(process.pid for process in tree_members(instance))


def segments_of(pids: Iterable[int]) -> frozenset[Segment]:
    """The segments in /dev/shm that these processes map.

    They are matched by inode: glibc makes a named semaphore under another name, which is the one
    that the process's map goes on showing.
    """
    mapped = frozenset[int]().union(*map(_inodes_mapped_by, pids))
    try:
        entries = list(os.scandir(SHM_DIR)) if mapped else []
    except FileNotFoundError:
        return frozenset()
    return frozenset(Segment(entry.path, entry.inode()) for entry in entries if entry.inode() in mapped)


def record_path(instance: str) -> Path:
    """Where the segments of a tree are written down; gone once `end_tree` has cleaned up."""
    return SHM_DIR / f"tandem-{_require_instance(instance)}"


def record_shm(instance: str, segments: Iterable[Segment]) -> None:
    """Write down, atomically, that these segments belong to the tree, besides those recorded before."""
    path = record_path(instance)
    known = _recorded(instance)
    wanted = known.union(segments)
    if wanted == known:
        return
    draft = _draft_of(path)
    draft.write_text(json.dumps(sorted(wanted)))
    draft.replace(path)


def end_tree(instance: str, timeout_s: float) -> Cleaned:
    """SIGKILL every process of the tree, wait until they have ended, and unlink their shared memory.

    The caller survives, whether it is part of the tree or not. Children that the caller started
    itself are left for it to collect. Repeats until a search finds nothing, so that a process that
    was being forked meanwhile is not missed.
    """
    deadline_s = time.monotonic() + timeout_s
    segments = _recorded(instance)
    ended: set[int] = set()
    while members := tree_members(instance):
        segments |= segments_of(process.pid for process in members)
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0:
            break
        ended |= _kill(members, remaining_s)
    removed = _unlink_unmapped(segments)
    for path in (record_path(instance), _draft_of(record_path(instance))):
        path.unlink(missing_ok=True)
    left = tuple(sorted(process.pid for process in members))
    return Cleaned(tuple(sorted(ended.difference(left))), tuple(sorted(removed)), left)


def _draft_of(path: Path) -> Path:
    return path.with_name(path.name + ".draft")


def _require_instance(instance: str) -> str:
    if not _INSTANCE.fullmatch(instance):
        msg = f"instance {instance!r} is not a usable marker; 4 to 64 letters, digits, '.', '_' or '-'"
        raise ValueError(msg)
    return instance


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _kill(processes: Iterable[psutil.Process], timeout_s: float) -> set[int]:
    """Kill through pidfds and wait for their ends; returns the pids that did end."""
    deadline_s = time.monotonic() + timeout_s
    with ExitStack() as stack:
        poll = select.poll()
        waiting: dict[int, int] = {}
        for process in processes:
            with suppress(ProcessLookupError):
                pidfd = os.pidfd_open(process.pid)
                stack.callback(os.close, pidfd)
                if process.is_running():  # asked after opening: the pidfd is of this very process
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    poll.register(pidfd, select.POLLIN)
                    waiting[pidfd] = process.pid
        ended: set[int] = set()
        while waiting and (remaining_s := deadline_s - time.monotonic()) > 0:
            for pidfd, _ in poll.poll(remaining_s * 1000):
                poll.unregister(pidfd)
                ended.add(waiting.pop(pidfd))
        return ended


def _inodes_mapped_by(pid: int) -> frozenset[int]:
    try:
        maps = Path(f"/proc/{pid}/maps").read_bytes()
    except OSError:  # it has ended, or is another user's, who cannot open segments of mode 0600
        return frozenset()
    return frozenset(map(int, _MAPPED_INODE.findall(maps)))


def _recorded(instance: str) -> frozenset[Segment]:
    try:
        rows = json.loads(record_path(instance).read_text())
        return frozenset(Segment(str(path), int(inode)) for path, inode in rows)
    except (OSError, ValueError, TypeError):  # none was written, or somebody spoiled it: clean up what is seen
        return frozenset()


def _unlink_unmapped(segments: frozenset[Segment]) -> list[str]:
    if not segments:
        return []
    in_use = segments_of(psutil.pids())
    removed: list[str] = []
    for segment in segments - in_use:
        with suppress(FileNotFoundError):
            path = Path(segment.path)
            if path.lstat().st_ino == segment.inode:
                path.unlink()
                removed.append(segment.path)
    return removed
