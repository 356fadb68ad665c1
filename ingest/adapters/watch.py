"""Has a log moved under its reader, or has the reader fallen silent? The brokers are asked, apart from the consumer.

The client library tells neither: a log that lost its end or was made anew may look like one that goes on, and a
consumer whose inner task has ended gives nothing more, without an error.
"""

import asyncio
import time
from collections.abc import Callable, Collection

import msgspec
import structlog
from aiokafka import TopicPartition

from ingest.adapters import batches
from ingest.adapters.brokers import Brokers, End, ask
from ingest.adapters.continuity import Found
from ingest.adapters.metadata import Topic
from ingest.config import Settings
from ingest.ports import TroubleError

LOOK_BYTES_MAX = 65_536  # of what waits: enough to tell a record from markers


class Vigilance(msgspec.Struct, frozen=True):
    """How often is looked, and how long the consumer may give nothing of what waits, or the brokers not answer."""

    look_every_s: float = 5.0
    silent_s_max: float = 30.0
    away_s_max: float = 30.0


VIGILANCE = Vigilance()


class SilentError(Exception):
    """The consumer has stopped, and does not know it: only a new process has a new one."""


class _Read(msgspec.Struct, frozen=True):
    """What was last asked for, and when, without an answer so far."""

    offset: int
    at_s: float


class _Wait(msgspec.Struct, frozen=True):
    """A record that waits here, and has since then."""

    offset: int
    since_s: float


class Watch:
    """What was seen of a topic's partitions, and of what their reader does."""

    def __init__(self, settings: Settings, member: str, vigilance: Vigilance) -> None:
        self._settings = settings
        self._member = member  # the consumer's client id, by which its group knows it
        self._vigilance = vigilance
        self._pause_s_max = vigilance.silent_s_max / 2 + settings.batch_wait_ms / 1000  # else nobody is reading
        self._found: dict[int, Found] = {}  # the log as it was when it was confirmed
        self._moved: dict[int, str] = {}  # why it has to be confirmed again
        self._ends: dict[int, int] = {}
        self._reads: dict[int, _Read] = {}
        self._waits: dict[int, _Wait] = {}
        self._absent_since_s: float | None = None  # from the group
        self._answered_s = time.monotonic()  # when the brokers last said or gave anything

    def confirmed(self, partition: int, found: Found) -> None:
        """Take note that a log is the one that it should be."""
        self._answered_s = time.monotonic()
        self._found[partition] = found
        self._ends[partition] = found.bounds.end
        self._moved.pop(partition, None)

    def asked(self, partition: int, offset: int) -> None:
        """Take note of a read. Raises TroubleError when the log has moved since it was confirmed (once), or is away.

        Without this a worker would take brokers that are away for a topic to which nobody writes.
        """
        why = self._moved.pop(partition, None)
        if why is not None:
            raise TroubleError(f"partition {partition}: {why}, so the log is compared with what was read of it")
        now_s = time.monotonic()
        if now_s - self._answered_s > self._vigilance.away_s_max:
            raise TroubleError(f"the brokers have not answered for {now_s - self._answered_s:.0f} s")
        self._reads[partition] = _Read(offset, now_s)

    def given(self, partition: int) -> None:
        """Take note that the consumer gave something."""
        self._answered_s = time.monotonic()
        self._reads.pop(partition, None)
        self._waits.pop(partition, None)

    def end(self, partition: int) -> int:
        """Say where the log ended when it was last seen; 0 if that is not known."""
        return self._ends.get(partition, 0)

    async def keep(self, ours: Callable[[], Collection[int]], failed: Callable[[Exception], None]) -> None:
        """Look every few seconds; `failed` hears of a consumer that has stopped, which ends the watch.

        What could not be looked at is no reason to do anything, and silence is counted from the beginning again.
        """
        while True:
            await asyncio.sleep(self._vigilance.look_every_s)
            try:
                await self._look(ours())
            except SilentError as error:
                failed(error)
                return
            except Exception as error:  # noqa: BLE001 (whatever it is, the next look may go well)
                self._waits, self._absent_since_s = {}, None
                structlog.get_logger().warning("not_watched", error=f"{type(error).__name__}: {error}")

    async def _look(self, ours: Collection[int]) -> None:
        async with ask(self._settings.kafka) as brokers:
            topic = await brokers.topic(self._settings.topic)
            self._answered_s = time.monotonic()
            self._moved |= {number: why for number in ours if (why := self._movement(number, topic))}
            self._ends = await brokers.offsets(topic, ours, End.LAST)
            await self._look_for_silence(brokers, topic, ours)
            await self._look_for_absence(brokers)

    def _movement(self, partition: int, topic: Topic) -> str:
        found = self._found.get(partition)
        if found is None:
            return ""
        if topic.log_id != found.log_id:
            return "its topic was made anew"
        leader = topic.leaders.get(partition)
        if leader is not None and leader.epoch > found.epoch:  # an older one is what a broker knows that lags behind
            return "its leader has changed, or was started again"
        return ""

    async def _look_for_silence(self, brokers: Brokers, topic: Topic, ours: Collection[int]) -> None:
        """Raise SilentError when a record waits that we can read for ourselves and the consumer does not give us."""
        now_s = time.monotonic()
        self._waits = {number: wait for number in ours if (wait := self._wait(number, now_s))}
        for number, wait in list(self._waits.items()):
            if now_s - wait.since_s < self._vigilance.silent_s_max:
                continue
            data = await brokers.fetch(topic, number, wait.offset, LOOK_BYTES_MAX)
            if not batches.read(data, TopicPartition(topic.name, number), wait.offset, 1).records:
                self._waits.pop(number, None)  # nothing but markers
            elif self._waits.get(number) == wait:
                raise SilentError(
                    f"the consumer gave nothing of partition {number} from offset {wait.offset} on for "
                    f"{now_s - wait.since_s:.0f} s, and anybody else can read it: this process has to be started again"
                )

    def _wait(self, partition: int, now_s: float) -> _Wait | None:
        """Say what waits here, if somebody has been reading all the time and the brokers have more than was given."""
        read = self._reads.get(partition)
        if read is None or now_s - read.at_s > self._pause_s_max or self.end(partition) <= read.offset:
            return None
        before = self._waits.get(partition)
        return before if before is not None and before.offset == read.offset else _Wait(read.offset, now_s)

    async def _look_for_absence(self, brokers: Brokers) -> None:
        """Raise SilentError when the group has forgotten the consumer, which believes to be a member."""
        if self._member in await brokers.members(self._settings.group):
            self._absent_since_s = None
            return
        now_s = time.monotonic()
        since_s = self._absent_since_s if self._absent_since_s is not None else now_s
        self._absent_since_s = since_s
        if now_s - since_s >= self._vigilance.silent_s_max:
            raise SilentError(
                f"the consumer has not been a member of group {self._settings.group} for {now_s - since_s:.0f} s, "
                "and does not come back: this process has to be started again"
            )
