"""The gaps between tokens of all streams, counted by size."""

from bisect import bisect_left
from itertools import accumulate
from math import exp, log

FINENESS = 0.01
"""Two gaps count as one size when they differ by less than a hundredth: far below what step times are known to."""


class Gaps:
    """A histogram on a logarithmic scale; its size does not grow with the number of tokens."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def add(self, gap_s: float, count: int) -> None:
        """So many more gaps of that size; fewer when negative."""
        if count:
            size = round(log(gap_s) / FINENESS)
            self.counts[size] = self.counts.get(size, 0) + count

    @property
    def mean_s(self) -> float:
        """Mean of all gaps; 0 when there are none."""
        count = sum(self.counts.values())
        return sum(exp(size * FINENESS) * many for size, many in self.counts.items()) / count if count else 0.0

    def quantiles_s(self, shares: tuple[float, ...], *, jitter: float = 0.0) -> tuple[float, ...]:
        """Gaps that the given shares of all gaps do not exceed; 0 when there are none.

        `jitter` is the standard deviation of the logarithm by which every single gap varies around its size.
        """
        spread = self._spread(jitter)
        sizes = sorted(spread)
        below = list(accumulate(spread[size] for size in sizes))
        places = (bisect_left(below, share * below[-1]) for share in shares if below)
        return tuple(exp(sizes[place] * FINENESS) for place in places) or tuple(0.0 for _ in shares)

    def _spread(self, jitter: float) -> dict[int, float]:
        reach = round(5 * jitter / FINENESS)
        bell = [exp(-((step * FINENESS / jitter) ** 2) / 2) for step in range(-reach, reach + 1)] if reach else [1.0]
        weights: dict[int, float] = {}
        for size, count in self.counts.items():
            for step, weight in enumerate(bell, start=size - reach):
                weights[step] = weights.get(step, 0.0) + max(0, count) * weight
        return weights if any(weights.values()) else {}
