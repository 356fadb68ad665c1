"""Which messages harm the process that examines them? Those that a frail engine meets with one of these marks."""

import ctypes
import os
import time
from collections.abc import Sequence
from pathlib import Path

from ingest.core.signature import Job, OpenSSL

HANGING = "hanging"


def crash() -> None:
    """End as a fault in native code does: SIGSEGV."""
    ctypes.string_at(0)


def leave() -> None:
    """End as a library does that calls exit()."""
    os._exit(0)


def fail() -> None:
    """Break an invariant."""
    raise AssertionError("an engine never raises")


def hang() -> None:
    """Wait for what never comes, under a name by which it is known that it waits."""
    Path("/proc/self/comm").write_text(HANGING)
    time.sleep(10_000)


def spin() -> None:
    """Compute without end."""
    while True:
        pass


def hoard() -> None:
    """Take memory without end."""
    kept = []
    while True:
        kept.append(bytes(2**28))


def chatter() -> None:
    """Say what nobody asked for, and do no harm."""
    os.write(1, b"." * 1_000)


PILLS = {f"pill: {harm.__name__}": harm for harm in (crash, leave, fail, hang, spin, hoard, chatter)}


class Frail:
    """An engine like any other, but for the marks."""

    name = "frail"

    def __init__(self) -> None:
        self._sound = OpenSSL()

    def check(self, jobs: Sequence[Job]) -> list[bool]:
        """Take each pill that is among them; say of each job whether its signature holds."""
        for job in jobs:
            for mark, harm in PILLS.items():
                if mark.encode() in job.signed:
                    harm()
        return self._sound.check(jobs)


class Broken:
    """An engine that does not work on this machine: whatever it is asked ends the process."""

    name = "broken"

    def check(self, jobs: Sequence[Job]) -> list[bool]:
        """End."""
        crash()
        return [True for _ in jobs]
