"""A folder of weights that is whole or not there: what is fetched lies beside until all of it is.

Nothing but the folder says what is there, so it may be shared by services, and a second fetch is a look.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Generator
from pathlib import Path

from tandem_worker.weights.source import Interrupted, Listing, Refused, Source

MARKER = ".tandem-weights.json"
"""Says what the folder holds, once it holds all of it."""
INCOMING = ".tandem-incoming"
"""Holds what is not whole yet, and is gone afterwards; a move from it is a rename, as it is on the same volume."""
LISTING = ".tandem-incoming.json"
"""What that will be."""
LOCK = ".tandem-lock"
WAITS_S = (2.0, 5.0, 10.0, 20.0, 40.0)
"""Between tries; they begin anew whenever a try has brought bytes."""
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
GIB = 2**30


def fetch(
    source: Source, folder: Path, *, tell: Callable[[str], None], pause: Callable[[float], None] = time.sleep
) -> None:
    """Make the folder hold what the source does, unless it does already.

    Two at once wait for each other. `tell` gets a line now and then; `pause` waits so many seconds.

    Raises:
        Refused: It cannot be done as it was asked for.
        Interrupted: The source was away for longer than all tries together take; the next call goes on from here.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder, tell):
            if is_whole(folder, source.name):
                tell(f"{folder} holds {source.name} already; nothing is fetched")
                return
            _refuse_other_weights(folder, source.name)
            _patiently(source, folder, tell, pause)
    except OSError as error:
        raise Refused(_in_words(error, folder)) from error


def is_whole(folder: Path, source: str) -> bool:
    """Whether all files are there that this source had when they were fetched, at their sizes."""
    try:
        marker = json.loads((folder / MARKER).read_text())
    except FileNotFoundError:
        return False
    return marker["source"] == source and all(_size(folder / name) == size for name, size in marker["files"].items())


def _patiently(source: Source, folder: Path, tell: Callable[[str], None], pause: Callable[[float], None]) -> None:
    waits_s, had = iter(WAITS_S), 0
    while True:
        try:
            _attempt(source, folder, tell)
        except Interrupted as interrupted:
            has = _staged(folder)
            if has > had:
                waits_s, had = iter(WAITS_S), has
            wait_s = next(waits_s, None)
            if wait_s is None:
                raise
            tell(f"{interrupted}; tries again in {wait_s:.0f} s")
            pause(wait_s)
        else:
            return


def _attempt(source: Source, folder: Path, tell: Callable[[str], None]) -> None:
    listing = source.list()
    outside = [name for name in listing.files if name.startswith("/") or ".." in name.split("/")]
    if outside:
        message = f"{source.name} has a file called {outside[0]!r}, which would lie outside of {folder}"
        raise Refused(message)
    incoming = _begin(source, listing, folder)
    missing = max(0, listing.bytes_in_all - _staged(folder))
    free = shutil.disk_usage(folder).free
    if missing > free:
        message = (
            f"{folder} has {_gib(free)} free, and {source.name} takes {_gib(missing)} more: make the volume larger"
        )
        raise Refused(message)
    tell(f"fetches {source.name}: {len(listing.files)} files, {_gib(listing.bytes_in_all)}, {_gib(missing)} to go")
    source.fetch(listing, incoming)
    short = [name for name, size in listing.files.items() if _size(incoming / name) != size]
    if short:
        message = f"{source.name} gave {len(short)} files that are not as long as it says, {short[0]} for one"
        raise Interrupted(message)
    _publish(source, listing, folder)
    tell(f"{folder} holds {source.name}")


def _begin(source: Source, listing: Listing, folder: Path) -> Path:
    """The folder to fetch into, with what an earlier try of the same left there."""
    incoming = folder / INCOMING
    wanted = {"source": source.name, "version": listing.version, "files": dict(listing.files)}
    note = folder / LISTING
    if not note.exists() or json.loads(note.read_text()) != wanted:
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.mkdir()
        _write(note, wanted)
    return incoming


def _publish(source: Source, listing: Listing, folder: Path) -> None:
    incoming = folder / INCOMING
    for name in listing.files:
        (incoming / name).chmod(0o644)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (incoming / name).rename(folder / name)
    _write(folder / MARKER, {"source": source.name, "version": listing.version, "files": dict(listing.files)})
    shutil.rmtree(incoming)
    (folder / LISTING).unlink()


def _refuse_other_weights(folder: Path, source: str) -> None:
    """Workers that run may read what is there, and what is there has no part of ours."""
    advice = "give each its own folder, Model(path=...)"
    marker = folder / MARKER
    there = json.loads(marker.read_text())["source"] if marker.exists() else None
    if there not in (None, source):
        message = f"{folder} holds {there}, which workers may read, and is not overwritten with {source}: {advice}"
        raise Refused(message)
    strange = [each.name for each in folder.iterdir() if each.is_file() and not each.name.startswith(".")]
    if there is None and strange and not (folder / INCOMING).exists():
        message = f"{folder} holds {strange[0]}, which no download left there, and is not mixed with {source}: {advice}"
        raise Refused(message)


@contextlib.contextmanager
def _locked(folder: Path, tell: Callable[[str], None]) -> Generator[None]:
    """One at a time; the lock ends with its process, however that ends."""
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"another fetch into {folder} runs; waits for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            tell(f"the file system of {folder} has no locks; nobody else may fetch into it now")
        yield


def _staged(folder: Path) -> int:
    """Bytes of what is not whole yet."""
    return sum(size for each in (folder / INCOMING).rglob("*") if (size := _size(each)))


def _size(file: Path) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_size if file.is_file() else None


def _write(file: Path, content: dict[str, object]) -> None:
    """All of it or nothing."""
    beside = file.with_name(f"{file.name}.new")
    with beside.open("w") as opened:
        json.dump(content, opened)
        opened.flush()
        os.fsync(opened.fileno())
    beside.rename(file)


def _in_words(error: OSError, folder: Path) -> str:
    if error.errno in _FULL:
        return f"{folder} is full: make the volume larger"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{folder} cannot be written by uid {os.geteuid()} ({error.strerror}): let that user write there"
    return f"{folder}: {error}"


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:.1f} MiB"
