"""One request on its way."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pulumi_tandem.simulate.engine import Engine

UNSENT = -1.0


class Request:
    """What the service knows of a request; the engine that has it changes its counts."""

    __slots__ = (
        "arrival_s",
        "attempts",
        "beginning",
        "beginning_tokens",
        "cached",
        "context",
        "decode",
        "ends_at_step",
        "first_s",
        "hands_off",
        "index",
        "last_s",
        "output",
        "prefill",
        "prompt",
        "sent",
        "session",
        "unread",
    )  # fmt: skip

    def __init__(self, index: int, arrival_s: float, prompt: int, output: int) -> None:
        self.index = index
        self.arrival_s = arrival_s
        self.prompt = prompt
        self.output = output
        self.cached = 0
        """Tokens of the prompt that every worker has in its cache."""
        self.session = -1
        self.beginning = -1
        """Which beginning its prompt shares with other sessions."""
        self.beginning_tokens = 0
        self.sent = 0
        """Tokens that the client had when the engine that has it now began to decode."""
        self.first_s = UNSENT
        self.last_s = UNSENT
        """When a stream that broke had its last token."""
        self.attempts = 0
        self.prefill: Engine | None = None
        """Where the prompt is read in a hand-off, and its keys and values are kept until decode has them."""
        self.decode: Engine | None = None
        self.hands_off = False
        """Whether the engine that has it now reads it for another one."""
        self.context = 0
        """Tokens whose keys and values it has, or will have once read, when it begins to decode."""
        self.unread = 0
        """Of those, how many the engine must still read."""
        self.ends_at_step = 0
        """The step of its engine that gives its last token."""
