"""Which sequence numbers has a device used within one epoch? Exact for any order and any lateness, at a bounded size.

The size follows the gaps, not the traffic. Beyond the cap the oldest range is compacted away: a number below `floor` is
then UNSURE and is looked up among the stored messages, never guessed.
"""

from bisect import bisect_right
from enum import Enum

import msgspec


class Use(Enum):
    """What a ledger knows of a number."""

    NEW = "new"
    USED = "used"
    UNSURE = "unsure"  # below the floor: the stored messages know


class Ledger(msgspec.Struct, frozen=True, gc=False):
    """The numbers accepted from one (device, epoch)."""

    ranges: tuple[int, ...] = ()  # half-open, ascending, apart from each other: lo0, hi0, lo1, hi1, ...
    floor: int = 0
    lowest: int = 0  # 0 before the first
    highest: int = 0
    accepted: int = 0  # how many numbers

    @property
    def missing(self) -> int:
        """How many numbers between the lowest and the highest have not arrived (yet)."""
        return self.highest - self.lowest + 1 - self.accepted if self.accepted else 0


def look(ledger: Ledger, seq: int) -> Use:
    """Say whether a number was accepted before."""
    if seq > ledger.highest:
        return Use.NEW
    if bisect_right(ledger.ranges, seq) % 2:
        return Use.USED
    return Use.UNSURE if seq < ledger.floor else Use.NEW


def add(ledger: Ledger, seq: int, ranges_max: int) -> Ledger:
    """Enter a number that was just accepted. It must not be in the ledger."""
    ranges, floor = ledger.ranges, ledger.floor
    if ranges and ranges[-1] == seq and len(ranges) <= 2 * ranges_max:  # the next number of an honest device in order
        grown = (ranges[0], seq + 1) if len(ranges) == 2 else (*ranges[:-1], seq + 1)
        return Ledger(grown, floor, ledger.lowest, seq, ledger.accepted + 1)
    if seq >= floor:
        ranges = _insert(ranges, seq)
    while len(ranges) > 2 * ranges_max:
        floor, ranges = ranges[1], ranges[2:]
    lowest = min(ledger.lowest, seq) if ledger.accepted else seq
    return Ledger(ranges, floor, lowest, max(ledger.highest, seq), ledger.accepted + 1)


def _insert(ranges: tuple[int, ...], seq: int) -> tuple[int, ...]:
    at = bisect_right(ranges, seq)
    assert at % 2 == 0, "the number is in the ledger already"
    joins_left = at > 0 and ranges[at - 1] == seq
    joins_right = at < len(ranges) and ranges[at] == seq + 1
    left = ranges[: at - 1] if joins_left else (*ranges[:at], seq)
    right = ranges[at + 1 :] if joins_right else (seq + 1, *ranges[at:])
    return left + right
