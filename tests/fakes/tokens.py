"""A toy language model: byte-level vocabulary, a pure next-token function, vLLM's way of detokenizing.

Token k of an answer is a function of all tokens before it (prompt and output), so a stream that is
continued from token ids equals the unbroken one exactly when the right ids were sent. About one token
in fifteen opens a character of two to four bytes that later tokens close, as byte-level BPE does.
"""

import re
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

EOS = 0
"""The only special token; it has no text."""

_WORDS = re.findall(
    r"\w+",
    "the of and to in is you that it he was for on are as with his they at be this have from or one"
    " had by word but not what all were we when your can said there use an each which she do how their"
    " if will up other about out many then them these so some her would make like him into time has"
    " look two more write go see number no way could people my than first water been call who its now"
    " find long down day did get come made may part over new sound take only little work know place",
)
_ROLES = ("<|user|>", "<|assistant|>", "<|system|>", "<|tool|>")
_MARKS = (". ", ", ", "\n\n", " —", "é", "漢")
_OPENERS = (b"\xc3", b"\xe2", b" \xe2", b"\xf0\x9f")
"""Tokens that end inside a character."""

BYTES: tuple[bytes, ...] = tuple(
    dict.fromkeys(
        [b"", *(bytes([b]) for b in range(256))]
        + [b" " + w.encode() for w in _WORDS]
        + [m.encode() for m in _ROLES + _MARKS]
        + list(_OPENERS)
    )
)
"""The bytes of each token; the index is the token's id. Ids 1 to 256 are the single bytes."""
VOCABULARY_SIZE = len(BYTES)

_ID = {piece: i for i, piece in enumerate(BYTES)}
_PACKED = tuple(i.to_bytes(4, "little") for i in range(VOCABULARY_SIZE))
_WHOLE_TEXT: tuple[str | None, ...] = tuple(
    p.decode() if p.decode(errors="ignore").encode() == p else None for p in BYTES
)
"""Text of a token that begins and ends at a character's boundary, else None."""
_EMITTED = (
    tuple(_ID[b" " + w.encode()] for w in _WORDS)
    + tuple(_ID[m.encode()] for m in _MARKS)
    + tuple(_ID[o] for o in _OPENERS * 3)
)
_SPLIT = re.compile(
    b"|".join(re.escape(p) for p in sorted(BYTES[257:], key=len, reverse=True)) + b"|[\x00-\xff]", re.DOTALL
)


def encode(text: str) -> list[int]:
    """Token ids of a text; greedy, longest piece first."""
    return [_ID[piece] for piece in _SPLIT.findall(text.encode())]


def decode(ids: Sequence[int]) -> str:
    """Text of the ids; U+FFFD stands for bytes that are no character."""
    return b"".join([BYTES[i] for i in ids]).decode(errors="replace")


def known(token: object) -> bool:
    """Whether this is an id of the vocabulary."""
    return isinstance(token, int) and not isinstance(token, bool) and 0 <= token < VOCABULARY_SIZE


def fingerprint(ids: Sequence[int]) -> int:
    """State of the model after these tokens; two different histories differ in it (32 bits)."""
    return zlib.crc32(array("I", ids).tobytes())


def unfinished(data: bytes) -> bytes:
    """The bytes of a character that begins but does not end in `data`; empty at a boundary."""
    for size in (1, 2, 3):
        tail = data[-size:]
        if len(tail) == size and tail[0] >= 0xC0:
            needed = 4 if tail[0] >= 0xF0 else 3 if tail[0] >= 0xE0 else 2
            return tail if needed > size and _continuations(tail) else b""
    return b""


@cache
def _continuations(opened: bytes) -> tuple[int, ...]:
    """Ids of the single bytes that may follow an unfinished character."""
    return tuple(_ID[bytes([b])] for b in range(0x80, 0xC0) if _may_begin(opened + bytes([b])))


def _may_begin(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


@dataclass(slots=True)
class Generation:
    """One sequence under generation: the model's state and the incremental detokenizer's."""

    prompt: Sequence[int]
    salt: int = 0
    """Sets the choices of one request (n > 1) apart; 0 for the first."""
    eos_one_in: int = 0
    """The model ends one state in so many with EOS; 0: never."""
    ids: list[int] = field(default_factory=list[int])
    _state: int = 0
    _open: bytes = b""
    _held: bytes = b""

    def __post_init__(self) -> None:
        self._state = zlib.crc32(b"".join([_PACKED[i] for i in self.prompt])) ^ self.salt
        self._open = unfinished(b"".join([BYTES[i] for i in self.prompt[-4:]]))
        if self._open:
            # vLLM primes tokenizers' DecodeStream with the prompt; one that ends inside a character
            # comes out whole with the first text (seen with tokenizers 0.23.3).
            self._held = b"".join([BYTES[i] for i in self.prompt])

    def step(self) -> tuple[int, str]:
        """The next token and the text that it sets free; empty while a character is unfinished."""
        mixed = (self._state * 2654435761 & 0xFFFFFFFF) >> 7
        if self._open:
            table = _continuations(self._open)
            token = table[mixed % len(table)]
        elif self.eos_one_in and mixed % self.eos_one_in == 0:
            token = EOS
        else:
            token = _EMITTED[mixed % len(_EMITTED)]
        self._state = zlib.crc32(_PACKED[token], self._state)
        self.ids.append(token)
        text = _WHOLE_TEXT[token]
        if text is not None and not self._open:
            return token, text
        self._held += BYTES[token]
        self._open = unfinished(self._held)
        if self._open:
            return token, ""
        text, self._held = self._held.decode(errors="replace"), b""
        return token, text
