"""How are records read from Kafka? By a consumer group that only assigns; the offsets live in the store.

Each partition's loop reads its own partition, so a slow commit holds up no other, and what waits here is bounded by one
fetch for each partition. The group's own offsets are written for the tools that watch lag; they are never believed.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.codec import has_gzip, has_lz4, has_snappy, has_zstd
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    UnsupportedCodecError,
)

from ingest.adapters import batches, brokers, continuity
from ingest.adapters.watch import VIGILANCE, Vigilance, Watch
from ingest.config import Settings
from ingest.core.message import RawRecord
from ingest.ports import Mark, TroubleError

ADVISE_EVERY_S = 5.0
FETCH_BYTES_MIN = 2**16  # else a broker answers for every few records that are appended; they wait for a batch anyway
FETCH_WAIT_MS_MAX = 100  # a seek, or another partition's records, wait for the fetch that is out: shorter than a read
CODECS = {"gzip": has_gzip, "snappy": has_snappy, "lz4": has_lz4, "zstd": has_zstd}  # a producer takes any of them
REBALANCE_S_MAX = 0.25  # beyond its time: during a rebalance it waits for the end of that, which waits for our drain
LEAVE_S_MAX = 1.5  # with the drain before it, a worker is gone within 10 s
METADATA_MS_MAX = 30_000  # so long may pass until somebody tends a partition that was added
POLL_INTERVAL_MS_MAX = 86_400_000  # a database that is down for hours is no reason to leave the group

Rebalanced = Callable[[frozenset[int]], Awaitable[None]]
Failed = Callable[[Exception], None]


class KafkaLog:
    """One topic, read as a member of a group. Use `open_log`."""

    def __init__(self, consumer: AIOKafkaConsumer, settings: Settings, watch: Watch) -> None:
        self._consumer = consumer
        self._settings = settings
        self._watch = watch
        self._beside: list[asyncio.Task[None]] = []  # the work beside reading
        self._done: dict[TopicPartition, int] = {}
        self._doubts: dict[int, tuple[int, int]] = {}  # a hole at the start, seen once: from, to
        self._anew: dict[int, int] = {}  # up to here, where a batch ends or its last record, we read for ourselves
        self._markers: dict[int, tuple[int, int]] = {}  # behind the last record, and where the consumer stands

    def join(self, assigned: Rebalanced, revoked: Rebalanced, failed: Failed) -> None:
        """Join the group, and hear of partitions from now on.

        `failed` hears of what goes wrong in the other two, and of a consumer that has stopped without a word.
        """
        self._consumer.subscribe([self._settings.topic], listener=_Listener(assigned, revoked, failed))
        self._beside += [
            asyncio.create_task(self._advise(), name="advise"),
            asyncio.create_task(self._watch.keep(self._ours, failed), name="watch"),
        ]

    async def rest(self) -> None:
        """End the work beside reading."""
        for task in self._beside:
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)

    def seek(self, partition: int, offset: int) -> None:
        """See ingest.ports.Log."""
        try:
            self._consumer.seek(self._at(partition), offset)
        except IllegalStateError as error:
            raise TroubleError(f"partition {partition} is not assigned to this worker any more") from error

    async def confirm(self, partition: int, mark: Mark) -> str:
        """See ingest.ports.Log. The brokers are asked, apart from the consumer."""
        found = await continuity.compare(self._settings.kafka, self._at(partition), mark)
        self._markers.pop(partition, None)  # they may have been those of another log
        self._watch.confirmed(partition, found)
        return found.log_id

    async def read(self, partition: int, offset: int) -> Sequence[RawRecord]:
        """See ingest.ports.Log. A hole at the start is believed when two readings agree about it."""
        self._watch.asked(partition, offset)
        records = await self._gather(partition, offset)
        position = await self._position(partition, offset)
        first = records[0].offset if records else position
        if first > offset and self._doubts.get(partition) != (offset, first):
            self._doubts[partition] = offset, first  # the consumer's position may have gone astray, even to the end
            self.seek(partition, offset)
            return []
        if records:
            self._doubts.pop(partition, None)
        elif position > offset:
            self._done[self._at(partition)] = position  # nothing but markers: who watches the group sees no lag
        self._markers[partition] = records[-1].offset + 1 if records else offset, position
        return records

    def done(self, partition: int, next_offset: int) -> None:
        """See ingest.ports.Log."""
        self._done[self._at(partition)] = next_offset

    def waiting(self, partition: int, next_offset: int) -> int:
        """See ingest.ports.Log. Markers do not wait."""
        at = self._at(partition)
        start, end = self._markers.get(partition, (0, 0))
        read_to = max(next_offset, end) if next_offset == start else next_offset
        if at not in self._consumer.assignment():
            return 0
        log_end = max(self._consumer.highwater(at) or 0, self._watch.end(partition))
        return max(0, log_end - read_to)

    async def _advise(self) -> None:
        """Write the committed offsets to the group every few seconds, for tools that show lag; it may fail."""
        while True:
            await asyncio.sleep(ADVISE_EVERY_S)
            ours = {at: offset for at, offset in self._done.items() if at in self._consumer.assignment()}
            if ours:
                try:
                    await self._consumer.commit(ours)
                except Exception as error:  # noqa: BLE001 (whatever it is, the next try may go well)
                    structlog.get_logger().info("not_advised", error=f"{type(error).__name__}: {error}")

    def _ours(self) -> frozenset[int]:
        return frozenset(at.partition for at in self._consumer.assignment())

    def _at(self, partition: int) -> TopicPartition:
        return TopicPartition(self._settings.topic, partition)

    async def _gather(self, partition: int, offset: int) -> list[RawRecord]:
        """Take what is there, and wait for more until the batch is full, or its first record has waited long enough.

        What has waited in the log counts: behind a backlog nobody waits for what comes next.
        """
        loop, limits = asyncio.get_running_loop(), self._settings
        wait_ms_min = min(FETCH_WAIT_MS_MAX, limits.batch_wait_ms)  # for the fetch that is out
        records = await self._fetch(partition, offset, limits.batch_records_max, limits.batch_wait_ms)
        if records:
            self._watch.given(partition)
        size, until = _bytes(records), loop.time() + _patience_s(records, limits.batch_wait_ms)
        while records and len(records) < limits.batch_records_max and size < limits.batch_bytes_max:
            left_ms, following = int((until - loop.time()) * 1000), records[-1].offset + 1
            if left_ms <= 0 and not self.waiting(partition, following):
                break
            room = limits.batch_records_max - len(records)
            more = await self._fetch(partition, following, room, left_ms if left_ms > 0 else wait_ms_min)
            if left_ms <= 0 and not more:
                break
            size += _bytes(more)
            records += more
        return records

    async def _position(self, partition: int, offset: int) -> int:
        """Where the consumer stands by itself: beyond records that it gave to nobody, behind markers."""
        try:
            async with asyncio.timeout(self._settings.batch_wait_ms / 1000):
                position: int = await self._consumer.position(self._at(partition))
        except (KafkaError, TimeoutError):
            return offset  # it is being assigned anew
        return position

    async def _begin_late(self, partition: int, offset: int) -> int:
        """Begin where the log does if nothing was read yet; what is gone shows as a hole, and is noted as skipped.

        Returns where that is, or the offset itself if the log holds it: then it was the consumer that had gone astray.
        """
        at = self._at(partition)
        bounds = await continuity.bounds_of(self._settings.kafka, at)
        continuity.check(at, offset, bounds)
        beginning = max(offset, bounds.first)
        self.seek(partition, beginning)
        return beginning

    async def _fetch(self, partition: int, offset: int, records_max: int, wait_ms: int) -> list[RawRecord]:
        """Take what is there at or after the offset, or wait for it once."""
        at = self._at(partition)
        if offset < self._anew.get(partition, 0):
            return await self._read_anew(partition, offset, records_max, "the rest of a batch")
        try:
            given = await self._ask_consumer(at, records_max, wait_ms)
        except NoOffsetForPartitionError:  # our seek came before the group's answer, which is that it has no offset
            self.seek(partition, offset)
            return []
        except OffsetOutOfRangeError:
            await self._begin_late(partition, offset)
            return []
        except (CorruptRecordException, UnsupportedCodecError) as error:
            why = type(error).__name__
        except (KafkaError, ConsumerStoppedError, MemoryError) as error:
            raise TroubleError(f"reading partition {partition}: {type(error).__name__}: {error}") from error
        except Exception as error:  # noqa: BLE001 (a record can make the library raise anything, and it must not stop us)
            why = type(error).__name__
        else:
            records = batches.taken(given, at, offset)
            if [record.offset for record in records] == list(range(offset, offset + len(records))):
                return records
            why = "a gap"
        return await self._read_anew(partition, offset, records_max, why)

    async def _ask_consumer(self, at: TopicPartition, records_max: int, wait_ms: int) -> Sequence[ConsumerRecord]:
        fetching = self._consumer.getmany(at, timeout_ms=wait_ms, max_records=records_max)
        try:
            fetched = await asyncio.wait_for(fetching, wait_ms / 1000 + REBALANCE_S_MAX)
        except TimeoutError:
            return []
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            raise ConsumerStoppedError("a task of its own was cancelled") from error
        return fetched.get(at, [])  # type: ignore[no-any-return]  # aiokafka carries no types

    async def _read_anew(self, partition: int, offset: int, records_max: int, why: str) -> list[RawRecord]:
        """Read for ourselves, batch by batch, what the library stumbles over or may have been deceived about.

        It believes the offset that a record claims, be it far behind its batch: honest records would be passed over.
        Where offsets have no gap there is no room for such a claim, as long as we begin where a batch does.
        """
        structlog.get_logger().info("read_anew", partition=partition, offset=offset, why=why)
        at = self._at(partition)
        bytes_max = self._settings.batch_bytes_max
        try:
            data = await brokers.fetch(self._settings.kafka, at, offset, bytes_max)
        except OffsetOutOfRangeError:
            offset = await self._begin_late(partition, offset)
            data = await brokers.fetch(self._settings.kafka, at, offset, bytes_max)
        stretch = batches.read(data, at, offset, records_max)
        to_its_end = stretch.next_offset == stretch.batch_end  # what is left of it are markers
        behind_last = stretch.records[-1].offset + 1 if stretch.records else offset
        self._anew[partition] = behind_last if to_its_end else stretch.batch_end
        self.seek(partition, stretch.next_offset)
        return stretch.records


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka carries no types
    """Tells the worker what was assigned. It only hints: the fence in the store decides who may commit.

    aiokafka swallows what a listener raises, and goes on as if the partitions were tended: so nothing is raised to it.
    """

    def __init__(self, assigned: Rebalanced, revoked: Rebalanced, failed: Failed) -> None:
        self._assigned, self._revoked, self._failed = assigned, revoked, failed

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        await self._tell(self._assigned, assigned)

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        await self._tell(self._revoked, revoked)

    async def _tell(self, whom: Rebalanced, partitions: Collection[TopicPartition]) -> None:
        try:
            await whom(frozenset(at.partition for at in partitions))
        except Exception as error:  # noqa: BLE001 (whatever it is, it must reach the process, which dies of it)
            self._failed(error)


@contextlib.asynccontextmanager
async def open_log(settings: Settings, vigilance: Vigilance = VIGILANCE) -> AsyncIterator[KafkaLog]:
    """Connect to the brokers; leave the group, if joined, at the end of the block. Raises TroubleError."""
    _check_codecs()
    member = f"weighbridge-{secrets.token_hex(8)}"
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka,
        client_id=member,
        group_id=settings.group,
        enable_auto_commit=False,
        auto_offset_reset="none",
        # Every record is weighed, those of an aborted transaction, too: content is what counts, and an open transaction
        # of one producer must not hold up everybody else.
        isolation_level="read_uncommitted",
        fetch_min_bytes=FETCH_BYTES_MIN if settings.batch_wait_ms > FETCH_WAIT_MS_MAX else 1,
        fetch_max_wait_ms=FETCH_WAIT_MS_MAX,
        max_partition_fetch_bytes=settings.batch_bytes_max,
        max_poll_interval_ms=POLL_INTERVAL_MS_MAX,
        metadata_max_age_ms=METADATA_MS_MAX,
        rebalance_timeout_ms=int(settings.drain_s_max * 1000) + 5_000,
        session_timeout_ms=10_000,
        heartbeat_interval_ms=2_000,
    )
    log = KafkaLog(consumer, settings, Watch(settings, member, vigilance))
    try:
        await _start(consumer)
        yield log
    finally:
        await log.rest()
        await _leave(consumer)


def _patience_s(records: Sequence[RawRecord], wait_ms: int) -> float:
    """Say how long the first record may still wait; a clock unlike the broker's changes no more than that."""
    waited_ms = time.time() * 1000 - records[0].received_at_ms if records else 0.0
    return max(0.0, min(wait_ms - waited_ms, wait_ms)) / 1000


