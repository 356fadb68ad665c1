"""A fleet's messages, the log that they make, and the whole corridor over twins in memory."""

import asyncio

from device_sim.vehicle import Send
from ingest.adapters.memory.log import MemoryLog
from ingest.adapters.memory.store import MemoryStore
from ingest.core.outcome import Outcome
from ingest.core.verdict import Verdict
from ingest.ports import TroubleError
from ingest.worker import Limits, Worker
from loadtest.simulation import oracle
from loadtest.simulation.corpus import (
    START_S,
    TOPIC,
    Partitions,
    Position,
    Traffic,
    enrolled,
    examiner,
    kill_nobody,
    traffic,
)

__all__ = ["START_S", "TOPIC", "Traffic", "enrolled", "examiner", "kill_nobody", "traffic"]


class Listener:
    """Keeps what the worker reports."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.troubles: list[TroubleError] = []

    def batch(self, outcome: Outcome, seconds: float, waiting: int) -> None:  # noqa: ARG002 (the observer's shape)
        self.outcomes.append(outcome)

    def trouble(self, partition: int, error: TroubleError) -> None:  # noqa: ARG002 (the observer's shape)
        self.troubles.append(error)

    def begun(self, partition: int) -> None:
        pass

    def taken(self, partition: int) -> None:
        pass

    def idle(self, partition: int, waiting: int) -> None:
        pass

    def left(self, partition: int) -> None:
        pass


class Stopping(Listener):
    """Tells the worker to stop after so many batches."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.stopping = asyncio.Event()
        self._after = after

    def batch(self, outcome: Outcome, seconds: float, waiting: int) -> None:
        super().batch(outcome, seconds, waiting)
        if len(self.outcomes) == self._after:
            self.stopping.set()


class UntilOffset(Listener):
    """Tells the worker to stop once it has come so far."""

    def __init__(self, end: int) -> None:
        super().__init__()
        self.end = end
        self.stopping = asyncio.Event()

    def batch(self, outcome: Outcome, seconds: float, waiting: int) -> None:
        super().batch(outcome, seconds, waiting)
        if outcome.span.to_offset >= self.end:
            self.stopping.set()


def run(
    partitions: Partitions, store: MemoryStore, batch_records_max: int = 100, batch_samples_max: int = 50_000
) -> Listener:
    """Let one worker judge the whole log."""
    listener = Listener()
    log = MemoryLog(partitions, batch_records_max)
    worker = Worker(TOPIC, log, store, examiner(), kill_nobody, listener, Limits(samples_max=batch_samples_max))
    asyncio.run(_run(worker, partitions, store))
    return listener


async def _run(worker: Worker, partitions: Partitions, store: MemoryStore) -> None:
    stopping = asyncio.Event()
    tending = [asyncio.ensure_future(worker.tend(partition, stopping)) for partition in partitions]
    size = sum(map(len, partitions.values()))
    while sum(store.leases[TOPIC, partition].next_offset for partition in partitions) < size:
        ended, _ = await asyncio.wait(tending, timeout=0.01, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
    stopping.set()
    await asyncio.gather(*tending)


def verdicts(store: MemoryStore) -> dict[Position, tuple[Verdict, str]]:
    """Give the one verdict of each position; more than one is a broken law."""
    given = {}
    for (_, partition, offset), found in store.verdicts.items():
        (given[partition, offset],) = found
    return given


def undeserved(store: MemoryStore, sent: Traffic) -> list[tuple[Position, Send, tuple[str, str] | None]]:
    """List the positions whose verdict differs from what their send deserves."""
    return oracle.undeserved(sent.deserved, {at: (str(v), r) for at, (v, r) in verdicts(store).items()})
