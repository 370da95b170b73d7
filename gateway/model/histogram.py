"""Percentiles: exact ones of values at hand, and within half a percent of ever so many that nobody keeps."""

import math
from collections.abc import Sequence

_WIDTH = math.log(1.01)
_LEAST = 1e-7
_NOTHING = math.ceil(math.log(_LEAST) / _WIDTH)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value at `share` (0 to 1) of values in ascending order, between two of them if need be.

    As numpy's default and so as vLLM's benchmark has it; ValueError if there is none.
    """
    if not ordered:
        raise ValueError("no values")
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


class Histogram:
    """How many values there were of each size, in buckets 1 % wide: as DDSketch (Masson et al., VLDB 2019) keeps them.

    Values are times in seconds, or anything else that is not negative. Number, sum and extremes are exact.
    """

    __slots__ = ("_counts", "count", "greatest", "least", "total")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.total = 0.0
        self.least, self.greatest = math.inf, 0.0

    def add(self, value: float) -> None:
        bucket = math.ceil(math.log(max(value, _LEAST)) / _WIDTH)
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self.count += 1
        self.total += value
        self.least = min(self.least, value)
        self.greatest = max(self.greatest, value)

    def percentiles(self, shares: Sequence[float]) -> list[float]:
        """The values at the shares, which ascend; ValueError if there is none."""
        if not self.count:
            raise ValueError("no values")
        found: list[float] = []
        buckets = sorted(self._counts)
        at, passed = 0, self._counts[buckets[0]]
        for share in shares:
            rank = share * (self.count - 1)
            while passed <= rank and at < len(buckets) - 1:
                at += 1
                passed += self._counts[buckets[at]]
            middle = math.exp((buckets[at] - 0.5) * _WIDTH) if buckets[at] > _NOTHING else 0.0
            found.append(min(max(middle, self.least), self.greatest))
        return found
