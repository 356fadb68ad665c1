"""How does a batch become durable? Its verdicts, device rows and offset together, or not at all.

The fence is two-fold: the lease's owner_epoch (a successor raises it and ends our backend) and a compare-and-swap on
next_offset (a COMMIT whose reply was lost may have taken effect). After any exception inside a transaction the
connection is ended, never used again: the next one reads the lease and goes on from there.
"""

import asyncio
import contextlib
import os
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

import asyncpg
import msgspec
import structlog

from ingest.adapters.postgres import queries, rows
from ingest.adapters.postgres.connection import Connection, connect, encoding, trouble
from ingest.adapters.postgres.days import prepare_days
from ingest.core.device import Algorithm, Device, Key, KeyRing, KeyState, Sender, Standing
from ingest.core.judge import KeysMovedError, Number, Prior, Priors, Suspect, number
from ingest.core.message import Envelope, Examined, Refused, Verified
from ingest.core.outcome import Allowance, Outcome
from ingest.core.policy import Policy
from ingest.core.schema import Schema
from ingest.core.sequence import Ledger
from ingest.core.verdict import Verdict
from ingest.ports import FencedError, Mark, TroubleError

UPKEEP_EVERY_S = 3_600.0


class Provenance(msgspec.Struct, frozen=True):
    """What every verdict of this process records of how it was reached."""

    build: str
    engine: str
    policy: Policy
    schemas: tuple[Schema, ...]


class PostgresStore:
    """The store behind `ingest.ports.Store`."""

    def __init__(self, database: str, provenance: Provenance) -> None:
        self._database = database
        self._provenance = provenance
        self._fields = _fields(provenance.schemas)
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
        """Prepare the coming days, now and then, for ever."""
        while True:
            await asyncio.sleep(UPKEEP_EVERY_S)
            try:
                await self._prepare_ahead()
            except TroubleError as error:  # there is an hour to the next attempt, and days before it matters
                structlog.get_logger().warning("trouble", what="upkeep", error=str(error))

    async def _prepare_ahead(self) -> None:
        connection = await connect(self._database, "weighbridge upkeep")
        try:
            with trouble("preparing days"):
                await prepare_days(connection, self._provenance.policy)
        finally:
            connection.terminate()

    async def _own(self, connection: Connection, topic: str, partition: int) -> "PostgresLease":
        await prepare_days(connection, self._provenance.policy)
        await connection.execute(queries.TOPIC_EXISTS, topic)
        topic_no = await connection.fetchval(queries.TOPIC, topic, partition)
        judged_by = await self._sign(connection)
        await connection.execute(queries.LEASE_EXISTS, topic_no, partition)
        await connection.execute(queries.END_PREVIOUS_OWNER, topic_no, partition)
        ours_last = self._epochs.get((topic_no, partition), 0)
        taken = await connection.fetchrow(queries.TAKE_OVER, topic_no, partition, self.worker, ours_last)
        assert taken is not None, "the lease row was made above"
        self._epochs[topic_no, partition] = taken["owner_epoch"]
        stamp = _Stamp(topic_no, partition, taken["owner_epoch"], judged_by, self.worker)
        return PostgresLease(_Ownership(connection, stamp, self._fields), taken)

    async def _sign(self, connection: Connection) -> int:
        """Write down how this process judges, so that each verdict can say so with one number."""
        known = self._provenance
        for schema in known.schemas:
            await connection.execute(queries.SCHEMA, rows.signed(schema.fingerprint), schema.name, schema.text)
        us = known.build, known.engine, known.policy.digest()
        await connection.execute(queries.JUDGED_BY_EXISTS, *us, msgspec.json.encode(known.policy).decode())
        judged_by: int = await connection.fetchval(queries.JUDGED_BY, *us)
        return judged_by


class _Stamp(msgspec.Struct, frozen=True):
    """What the rows of one ownership have in common."""

    topic_no: int
    partition: int
    owner_epoch: int
    judged_by: int
    worker: str


class _Ownership(msgspec.Struct, frozen=True):
    """One partition on one connection."""

    connection: Connection
    stamp: _Stamp
    fields: dict[str, tuple[str, ...]]  # of each kind of sample, in the order of its columns


