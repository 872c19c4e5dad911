"""When a process that ended is started again: pure, so that tests need no processes."""

import json
from dataclasses import dataclass

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
WELL_AFTER_S = 60.0
"""A process that lived this long is well: its next death waits the first delay again."""


@dataclass(frozen=True)
class Restarts:
    """How often a process has died in a row."""

    deaths_in_a_row: int = 0

    def after_death(self, lived_s: float) -> "Restarts":
        """The count after one more death."""
        return Restarts(1 if lived_s >= WELL_AFTER_S else self.deaths_in_a_row + 1)

    @property
    def delay_s(self) -> float:
        """How long to wait before the next start: doubled with each death in a row, bounded."""
        return (
            min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(self.deaths_in_a_row - 1, 16))
            if self.deaths_in_a_row
            else 0.0
        )


CAUSES = (
    (
        "Address already in use",
        "another process took one of its ports; run the command again: it gets another block",
    ),
    (
        "No available memory for the cache blocks",
        "the KV cache does not fit: lower context_tokens, or give the pool more memory",
    ),
    (
        "Cannot allocate memory",
        "the machine is out of memory: stop other stacks, or declare fewer workers",
    ),
    (
        "NIXL compatibility hash mismatch",
        "prefill and decode differ in what the KV handshake compares; `tandem check` names it",
    ),
    (
        "ModuleNotFoundError",
        "the engine's environment is incomplete: run `python tools/bootstrap.py --only engine`",
    ),
    (
        "libnuma",
        "vLLM's CPU build needs the system library libnuma: install the package libnuma1",
    ),
    ("Killed", "the kernel killed it, most likely for memory"),
)
"""Words in an engine's last lines, and what they mostly mean; the first that is found is told."""


def probable_cause(last_lines: list[str]) -> str:
    """What most likely went wrong, as a sentence; empty when the lines say nothing that we know."""
    text = "\n".join(last_lines)
    return next((cause for words, cause in CAUSES if words in text), "")


def last_words(line: str) -> str:
    """The reason in an agent's last line, the one JSON object that it ends with; empty for any other line."""
    try:
        said = json.loads(line)
    except json.JSONDecodeError:
        return ""
    return str(said["reason"]) if isinstance(said, dict) and "reason" in said else ""
