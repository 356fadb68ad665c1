"""How does a batch become durable? Its verdicts, device rows and offset together, or not at all.

The fence is two-fold: the lease's owner_epoch (a successor raises it and ends our backend) and a compare-and-swap on
next_offset (a COMMIT whose reply was lost may have taken effect). After any exception inside a transaction the
connection is ended, never used again: the next one reads the lease and goes on from there.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable

import asyncpg
import structlog

from ingest.adapters.postgres import queries
from ingest.adapters.postgres.connection import Connection, connect, trouble
from ingest.adapters.postgres.days import prepare_days
from ingest.adapters.postgres.keyring import Keyring
from ingest.adapters.postgres.lapse import LAPSER, expire
from ingest.adapters.postgres.provenance import Provenance, Stamp, columns_of, sign
from ingest.adapters.postgres.transaction import Ownership, PostgresTransaction
from ingest.core.device import KeyRing
from ingest.core.judge import KeysMovedError
from ingest.core.message import Envelope, Refused
from ingest.core.outcome import Strangers
from ingest.core.rate import Bucket
from ingest.ports import Mark, TroubleError

UPKEEP_EVERY_S = 3_600.0


class PostgresStore:
    """The store behind `ingest.ports.Store`."""

    def __init__(self, database: str, provenance: Callable[[], Provenance]) -> None:
        self._database = database
        self._provenance = provenance  # as it is now: an engine may be stopped
        self._fields = columns_of(provenance().schemas)
        self._keys = Keyring()
        self._epochs: dict[tuple[int, int], int] = {}  # under which this process owned each partition last
        self.worker = f"{socket.gethostname()}:{os.getpid()}"

    @contextlib.asynccontextmanager
    async def take_over(self, topic: str, partition: int) -> AsyncIterator["PostgresLease"]:
        """See ingest.ports.Store."""
        connection = await connect(self._database, f"weighbridge {topic}/{partition}")
        try:
            with trouble(f"taking over partition {partition}"):
                lease = await self._own(connection, topic, partition)
            yield lease
        finally:
            connection.terminate()

    async def upkeep(self) -> None:
        """Prepare the coming days and end what has waited too long, now and then, for ever."""
        while True:
            await asyncio.sleep(UPKEEP_EVERY_S)
            try:
                await self._keep_up()
            except TroubleError as error:  # there is an hour to the next attempt, and days before it matters
                structlog.get_logger().warning("trouble", what="upkeep", error=str(error))

    async def _keep_up(self) -> None:
        connection = await connect(self._database, LAPSER)
        try:
            with trouble("upkeep"):
                await prepare_days(connection, self._provenance().policy)
                lapsed = await expire(connection, self._provenance())
            if lapsed:
                structlog.get_logger().warning("lapsed", messages=lapsed)
        finally:
            connection.terminate()

    async def _own(self, connection: Connection, topic: str, partition: int) -> "PostgresLease":
        await prepare_days(connection, self._provenance().policy)
        await connection.execute(queries.TOPIC_EXISTS, topic)
        topic_no = await connection.fetchval(queries.TOPIC, topic, partition)
        judged_by = await sign(connection, signed := self._provenance())
        await connection.execute(queries.LEASE_EXISTS, topic_no, partition)
        await connection.execute(queries.END_PREVIOUS_OWNER, topic_no, partition)
        ours_last = self._epochs.get((topic_no, partition), 0)
        taken = await connection.fetchrow(queries.TAKE_OVER, topic_no, partition, self.worker, ours_last)
        assert taken is not None, "the lease row was made above"
        self._epochs[topic_no, partition] = taken["owner_epoch"]
        stamp = Stamp(topic_no, partition, taken["owner_epoch"], judged_by, self.worker)
        self._keys.forget()
        ownership = Ownership(connection, stamp, self._fields)
        return PostgresLease(ownership, taken, self._keys, lambda: self._provenance() == signed)


class PostgresLease:
    """One partition on one connection, until an exception or a successor ends it."""

    def __init__(
        self, ownership: Ownership, taken: asyncpg.Record, keys: Keyring, still_so: Callable[[], bool]
    ) -> None:
        self._ownership = ownership
        self._keys = keys
        self._still_so = still_so  # what was written down at the take-over of how verdicts are reached
        self._connection = ownership.connection
        self.mark = Mark(taken["next_offset"], taken["log_id"], taken["record_hash"])
        self.attempts: int = taken["attempts"]
        self.died_offset: int | None = taken["died_offset"]
        self.allowance = Bucket(taken["shown_milli"], taken["shown_at"] // 1000)
        self.strangers = Strangers(taken["strangers_window"], int.from_bytes(taken["strangers"], "big"))
        self._seal: bytes = taken["seal"]
        self._shares: dict[int, Bucket] = {}  # of tenants that have sent since then

    @property
    def next_offset(self) -> int:
        """See ingest.ports.Lease."""
        return self.mark.next_offset

    async def confirmed(self, log_id: str) -> None:
        """See ingest.ports.Lease."""
        stamp = self._ownership.stamp
        with trouble("confirming a log"):
            if self.mark.log_id is None:
                await self._connection.execute(queries.LOG_ID, stamp.topic_no, log_id)
            await self._note(queries.UNHALT)

    async def halted(self, why: str) -> None:
        """See ingest.ports.Lease."""
        with trouble("halting"):
            await self._note(queries.HALT, why)

    async def release(self) -> None:
        """See ingest.ports.Lease."""
        with trouble("giving a partition up"):
            await self._note(queries.RELEASE)

    async def _note(self, query: str, *values: object) -> None:
        """Write to the lease, if it is still ours."""
        stamp = self._ownership.stamp
        await self._connection.execute(query, stamp.topic_no, stamp.partition, stamp.owner_epoch, *values)

    async def key_ring(self, messages: Iterable[Envelope | Refused]) -> KeyRing:
        """See ingest.ports.Lease."""
        return await self._keys.read(self._connection, messages)

    def _vouch(self) -> None:
        """Keep nothing of which it would be recorded falsely how it came about."""
        if not self._still_so():
            raise TroubleError("an engine was stopped: what it said is not kept, and will be examined again")

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[PostgresTransaction]:
        """See ingest.ports.Lease. Leaves the connection usable only after success, or when keys have moved."""
        with trouble("committing a batch"):
            transaction = self._connection.transaction(isolation="read_committed")
            batch = PostgresTransaction(self._ownership, self._seal, self._shares)
            try:
                await transaction.start()
                yield batch
                self._vouch()
                await transaction.commit()
            except KeysMovedError:
                await transaction.rollback()
                raise
            except BaseException:  # no ROLLBACK: on a connection that answers nothing it would wait for a minute
                self._connection.terminate()
                raise
        if batch.outcome is not None:
            span, outcome = batch.outcome.span, batch.outcome
            self.allowance, self.strangers = outcome.allowance, outcome.strangers
            self.mark = Mark(span.to_offset, self.mark.log_id, span.record_hash)
            self._seal = batch.seal
            self._shares |= outcome.shares
