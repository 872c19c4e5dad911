"""A folder is whole or not there, whatever happens to whoever fills it."""

import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tandem_worker.weights.folder import WAITS_S, fetch, is_whole
from tandem_worker.weights.source import Interrupted, Listing, Refused

FILES = {"config.json": b"{}", "a/model.safetensors": b"weights"}
NAME = "hf://org/model"


@dataclass
class Given:
    """A source whose fetches do what the test says, one after another, and then bring everything."""

    name: str = NAME
    version: str = "1"
    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    does: list[Callable[[Path], None]] = field(default_factory=list[Callable[[Path], None]])
    fetches: int = 0

    def list(self) -> Listing:
        return Listing(version=self.version, files={name: len(content) for name, content in self.files.items()})

    def fetch(self, listing: Listing, folder: Path) -> None:
        self.fetches += 1
        if self.does:
            self.does.pop(0)(folder)
        for name in listing.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(self.files[name])


def away(folder: Path) -> None:
    raise Interrupted("the source is away")


def full(folder: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def brought(count: int) -> Callable[[Path], None]:
    """A try that is cut after so many bytes."""

    def cut(folder: Path) -> None:
        (folder / "config.json").write_bytes(b"x" * count)
        raise Interrupted("it was cut")

    return cut


def get(source: Given, folder: Path) -> list[float]:
    """How long it waited between its tries."""
    waited: list[float] = []
    fetch(source, folder, tell=lambda _: None, pause=waited.append)
    return waited


def test_nothing_but_the_weights_and_the_marks_is_left(tmp_path: Path) -> None:
    get(Given(does=[away]), tmp_path)
    assert is_whole(tmp_path, NAME)
    assert {each.name for each in tmp_path.iterdir()} == {
        "config.json", "a", ".tandem-weights.json", ".tandem-lock"
    }  # fmt: skip
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == FILES


def test_a_source_that_stays_away_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="the source is away"):
        get(Given(does=[away] * 99), tmp_path)
    assert not is_whole(tmp_path, NAME)


def test_a_try_that_brought_something_begins_the_waits_anew(tmp_path: Path) -> None:
    waited = get(Given(does=[away, away, brought(1), away]), tmp_path)
    assert waited == [WAITS_S[0], WAITS_S[1], WAITS_S[0], WAITS_S[1]]


def test_a_disk_that_fills_up_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"^\S+ is full: make the volume larger$"):
        get(Given(does=[full]), tmp_path)
    assert not is_whole(tmp_path, NAME)
    assert get(Given(), tmp_path) == []
    assert is_whole(tmp_path, NAME)


def test_a_file_that_is_shorter_than_the_source_says_is_not_taken(tmp_path: Path) -> None:
    source, told = Given(), list[str]()

    def loses(_folder: Path) -> None:
        source.files["config.json"] = b""

    def is_back(_wait_s: float) -> None:
        assert not is_whole(tmp_path, NAME)
        source.files.update(FILES)

    source.does = [loses]
    fetch(source, tmp_path, tell=told.append, pause=is_back)
    assert any("config.json for one" in line for line in told)
    assert is_whole(tmp_path, NAME)


def test_what_was_fetched_of_another_version_is_not_mixed_in(tmp_path: Path) -> None:
    with pytest.raises(Refused):
        get(Given(does=[full]), tmp_path)
    (tmp_path / ".tandem-incoming/stray.bin").write_bytes(b"1")
    get(Given(version="2"), tmp_path)
    assert not list(tmp_path.rglob("stray.bin"))


def test_other_weights_and_files_of_somebody_else_are_left_alone(tmp_path: Path) -> None:
    get(Given(), tmp_path / "ours")
    with pytest.raises(Refused, match="which workers may read"):
        get(Given(name="hf://org/other"), tmp_path / "ours")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/model.bin").write_bytes(b"1")
    with pytest.raises(Refused, match="which no download left there"):
        get(Given(), tmp_path / "theirs")


@pytest.mark.parametrize("name", ["../model.bin", "/model.bin", "a/../../model.bin"])
def test_a_source_cannot_write_outside_of_its_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="would lie outside"):
        get(Given(files={name: b"1"}), tmp_path / "model")


def test_two_at_once_fetch_once(tmp_path: Path) -> None:
    begun, waits, told = threading.Event(), threading.Event(), list[str]()

    def slow(_folder: Path) -> None:
        begun.set()
        assert waits.wait(10)

    def tell(line: str) -> None:
        told.append(line)
        waits.set()

    first, second = Given(does=[slow]), Given()
    thread = threading.Thread(target=get, args=(first, tmp_path))
    thread.start()
    assert begun.wait(10)
    fetch(second, tmp_path, tell=tell)
    thread.join()
    assert (first.fetches, second.fetches) == (1, 0)
    assert "waits for it" in told[0]
