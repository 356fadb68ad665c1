"""How long does a wait take? Nothing: an event loop whose clock jumps to the next timer instead of waiting for it."""

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")


class StuckError(Exception):
    """Everybody waits for somebody else, and no timer will wake anyone."""


class _Clock:
    """Stands where a selector would: nothing is ever ready outside, so the time to wait is time passed."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def select(self, wait_s: float | None) -> tuple[()]:
        if wait_s is None:
            raise StuckError("no task can go on, and no timer is set")
        self.now_s += max(0.0, wait_s)
        return ()


class VirtualLoop(asyncio.BaseEventLoop):
    """asyncio's own loop, less the world outside: no files, no threads, and time that passes only in waiting."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Clock()

    def time(self) -> float:
        """Tell the virtual time, s since the start of the loop."""
        return self._selector.now_s

    def _process_events(self, events: tuple[()]) -> None:
        """Do nothing: nothing happens outside."""

    def _write_to_self(self) -> None:
        """Do nothing: nobody sleeps that must be woken."""


def play(main: Coroutine[object, object, T]) -> T:
    """Run to the end on a clock of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
