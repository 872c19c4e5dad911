"""The gaps between tokens of all streams, counted by size."""

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
        sizes = sorted(size for size, count in self.counts.items() if count > 0)
        if not sizes:
            return tuple(0.0 for _ in shares)
        import numpy as np  # noqa: PLC0415 (see traffic)

        reach = round(5 * jitter / FINENESS)
        weights = np.zeros(sizes[-1] - sizes[0] + 1 + 2 * reach)
        for size in sizes:
            weights[size - sizes[0] + reach] = self.counts[size]
        if reach:
            at = np.arange(-reach, reach + 1) * FINENESS / jitter
            kernel = np.exp(-(at**2) / 2)
            weights = np.convolve(weights, kernel / kernel.sum(), mode="same")
        total = weights.cumsum()
        return tuple(
            exp((int(np.searchsorted(total, share * total[-1])) + sizes[0] - reach) * FINENESS) for share in shares
        )
