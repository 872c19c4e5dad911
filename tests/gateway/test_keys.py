"""The secrets that open the door."""

from pathlib import Path

import pytest

from tandem_worker.gateway.keys import Keys, read_keys

KEYS = Keys(("key-1", "key-2"), "proof")


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer key-2"},
        {"authorization": "bearer key-1"},
        {"x-api-key": "key-1"},
        {"x-tandem-proof": "proof"},
    ],
)
def test_a_known_secret_opens(headers: dict[str, str]) -> None:
    """As OpenAI's clients, Anthropic's clients and the prover send it."""
    assert KEYS.may_enter(headers)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer key-3"},
        {"authorization": "Basic key-1"},
        {"authorization": "Bearer \udcff\udcfe"},
        {"x-tandem-proof": "\udcff"},
        {"x-tandem-proof": ""},
    ],
)
def test_anything_else_does_not(headers: dict[str, str]) -> None:
    """Bytes that are no UTF-8 are just another wrong secret."""
    assert not KEYS.may_enter(headers)


def test_no_keys_are_an_open_door_without_a_proof() -> None:
    """Whoever declares no keys lets everybody ask, but nobody prove."""
    assert Keys().may_enter({})
    assert not Keys().has_proof({"x-tandem-proof": ""})


def secret_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_keys_stand_one_a_line(tmp_path: Path) -> None:
    """Blank lines and spaces do not count."""
    assert read_keys(secret_file(tmp_path, "a\n\n  b \n"), None) == Keys(("a", "b"), None)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    """A file that was meant to hold keys must not open the door to everybody."""
    with pytest.raises(ValueError, match="holds no API key"):
        read_keys(secret_file(tmp_path, "\n"), None)


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A secret that others can read is none."""
    with pytest.raises(ValueError, match="chmod 600"):
        read_keys(None, secret_file(tmp_path, "proof", 0o640))
