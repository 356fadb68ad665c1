"""How are records read from Kafka? By a consumer group that only assigns; the offsets live in the store.

Each partition's loop reads its own partition, so a slow commit holds up no other, and what waits here is bounded by one
fetch for each partition. The group's own offsets are written for the tools that watch lag; they are never believed.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.codec import has_gzip, has_lz4, has_snappy, has_zstd
from aiokafka.errors import IllegalStateError, KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError

from ingest.config import Settings
from ingest.core.message import RawRecord
from ingest.ports import TroubleError

LOG_APPEND_TIME = 1
TRACEPARENT_CHARS_MAX = 64
ADVISE_EVERY_S = 5.0
EMPTY_READS_MAX = (
    40  # 10 s at the usual batch_wait_ms; a log that ends in a transaction marker is sought again for nothing
)
CODECS = {"gzip": has_gzip, "snappy": has_snappy, "lz4": has_lz4, "zstd": has_zstd}  # a producer takes any of them
REBALANCE_S_MAX = 0.25  # beyond its time: during a rebalance it waits for the end of that, which waits for our drain
POLL_INTERVAL_MS_MAX = (
    86_400_000  # a database that is down for hours is no reason to leave the group; heartbeats say we live
)

Rebalanced = Callable[[frozenset[int]], Awaitable[None]]
Failed = Callable[[Exception], None]


class KafkaLog:
    """One topic, read as a member of a group. Use `open_log`."""

    def __init__(self, consumer: AIOKafkaConsumer, settings: Settings) -> None:
        self._consumer = consumer
        self._settings = settings
        self._done: dict[TopicPartition, int] = {}
        self._empty: dict[int, int] = defaultdict(int)  # reads in a row that gave nothing though records wait

    def join(self, assigned: Rebalanced, revoked: Rebalanced, failed: Failed) -> None:
        """Join the group, and hear of partitions from now on; `failed` hears of what goes wrong in the other two."""
        self._consumer.subscribe([self._settings.topic], listener=_Listener(assigned, revoked, failed))

    def seek(self, partition: int, offset: int) -> None:
        """See ingest.ports.Log."""
        try:
            self._consumer.seek(self._at(partition), offset)
        except IllegalStateError as error:
            raise TroubleError(f"partition {partition} is not assigned to this worker any more") from error

    async def read(self, partition: int, offset: int) -> Sequence[RawRecord]:
        """See ingest.ports.Log."""
        records = await self._gather(partition, offset)
        if not records:
            self._look_again(partition, offset)
        elif records[0].offset > offset:
            # A hole at the start may be the consumer's position gone astray: believe it when it shows twice, alike.
            self.seek(partition, offset)
            before, records = records, await self._gather(partition, offset)
            if records and records[0].offset not in (offset, before[0].offset):
                self.seek(partition, offset)
                return []
        return [_raw(record) for record in records]

    def _look_again(self, partition: int, offset: int) -> None:
        """Seek anew when records wait and none comes: a position at the end would wait there for ever."""
        waits = self._waiting(partition, offset) > 0
        self._empty[partition] = self._empty[partition] + 1 if waits else 0
        if self._empty[partition] >= EMPTY_READS_MAX:
            self._empty[partition] = 0
            self.seek(partition, offset)
            structlog.get_logger().info("sought_again", partition=partition, offset=offset)

    def done(self, partition: int, next_offset: int) -> int:
        """See ingest.ports.Log."""
        self._done[self._at(partition)] = next_offset
        self._empty[partition] = 0
        return self._waiting(partition, next_offset)

    def _waiting(self, partition: int, offset: int) -> int:
        at = self._at(partition)
        end = self._consumer.highwater(at) if at in self._consumer.assignment() else None
        return max(0, (end or offset) - offset)

    async def advise(self) -> None:
        """Write the committed offsets to the group every few seconds, for tools that show lag; it may fail."""
        while True:
            await asyncio.sleep(ADVISE_EVERY_S)
            ours = {at: offset for at, offset in self._done.items() if at in self._consumer.assignment()}
            if ours:
                with contextlib.suppress(KafkaError):
                    await self._consumer.commit(ours)

    def _at(self, partition: int) -> TopicPartition:
        return TopicPartition(self._settings.topic, partition)

    async def _gather(self, partition: int, offset: int) -> list[ConsumerRecord]:
        """Take what is there, and wait for more until the batch is full or its time is up."""
        loop, limits = asyncio.get_running_loop(), self._settings
        try:
            records = await self._fetch(partition, limits.batch_records_max, limits.batch_wait_ms)
        except NoOffsetForPartitionError:  # our seek came before the group's answer, which is that it has no offset
            self.seek(partition, offset)
            return []
        except OffsetOutOfRangeError:
            await self._begin_late(partition, offset)
            records = await self._fetch(partition, limits.batch_records_max, limits.batch_wait_ms)
        size, until = _bytes(records), loop.time() + limits.batch_wait_ms / 1000
        while records and len(records) < limits.batch_records_max and size < limits.batch_bytes_max:
            left_ms = int((until - loop.time()) * 1000)
            if left_ms <= 0:
                break
            more = await self._fetch(partition, limits.batch_records_max - len(records), left_ms)
            size += _bytes(more)
            records += more
        return [record for record in records if record.offset >= offset]

    async def _begin_late(self, partition: int, offset: int) -> None:
        """Begin where the log does if nothing was read yet; what is gone shows as a hole, and is noted as skipped."""
        at = self._at(partition)
        if offset > 0:
            raise TroubleError(
                f"partition {partition}: offset {offset} is not in the log: either records are gone that were never "
                "judged, or this is another log than the one that was read so far; a person must decide where to go on"
            )
        try:
            beginnings = await self._consumer.beginning_offsets([at])
        except KafkaError as error:
            raise TroubleError(f"asking where partition {partition} begins: {error}") from error
        self.seek(partition, beginnings[at])

    async def _fetch(self, partition: int, records_max: int, wait_ms: int) -> list[ConsumerRecord]:
        at = self._at(partition)
        try:
            fetching = self._consumer.getmany(at, timeout_ms=wait_ms, max_records=records_max)
            fetched = await asyncio.wait_for(fetching, wait_ms / 1000 + REBALANCE_S_MAX)
        except TimeoutError:
            return []
        except (NoOffsetForPartitionError, OffsetOutOfRangeError):
            raise
        except (KafkaError, OSError) as error:
            raise TroubleError(f"reading partition {partition}: {type(error).__name__}: {error}") from error
        records: list[ConsumerRecord] = fetched.get(at, [])
        return records


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
async def open_log(settings: Settings) -> AsyncIterator[KafkaLog]:
    """Connect to the brokers; leave the group, if joined, at the end of the block. Raises TroubleError."""
    _check_codecs()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.kafka,
        group_id=settings.group,
        enable_auto_commit=False,
        auto_offset_reset="none",
        # Every record is weighed, those of an aborted transaction, too: content is what counts, and an open transaction
        # of one producer must not hold up everybody else.
        isolation_level="read_uncommitted",
        max_partition_fetch_bytes=settings.batch_bytes_max // 2,
        max_poll_interval_ms=POLL_INTERVAL_MS_MAX,
        rebalance_timeout_ms=int(settings.drain_s_max * 1000) + 5_000,
        session_timeout_ms=10_000,
        heartbeat_interval_ms=2_000,
    )
    log = KafkaLog(consumer, settings)
    try:
        await _start(consumer)
        advising = asyncio.create_task(log.advise())
        try:
            yield log
        finally:
            advising.cancel()
            await asyncio.gather(advising, return_exceptions=True)
    finally:
        await consumer.stop()


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


def _bytes(records: Sequence[ConsumerRecord]) -> int:
    return sum(record.serialized_value_size for record in records)


def _raw(record: ConsumerRecord) -> RawRecord:
    if record.timestamp_type != LOG_APPEND_TIME:
        raise TroubleError(
            f"topic {record.topic} is not set to message.timestamp.type=LogAppendTime: "
            "its times are the senders' claims; set it (for new records) and purge or move past the old ones"
        )
    trace = next((value for name, value in record.headers if name == "traceparent"), None) if record.headers else None
    return RawRecord(record.topic, record.partition, record.offset, record.timestamp, record.value or b"", _text(trace))


def _text(trace: bytes | None) -> str | None:
    """Take what a sender calls a trace context for text, as far as it is printable ASCII; its sense is not ours."""
    text = trace.decode("ascii", "replace")[:TRACEPARENT_CHARS_MAX] if trace else ""
    return text if text.isascii() and text.isprintable() and text else None
