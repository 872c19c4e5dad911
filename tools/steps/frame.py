"""What every step shares: where things lie, when a step is done, how it is run and reported."""

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TextIO

LOG_TAIL_LINES = 15
"""Of a failing command's output, this much is shown; the log file holds the rest."""

Environment = Mapping[str, str]


class Failure(Exception):
    """A step cannot be done; the message says what to do about it."""


@dataclass(frozen=True)
class Place:
    """The folders that bootstrap may write to, and the Python that everything is built on."""

    checkout: Path
    cache: Path
    python: Path
    """A base interpreter, never one of a virtual environment: environments made from it outlive any other."""

    @classmethod
    def here(cls, environment: Environment = os.environ) -> "Place":
        """The checkout that this file is part of, with the cache that the environment names."""
        cache = environment.get("TANDEM_CACHE") or "~/.cache/tandem"
        return cls(
            checkout=Path(__file__).resolve().parents[2],
            cache=Path(cache).expanduser().resolve(),
            python=base_python(),
        )

    @property
    def private(self) -> Path:
        """This checkout's own generated files: logs, the Pulumi state, the environment file."""
        return self.checkout / ".tandem"

    @property
    def library(self) -> Path:
        """The library's virtual environment."""
        return self.checkout / ".venv"

    @property
    def engine(self) -> Path:
        """This checkout's view of the engine: the cached packages plus its own tandem-worker."""
        return self.checkout / ".venv-engine"

    @property
    def model(self) -> Path:
        """The folder of the small model that the local stack and the tests serve."""
        return self.cache / "model" / "SmolLM2-135M-Instruct"


def base_python() -> Path:
    """The interpreter behind the one that runs this, also when that is a virtual environment's."""
    executable = getattr(sys, "_base_executable", None) or sys.executable
    return Path(executable).resolve()


@dataclass(frozen=True)
class Step:
    """One thing that bootstrap makes.

    `key` hashes the step's inputs; the step is done when the file `stamp` holds that hash.
    `make` leaves the whole result in place, the stamp excepted: it is written last, by `carry_out`.
    """

    name: str
    summary: str
    key: Callable[[Place], str]
    stamp: Callable[[Place], Path]
    make: Callable[[Place, "Run"], None]
    needs: tuple[str, ...] = ()
    shared: bool = False
    """The result lies in the cache, where other checkouts may be making it at the same time."""
    when_named: bool = False
    """Made only when it is asked for by name, or when such a step needs it."""

    def is_done(self, place: Place) -> bool:
        """Whether the result is there and was made from the inputs of now."""
        return read_stamp(self.stamp(place)) == self.key(place)


def order(steps: Sequence[Step], only: Sequence[str] | None) -> list[Step]:
    """The chosen steps and all that they need, in the order of `steps`; when none is chosen, all but `when_named`."""
    if not only:
        return [step for step in steps if not step.when_named]
    by_name = {step.name: step for step in steps}
    wanted: set[str] = set()
    queue = list(only)
    while queue:
        name = queue.pop()
        if name not in wanted:
            wanted.add(name)
            queue.extend(by_name[name].needs)
    return [step for step in steps if step.name in wanted]


def carry_out(step: Step, place: Place, screen: "Screen") -> None:
    """Makes the step's result unless it is there already, one bootstrap at a time."""
    if step.is_done(place):
        screen.line(step.name, "done", step.summary)
        return
    started_s = time.monotonic()
    log = place.private / "logs" / f"bootstrap-{step.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    lock = (place.cache if step.shared else place.private) / "locks" / step.name
    with locked(lock, lambda: screen.line(step.name, "waits", "another bootstrap is at it")):
        if not step.is_done(place):
            screen.line(step.name, "starts", step.summary)
            step.make(place, Run(log=log, report=lambda text: screen.line(step.name, "...", text)))
            write_whole(step.stamp(place), step.key(place) + "\n")
    screen.line(step.name, "done", f"after {time.monotonic() - started_s:.0f} s")


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Generator[None]:
    """Holds the lock file; the kernel frees it when the holder dies, so none is ever stale."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def digest(*parts: str | Path) -> str:
    """A short hash of texts and of files' contents; a file that is missing counts as such."""
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(part.encode() if isinstance(part, str) else content(part)).digest())
    return whole.hexdigest()[:16]


def content(file: Path) -> bytes:
    """A file's bytes, for hashing."""
    return file.read_bytes() if file.is_file() else b"missing"


def python_tag() -> str:
    """What compiled packages depend on, as `cpython-3.11-x86_64`."""
    return f"{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]}-{platform.machine()}"


