"""What goes on while it runs? Once a second: how far it is, who uses the processor, how much memory workers have."""

import os
import time
from collections import Counter, defaultdict, deque
from collections.abc import Sequence

from deploy.embedded.command import say
from ingest.adapters.postgres.connection import Connection
from loadtest.backlog import resident
from loadtest.compare.cpu import Times, family, times, used_s
from loadtest.compare.ground import Ground
from loadtest.rig.histogram import Histogram
from loadtest.rig.result import Usage
from loadtest.rig.sender import Span

MB = 1 << 20

_NEWS = """
    select partition, to_offset, (extract(epoch from committed_at) * 1000)::bigint as committed_ms, committed_at
    from weighbridge.batch where topic = $1 and committed_at > $2 order by committed_at"""


class Progress:
    """How far sending and committing are, and how long it has taken so far: of what was appended together, by count."""

    def __init__(self) -> None:
        self.sent = 0
        self.committed = 0
        self.waited = Histogram()  # in ms: the line on the terminal needs no more; the report is made of the rows
        self._spans: dict[int, deque[Span]] = defaultdict(deque)
        self._commits: dict[int, deque[tuple[int, int]]] = defaultdict(deque)

    def append(self, spans: Sequence[Span]) -> None:
        """Take what was appended."""
        for span in spans:
            self.sent += span.count
            self._spans[span.partition].append(span)
            self._pair(span.partition)

    def commit(self, partition: int, until: int, committed_ms: int) -> None:
        """Take note that a partition is committed up to an offset."""
        self._commits[partition].append((until, committed_ms))
        self._pair(partition)

    def _pair(self, partition: int) -> None:
        """Find the commits of what was appended; either may be heard of first."""
        spans, commits = self._spans[partition], self._commits[partition]
        while spans and commits:
            until, committed_ms = commits[0]
            if until < spans[0].offset + spans[0].count:
                commits.popleft()
            else:
                span = spans.popleft()
                self.waited.add(committed_ms - span.appended_at_ms, span.count)

    def __str__(self) -> str:
        lag = max(0, self.sent - self.committed)
        p99 = self.waited.quantile(0.99)
        return f"{self.sent:9,} sent  {self.committed:9,} committed  lag {lag:8,}  p99 so far {p99:6,} ms"


class Probe:
    """Looks at the processes and at the database."""

    def __init__(self, ground: Ground, connection: Connection, workers: Sequence[int], senders: Sequence[int]) -> None:
        self._ground = ground
        self._connection = connection
        self._workers = workers
        self._senders = senders
        self._before_s = time.time()
        self._before = self._times()
        self._used: Counter[str] = Counter()
        self.zero_s = self._before_s  # when the time begins that counts
        self._seen = None
        self.progress = Progress()
        self.usage: list[Usage] = []

    async def look(self) -> None:
        """Look once, and tell."""
        await self._count()
        now_s, now = time.time(), self._times()
        used = {kind: used_s(self._before[kind], after) for kind, after in now.items()}
        if self._before_s >= self.zero_s:
            self._used.update(used)
            cores = {kind: value / (now_s - self._before_s) for kind, value in used.items()}
            memory = {pid: size / MB for pid, size in resident(self._workers, "VmRSS").items()}
            if not self.usage:
                self.progress.waited = Histogram()
            self.usage.append(Usage(now_s - self.zero_s, cores, memory))
        self._before_s, self._before = now_s, now
        say(f"{now_s - self.zero_s:5.0f} s  {self.progress}")

    def used_s(self) -> dict[str, float]:
        """Say how much processor each kind of process has used."""
        return dict(self._used)

    async def _count(self) -> None:
        """See what was committed since the last look."""
        topic = self._ground.topic
        if self._seen is None:
            self._seen = await self._connection.fetchval("select to_timestamp(0)")
        for partition, until, committed_ms, committed_at in await self._connection.fetch(_NEWS, topic, self._seen):
            self.progress.commit(partition, until, committed_ms)
            self._seen = committed_at
        self.progress.committed = await self._connection.fetchval(
            "select coalesce(sum(next_offset), 0)::bigint from store.partition_lease"
        )

    def _times(self) -> dict[str, Times]:
        """Read the clocks of all whose processes are known; of servers that were lent they are not."""
        kafka, postgres = self._ground.servers.pids()
        kinds = {
            "workers": self._workers,
            "PostgreSQL": family(postgres) if postgres else [],
            "Kafka": [kafka] if kafka else [],
            "rig": [os.getpid(), *self._senders],
        }
        return {kind: times(pids) for kind, pids in kinds.items() if pids}
