"""The peer, aiconfigurator 0.12.0, in an environment of its own, and its answers."""

import json
import os
import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

from benchmarks.estimator.rows import Row
from benchmarks.estimator.split import draw

PEER = "aiconfigurator==0.12.0"
CHUNK = 40


def home() -> Path:
    """Where the peer's environment and its answers are kept, for all checkouts."""
    cache = Path(os.environ.get("TANDEM_CACHE") or "~/.cache/tandem").expanduser()
    return cache / PEER.replace("==", "-")


def python() -> Path:
    """The interpreter of the peer's environment, which is made when it is not there."""
    executable = home() / "bin" / "python"
    if not (home() / "installed").exists():
        venv.create(home(), with_pip=True, clear=True)
        subprocess.run([executable, "-m", "pip", "install", "--quiet", PEER], check=True)
        (home() / "installed").touch()
    return executable


def package() -> Path:
    """The folder of the installed package with the measured rows."""
    (found,) = python().parent.parent.glob("lib/python*/site-packages/aiconfigurator_core")
    return found


def in_its_order(rows: Sequence[Row]) -> list[Row]:
    """Rows in the order in which the peer is asked: by hash, so that the first so many are a fair sample."""
    return sorted(rows, key=lambda row: draw(f"peer|{row.id}"))


def answers(rows: Sequence[Row]) -> dict[str, dict[str, float | str]]:
    """The peer's prediction of each row by its id, or `failure`; each row is asked once and remembered."""
    kept = home() / "answers.jsonl"
    known = _read(kept)
    missing = [row for row in rows if row.id not in known]
    for start in range(0, len(missing), CHUNK):
        asked = "\n".join(json.dumps(row.raw) for row in missing[start : start + CHUNK])
        command = [python(), Path(__file__).with_name("ask_peer.py")]
        found = subprocess.run(command, input=asked, capture_output=True, text=True, check=True).stdout
        with kept.open("a", encoding="utf-8") as file:
            file.write(found)
    known = _read(kept)
    return {row.id: known[row.id] for row in rows if row.id in known}


def _read(path: Path) -> dict[str, dict[str, float | str]]:
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return {each["id"]: each for each in map(json.loads, lines)}
