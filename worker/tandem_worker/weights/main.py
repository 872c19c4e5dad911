"""`tandem-worker weights`: what the download Job of a service runs."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from tandem_worker.weights.folder import fetch
from tandem_worker.weights.hub import SCHEME, Hub
from tandem_worker.weights.source import Interrupted, Refused, Source
from tandem_worker.weights.storage import SCHEMES, Storage

EXIT_FAILED = 1


def main(arguments: Sequence[str]) -> int:
    """Fetch, and return the exit code; why it failed is the last line of stderr, which becomes the update's error."""
    parser = argparse.ArgumentParser(prog="tandem-worker weights", description=__doc__)
    parser.add_argument("--source", required=True, type=source_of, help="hf://ORGANISATION/MODEL[@REVISION], s3://...")
    parser.add_argument("--folder", required=True, type=Path, help="what they are fetched into")
    options = parser.parse_args(arguments)
    # A container's first process ignores SIGTERM unless it says otherwise; what was fetched is kept as it is.
    signal.signal(signal.SIGTERM, _end)
    # Bars in a log are lines without end.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        fetch(options.source, options.folder, tell=_tell)
    except Refused as refused:
        _tell(str(refused))
        return EXIT_FAILED
    except Interrupted as interrupted:
        _tell(f"{interrupted}; what has come is kept, and the next `pulumi up` goes on from there")
        return EXIT_FAILED
    return 0


def source_of(name: str) -> Source:
    """The source of that name.

    Raises argparse.ArgumentTypeError when it is none.
    """
    if name.startswith(SCHEME):
        return Hub(name)
    if name.startswith(SCHEMES):
        return Storage(name)
    message = f"{name!r} is no source of weights: it begins with {SCHEME}, {', '.join(SCHEMES)}"
    raise argparse.ArgumentTypeError(message)


def _tell(line: str) -> None:
    sys.stderr.write(f"weights: {line}\n")
    sys.stderr.flush()


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(128 + signal.SIGTERM)
