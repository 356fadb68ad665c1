"""What became of each message, and when? Read from the database afterwards: of every record, not of a sample.

The schedule says what stands at which offset, when it was due and what it deserves; the store says when the broker
appended it, when its batch was committed and what verdict it got. Both clocks are this machine's; the broker's counts
milliseconds. A batch notes its time just before COMMIT, so the flush of the log itself is not in it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterator

from device_sim.truth import Comparison, Deserved, Found
from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.readout import ROWS_AT_ONCE
from ingest.core.verdict import Verdict
from loadtest.compare.ground import PARTITIONS, PATIENCE_S
from loadtest.rig.arrival import merged
from loadtest.rig.histogram import Histogram
from loadtest.rig.result import Part, Second, spread
from loadtest.rig.scenario import Course, Phase

_ROWS = """
    select kafka_offset, verdict, coalesce(reason, '') as reason, extract(epoch from received_at)::float8 as received_s
    from weighbridge.verdict where topic = $1 and partition = $2 order by kafka_offset"""

_BATCHES = """
    select from_offset, to_offset, extract(epoch from committed_at)::float8 as committed_s
    from weighbridge.batch where topic = $1 and partition = $2 order by from_offset"""

Row = tuple[int, str, str, float]
Batch = tuple[int, int, float]


class PhaseAccount:
    """Of the stream that is watched, in one phase."""

    def __init__(self, phase: Phase) -> None:
        self.phase = phase
        self.offered = 0
        self.good = 0
        self.waited = Histogram()
        self.whole = Histogram()

    def part(self) -> Part:
        """Sum up."""
        seconds = self.phase.until_s - self.phase.from_s
        return Part(
            self.phase.name,
            self.phase.from_s,
            self.phase.until_s,
            self.offered / seconds,
            self.good / seconds,
            spread(self.waited),
            spread(self.whole),
        )


class Account:
    """Takes every record of a course."""

    def __init__(self, course: Course, topic: str, begin_at_s: float) -> None:
        self.comparison = Comparison()
        self.waited = Histogram()
        self.whole = Histogram()
        self.phases = [PhaseAccount(phase) for phase in course.phases]
        self.last_s = 0.0  # when the last batch was committed, since the time began that counts
        self._course = course
        self._topic = topic
        self._zero_s = begin_at_s + course.warm_s
        self._due: Counter[int] = Counter()
        self._appended: Counter[int] = Counter()
        self._committed: Counter[int] = Counter()
        self._waited_in: dict[int, Histogram] = {}

    async def read(self, connection: Connection) -> None:
        """Read all partitions."""
        for partition in range(PARTITIONS):
            batches = iter([tuple(row) for row in await connection.fetch(_BATCHES, self._topic, partition)])
            await self._read(partition, _rows(connection, self._topic, partition), batches)

    async def _read(self, partition: int, rows: AsyncIterator[Row], batches: Iterator[Batch]) -> None:
        """Walk along the schedule, the rows and the batches of a partition, all in the order of the log."""
        schedule = enumerate(merged(self._course.flows, partition, PARTITIONS))
        offset, at_s, which = -1, 0.0, 0
        _, until, committed_s = next(batches, (0, 0, 0.0))
        async for row in rows:
            while offset < row[0]:
                try:
                    offset, (at_s, which, _) = next(schedule)
                except StopIteration:
                    break  # what nobody sent: the comparison knows of no such place
                self._expect(partition, offset, at_s, which)
            while until <= row[0]:
                _, until, committed_s = next(batches)
            self.comparison.find(Found(self._topic, partition, row[0], row[1], row[2]))
            self._time(at_s - self._course.warm_s, which, row, committed_s)
        for offset, (at_s, which, _) in schedule:
            self._expect(partition, offset, at_s, which)

    def _expect(self, partition: int, offset: int, at_s: float, which: int) -> None:
        stream = self._course.streams[which]
        deserved = Deserved(
            self._topic,
            partition,
            offset,
            stream.verdict,
            stream.reason,
            None,
            stream.name,
            "",
            otherwise=stream.otherwise,
        )
        self.comparison.expect(deserved)
        due_s = at_s - self._course.warm_s
        self._due[int(due_s // 1)] += 1
        for account in self.phases:
            account.offered += account.phase.from_s <= due_s < account.phase.until_s

    def _time(self, due_s: float, which: int, row: Row, committed_s: float) -> None:
        _, verdict, _, received_s = row
        appended_s, done_s = received_s - self._zero_s, committed_s - self._zero_s
        self._appended[int(appended_s // 1)] += 1
        self._committed[int(done_s // 1)] += 1
        self.last_s = max(self.last_s, done_s)
        for account in self.phases:
            good = verdict == Verdict.ACCEPTED and not which
            account.good += good and account.phase.from_s <= done_s < account.phase.until_s
        if which or due_s < 0:
            return
        waited_us, whole_us = int((done_s - appended_s) * 1e6), int((done_s - due_s) * 1e6)
        self.waited.add(waited_us)
        self.whole.add(whole_us)
        self._waited_in.setdefault(int(appended_s // 1), Histogram()).add(waited_us)
        for account in self.phases:
            if account.phase.from_s <= due_s < account.phase.until_s:
                account.waited.add(waited_us)
                account.whole.add(whole_us)

    @property
    def committed(self) -> int:
        """How many were committed in the time that counts."""
        return sum(count for at, count in self._committed.items() if at >= 0)

    def seconds(self) -> list[Second]:
        """Tell it second by second; what was appended before and not committed is there from the first on."""
        lag = sum(count for at, count in self._appended.items() if at < 0)
        lag -= sum(count for at, count in self._committed.items() if at < 0)
        found = []
        for at in range(int(self.last_s) + 1):
            lag += self._appended[at] - self._committed[at]
            waited = self._waited_in.get(at)
            p50, p99 = (waited.quantile(share) / 1_000 if waited else None for share in (0.5, 0.99))
            found.append(Second(at, self._due[at], self._appended[at], self._committed[at], lag, p50, p99))
        return found


async def _rows(connection: Connection, topic: str, partition: int) -> AsyncIterator[Row]:
    async with connection.transaction(readonly=True):
        await connection.execute("set local statement_timeout = 0")
        async for row in connection.cursor(_ROWS, topic, partition, prefetch=ROWS_AT_ONCE, timeout=PATIENCE_S):
            yield tuple(row)
