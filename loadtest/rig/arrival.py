"""When is each message due? The rate over time says so beforehand; nothing that happens meanwhile changes it."""

import heapq
from collections.abc import Iterator, Sequence

import msgspec


class Stretch(msgspec.Struct, frozen=True):
    """Some time at one rate. At no rate nothing comes; a stretch of no length is all that it says, at once."""

    seconds: float
    rate: float  # messages per second


class Flow(msgspec.Struct, frozen=True):
    """How often, by time; and which of so many messages comes next, over and over."""

    stretches: tuple[Stretch, ...]
    at_once: int = 0  # so many at the very beginning

    @property
    def count(self) -> int:
        """How many come in all."""
        return self.at_once + int(sum(one.seconds * one.rate for one in self.stretches))

    def moments(self, first: int, step: int) -> Iterator[tuple[float, int]]:
        """Give (due in s, number) of every so many-th message, beginning with number `first`."""
        number, before, began_s, whole = first, float(self.at_once), 0.0, self.count
        while number < self.at_once:
            yield 0.0, number
            number += step
        for one in self.stretches:
            until = before + one.seconds * one.rate
            while number < min(until, whole):
                yield began_s + (number - before) / one.rate, number
                number += step
            before, began_s = until, began_s + one.seconds


def merged(flows: Sequence[Flow], first: int, step: int) -> Iterator[tuple[float, int, int]]:
    """Give (due in s, which flow, number within it) of several flows as they come; at one moment, the first flow."""
    if len(flows) == 1:
        return ((at_s, 0, number) for at_s, number in flows[0].moments(first, step))
    return heapq.merge(*(_marked(flow, which, first, step) for which, flow in enumerate(flows)))


def _marked(flow: Flow, which: int, first: int, step: int) -> Iterator[tuple[float, int, int]]:
    for at_s, number in flow.moments(first, step):
        yield at_s, which, number
