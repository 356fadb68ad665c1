"""How does a simulated worker process live? The real loops, at the end of a cable to which anything may happen.

A crash cuts the process's connections and lets nothing more through its cable: what its tasks may still do to clean up
reaches nobody, as if they had vanished.
"""

import asyncio
import math
import random
from collections.abc import Callable, Collection, Sequence

from msgspec.structs import replace

from ingest.adapters.memory.log import MemoryLog
from ingest.adapters.memory.store import MemoryStore
from ingest.adapters.memory.wire import STATEMENT_S_MAX, Call, Connection
from ingest.core.device import KeyRing
from ingest.core.examine import Examiner
from ingest.core.message import Envelope, Refused
from ingest.core.outcome import Outcome
from ingest.core.signature import Job
from ingest.ports import FencedError, TroubleError
from ingest.process import Partitions
from ingest.worker import Limits, Worker
from loadtest.simulation.corpus import TOPIC
from loadtest.simulation.corpus import Partitions as Records
from loadtest.simulation.storm import Chronicle, Fault, Plan

LATENCY_S_MAX = 0.004
SLOW_S_MIN, SLOW_S_MAX = 0.1, 20.0
LATE_S_MIN, LATE_S_MAX = 0.001, 15.0  # for a server that is slow to end a connection, or to commit
BATCH_RECORDS_MAX = 12
POLL_S = 2.0  # how long a read waits at the end of the log
DRAIN_S_MAX = 5.0

Upset = Callable[[Fault, Call], None]


class Cable:
    """The wire between one process and the servers."""

    def __init__(self, name: str, plan: Plan, chance: random.Random, chronicle: Chronicle) -> None:
        self.name = name
        self.alive = True
        self.asleep_until_s = 0.0
        self.down_until_s = 0.0  # the database
        self.connections: list[Connection] = []
        self.upset: Upset = _nothing
        self._plan, self._chance, self._chronicle = plan, chance, chronicle
        self._committing: set[Connection] = set()  # after their clients gave up
        self._slow_to_end = False
        self._loop = asyncio.get_running_loop()

    async def request(self, call: Call) -> None:
        """See ingest.adapters.memory.wire.Wire."""
        await self._carry(call, reply=False)
        if call.operation == "connect":
            if self._loop.time() < self.down_until_s:
                raise TroubleError("the database is starting")
            assert call.connection is not None, "a connection is what connects"
            self.connections.append(call.connection)

    async def reply(self, call: Call) -> None:
        """See ingest.adapters.memory.wire.Wire."""
        await self._carry(call, reply=True)
        if call.operation == "ROLLBACK":
            self._chronicle.counts["keys moved between reading and lock"] += 1

    def end(self, connection: Connection) -> None:
        """See ingest.adapters.memory.wire.Wire."""
        if not self.alive:
            return  # the server ended them all when the process died
        if connection in self._committing:
            self._committing.remove(connection)
            self._loop.call_later(self._late_s(), self._commit_late, connection)
        elif self._slow_to_end and not connection.ended:
            self._slow_to_end = False
            self._chronicle.counts["old owner still connected after its successor came"] += 1
            self._loop.call_later(self._late_s(), connection.end)
        else:
            connection.end()

    def cut(self) -> None:
        """Let the server end all connections of this process."""
        for connection in self.connections:
            connection.end()
        self.connections.clear()

    async def awake(self) -> None:
        """Wait for as long as the process sleeps; a dead one never comes back."""
        while (left_s := self.asleep_until_s - self._loop.time()) > 0:  # noqa: ASYNC110 (it may sleep on)
            await asyncio.sleep(left_s)
        if not self.alive:
            raise asyncio.CancelledError

    async def _carry(self, call: Call, *, reply: bool) -> None:
        await self.awake()
        self._chronicle.step(self._loop.time(), self.name, call, reply=reply)
        fault = self._plan.strike(call, reply=reply)
        if fault is not None:
            self._chronicle.strike(self._loop.time(), (self.name, call, reply), fault)
            await self._suffer(fault, call)
        elif not reply:
            await asyncio.sleep(self._chance.random() * LATENCY_S_MAX)
        await self.awake()

    async def _suffer(self, fault: Fault, call: Call) -> None:
        match fault:
            case Fault.FAILURE:
                raise TroubleError(f"{call.operation}: the call failed")
            case Fault.SLOW:
                await asyncio.sleep(self._chance.uniform(SLOW_S_MIN, SLOW_S_MAX))
            case Fault.TIMEOUT:
                await asyncio.sleep(STATEMENT_S_MAX)
                raise TroubleError(f"{call.operation}: no answer in {STATEMENT_S_MAX:.0f} s")
            case Fault.COMMIT_LATE:
                assert call.connection is not None, "only a connection commits"
                self._committing.add(call.connection)
                raise TroubleError(f"{call.operation}: no answer")
            case Fault.END_LATE:
                self._slow_to_end = True
            case _:
                self.upset(fault, call)

    def _late_s(self) -> float:
        """Choose a time of any order of magnitude."""
        return math.exp(self._chance.uniform(math.log(LATE_S_MIN), math.log(LATE_S_MAX)))

    def _commit_late(self, connection: Connection) -> None:
        if connection.ended:
            self._chronicle.counts["COMMIT unanswered, its connection ended before it took effect"] += 1
            return
        self._chronicle.counts["COMMIT unanswered, took effect late"] += 1
        connection.commit()
        connection.end()


