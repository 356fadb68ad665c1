"""Is what is stored what was committed? Each partition's links, seal by seal, and each row against its link.

A walk takes some batches at a time, each time in a snapshot of its own: what is committed or released meanwhile does
not disturb it. What retention has dropped with its day is no finding, but is counted: nobody can say any more what it
was.
"""

from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from itertools import islice

import asyncpg
import msgspec

from ingest.adapters.postgres.audit import Head
from ingest.adapters.postgres.chain import FACTS, fact_of
from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.findings import FINDINGS_TOLD_MAX, Findings
from ingest.core.seal import BEGINNING, day_in, link, seal, split, verdict_in
from ingest.core.verdict import Verdict

LANE = "lane"  # the name of the chain of what left it
OFFSETS_AT_ONCE = 50_000  # of a partition, in one snapshot and in memory as links
ROWS_AT_ONCE = 256  # of up to 64 KiB
STATEMENT_S_MAX = 3_600.0
DAY_ZERO = 719_163  # 1970-01-01 as datetime counts days
OFFSETS_END = 2**63 - 1

# Before the snapshot: what holds these is not dropped while we read.
_KEEP_DAYS = "lock table store.message, store.exception, store.batch in access share mode"

_DAYS = """
    select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
    join pg_namespace n on n.oid = c.relnamespace where n.nspname = 'store'"""

_PLACES = """
    select topic_no, t.topic, t.incarnation, partition, next_offset,
           (select min(from_offset) from store.batch b where (b.topic_no, b.partition) = (l.topic_no, l.partition)
            and b.committed_at >= $1) as from_offset
    from store.partition_lease l join store.topic t using (topic_no) order by t.topic, t.incarnation, partition"""

# If its batches are there, no day of batches was dropped.
_FIRST_DAY = """
    select 'batch_' || to_char(min(applied_at) at time zone 'UTC', 'YYYYMMDD') from store.migration"""

_BEFORE = """
    select to_offset, seal from store.batch
    where topic_no = $1 and partition = $2 and from_offset < $3 order by from_offset desc limit 1"""

_BATCHES = """
    select from_offset, to_offset, accepted, duplicate, held, refused, judged_by, links, seal,
           committed_at < (select applied_at from store.migration where name = '0007_chain.sql') as before_links
    from store.batch
    where topic_no = $1 and partition = $2 and from_offset >= $3 order by from_offset"""

_SKIPPED = """
    select from_offset, to_offset from store.skipped
    where topic_no = $1 and partition = $2 and from_offset < $4 and to_offset > $3 order by from_offset"""

_RELINKED = """
    select offsets, links, judged_by from store.relink
    where topic_no = $1 and partition = $2 and offsets[1] < $4 and offsets[cardinality(offsets)] >= $3
    order by relink_no"""

_RELINKS = "select relink_no, links, seal from store.relink order by relink_no"

_END = """
    select l.next_offset, l.seal, b.to_offset, b.seal as batch_seal
    from store.partition_lease l left join lateral (
        select to_offset, seal from store.batch b where (b.topic_no, b.partition) = (l.topic_no, l.partition)
        order by from_offset desc limit 1
    ) b on true where l.topic_no = $1 and l.partition = $2"""

# What stands where no log has been judged.
_STRAYS = """
    select s.kind, s.topic_no, s.partition, s.kafka_offset from (
        select 'message' as kind, topic_no, partition, kafka_offset from store.message
        union all select 'held', topic_no, partition, kafka_offset from store.held
        union all select 'exception', topic_no, partition, kafka_offset from store.exception
    ) s
    where not exists (
        select from store.partition_lease l
        where (l.topic_no, l.partition) = (s.topic_no, s.partition) and s.kafka_offset between 0 and l.next_offset - 1
    ) limit $1"""


class Place(msgspec.Struct, frozen=True):
    """One partition of one incarnation of a topic, and which of its offsets are to be looked at."""

    name: str
    topic_no: int
    partition: int
    next_offset: int  # of its lease, when we began
    from_offset: int | None  # None: no batch of the time that was asked for is kept


class _Expected(msgspec.Struct, frozen=True, gc=False):
    """What the row at a position must lead to."""

    link: bytes
    judged_by: int


async def inspect(
    connection: Connection, expected: Mapping[str, Head], since_us: int, findings: Findings
) -> dict[str, Head]:
    """Walk along every partition and the lane's chain; gives their heads, by name."""
    partitions = await _places(connection, since_us)
    for name in expected.keys() - {place.name for place in partitions} - {LANE}:
        findings.add(f"{name}: there is no such partition any more")
    heads = {LANE: await _follow_lane(connection, expected.get(LANE), findings)}
    for place in partitions:
        heads[place.name] = await _Walk(connection, place, expected.get(place.name), findings).run()
    for row in await connection.fetch(_STRAYS, FINDINGS_TOLD_MAX, timeout=STATEMENT_S_MAX):
        kind, *where = row.values()
        findings.add(
            f"store.{kind}, topic_no {where[0]}, partition {where[1]}: no log has been judged at offset {where[2]}"
        )
    return heads


