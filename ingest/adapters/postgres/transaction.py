"""How is one batch committed? Everything or nothing, in the order that never deadlocks.

Device rows are locked first, by device_no; then cohorts; messages are written, device rows, and last of all the lease.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from operator import attrgetter

import asyncpg
import msgspec

from ingest.adapters.postgres import queries, rows
from ingest.adapters.postgres.accepted import MESSAGE, SAMPLE, Writing
from ingest.adapters.postgres.connection import Connection, encoding, made
from ingest.adapters.postgres.provenance import Stamp, table_of
from ingest.core.device import Device, Standing
from ingest.core.judge import Content, Number, Prior, Priors, Suspect, number
from ingest.core.message import Verified
from ingest.core.outcome import Accepted, Alert, Outcome, Strangers
from ingest.core.rate import FLEET, Bucket, Shares
from ingest.core.seal import BEGINNING, Linked, links_of, seal
from ingest.core.sequence import Ledger
from ingest.core.standing import Cohort, Trips
from ingest.core.verdict import AlertKind, Verdict
from ingest.ports import FencedError

_DEVICE_NO = attrgetter("reading.verified.sender.device_no")  # neighbours in the indexes cost the server a tenth less
_STANDINGS = {standing.value: standing for standing in Standing}


class Ownership(msgspec.Struct, frozen=True):
    """One partition on one connection."""

    connection: Connection
    stamp: Stamp
    fields: dict[str, tuple[str, ...]]  # of each kind of sample, in the order of its columns
    types: dict[str, tuple[str, ...]] = {}  # of the columns of each of their tables, once they were asked for


class PostgresTransaction:
    """One batch being committed, in the order that never deadlocks: device rows, messages, device rows, lease."""

    def __init__(
        self, ownership: Ownership, seal_before: bytes = BEGINNING, shares: dict[int, Bucket] | None = None
    ) -> None:
        self._connection = ownership.connection
        self.stamp = ownership.stamp
        self._fields = ownership.fields
        self._types = ownership.types
        self.seal = seal_before  # of the batch before; once this one is written, its own
        self._shares = {} if shares is None else shares  # as far as they were read: nobody else writes them
        self._links: list[Linked] = []  # of what is accepted, once it is written
        self.outcome: Outcome | None = None  # once all is written

    async def recall(self, accountable: Iterable[Verified]) -> Mapping[int, Device]:
        """See ingest.ports.Transaction."""
        verified = list(accountable)
        devices = await self._lock({v.sender.device_no for v in verified})
        await self._add_closed(
            devices, {v.sender.device_no for v in verified if v.envelope.epoch < devices[v.sender.device_no].epoch}
        )
        return devices

    async def lock(self, device_nos: AbstractSet[int]) -> dict[int, Device]:
        """Lock the rows of these devices, in order, and read all that is known of them."""
        devices = await self._lock(device_nos)
        await self._add_closed(devices, device_nos)
        return devices

    async def _lock(self, device_nos: AbstractSet[int]) -> dict[int, Device]:
        found = await self._connection.fetch(queries.RECALL, rows.listed(sorted(device_nos)))
        return {row["device_no"]: _device(row) for row in found}

    async def _add_closed(self, devices: Mapping[int, Device], device_nos: AbstractSet[int]) -> None:
        """Add the ledgers of closed epochs: asked for only where a message is of one."""
        if device_nos:
            for row in await self._connection.fetch(queries.RECALL_CLOSED, sorted(device_nos)):
                devices[row["device_no"]].ledgers[row["epoch"]] = _ledger(row)

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

    async def known(self, blamed: Sequence[Verified]) -> AbstractSet[Content]:
        """See ingest.ports.Transaction."""
        return await self.known_contents([(one.sender.device_no, one.digest) for one in blamed])

    async def known_contents(self, asked: Sequence[Content]) -> AbstractSet[Content]:
        """Find which of these contents have spoken against their devices before."""
        if not asked:
            return frozenset()
        columns = [device_no for device_no, _ in asked], [digest for _, digest in asked]
        return {(row[0], row[1]) for row in await self._connection.fetch(queries.KNOWN_CONTENTS, *columns)}

    async def trips(self, cohorts: Collection[Cohort]) -> Mapping[Cohort, Trips]:
        """See ingest.ports.Transaction."""
        found = {}
        for tenant_no, software in sorted(cohorts):
            await self._connection.execute(queries.LOCK_COHORT, tenant_no, software)
            at_ms = await self._connection.fetch(queries.TRIPS, tenant_no, software)
            devices = await self._connection.fetchval(queries.COHORT_DEVICES, tenant_no, software)
            found[tenant_no, software] = Trips(tuple(row[0] // 1000 for row in at_ms), devices)
        return found

    async def shares(self, tenants: AbstractSet[int]) -> Shares:
        """See ingest.ports.Transaction."""
        asked = {*tenants, FLEET}
        if strange := sorted(asked - self._shares.keys()):
            where = self.stamp.topic_no, self.stamp.partition
            found = await self._connection.fetch(queries.SHARES, *where, rows.listed(strange))
            kept = {row["tenant_no"]: Bucket(row["rate_milli"], row["rate_at"] // 1000) for row in found}
            self._shares |= {no: kept.get(no, Bucket()) for no in strange}
        return {no: self._shares[no] for no in asked}

    async def commit(self, outcome: Outcome) -> None:
        """See ingest.ports.Transaction."""
        await self.write(outcome)
        await self._close(outcome)

    async def write(self, outcome: Outcome) -> None:
        """Write all that a batch changes, but for its summary and the offset."""
        stamp = self.stamp
        if outcome.accepted:
            await self._store(sorted(outcome.accepted, key=_DEVICE_NO))
        for table, columns, found in (
            ("held", rows.HELD, rows.held(outcome.held, stamp.topic_no, stamp.judged_by)),
            ("exception", rows.EXCEPTION, rows.exceptions(outcome, stamp.topic_no, stamp.judged_by)),
            ("accusation", rows.ACCUSATION, rows.accusations(outcome, stamp.topic_no, stamp.judged_by)),
        ):
            if found:
                await self._copy(table, columns, found)
        await self._update(outcome.devices)
        if outcome.alerts:
            await self._raise(outcome.alerts)

    async def _store(self, messages: Sequence[Accepted]) -> None:
        """Write accepted messages, and their samples by kind."""
        writing = Writing(self.stamp)
        types = await self._types_of("message", MESSAGE)
        await self._pour("message", MESSAGE, writing.messages(messages, types))
        for kind, found in sorted(writing.rows.items()):
            await self._copy(table_of(kind), SAMPLE + self._fields[kind], found)
        for kind in writing.kinds():
            table, columns = table_of(kind), SAMPLE + self._fields[kind]
            await self._pour(table, columns, writing.samples(kind, await self._types_of(table, columns)))
        self._links = writing.links

    async def _raise(self, alerts: Sequence[Alert]) -> None:
        """Write alerts that were not raised before; for an equivocation, with where the first message is."""
        split = {number(one.verified): one.id for one in alerts if one.verified and one.kind is AlertKind.EQUIVOCATION}
        owners = {}
        for row in await self._connection.fetch(queries.OWNERS, *_columns(list(split))) if split else ():
            device_no, epoch, seq, *_ = row
            where = ("digest", "topic", "incarnation", "partition", "kafka_offset")
            owners[split[device_no, epoch, seq]] = {name: row[name] for name in where}
        names, places = (columns := rows.alerts(alerts, owners))[:5], columns[5:]
        await self._connection.execute(queries.RAISE, *names, self.stamp.topic_no, self.stamp.judged_by, *places)

    async def _copy(self, table: str, columns: Sequence[str], records: Iterable[rows.Row]) -> None:
        copy = self._connection.copy_records_to_table
        with encoding():
            await copy(table, records=made(records), columns=columns, schema_name="store")

    async def _types_of(self, table: str, columns: Sequence[str]) -> Sequence[str]:
        """Name the types of columns: asked once in an ownership."""
        if table not in self._types:
            asked = await self._connection.prepare(f"select {', '.join(columns)} from store.{table}")  # noqa: S608 (names of ours)
            self._types[table] = tuple([attribute.type.name for attribute in asked.get_attributes()])
        return self._types[table]

    async def _pour(self, table: str, columns: Sequence[str], source: AsyncIterator[bytes]) -> None:
        copy = self._connection.copy_to_table
        await copy(table, source=source, columns=columns, schema_name="store", format="binary")

    async def _update(self, devices: Sequence[Device]) -> None:
        if devices:
            await self._connection.execute(queries.UPDATE_DEVICES, rows.devices(devices))
        old = rows.closed(devices)
        if old[0]:
            await self._connection.execute(queries.UPDATE_CLOSED, *old)

    async def _close(self, outcome: Outcome) -> None:
        """Write the batch's summary and, last of all, move the offset: one row, or we are fenced."""
        stamp, span = self.stamp, outcome.span
        totals = [outcome.total(verdict) for verdict in Verdict]
        skipped = sum(end - start for start, end in span.skipped)
        links = links_of(outcome, self._links)
        self.seal = seal(self.seal, links)
        if span.skipped:
            starts, ends = zip(*span.skipped, strict=True)
            await self._connection.execute(queries.SKIPPED, stamp.topic_no, stamp.partition, starts, ends)
        allowed, strangers = outcome.allowance, outcome.strangers
        moved = await self._connection.execute(
            queries.CLOSE, stamp.topic_no, stamp.partition, stamp.owner_epoch, span.from_offset, span.to_offset,
            *totals, skipped, stamp.judged_by, stamp.worker, links, self.seal, *rows.shares(outcome.shares),
            span.record_hash, allowed.level_milli, allowed.at_ms * 1000, strangers.window, _bitmap(strangers),
            span.received_at_ms * 1000,
        )  # fmt: skip
        if moved != "UPDATE 1":
            raise FencedError(f"partition {stamp.partition}: another worker owns it since epoch {stamp.owner_epoch}")
        self.outcome = outcome


