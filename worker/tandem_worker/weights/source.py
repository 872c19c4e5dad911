"""What weights are fetched from, whoever keeps them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Refused(Exception):
    """No further try helps. The message is one sentence for whoever reads why the update failed."""


class Interrupted(Exception):
    """A further try may help, and goes on where this one ended. The message says what happened."""


@dataclass(frozen=True)
class Listing:
    """What a source holds at one moment."""

    version: str
    """Tells two moments apart whose files have the same names and sizes: a commit, a hash of checksums."""
    files: Mapping[str, int]
    """Path below the folder, and bytes."""

    @property
    def bytes_in_all(self) -> int:
        """What the files take."""
        return sum(self.files.values())


class Source(Protocol):
    """A place that has weights. Both functions raise `Refused` and `Interrupted`."""

    @property
    def name(self) -> str:
        """As the user wrote it."""
        ...

    def list(self) -> Listing:
        """What is there."""
        ...

    def fetch(self, listing: Listing, folder: Path) -> None:
        """Bring every file of the listing into the folder, and use what an earlier try left in it."""
        ...