def _is_cancelled() -> bool:
    """Say whether it is us who are cancelled. The library passes on what befell its tasks; we would end unnoticed."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def _leave(consumer: AIOKafkaConsumer) -> None:
    """Leave the group, if the brokers can be told. While they are away stopping may fail, which is no reason to."""
    leaving = asyncio.ensure_future(consumer.stop())
    done, late = await asyncio.wait({leaving}, timeout=LEAVE_S_MAX)
    for task in late:
        task.cancel()
    for task in done:
        error = "cancelled by itself" if task.cancelled() else task.exception()
        if error is not None:
            structlog.get_logger().info("not_left", error=repr(error))


def _check_codecs() -> None:
    missing = [name for name, has in CODECS.items() if not has()]
    if missing:
        raise TroubleError(
            f"batches compressed with {', '.join(missing)} could not be read here, and one would stop its partition: "
            "install all that requirements.lock names (`make setup` does)"
        )


async def _start(consumer: AIOKafkaConsumer) -> None:
    """Connect, however long the brokers are away. What fails is the bootstrap, which leaves nothing half made."""
    wait_s = 0.2
    while True:
        try:
            await consumer.start()
        except KafkaError as error:
            structlog.get_logger().warning("trouble", what="kafka", error=str(error), retry_in_s=wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, 5.0)
        else:
            return


def _bytes(records: Sequence[RawRecord]) -> int:
    return sum([len(record.value) for record in records])
