"""How long did it take, for all of them? Counts of durations, each to within 0.8 %, whatever their size.

The layout is that of HDR histograms: what is below 256 has a bucket of its own, and every further power of two has 128.
"""

from collections.abc import Iterable, Iterator
from typing import Final

BITS: Final = 7  # a bucket is at most one part in 2**BITS wide


class Histogram:
    """Counts of whole numbers: microseconds, here. What is less than nothing counts as 0."""

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.max = 0
        for value, count in pairs:
            self.add(value, count)

    def add(self, value: int, count: int = 1) -> None:
        """Count a value."""
        value = max(0, value)
        index = _index(value)
        self._counts[index] = self._counts.get(index, 0) + count
        self.count += count
        self.max = max(self.max, value)

    def merge(self, other: "Histogram") -> None:
        """Count all that another one has."""
        for index, count in other._counts.items():  # noqa: SLF001 (one of our kind)
            self._counts[index] = self._counts.get(index, 0) + count
        self.count += other.count
        self.max = max(self.max, other.max)

    def quantile(self, share: float) -> int:
        """Give a value that this share of all is not above; 0 if there are none."""
        wanted, seen = share * self.count, 0
        for index in sorted(self._counts):
            seen += self._counts[index]
            if seen >= wanted:
                return min(_highest(index), self.max)
        return self.max

    def buckets(self) -> Iterator[tuple[int, int, int]]:
        """Give the lowest and the highest value of each bucket that is not empty, and its count; in order."""
        for index in sorted(self._counts):
            yield _highest(index - 1) + 1 if index else 0, _highest(index), self._counts[index]

    def pairs(self) -> list[tuple[int, int]]:
        """Write it down: what makes the same buckets again, and the same highest value."""
        return [(min(highest, self.max), count) for _, highest, count in self.buckets()]


def _index(value: int) -> int:
    shift = max(0, value.bit_length() - BITS - 1)
    return (shift << BITS) + (value >> shift)


def _highest(index: int) -> int:
    """Give the highest value that counts there."""
    shift = max(0, (index >> BITS) - 1)
    return ((index - (shift << BITS) + 1) << shift) - 1
