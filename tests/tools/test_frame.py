"""When a step runs, what a killed or failed one leaves, and what its failure says."""

import dataclasses
import io
import os
import stat
import threading
from pathlib import Path

import pytest

from steps.frame import (
    LOG_TAIL_LINES,
    Failure,
    Place,
    Run,
    Screen,
    Step,
    carry_out,
    digest,
    locked,
    made_beside,
    order,
    read_stamp,
    write_whole,
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(checkout=tmp_path / "checkout", cache=tmp_path / "cache", python=Path("/usr/bin/python3"))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(log=tmp_path / "step.log")


def step_of(made: list[str], inputs: Path, needs: tuple[str, ...] = (), name: str = "thing") -> Step:
    return Step(
        name=name,
        summary="a thing",
        key=lambda _: digest(inputs),
        stamp=lambda place: place.cache / "thing-stamp",
        make=lambda _place, _run: made.append(name),
        needs=needs,
    )


def screen() -> Screen:
    return Screen.of(io.StringIO())


def shown(screen: Screen) -> str:
    assert isinstance(screen.out, io.StringIO)
    return screen.out.getvalue()


def test_a_step_runs_once_for_the_same_inputs(place: Place, tmp_path: Path):
    made: list[str] = []
    inputs = tmp_path / "inputs"
    inputs.write_text("one")
    for _ in range(2):
        carry_out(step_of(made, inputs), place, screen())
    assert made == ["thing"]

    inputs.write_text("two")
    carry_out(step_of(made, inputs), place, screen())
    assert made == ["thing", "thing"]


def test_a_failed_step_is_not_done_and_runs_again(place: Place, tmp_path: Path):
    step = step_of([], tmp_path / "inputs")

    def fails(_place: Place, _run: Run) -> None:
        raise Failure("no")

    with pytest.raises(Failure, match="no"):
        carry_out(dataclasses.replace(step, make=fails), place, screen())
    assert not step.is_done(place)

    carry_out(step, place, screen())
    assert step.is_done(place)


def test_a_step_made_by_another_bootstrap_meanwhile_is_not_made_again(place: Place, tmp_path: Path):
    made: list[str] = []
    step = step_of(made, tmp_path / "inputs")
    lock = place.private / "locks" / step.name
    waits = threading.Event()

    class Watched(io.StringIO):
        def write(self, text: str) -> int:
            if "another bootstrap" in text:
                waits.set()
            return super().write(text)

    with locked(lock, lambda: None):
        other = threading.Thread(target=carry_out, args=(step, place, Screen.of(Watched())))
        other.start()
        assert waits.wait(timeout=30)
        write_whole(step.stamp(place), step.key(place))
    other.join(timeout=30)
    assert not other.is_alive()
    assert made == []


def test_shared_steps_are_locked_in_the_cache_others_in_the_checkout(place: Place, tmp_path: Path):
    step = step_of([], tmp_path / "inputs")
    carry_out(step, place, screen())
    assert (place.private / "locks/thing").exists()
    place.cache.joinpath("thing-stamp").unlink()

    carry_out(dataclasses.replace(step, shared=True), place, screen())
    assert (place.cache / "locks/thing").exists()


def test_choosing_a_step_brings_all_it_needs_in_order(tmp_path: Path):
    first = step_of([], tmp_path, name="first")
    second = step_of([], tmp_path, name="second", needs=("first",))
    third = step_of([], tmp_path, name="third", needs=("second",))
    apart = step_of([], tmp_path, name="apart")
    steps = (first, apart, second, third)
    assert order(steps, ["third"]) == [first, second, third]
    assert order(steps, None) == list(steps)


def test_a_digest_tells_apart_contents_boundaries_and_absence(tmp_path: Path):
    file = tmp_path / "file"
    missing = digest(file)
    file.write_text("")
    seen = {missing, digest(file), digest("ab", "c"), digest("a", "bc"), digest("abc")}
    file.write_text("abc")
    assert len(seen) == 5
    assert digest(file) == digest("abc")


def test_a_folder_made_beside_replaces_the_old_one_whole(tmp_path: Path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()
    left = tmp_path / ".folder.making.99999"
    left.mkdir()
    with made_beside(target) as folder:
        (folder / "new").touch()
        assert (target / "old").exists()
    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_whose_making_fails_leaves_the_old_one_alone(tmp_path: Path):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()
    with pytest.raises(FileNotFoundError), made_beside(target) as folder:
        (folder / "new/never").touch()
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_command_is_told_with_its_last_lines_and_the_log(run: Run):
    lines = LOG_TAIL_LINES + 5
    with pytest.raises(Failure) as failure:
        run("sh", "-c", f"seq {lines}; exit 3", why="count")
    told = str(failure.value).splitlines()
    assert told[0] == "cannot count: sh exited with 3"
    assert told[1:-1] == [f"    {number}" for number in range(6, lines + 1)]
    assert told[-1] == f"  the whole log is {run.log}"
    assert "\n1\n" in run.log.read_text()


def test_a_failed_command_shows_none_of_the_commands_before_it(run: Run):
    run("echo", "before", why="say it")
    with pytest.raises(Failure) as failure:
        run("sh", "-c", "exit 1", why="fail")
    assert "before" not in str(failure.value)
    assert "(it printed nothing)" in str(failure.value)


def test_a_program_that_is_not_there_is_a_failure_like_others(run: Run):
    with pytest.raises(Failure, match="cannot start it: no-such-program exited with 127"):
        run("no-such-program", why="start it")


def test_a_secret_file_is_never_readable_by_others(tmp_path: Path):
    file = tmp_path / "secret"
    write_whole(file, "x", mode=0o600)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_stamp(file) == "x"


@pytest.mark.parametrize(
    ("terminal", "no_color", "coloured"),
    [(True, "", True), (True, "1", False), (False, "", False)],
)
def test_colours_are_for_terminals(terminal: bool, no_color: str, coloured: bool, monkeypatch: pytest.MonkeyPatch):
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal)
    monkeypatch.setenv("NO_COLOR", no_color)
    Screen.of(out).line("thing", "done", "a thing")
    assert ("\033[" in out.getvalue()) == coloured


def test_progress_names_the_step_its_state_and_its_time(place: Place, tmp_path: Path):
    seen = screen()
    for _ in range(2):
        carry_out(step_of([], tmp_path / "inputs"), place, seen)
    assert shown(seen).splitlines() == [
        "thing       starts a thing",
        "thing       done   after 0 s",
        "thing       done   a thing",
    ]


def test_the_cache_is_where_the_user_says(tmp_path: Path):
    assert Place.here({"TANDEM_CACHE": str(tmp_path)}).cache == tmp_path
    assert Place.here({}).cache == Path("~/.cache/tandem").expanduser().resolve()
    assert os.access(Place.here({}).checkout / "tools/bootstrap.py", os.X_OK)
