"""What an engine still has of prompts that it has seen."""

from collections import OrderedDict

from pulumi_tandem.simulate.request import Request


class PrefixCache:
    """Keys and values of beginnings of prompts; what was unused for longest goes first, and of that its end.

    So vLLM does it: a request's blocks are freed from its last one on, and are taken anew in the order in which they
    were freed. A session has a beginning that others share, such as a system prompt, and what is its own; the
    beginning counts once, and is used whenever a session of it is.
    """

    __slots__ = ("_block_tokens", "_held", "_room_tokens", "_tokens")

    def __init__(self, room_tokens: int, block_tokens: int) -> None:
        self._room_tokens = room_tokens
        self._block_tokens = block_tokens
        self._held: OrderedDict[tuple[str, int], int] = OrderedDict()
        self._tokens = 0

    def held_tokens(self, request: Request) -> int:
        """How much of a prompt's beginning need not be read, in whole blocks."""
        shared = request.beginning_tokens
        found = self._held.get(("beginning", request.beginning), 0) if shared else 0
        if found >= shared:
            found = shared + self._held.get(("session", request.session), 0)
        return found - found % self._block_tokens

    def keep(self, request: Request, tokens: int) -> None:
        """A prompt, or all of a conversation up to now, has been computed here."""
        shared = min(request.beginning_tokens, tokens)
        if request.session >= 0:
            self._put(("session", request.session), tokens - shared)
        if shared:
            self._put(("beginning", request.beginning), shared)
        while self._tokens > self._room_tokens:
            oldest, held = self._held.popitem(last=False)
            left = max(0, held - (self._tokens - self._room_tokens))
            self._tokens -= held - left
            if left:
                self._held[oldest] = left
                self._held.move_to_end(oldest, last=False)

    def _put(self, part: tuple[str, int], tokens: int) -> None:
        self._tokens += tokens - self._held.pop(part, 0)
        self._held[part] = tokens
