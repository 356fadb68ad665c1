"""Do the columns and the samples of what is stored say what its envelopes say? Every envelope is read once more.

Day by day, in the order of devices and numbers: messages and the samples of each kind side by side. So what is missing
and what nobody said is found as well as what was changed, however much there is.
"""

import hashlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise, zip_longest

import asyncpg

from ingest.adapters.postgres.accepted import SAMPLE
from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.findings import Findings
from ingest.adapters.postgres.inspection import ROWS_AT_ONCE, STATEMENT_S_MAX, tables_kept
from ingest.adapters.postgres.provenance import columns_of, table_of
from ingest.adapters.postgres.rows import CALENDAR_S_MAX, Row, microseconds, signed
from ingest.core import envelope
from ingest.core.message import Envelope, RawRecord, Refused, Sample
from ingest.core.payload import HEADER_BYTES, Catalogue, reread
from ingest.core.seal import DAY_US

FOR_EVER_US = microseconds(CALENDAR_S_MAX) + 1
LAST = (2**63, 0, 0)  # behind every number of every device

Key = tuple[int, int, int]  # device_no, epoch, seq

_MESSAGE_DAYS = """
    select to_date(right(c.relname, 8), 'YYYYMMDD')::timestamp at time zone 'UTC' as day
    from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'store.message'::regclass and c.relname ~ '_[0-9]{8}$' order by 1"""

# With what the registry makes of the same words: the message's device and key by their names.
_MESSAGES = """
    select m.*, t.topic, t.incarnation, d.device_id, d.vehicle_no as device_vehicle, k.kid
    from store.message m
    left join store.topic t using (topic_no)
    left join store.device d using (device_no)
    left join store.device_key k on k.key_no = m.key_no and k.device_no = m.device_no
    where m.issued_at >= $1 and m.issued_at < $2 order by m.device_no, m.epoch, m.seq, m.issued_at"""


async def reread_all(connection: Connection, catalogue: Catalogue, since_us: int, findings: Findings) -> None:
    """Compare all messages that were issued since then, and their samples, with their envelopes."""
    found = await connection.fetch(_MESSAGE_DAYS)
    days = [row["day"] for row in found if row["day"] > since_us]
    edges = [since_us, *days, *[day + DAY_US for day in days[-1:]], FOR_EVER_US]
    for start, end in pairwise(edges):
        await _Day(connection, catalogue, findings).reread(start, end)
        findings.progress(f"messages and samples: up to those issued on {_name(end - 1)}")


class _Day:
    """Rereads what was issued in some time, in one snapshot."""

    def __init__(self, connection: Connection, catalogue: Catalogue, findings: Findings) -> None:
        self._connection = connection
        self._catalogue = catalogue
        self._findings = findings
        self._columns = columns_of(catalogue.schemas)
        self._tables: frozenset[str] = frozenset()

    async def reread(self, start_us: int, end_us: int) -> None:
        """Go through messages and samples side by side."""
        async with self._connection.transaction(isolation="repeatable_read", readonly=True):
            kinds = [table_of(kind) for kind in self._columns]
            locked = ", ".join(f"store.{table}" for table in ("message", *kinds))
            await self._connection.execute(f"lock table {locked} in access share mode")  # as in inspection.py
            self._tables = await tables_kept(self._connection)
            streams = {kind: self._samples(kind, start_us, end_us) for kind in self._columns}
            for stream in streams.values():
                await stream.begin()
            async for row in self._cursor(_MESSAGES, start_us, end_us):
                await self._reread_message(row, streams)
            for stream in streams.values():
                await stream.take(LAST)

    def _samples(self, kind: str, start_us: int, end_us: int) -> "_Samples":
        columns = ", ".join((*SAMPLE, *self._columns[kind]))  # names that the lint of schemas has let pass
        query = (
            f"select {columns} from store.{table_of(kind)} where issued_at >= $1 and issued_at < $2 "  # noqa: S608 (as said)
            "order by device_no, epoch, seq, sample_no"
        )
        return _Samples(self._cursor(query, start_us, end_us), lambda row: self._stray(table_of(kind), row))

    def _cursor(self, query: str, *arguments: int) -> AsyncIterator[asyncpg.Record]:
        cursor = self._connection.cursor(query, *arguments, prefetch=ROWS_AT_ONCE, timeout=STATEMENT_S_MAX)
        rows: AsyncIterator[asyncpg.Record] = aiter(cursor)
        return rows

    async def _reread_message(self, row: asyncpg.Record, streams: Mapping[str, "_Samples"]) -> None:
        self._findings.checked["messages"] += 1
        where = f"{row['topic']}/{row['incarnation']}/{row['partition']}: offset {row['kafka_offset']}"
        key = row["device_no"], row["epoch"], row["seq"]
        stored = {kind: await stream.take(key) for kind, stream in streams.items()}
        said = _read(row)
        if isinstance(said, Refused):
            self._findings.add(f"{where}: what is stored as its envelope is none: {said.detail}")
            return
        samples = reread(said.payload, self._catalogue)
        if changed := _changed(row, said, samples):
            self._findings.add(f"{where}: {', '.join(changed)}: not what its envelope says")
        if samples is None:
            self._findings.unchecked["messages whose payload cannot be read here"] += 1
            return
        expected = _sample_rows(row, samples)
        for kind, found in stored.items():
            if found != expected[kind]:
                self._note(where, table_of(kind), found, expected[kind])

    def _note(self, where: str, table: str, found: Sequence[Row], expected: Sequence[Row]) -> None:
        """Tell samples that went with their day from those that somebody changed."""
        if not found and f"{table}_{_name(expected[0][4])}" not in self._tables:
            self._findings.unchecked[f"samples of {_name(expected[0][4])}, which is not kept any more"] += len(expected)
            return
        was, now = next(pair for pair in zip_longest(expected, found) if pair[0] != pair[1])
        number = (was or now or ())[3]
        self._findings.add(f"{where}: its sample {number} in store.{table} is not what its envelope says")

    def _stray(self, table: str, row: asyncpg.Record) -> None:
        if f"message_{_name(row['issued_at'])}" not in self._tables:
            self._findings.unchecked[f"samples of {_name(row['issued_at'])}, whose messages are not kept any more"] += 1
            return
        number = f"device_no {row['device_no']}, epoch {row['epoch']}, seq {row['seq']}"
        self._findings.add(f"store.{table}: sample {row['sample_no']} of {number} is of no message that is stored")