def read_stamp(path: Path) -> str | None:
    """The hash in a stamp, None where there is none."""
    try:
        return path.read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def write_whole(path: Path, text: str, mode: int = 0o644) -> None:
    """Writes a file so that a reader sees the old content or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
        file.write(text)
    beside.replace(path)


@contextlib.contextmanager
def made_beside(target: Path) -> Generator[Path]:
    """A new folder that takes the place of `target` when the block ends well, and is removed when it does not.

    Leftovers of killed attempts are removed first: the caller holds the step's lock, so no one uses them.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{target.name}.making.*"):
        shutil.rmtree(left)
    making = target.parent / f".{target.name}.making.{os.getpid()}"
    making.mkdir()
    try:
        yield making
        if target.exists():
            target.rename(target.parent / f".{target.name}.making.old")
        making.rename(target)
    finally:
        for left in target.parent.glob(f".{target.name}.making.*"):
            shutil.rmtree(left, ignore_errors=True)


@dataclass(frozen=True)
class Run:
    """Runs a step's commands; everything they print goes to the step's log."""

    log: Path
    report: Callable[[str], None] = field(default=lambda _: None)

    def __call__(self, *command: str | Path, why: str, cwd: Path | None = None, env: Environment | None = None) -> None:
        """Runs a command to its end.

        Raises: `Failure` with `why` it was run, its last lines and the log's path.
        """
        code, output = self.attempt(*command, cwd=cwd, env=env)
        if code:
            raise Failure(failed(why, command, code, output, self.log))

    def attempt(self, *command: str | Path, cwd: Path | None = None, env: Environment | None = None) -> tuple[int, str]:
        """Runs a command whose failure has a meaning: its exit code (127 where it cannot be started) and output."""
        arguments = [str(part) for part in command]
        with self.log.open("a") as log:
            log.write(f"\n$ {' '.join(arguments)}\n")
            log.flush()
            begin = log.tell()
            try:
                code = subprocess.run(
                    arguments,
                    cwd=cwd,
                    env={**os.environ, **(env or {})},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    check=False,
                ).returncode
            except OSError as error:
                log.write(f"{error}\n")
                code = 127
        with self.log.open(errors="replace") as log:
            log.seek(begin)
            return code, log.read()


def failed(why: str, command: Iterable[str | Path], code: int, output: str, log: Path) -> str:
    """The one message that a failed command is worth."""
    lines = [line for line in output.splitlines() if line.strip()]
    shown = "\n".join(f"    {line}" for line in lines[-LOG_TAIL_LINES:]) or "    (it printed nothing)"
    program = Path(str(next(iter(command)))).name
    return f"cannot {why}: {program} exited with {code}\n{shown}\n  the whole log is {log}"


def system_package(run: Run, package: str, why: str) -> None:
    """Installs a package of the system where that is possible without asking, which is root on Debian or its kin.

    Raises: `Failure` that names the package everywhere else.
    """
    if os.geteuid() == 0 and shutil.which("apt-get"):
        run.report(f"apt-get install {package}: {why}")
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        install = ("apt-get", "install", "--yes", "--no-install-recommends", package)
        if run.attempt(*install, env=quiet)[0]:
            run("apt-get", "update", why="refresh the list of system packages", env=quiet)
            run(*install, why=f"install {package}", env=quiet)
        return
    raise Failure(f"{why}; install the system package {package} (Debian's name), as root: apt-get install {package}")


def venv(run: Run, python: Path, folder: Path, *options: str) -> None:
    """Makes a virtual environment; Debian splits the module that does it off into a package of its own."""
    command = (python, "-m", "venv", *options, folder)
    code, output = run.attempt(*command)
    if code and "ensurepip" in output:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        system_package(run, f"python{version}-venv", "Python here cannot make virtual environments")
        code, output = run.attempt(*command)
    if code:
        raise Failure(failed(f"make the virtual environment {folder.name}", command, code, output, run.log))


@dataclass(frozen=True)
class Screen:
    """What a person sees; colours only on a terminal, and never where NO_COLOR is set."""

    out: TextIO
    coloured: bool

    COLOURS: ClassVar = {"done": "32", "to do": "33", "waits": "33", "starts": "36", "...": "2"}

    @classmethod
    def of(cls, out: TextIO) -> "Screen":
        """The screen that writes to a stream."""
        return cls(out=out, coloured=out.isatty() and not os.environ.get("NO_COLOR"))

    def line(self, step: str, state: str, text: str) -> None:
        """One line of progress, shown at once."""
        shown = f"{state:<6}"
        if self.coloured:
            shown = f"\033[{self.COLOURS[state]}m{shown}\033[0m"
        print(f"{step:<11} {shown} {text}", file=self.out, flush=True)

    def failure(self, text: str) -> None:
        """The last thing said when a step failed."""
        head = "\033[31mbootstrap:\033[0m" if self.coloured else "bootstrap:"
        print(f"{head} {text}", file=self.out, flush=True)