class Frailty:
    """What a process examines with: an engine that the pills end, and its process with it; and how it finds them."""

    name = "frail"

    def __init__(self, examiner: Examiner, pills: Collection[bytes], cable: Cable) -> None:
        self.examiner = replace(examiner, engine=self)
        self.swallowed: Callable[[bytes], None] = _survive
        self._engine, self._pills, self._cable = examiner.engine, pills, cable

    def check(self, jobs: Sequence[Job]) -> list[bool]:
        """See ingest.core.signature.Engine. No code of a process runs after its end."""
        for job in jobs:
            if job.signature in self._pills and self._cable.alive:
                self.swallowed(job.signature)
        if not self._cable.alive:
            raise asyncio.CancelledError
        return self._engine.check(jobs)

    async def find_killers(
        self, _examiner: Examiner, messages: Sequence[Envelope | Refused], _ring: KeyRing
    ) -> frozenset[int]:
        """See ingest.worker.Trial."""
        call = Call("trial", messages[0].record.partition)
        await self._cable.request(call)
        killers = [at for at, one in enumerate(messages) if isinstance(one, Envelope) and one.signature in self._pills]
        await self._cable.reply(call)
        return frozenset(killers)


def _survive(signature: bytes) -> None:
    raise AssertionError(f"nobody minds the process: a pill of signature {signature.hex()}")


def _nothing(fault: Fault, call: Call) -> None:
    raise AssertionError(f"nobody minds the world: {fault} at {call.operation}")


class Process:
    """A worker process: its cable, its reader of the log, its loops; it hears of partitions one thing at a time."""

    def __init__(self, cable: Cable, records: Records, store: MemoryStore, frailty: Frailty, batch_max: int) -> None:
        self.cable = cable
        self.log = MemoryLog(records, batch_max, cable, POLL_S)
        self.partitions = Partitions(DRAIN_S_MAX)
        limits = Limits(BATCH_RECORDS_MAX)
        self._worker = Worker(
            TOPIC, self.log, store.through(cable), frailty.examiner, frailty.find_killers, self, limits
        )
        self._news: asyncio.Queue[tuple[Sequence[int], Callable[[], None] | None]] = asyncio.Queue()
        self.hearing = asyncio.ensure_future(self._hear())
        self.troubles = self.fenced = self.batches_done = 0

    def give(self, partition: int) -> None:
        """Tell the process that a partition is its own now."""
        self._news.put_nowait(((partition,), None))

    def take(self, partition: int, then: Callable[[], None]) -> None:
        """Tell the process to give a partition up, and say when it has."""
        self._news.put_nowait(((partition,), then))

    async def leave(self) -> None:
        """Drain, as on SIGTERM."""
        await self.partitions.end(self.partitions.ours)
        self.hearing.cancel()

    async def _hear(self) -> None:
        while True:
            partitions, then = await self._news.get()
            await self.cable.awake()
            await self.partitions.end(frozenset(partitions))
            await self.cable.awake()
            if then is None:
                self.partitions.begin(self._worker, frozenset(partitions))
            else:
                then()

    def begun(self, partition: int) -> None:
        """See ingest.worker.Observer."""

    def batch(self, outcome: Outcome, seconds: float, waiting: int) -> None:  # noqa: ARG002 (the observer's shape)
        """See ingest.worker.Observer."""
        self.batches_done += 1

    def trouble(self, partition: int, error: TroubleError) -> None:  # noqa: ARG002 (the observer's shape)
        """See ingest.worker.Observer."""
        self.troubles += 1
        self.fenced += isinstance(error, FencedError)

    def taken(self, partition: int) -> None:
        """See ingest.worker.Observer."""

    def idle(self, partition: int, waiting: int) -> None:
        """See ingest.worker.Observer."""

    def left(self, partition: int) -> None:
        """See ingest.worker.Observer."""