class _Samples:
    """The samples of one kind, in the order of the messages that they are of."""

    def __init__(self, rows: AsyncIterator[asyncpg.Record], stray: Callable[[asyncpg.Record], None]) -> None:
        self._rows = rows
        self._stray = stray
        self._next: asyncpg.Record | None = None

    async def begin(self) -> None:
        """Read the first."""
        self._next = await anext(self._rows, None)

    async def take(self, key: Key) -> list[Row]:
        """Take those of one message; what comes before them is of none."""
        found: list[Row] = []
        while self._next is not None and self._next[:3] <= key:
            if self._next[:3] == key:
                found.append(tuple(self._next))
            else:
                self._stray(self._next)
            self._next = await anext(self._rows, None)
        return found


def _read(row: asyncpg.Record) -> Envelope | Refused:
    value = row["envelope"]
    record = RawRecord("", row["partition"], row["kafka_offset"], row["received_at"] // 1000, value)
    return envelope.read(record, len(value))


def _changed(row: asyncpg.Record, said: Envelope, samples: Sequence[Sample] | None) -> list[str]:
    """Name the columns of a message that differ from what its envelope and the registry say."""
    expires_at_s = said.expires_at_s
    columns = (
        ("device_no", row["device_id"], said.device_id),
        ("key_no", row["kid"], said.kid),
        ("vehicle_no", row["vehicle_no"], row["device_vehicle"]),
        ("issued_at", row["issued_at"], microseconds(said.issued_at_s)),
        ("expires_at", row["expires_at"], None if expires_at_s is None else microseconds(expires_at_s)),
        ("cose_alg", row["cose_alg"], said.alg),
        ("epoch", row["epoch"], said.epoch),
        ("seq", row["seq"], said.seq),
        ("boot", row["boot"], said.boot),
        ("software", row["software"], said.software),
        ("configuration", row["configuration"], said.configuration),
        ("schema", row["schema"], signed(int.from_bytes(said.payload[2:HEADER_BYTES], "little"))),
        ("samples", row["samples"], row["samples"] if samples is None else len(samples)),
        ("digest", row["digest"], hashlib.sha256(said.signed).digest()),
    )
    return [name for name, stored, expected in columns if stored != expected]


def _sample_rows(row: asyncpg.Record, samples: Sequence[Sample]) -> dict[str, list[Row]]:
    """Give the rows that the samples of a message must have, by kind."""
    rows: dict[str, list[Row]] = defaultdict(list)
    common = row["device_no"], row["epoch"], row["seq"]
    for number, sample in enumerate(samples):
        rows[sample.kind].append((*common, number, row["issued_at"], *sample.values))
    return rows


def _name(us: int) -> str:
    return f"{datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us):%Y%m%d}"
