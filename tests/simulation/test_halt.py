"""A partition whose log is not the one that was read stands still, says so, and is alone in that."""

import asyncio
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from ingest.adapters.memory.log import MemoryLog
from ingest.adapters.memory.store import MemoryStore
from ingest.core.message import RawRecord
from ingest.ports import BrokenLogError
from ingest.worker import Worker
from loadtest.simulation.clock import play
from tests.simulation import corridor

BROKEN, WHOLE = 0, 1  # partitions
READ, SENT = 40, 60  # records of each that were judged before; and that there are in the end
MINUTE_S = 60.0

Records = list[RawRecord]


class Taken(corridor.Listener):
    """Keeps which partitions were taken over."""

    def __init__(self) -> None:
        super().__init__()
        self.partitions: set[int] = set()

    def taken(self, partition: int) -> None:
        self.partitions.add(partition)


def records(partition: int, content: str = "first") -> Records:
    return [RawRecord(corridor.TOPIC, partition, at, 0, f"{content} {at}".encode()) for at in range(SENT)]


async def tend(partitions: dict[int, Records], store: MemoryStore) -> Taken:
    """Let a worker work for a minute, much of which it waits."""
    seen, stopping = Taken(), asyncio.Event()
    log = MemoryLog(partitions, 7, wait_s=1.0)
    worker = Worker(corridor.TOPIC, log, store, corridor.examiner(), corridor.kill_nobody, seen)
    tending = [asyncio.create_task(worker.tend(partition, stopping)) for partition in partitions]
    await asyncio.sleep(MINUTE_S)
    stopping.set()
    await asyncio.gather(*tending)
    return seen


def judged(store: MemoryStore, partition: int) -> list[int]:
    return sorted(offset for _, where, offset in store.verdicts if where == partition)


BREAKAGES: dict[str, Callable[[Records], Records]] = {
    "its end was lost": lambda log: log[: READ - 3],
    "all of it was lost": lambda _: [],
    "its end was lost, and others wrote on": lambda log: log[: READ - 3] + records(BROKEN, "second")[READ - 3 :],
    "it was made again": lambda _: records(BROKEN, "second"),
    "its last record that was judged came at another time": lambda log: [
        replace(one, received_at_ms=1) if one.offset == READ - 1 else one for one in log
    ],
}


@pytest.mark.parametrize("breakage", BREAKAGES.values(), ids=BREAKAGES)
def test_a_broken_partition_halts_until_it_is_mended_and_no_other_does(breakage: Callable[[Records], Records]) -> None:
    store = MemoryStore({}, [])
    play(tend({partition: records(partition)[:READ] for partition in (BROKEN, WHOLE)}, store))
    before = list(range(READ))
    assert judged(store, BROKEN) == judged(store, WHOLE) == before

    seen = play(tend({BROKEN: breakage(records(BROKEN)), WHOLE: records(WHOLE)}, store))
    assert judged(store, BROKEN) == before, "nothing is judged beyond the break"
    assert judged(store, WHOLE) == list(range(SENT))
    lease = store.leases[corridor.TOPIC, BROKEN]
    assert (lease.next_offset, seen.partitions) == (READ, {WHOLE})
    assert lease.halted_why is not None
    assert str(READ) in lease.halted_why
    assert store.leases[corridor.TOPIC, WHOLE].halted_why is None
    assert len(seen.troubles) > 10, "it is tried again and again"
    assert {type(error) for error in seen.troubles} == {BrokenLogError}

    play(tend({BROKEN: records(BROKEN), WHOLE: records(WHOLE)}, store))
    assert judged(store, BROKEN) == list(range(SENT))
    assert store.leases[corridor.TOPIC, BROKEN].halted_why is None
    assert all(len(given) == 1 for given in store.verdicts.values())
