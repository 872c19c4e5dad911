"""The real clients of a hub and of an object storage against stand-ins: all of it or none of it, and why."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tandem_worker.weights.folder import WAITS_S, fetch
from tandem_worker.weights.hub import Hub
from tandem_worker.weights.main import source_of
from tandem_worker.weights.source import Interrupted, Refused
from tests.fakes.weights import COMMIT, Weights, served

HUB, STORAGE = "hf://tiny/model@main", "s3://models/tiny"
FILES = {
    "config.json": b"{}",
    "model-00001.safetensors": b"\x01" * 300_000,
    "model-00002.safetensors": b"\x02" * 200_000,
    "sub/tokenizer.json": b"[]",
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Weights]:
    """A server that has the files, and an environment as the Job's."""
    with served(Weights({**FILES, "original/consolidated.pth": b"\x03" * 500_000})) as weights:
        for name, value in environment(weights).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("time.sleep", lambda _: None)  # the hub's client is patient with each file by itself
        yield weights


def environment(weights: Weights) -> dict[str, str]:
    return {
        "HF_TOKEN": weights.token,
        "AWS_ENDPOINT_URL": weights.url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": weights.token,
        "AWS_SECRET_ACCESS_KEY": "secret",
    }


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def get(server: Weights, told: list[str], tmp_path: Path) -> Callable[..., dict[str, bytes]]:
    """Fetches, and gives the files that workers then see."""

    def run(source: str, folder: str = "model", pause: Callable[[float], None] = lambda _: None) -> dict[str, bytes]:
        chosen = source_of(source)
        if isinstance(chosen, Hub):
            chosen = replace(chosen, endpoint=server.url)
        fetch(chosen, tmp_path / folder, tell=told.append, pause=pause)
        return seen(tmp_path / folder)

    return run


def seen(folder: Path) -> dict[str, bytes]:
    """What whoever reads the folder takes for weights."""
    found = [file for file in folder.rglob("*") if file.is_file() and ".tandem" not in str(file.relative_to(folder))]
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


@pytest.mark.parametrize("source", [HUB, f"hf://tiny/model@{COMMIT}", "hf://tiny/model"])
def test_a_model_of_a_hub_is_fetched_without_second_copies_of_its_weights(
    source: str, server: Weights, get: Callable[..., dict[str, bytes]]
) -> None:
    assert get(source) == FILES


def test_everything_below_a_prefix_of_a_storage_is_fetched(
    server: Weights, get: Callable[..., dict[str, bytes]]
) -> None:
    assert get(STORAGE) == server.files


@pytest.mark.parametrize("source", [HUB, STORAGE])
def test_a_second_fetch_asks_nobody(source: str, server: Weights, get: Callable[..., dict[str, bytes]]) -> None:
    there = get(source)
    server.asked.clear()
    assert get(source) == there
    assert server.asked == []


@pytest.mark.parametrize("source", [HUB, STORAGE])
def test_a_fetch_that_was_cut_shows_nothing_and_the_next_goes_on(
    source: str, server: Weights, get: Callable[..., dict[str, bytes]], told: list[str], tmp_path: Path
) -> None:
    server.cut_after_bytes = 250_000
    with pytest.raises(Interrupted):
        get(source)
    assert seen(tmp_path / "model") == {}
    server.cut_after_bytes = None
    server.asked.clear()
    assert {name: get(source)[name] for name in FILES} == FILES
    fetched = [path for path in server.asked if path.endswith("model-00002.safetensors") and path.startswith("GET")]
    assert fetched == [], "a file that was whole was fetched again"


@pytest.mark.parametrize("source", [HUB, STORAGE])
def test_a_server_that_is_away_for_a_while_costs_nothing_but_time(
    source: str, server: Weights, get: Callable[..., dict[str, bytes]], told: list[str]
) -> None:
    waited: list[float] = []

    def back_after_three(wait_s: float) -> None:
        waited.append(wait_s)
        server.cut_after_bytes = None if len(waited) == 3 else 0

    server.cut_after_bytes = 0
    assert {name: get(source, pause=back_after_three)[name] for name in FILES} == FILES
    assert waited[:3] == list(WAITS_S[:3])


REFUSALS = [
    ("hf://tiny/model@nope", {}, "the model has no revision 'nope'"),
    ("hf://tiny/other", {}, "there is no such model, or HF_TOKEN may not see it"),
    ("hf://tiny/model@main", {"token": "another"}, "HF_TOKEN is not valid there"),
    ("hf://tiny/model@main", {"is_gated": True}, "the account of HF_TOKEN was not let in"),
    ("hf://no-organisation/tiny/model", {}, "write hf://ORGANISATION/MODEL"),
    ("s3://models/nope", {}, "nothing lies below s3://models/nope"),
    ("s3://nope/tiny", {}, "the storage has no s3://nope/tiny"),
    ("s3://models/tiny", {"token": "another"}, "its access keys, or the account's identity, may not read"),
]


@pytest.mark.parametrize(("source", "changes", "reason"), REFUSALS)
def test_what_no_further_try_helps_is_said_at_once_in_one_sentence(
    source: str, changes: dict[str, object], reason: str, server: Weights, get: Callable[..., dict[str, bytes]]
) -> None:
    for name, value in changes.items():
        setattr(server, name, value)

    def never(_wait_s: float) -> None:
        raise AssertionError("it was tried again")

    with pytest.raises(Refused) as refused:
        get(source, pause=never)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_weights_that_were_half_fetched_by_hand_are_not_taken_for_whole(
    server: Weights, get: Callable[..., dict[str, bytes]], tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model-00001.safetensors").write_bytes(b"\x01" * 1000)
    with pytest.raises(Refused, match=r"model-00001.safetensors, which no download left there"):
        get(HUB)


def test_a_file_that_was_lost_is_fetched_again(
    server: Weights, get: Callable[..., dict[str, bytes]], tmp_path: Path
) -> None:
    get(HUB)
    shutil.rmtree(tmp_path / "model/sub")
    assert get(HUB) == FILES
