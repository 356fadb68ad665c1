"""Who used the processor, and how long? Linux counts it for each thread, in nanoseconds (proc_pid_schedstat)."""

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

Times = dict[tuple[int, int], int]  # nanoseconds by process and thread

CORES = len(os.sched_getaffinity(0))


def family(pid: int) -> list[int]:
    """List a process and all that descend from it."""
    found = [pid]
    for at in found:  # it grows as we go
        with contextlib.suppress(OSError):
            for children in Path(f"/proc/{at}/task").glob("*/children"):
                found += [int(child) for child in children.read_text().split()]
    return found


def times(pids: Iterable[int]) -> Times:
    """Read the clock of each thread of these processes."""
    found: Times = {}
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").glob("*"):
            with contextlib.suppress(OSError):  # it has just ended
                found[pid, int(thread.name)] = int((thread / "schedstat").read_text().split()[0])
    return found


def used_s(before: Times, after: Times) -> float:
    """Add up what was used in between, by whoever is there at the end."""
    return sum(ns - before.get(thread, 0) for thread, ns in after.items()) / 1e9