async def _places(connection: Connection, since_us: int) -> list[Place]:
    found = await connection.fetch(_PLACES, since_us)
    return [
        Place(f"{topic}/{incarnation}/{partition}", topic_no, partition, next_offset, from_offset)
        for topic_no, topic, incarnation, partition, next_offset, from_offset in found
    ]


async def _follow_lane(connection: Connection, expected: Head | None, findings: Findings) -> Head:
    """Follow the chain of rows that were written anew, from its beginning."""
    head = Head(0, BEGINNING)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        async for number, links, sealed in connection.cursor(_RELINKS, prefetch=ROWS_AT_ONCE):
            if number != head.rows:
                findings.add(f"{LANE}: row {head.rows} of store.relink is not there")
            elif sealed != seal(head.hash, links):
                findings.add(f"{LANE}: row {number} of store.relink is not the one that was written there")
            head = Head(number + 1, sealed)
            if expected is not None and (expected.rows, expected.hash) == (head.rows, head.hash):
                expected = None
    if expected is not None and expected.rows:
        findings.add(f"{LANE}: row {expected.rows - 1} of store.relink is not the one that the chain ended with")
    return head


class _Walk:
    """Goes along one partition, some batches at a time."""

    def __init__(self, connection: Connection, place: Place, expected: Head | None, findings: Findings) -> None:
        self._connection = connection
        self._place = place
        self._expected = expected
        self._findings = findings
        self._at = 0  # where the next batch must begin
        self._seal: bytes | None = BEGINNING  # of the batch before it; None: nobody knows
        self._tables: frozenset[str] = frozenset()  # of the days that are kept

    async def run(self) -> Head:
        """Go from the first batch asked for to the last one; gives the partition's head."""
        await self._begin()
        while await self._step():
            self._findings.progress(f"{self._place.name}: up to offset {self._at}")
        return await self._end()

    async def _begin(self) -> None:
        """Find the seal of the batch before the first; where none is kept, nobody knows it."""
        place = self._place
        start = place.next_offset if place.from_offset is None else place.from_offset
        before = await self._connection.fetchrow(_BEFORE, place.topic_no, place.partition, start)
        if before is not None:
            self._at, self._seal = before["to_offset"], before["seal"] or BEGINNING
        elif start and await self._connection.fetchval(_FIRST_DAY) not in await tables_kept(self._connection):
            self._at, self._seal = start, None
            self._findings.unchecked[f"offsets of {place.name} whose batches are not kept any more"] += start
        if self._expected is not None and self._expected.rows < self._at:
            self._findings.unchecked["heads that were given and lie before what was looked at"] += 1
            self._expected = None
        self._meet()

    async def _step(self) -> bool:
        """Check the next batches and their rows in one snapshot; says whether there were any."""
        place = self._place
        async with self._connection.transaction(isolation="repeatable_read", readonly=True):
            await self._connection.execute(_KEEP_DAYS)
            self._tables = await tables_kept(self._connection)
            batches = await self._read_batches()
            if not batches:
                return False
            where = place.topic_no, place.partition, batches[0]["from_offset"], batches[-1]["to_offset"]
            expected: dict[int, _Expected] = {}
            skipped = await self._connection.fetch(_SKIPPED, *where)
            covered = [batch for batch in batches if self._admit(batch) and self._lay_out(batch, skipped, expected)]
            for row in await self._connection.fetch(_RELINKED, *where):
                self._relink(row, expected)
            await self._compare(expected, covered, where)
        return True

    async def _read_batches(self) -> list[asyncpg.Record]:
        """Read on from where we are: to a bound, for the links of a batch are as many as its records."""
        batches: list[asyncpg.Record] = []
        where = self._place.topic_no, self._place.partition, self._at
        async for batch in self._connection.cursor(_BATCHES, *where, prefetch=20):
            batches.append(batch)
            if batch["to_offset"] - batches[0]["from_offset"] >= OFFSETS_AT_ONCE:
                break
        return batches

    def _admit(self, batch: asyncpg.Record) -> bool:
        """Check a batch against the one before it; says whether there are links to compare its rows with."""
        start, end, links = batch["from_offset"], batch["to_offset"], batch["links"]
        if start < self._at:
            self._add(f"the batch from offset {start} to {end} begins within the one before it")
            return False
        if start > self._at:
            self._add(f"there is no batch from offset {self._at} to {start}")
            self._seal = None
        if links is None and (self._seal == BEGINNING or (self._seal is None and batch["before_links"])):
            consumed = sum(batch[verdict.value] for verdict in Verdict)
            self._findings.unchecked["records that were judged before there were links"] += consumed
        elif links is None:
            self._add(f"the batch from offset {start} to {end} has no links, though there were such then")
        elif self._seal is not None and seal(self._seal, links) != batch["seal"]:
            self._add(f"the batch from offset {start} to {end}: its links are not those that were sealed")
        self._at, self._seal = end, self._seal if links is None else batch["seal"]
        self._meet()
        return links is not None

    def _meet(self) -> None:
        """Compare the head that was given with the seal at its offset."""
        if self._expected is not None and self._expected.rows == self._at:
            if self._seal not in (None, self._expected.hash):
                self._add(
                    f"the seal at offset {self._at} is not the one that was there: what leads to it was made anew"
                )
            self._expected = None

    def _lay_out(
        self, batch: asyncpg.Record, skipped: Sequence[asyncpg.Record], expected: dict[int, _Expected]
    ) -> bool:
        """Give each position of a batch its link; says whether they fit."""
        links = list(split(batch["links"]))
        span = range(batch["from_offset"], batch["to_offset"])
        offsets = list(islice(_between(span, skipped), len(links) + 1))
        counts = Counter(verdict_in(one) for one in links)
        if len(offsets) != len(links) or any(counts[verdict] != batch[verdict.value] for verdict in Verdict):
            self._add(
                f"the batch from offset {span.start} to {span.stop}: its counts, or what it skipped, were changed"
            )
            return False
        expected |= {at: _Expected(one, batch["judged_by"]) for at, one in zip(offsets, links, strict=True)}
        return True

    def _relink(self, row: asyncpg.Record, expected: dict[int, _Expected]) -> None:
        """Put the links of rows that were written anew in the place of those that waited."""
        for offset, one in zip(row["offsets"], split(row["links"]), strict=True):
            if offset in expected:
                if verdict_in(expected[offset].link) is not Verdict.HELD:
                    self._add(f"offset {offset}: its row was written anew, though it was not held")
                expected[offset] = _Expected(one, row["judged_by"])

    async def _compare(
        self, expected: dict[int, _Expected], covered: Sequence[asyncpg.Record], where: tuple[int, int, int, int]
    ) -> None:
        """Compare rows with what they must lead to; what is left of that in the end has no row."""
        starts = [batch["from_offset"] for batch in covered]
        async for row in self._connection.cursor(FACTS, *where, prefetch=ROWS_AT_ONCE, timeout=STATEMENT_S_MAX):
            offset = row["kafka_offset"]
            one = expected.pop(offset, None)
            if one is not None:
                self._check(row, one)
            elif (index := bisect(starts, offset)) and offset < covered[index - 1]["to_offset"]:
                self._add(f"offset {offset}: there is a row ({row['verdict']}) that was not committed")
        for offset, one in expected.items():
            self._miss(offset, one.link)

    def _check(self, row: asyncpg.Record, one: _Expected) -> None:
        self._findings.checked["records"] += 1
        at = f"offset {row['kafka_offset']}"
        if link(fact_of(row)) != one.link:
            was, now = verdict_in(one.link).value, row["verdict"]
            self._add(f"{at}: the row ({now}) is not the one that was committed ({was})")
        elif row["judged_by"] != one.judged_by:
            self._add(f"{at}: the row says that another code or policy judged it than its batch does")

    def _miss(self, offset: int, one: bytes) -> None:
        """Tell a row that went with its day from one that was removed."""
        verdict, day = verdict_in(one), date.fromordinal(DAY_ZERO + day_in(one))
        if verdict is not Verdict.HELD:
            table = f"{'message' if verdict is Verdict.ACCEPTED else 'exception'}_{day:%Y%m%d}"
            if table not in self._tables:
                self._findings.unchecked[f"records of {day}, which is not kept any more"] += 1
                return
        self._add(f"offset {offset}: the row ({verdict.value}) is not there any more")

    async def _end(self) -> Head:
        """Compare the last batch with the partition's lease."""
        place, expected = self._place, self._expected
        end = await self._connection.fetchrow(_END, place.topic_no, place.partition)
        assert end is not None, "the lease was there"
        ends_at, sealed = end["next_offset"], end["seal"]
        last = (self._at, sealed) if end["to_offset"] is None else (end["to_offset"], end["batch_seal"] or BEGINNING)
        if (ends_at, sealed) != last:
            self._add(f"its lease has come to offset {ends_at}, but the last batch, to {last[0]}, does not lead there")
        if expected is not None:
            self._add(f"no batch ends at offset {expected.rows} any more")
        return Head(self._at, sealed if self._seal is None else self._seal)

    def _add(self, what: str) -> None:
        self._findings.add(f"{self._place.name}: {what}")


async def tables_kept(connection: Connection) -> frozenset[str]:
    """Name the tables of days that are there."""
    return frozenset(row[0] for row in await connection.fetch(_DAYS))


def _between(span: range, skipped: Sequence[asyncpg.Record]) -> Iterator[int]:
    """Give the offsets of a batch but those that the log skipped."""
    at = span.start
    for start, end in skipped:
        if span.start <= start and end <= span.stop:
            yield from range(at, start)
            at = end
    yield from range(at, span.stop)
