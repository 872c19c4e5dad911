"""A prediction with its uncertainty."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """An 80 % interval around a prediction: one measurement in ten lies below `low`, one in ten above `high`.

    Scales by a number and adds up. A sum takes its parts for wrong in the same direction, so it is rather too wide.
    """

    low: float
    mid: float
    high: float

    def __post_init__(self) -> None:
        assert self.low <= self.mid <= self.high, f"{self} is out of order"

    def __mul__(self, factor: float) -> "Interval":
        assert factor >= 0, f"an interval cannot be scaled by {factor}"
        return Interval(self.low * factor, self.mid * factor, self.high * factor)

    __rmul__ = __mul__

    def __add__(self, other: "Interval") -> "Interval":
        return Interval(self.low + other.low, self.mid + other.mid, self.high + other.high)