class PostgresLease:
    """One partition on one connection, until an exception or a successor ends it."""

    def __init__(self, ownership: _Ownership, taken: asyncpg.Record) -> None:
        self._ownership = ownership
        self._connection = ownership.connection
        self.mark = Mark(taken["next_offset"], taken["log_id"], taken["record_hash"])
        self.attempts: int = taken["attempts"]
        self.allowance = Allowance(taken["shown_bytes"], taken["shown_at"] // 1000)

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
        envelopes = [message for message in messages if isinstance(message, Envelope)]
        with trouble("reading keys"):
            found = await self._connection.fetch(queries.SENDERS, list({envelope.device_id for envelope in envelopes}))
            senders = _senders(found)
            strange = {e.kid for e in envelopes if e.device_id in senders and e.kid not in senders[e.device_id].keys}
            foreign = await self._connection.fetch(queries.REGISTERED_KIDS, list(strange)) if strange else []
        return KeyRing(senders, frozenset(row["kid"] for row in foreign))

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator["PostgresTransaction"]:
        """See ingest.ports.Lease. Leaves the connection usable only after success, or when keys have moved."""
        with trouble("committing a batch"):
            transaction = self._connection.transaction(isolation="read_committed")
            batch = PostgresTransaction(self._ownership)
            try:
                await transaction.start()
                yield batch
                await transaction.commit()
            except KeysMovedError:
                await transaction.rollback()
                raise
            except BaseException:  # no ROLLBACK: on a connection that answers nothing it would wait for a minute
                self._connection.terminate()
                raise
        if batch.outcome is not None:
            span, self.allowance = batch.outcome.span, batch.outcome.allowance
            self.mark = Mark(span.to_offset, self.mark.log_id, span.record_hash)


class PostgresTransaction:
    """One batch being committed, in the order that never deadlocks: device rows, messages, device rows, lease."""

    def __init__(self, ownership: _Ownership) -> None:
        self._connection = ownership.connection
        self._stamp = ownership.stamp
        self._fields = ownership.fields
        self.outcome: Outcome | None = None  # once it is written

    async def recall(self, examined: Iterable[Examined]) -> Mapping[int, Device]:
        """See ingest.ports.Transaction."""
        verified = [message.verified for message in examined if not isinstance(message, Refused)]
        found = await self._connection.fetch(queries.RECALL, sorted({v.sender.device_no for v in verified}))
        epochs = {row["device_no"]: row["epoch"] for row in found}
        late = {v.sender.device_no for v in verified if v.envelope.epoch < epochs[v.sender.device_no]}
        closed = await self._connection.fetch(queries.RECALL_CLOSED, sorted(late)) if late else []
        devices = {row["device_no"]: _device(row) for row in found}
        for row in closed:
            devices[row["device_no"]].ledgers[row["epoch"]] = _ledger(row)
        return devices

    async def priors(self, suspects: Sequence[Suspect]) -> Priors:
        """See ingest.ports.Transaction."""
        stored = {number(one.verified): _issued_at(one.verified) for one in suspects if one.stored}
        held = {(number(one.verified), one.verified.digest) for one in suspects if one.held}
        priors: dict[Number, list[Prior]] = defaultdict(list)
        await self._find(priors, queries.PRIOR_MESSAGES_ISSUED_AT, list(stored), list(stored.values()))
        await self._find(priors, queries.PRIOR_MESSAGES, [n for n in stored if n not in priors])
        await self._find(priors, queries.PRIOR_HELD_OWNERS, list({n for n, _ in held}))
        await self._find(priors, queries.PRIOR_HELD_CONTENTS, [n for n, _ in held], [digest for _, digest in held])
        return priors

    async def _find(
        self, priors: dict[Number, list[Prior]], query: str, numbers: Sequence[Number], *more: object
    ) -> None:
        if numbers:
            for row in await self._connection.fetch(query, *_columns(numbers), *more):
                found = Prior(row["digest"], row["boot"], row["owner"])
                priors[row["device_no"], row["epoch"], row["seq"]].append(found)

    async def commit(self, outcome: Outcome) -> None:
        """See ingest.ports.Transaction."""
        stamp = self._stamp
        await self._copy("message", rows.MESSAGE, rows.messages(outcome.accepted, stamp.topic_no, stamp.judged_by))
        for kind, found in sorted(rows.samples(outcome.accepted, self._fields).items()):
            await self._copy(table_of(kind), rows.SAMPLE + self._fields[kind], found)
        await self._copy("held", rows.HELD, rows.held(outcome.held, stamp.topic_no, stamp.judged_by))
        refused = rows.exceptions(outcome, stamp.topic_no, stamp.judged_by)
        await self._copy("exception", rows.EXCEPTION, refused)
        await self._update(outcome.devices)
        await self._close(outcome)

    async def _copy(self, table: str, columns: Sequence[str], records: Sequence[rows.Row]) -> None:
        if records:
            copy = self._connection.copy_records_to_table
            with encoding():
                await copy(table, records=records, columns=columns, schema_name="store")

    async def _update(self, devices: Sequence[Device]) -> None:
        if devices:
            await self._connection.execute(queries.UPDATE_DEVICES, *rows.devices(devices))
        old = rows.closed(devices)
        if old[0]:
            await self._connection.execute(queries.UPDATE_CLOSED, *old)

    async def _close(self, outcome: Outcome) -> None:
        """Write the batch's summary and, last of all, move the offset: one row, or we are fenced."""
        stamp, span = self._stamp, outcome.span
        totals = [outcome.total(verdict) for verdict in Verdict]
        skipped = sum(end - start for start, end in span.skipped)
        if span.skipped:
            starts, ends = zip(*span.skipped, strict=True)
            await self._connection.execute(queries.SKIPPED, stamp.topic_no, stamp.partition, starts, ends)
        await self._connection.execute(
            queries.BATCH, stamp.topic_no, stamp.partition, span.from_offset, span.to_offset, *totals, skipped,
            stamp.owner_epoch, stamp.judged_by, stamp.worker,
        )  # fmt: skip
        allowed = outcome.allowance
        moved = await self._connection.execute(
            queries.MOVE_OFFSET, stamp.topic_no, stamp.partition, stamp.owner_epoch, span.from_offset, span.to_offset,
            span.record_hash, allowed.bytes_left, allowed.at_ms * 1000,
        )  # fmt: skip
        if moved != "UPDATE 1":
            raise FencedError(f"partition {stamp.partition}: another worker owns it since epoch {stamp.owner_epoch}")
        self.outcome = outcome


def table_of(kind: str) -> str:
    """Name the table of a kind of sample: VehicleState is kept in vehicle_state."""
    return "".join("_" + char.lower() if char.isupper() else char for char in kind).lstrip("_")


def _fields(schemas: Iterable[Schema]) -> dict[str, tuple[str, ...]]:
    """List each kind's columns after the common ones: the fields of all versions, in the order of their appearance."""
    fields: dict[str, dict[str, None]] = defaultdict(dict)
    for schema in schemas:
        for kind in schema.kinds:
            fields[kind.name].update(
                dict.fromkeys(field.name for field in kind.fields if field.name != "recorded_at_us")
            )
    return {kind: tuple(names) for kind, names in fields.items()}


def _columns(numbers: Sequence[Number]) -> list[list[int]]:
    return [[n[0] for n in numbers], [n[1] for n in numbers], [n[2] for n in numbers]]


def _senders(found: Iterable[asyncpg.Record]) -> dict[str, Sender]:
    senders: dict[str, Sender] = {}
    for row in found:
        sender = senders.get(row["device_id"])
        if sender is None:
            transfers = tuple((at_ms, tenant_no) for at_ms, tenant_no in row["transfers"] or ())
            sender = Sender(row["device_no"], row["vehicle_no"], row["tenant_no"], row["key_version"], {}, transfers)
            senders[row["device_id"]] = sender
        sender.keys[row["kid"]] = _key(row)
    return senders


def _key(row: asyncpg.Record) -> Key:
    return Key(
        row["key_no"], row["kid"], Algorithm(row["algorithm"]), row["public_key"], KeyState(row["state"]),
        row["valid_from"] // 1000, row["valid_until"] // 1000, row["seq_cutoff"],
        row["epoch_from"], row["epoch_until"],
    )  # fmt: skip


def _device(row: asyncpg.Record) -> Device:
    boots = row["boots"]
    return Device(
        row["device_no"], Standing(row["standing"]), row["key_version"], row["epoch"], row["held"],
        tuple(boots[at : at + 8] for at in range(0, len(boots), 8)), {row["epoch"]: _ledger(row)}, row["held_bytes"],
    )  # fmt: skip


def _ledger(row: asyncpg.Record) -> Ledger:
    ranges = rows.read_multirange(row["seen"])
    return Ledger(ranges, row["seen_floor"], row["lowest"], row["highest"], row["accepted"])


def _issued_at(verified: Verified) -> int:
    return rows.microseconds(verified.envelope.issued_at_s)
