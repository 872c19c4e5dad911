"""Pass times that are looked up: an estimate costs fifty microseconds, and a simulation asks millions of times."""

from functools import cache
from math import log2

from pulumi_tandem.simulate.worker import PassTime

PER_DOUBLING = 8
"""Batches of prompt tokens that are computed between one size and its double; in between time is taken as linear."""


def tabulated(pass_s: PassTime) -> PassTime:
    """The same pass times, computed once each at a grid of sizes and interpolated.

    A pass that does both is put together: reading, plus decoding, plus what all its tokens in one pass take more than
    in two. That is exact where attention adds to everything else, as it does in `estimate`.
    """

    @cache
    def decode_node(sequences: int, doublings: int) -> float:
        return pass_s(0, 0, sequences, _size(doublings, 1))

    @cache
    def read_node(step: int, doublings: int) -> float:
        return pass_s(_size(step, PER_DOUBLING), _size(doublings, 1), 0, 0)

    def decode(sequences: int, context: float) -> float:
        node, beyond = _between(context, 1)
        low = decode_node(sequences, node)
        return low + beyond * (decode_node(sequences, node + 1) - low)

    def read(tokens: float, context: float) -> float:
        step, beyond = _between(tokens, PER_DOUBLING)
        node, deeper = _between(context, 1)
        near = read_node(step, node) * (1 - beyond) + read_node(step + 1, node) * beyond
        far = read_node(step, node + 1) * (1 - beyond) + read_node(step + 1, node + 1) * beyond
        return near + deeper * (far - near)

    def looked_up(prompt: float, prompt_context: float, sequences: float, context: float) -> float:
        if not prompt:
            return decode(int(sequences), context)
        if not sequences:
            return read(prompt, prompt_context)
        more = read(prompt + sequences, 0) - read(prompt, 0) - read(sequences, 0)
        return read(prompt, prompt_context) + decode(int(sequences), context) + more

    return looked_up


def _size(node: int, per_doubling: int) -> float:
    """Nodes lie at 0 and then at powers of two, with others evenly between them."""
    if not node:
        return 0.0
    doublings, part = divmod(node - 1, per_doubling)
    return 2.0**doublings * (1 + part / per_doubling)


def _between(size: float, per_doubling: int) -> tuple[int, float]:
    """The node below a size, and how far the size is on the way to the next one."""
    if size < 1:
        return 0, max(0.0, size)
    doublings = int(log2(size))
    way = (size / 2.0**doublings - 1) * per_doubling
    part = int(way)
    return 1 + doublings * per_doubling + part, way - part
