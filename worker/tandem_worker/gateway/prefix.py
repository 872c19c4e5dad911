"""What each worker has read lately, as this gateway knows from what it sent there.

No tokens: a prompt is the bytes of the body that become the prompt, cut into pieces of one size. Each piece is known by
the hash of everything up to its end, so two prompts have a piece in common just where their whole beginnings are equal,
as in the engines' prefix caches. An engine throws away what was used longest ago, and so does this memory, at the size
of the engine's; what another gateway sent it is not known. A guess that is wrong costs the time of reading, never a
wrong answer.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from zlib import crc32

from msgspec import Raw, Struct

PIECE_BYTES = 512
"""About 130 tokens of English: two of vLLM's blocks of 64."""
PIECES_MAX = 256
"""Of one prompt; what is beyond 128 KiB is not told apart."""
BYTES_PER_TOKEN = 4
"""Of English prose in current vocabularies, and of the JSON around it; code has fewer, other scripts have more."""
WORKER_PIECES_MAX = 16_384
"""Of one worker: 8 MiB of prompts, two million tokens; of one that says what it has room for, no more than that."""
PIECES_KEPT_MAX = 1 << 20
"""Of all workers together, some 100 MB of this process's memory; with more than 64 workers each has its part of it."""

SEED_FIELDS = ("model", "cache_salt")
"""Fields on which the engine's cache depends without their being a part of the prompt."""
PROMPT_FIELDS = ("tools", "system", "instructions", "messages", "prompt", "input")
"""Fields that become the prompt, as templates put them: tools and instructions before what was said."""

_MASK = (1 << 64) - 1


class Prompt(Struct, frozen=True):
    """What of a request is to be read."""

    bytes: int = 0
    pieces: tuple[int, ...] = ()
    """Hash of everything up to the end of each whole piece."""


def prompt_of(fields: Mapping[str, Raw], *, cached: bool = True) -> Prompt:
    """The prompt of a request's body; without pieces where engines cache none."""
    text = b"".join(memoryview(fields[name]) for name in PROMPT_FIELDS if name in fields)
    if not cached:
        return Prompt(len(text))
    seed = blake2b(digest_size=8)
    for name in SEED_FIELDS:
        seed.update(memoryview(fields.get(name, b"")))
        seed.update(b"\0")
    pieces: list[int] = []
    for end in range(PIECE_BYTES, min(len(text), PIECE_BYTES * PIECES_MAX) + 1, PIECE_BYTES):
        seed.update(text[end - PIECE_BYTES : end])
        pieces.append(int.from_bytes(seed.copy().digest()))
    return Prompt(len(text), tuple(pieces))


class History:
    """The pieces that each worker has read, those that were used last; bounded."""

    def __init__(self) -> None:
        self._held: dict[str, OrderedDict[int, None]] = {}

    def remember(self, worker: str, prompt: Prompt, room_bytes: int | None = None) -> None:
        """A worker reads a prompt, or gets its keys and values. It has room for so much; None: all that is kept."""
        held = self._held.setdefault(worker, OrderedDict())
        # The last piece first: what is forgotten of a prompt is then its end, and never a beginning before its end.
        for piece in reversed(prompt.pieces):
            held[piece] = None
            held.move_to_end(piece)
        most = min(WORKER_PIECES_MAX, PIECES_KEPT_MAX // len(self._held))
        if room_bytes is not None:
            most = min(most, room_bytes // PIECE_BYTES)
        while len(held) > most:
            held.popitem(last=False)

    def forget(self, worker: str) -> None:
        """A worker is gone, or may have started anew."""
        self._held.pop(worker, None)

    def held_bytes(self, worker: str, prompt: Prompt) -> int:
        """How much of a prompt's beginning a worker holds."""
        return self._depth(worker, prompt.pieces) * PIECE_BYTES

    def first_unheld(self, prompt: Prompt, workers: Sequence[str]) -> int | None:
        """The first piece that none of the workers holds: where the prompt begins to be its own. None without pieces.

        Gateways that have seen the same beginnings, a system prompt say, agree on it, whatever else they have seen.
        """
        if not prompt.pieces:
            return None
        depth = max((self._depth(worker, prompt.pieces) for worker in workers), default=0)
        return prompt.pieces[min(depth, len(prompt.pieces) - 1)]

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))

    def _depth(self, worker: str, pieces: tuple[int, ...]) -> int:
        """How many pieces from the start are held; by halving, as who holds one holds those before it."""
        held = self._held.get(worker)
        if not held or not pieces or pieces[0] not in held:
            return 0
        low, high = 1, len(pieces)
        while low < high:
            middle = (low + high + 1) // 2
            if pieces[middle - 1] in held:
                low = middle
            else:
                high = middle - 1
        return low


def draw(piece: int, worker: str) -> int:
    """A worker's number for a piece; the highest wins (rendezvous hashing).

    The same in every gateway, and a worker that comes or goes moves only what it wins or had won.
    """
    return ((piece ^ crc32(worker.encode())) * 0x9E3779B97F4A7C15 & _MASK) >> 16