def _columns(numbers: Sequence[Number]) -> list[list[int]]:
    return [[n[0] for n in numbers], [n[1] for n in numbers], [n[2] for n in numbers]]


def _bitmap(strangers: Strangers) -> bytes:
    return strangers.seen.to_bytes((strangers.seen.bit_length() + 7) // 8, "big")


def _device(row: asyncpg.Record) -> Device:
    """Make an object of a row of RECALL; by position, and without asking an enum, for there may be one a message."""
    (
        device_no, standing, key_version, epoch, held, held_bytes, boots, seen, floor, lowest, highest, accepted,
        suspicion, suspicion_at, software, clock_off_since, rate_milli, rate_at, rolled,
    ) = row  # fmt: skip
    ledger = Ledger(rows.read_multirange(seen), floor, lowest, highest, accepted)
    return Device(
        device_no, _STANDINGS[standing], key_version, epoch, held,
        tuple([boots[at : at + 8] for at in range(0, len(boots), 8)]), {epoch: ledger}, held_bytes,
        suspicion, suspicion_at // 1000, software, None if clock_off_since is None else clock_off_since // 1000,
        rolled, Bucket(rate_milli, rate_at // 1000),
    )  # fmt: skip


def _ledger(row: asyncpg.Record) -> Ledger:
    ranges = rows.read_multirange(row["seen"])
    return Ledger(ranges, row["seen_floor"], row["lowest"], row["highest"], row["accepted"])


def _issued_at(verified: Verified) -> int:
    return rows.microseconds(verified.envelope.issued_at_s)
