"""How is the cost of one verdict measured? The worker's own loop, on a list of records and a real PostgreSQL.

What is left out is the fetch from Kafka, which is the same for every record whatever becomes of it. The clock begins
after the first batch, when statements are prepared and keys are at hand, and every message is of another device.
"""

import asyncio
import time
from collections.abc import Sequence

import msgspec

from ingest.adapters.memory.log import MemoryLog
from ingest.adapters.postgres.provenance import Provenance
from ingest.adapters.postgres.store import PostgresStore
from ingest.core.examine import Examiner
from ingest.core.message import RawRecord
from ingest.core.outcome import Outcome
from ingest.core.payload import load
from ingest.core.policy import Policy
from ingest.core.signature import Engine
from ingest.core.verdict import Verdict
from ingest.ports import TroubleError
from ingest.trial import find_killers
from ingest.worker import Limits, Worker
from loadtest.chaos.stage import Servers
from loadtest.compare.cpu import Times, family, times, used_s
from loadtest.compare.ground import connected, copy_database
from loadtest.compare.product import WrongError
from loadtest.corpus import Content, Corpus
from loadtest.costs.case import Case
from schemas import read_telemetry

TOPIC = "costs"
S_MAX = 120.0


class Cost(msgspec.Struct, frozen=True):
    """Microseconds of processor for each message."""

    worker: float
    server: float


class Bench(msgspec.Struct, frozen=True):
    """What every measurement stands on."""

    servers: Servers
    template: str  # a database with the fleet in it
    corpora: dict[Content, Corpus]
    engine: Engine
    batch: int

    async def measure(self, case: Case) -> Cost:
        """Measure one way, in a database of its own. Raises WrongError if a message goes another."""
        name = f"costs_{time.monotonic_ns()}"
        await copy_database(self.servers, name, self.template)
        database = self.servers.database(name)
        try:
            before = self._records(case.first) if case.first else []
            if before:
                await self._weigh(database, before, Policy())
            if case.change:
                async with connected(database) as connection:
                    await connection.execute(case.change)
            then = self._records(case.content, len(before), case.unreadable)
            clock = await self._weigh(database, [*before, *then], case.policy, len(before))
            await _check(database, case, len(then))
            return clock.cost()
        finally:
            await self.servers.drop_database(name)

    def _records(self, content: Content, start: int = 0, unreadable: str | None = None) -> list[RawRecord]:
        now_ms = int(time.time() * 1000)
        return [
            RawRecord(TOPIC, 0, offset, now_ms, b"" if unreadable else value, None, unreadable)
            for offset, value in enumerate(self.corpora[content], start)
        ]

    async def _weigh(self, database: str, records: Sequence[RawRecord], policy: Policy, known: int = 0) -> "_Clock":
        """Let the worker take all records that the store does not know yet."""
        catalogue = load(read_telemetry())
        signed = tuple(kind.schema for kind in catalogue.known.values())
        store = PostgresStore(database, lambda: Provenance("costs", self.engine.name, policy, signed))
        clock = _Clock(self.servers, len(records) - known)
        log = MemoryLog({0: records}, self.batch)
        examiner = Examiner(policy, catalogue, self.engine)
        worker = Worker(TOPIC, log, store, examiner, find_killers, clock, Limits(self.batch))
        await asyncio.wait_for(worker.tend(0, clock.stopping), S_MAX)
        return clock


class _Clock:
    """The worker's observer: begins with the first commit and stops with the last."""

    def __init__(self, servers: Servers, messages: int) -> None:
        self._servers = servers
        self._left = messages
        self._counted = 0
        self._began: tuple[Times, int] | None = None
        self._ended: tuple[int, Times] | None = None
        self.stopping = asyncio.Event()

    def cost(self) -> Cost:
        """Say what each message took."""
        assert self._began, "a batch was committed"
        assert self._ended, "all were"
        (server_then, ours_then), (ours_now, server_now) = self._began, self._ended
        server_us = used_s(server_then, server_now) * 1e6
        return Cost((ours_now - ours_then) / 1e3 / self._counted, server_us / self._counted)

    def batch(self, outcome: Outcome, seconds: float, waiting: int) -> None:  # noqa: ARG002 (the protocol's)
        """See ingest.worker.Observer."""
        now = time.process_time_ns()
        self._left -= outcome.consumed
        if self._began is None:
            self._began = self._server_times(), time.process_time_ns()
        else:
            self._counted += outcome.consumed
        if self._left <= 0:
            self._ended = now, self._server_times()
            self.stopping.set()

    def trouble(self, partition: int, error: TroubleError) -> None:
        """See ingest.worker.Observer. Here it is somebody's mistake."""
        raise WrongError(f"partition {partition}: {error}")

    def begun(self, partition: int) -> None:
        """See ingest.worker.Observer."""

    def taken(self, partition: int) -> None:
        """See ingest.worker.Observer."""

    def idle(self, partition: int, waiting: int) -> None:
        """See ingest.worker.Observer."""

    def left(self, partition: int) -> None:
        """See ingest.worker.Observer."""

    def _server_times(self) -> Times:
        _, postgres = self._servers.pids()
        assert postgres, "PostgreSQL runs"
        return times(family(postgres))


_FOUND = """
    select verdict, coalesce(reason, ''), count(*) from weighbridge.verdict where kafka_offset >= $1 group by 1, 2"""


async def _check(database: str, case: Case, messages: int) -> None:
    """See that what was measured is what was meant."""
    start = messages if case.first else 0
    async with connected(database) as connection:
        found = [tuple(row) for row in await connection.fetch(_FOUND, start)]
    deserved = "" if case.verdict is Verdict.ACCEPTED else case.reason or ""
    if [(verdict, "" if case.verdict is Verdict.ACCEPTED else reason) for verdict, reason, _ in found] != [
        (case.verdict, deserved)
    ]:
        raise WrongError(f"{messages:,} messages that deserve {case} became {found}")
