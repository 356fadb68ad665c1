"""How do sends get into the log, and where did each land? An idempotent producer, so that a device's order is kept."""

import asyncio
import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import DuplicateSequenceNumber, KafkaError, KafkaTimeoutError
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.structs import RecordMetadata

from device_sim.truth import Deserved
from device_sim.vehicle import Send

OUTSTANDING_MAX = 8_192  # sends without an acknowledgement: at most some MB of truth that waits for its offset
ACKNOWLEDGE_S_MAX = 30.0
STOP_S_MAX = 5.0
_YIELD_EVERY = 4  # sends between two looks at the event loop: about 1 ms of signing
_BATCH_BYTES = 131_072
_LINGER_MS = 5


class Target(msgspec.Struct, frozen=True):
    """Where to produce to."""

    kafka: str
    topic: str


class Pace(msgspec.Struct, frozen=True):
    """How fast, and how much: whichever bound is reached first ends the run. Rate 0 is as fast as possible."""

    rate: float = 0
    count: int | None = None
    seconds: float | None = None


class Sent(msgspec.Struct, frozen=True):
    """How far a run is, or was when it ended."""

    sent: int
    acknowledged: int
    seconds: float
    deserved: dict[tuple[str, str], int]  # acknowledged, by verdict and reason
    ends: dict[int, int]  # by partition: the offset after the last one written


TakeTruth = Callable[[Deserved], None]
TakeProgress = Callable[[Sent], None]


async def drive(
    sends: Iterable[Send], pace: Pace, target: Target, truth: TakeTruth, progress: TakeProgress | None = None
) -> Sent:
    """Produce the sends, hand over the truth of each as its offset comes in, and report once a second.

    Raises the broker's error if an acknowledgement fails: what then stands in the log is not known, so neither is the
    truth. Raises ValueError if the topic does not exist. A cancelled run still hands over the truth of what it sent.
    """
    producer = AIOKafkaProducer(
        bootstrap_servers=target.kafka,
        enable_idempotence=True,
        acks="all",
        linger_ms=_LINGER_MS,
        max_batch_size=_BATCH_BYTES,
    )
    try:
        await producer.start()
        run = _Run(producer, target.topic, truth)
        try:
            await run.produce(sends, pace, progress)
            await run.settle(0)
        except asyncio.CancelledError:
            await run.settle(0)
            raise
        except KafkaError:
            run.abandon()
            raise
        return run.report()
    finally:
        with contextlib.suppress(TimeoutError):  # all is acknowledged, or it never will be: nothing is left to flush
            await asyncio.wait_for(producer.stop(), STOP_S_MAX)


class _Run:
    """One run's futures and counts."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, truth: TakeTruth) -> None:
        self._producer: Final = producer
        self._topic: Final = topic
        self._truth: Final = truth
        self._outstanding: deque[tuple[asyncio.Future[RecordMetadata], Send]] = deque()
        self._deserved: Counter[tuple[str, str]] = Counter()
        self._ends: dict[int, int] = {}
        self._began_s = time.monotonic()
        self._sent = 0

    async def produce(self, sends: Iterable[Send], pace: Pace, progress: TakeProgress | None) -> None:
        """Send at the pace, never waiting for acknowledgements but the oldest of too many."""
        partitions = await self._partitions()
        self._began_s = time.monotonic()
        report_at_s = 1.0
        for send in sends:
            if not await self._admit(pace):
                return
            await self._send(send, partitions)
            if progress is not None and self._elapsed_s() >= report_at_s:
                progress(self.report())
                report_at_s += 1.0

    async def _partitions(self) -> list[int]:
        """Ask for the topic's partitions at once: the producer itself would wait 40 s for a topic to appear."""
        cluster = await self._producer.client.fetch_all_metadata()
        partitions = cluster.partitions_for_topic(self._topic)
        if not partitions:
            raise ValueError(f"there is no topic {self._topic} at this Kafka: create it, or name another")
        return sorted(partitions)

    async def _admit(self, pace: Pace) -> bool:
        """Wait for the next send's time; say no when the run is over."""
        if pace.count is not None and self._sent >= pace.count:
            return False
        early_s = self._sent / pace.rate - self._elapsed_s() if pace.rate else 0.0
        if early_s > 0.001:
            await asyncio.sleep(early_s)
        elif self._sent % _YIELD_EVERY == 0:
            await asyncio.sleep(0)
        await self.settle(OUTSTANDING_MAX)
        return pace.seconds is None or self._elapsed_s() < pace.seconds

    async def _send(self, send: Send, partitions: list[int]) -> None:
        key = send.device_id.encode()
        home = partitions.index(DefaultPartitioner()(key, partitions, partitions))
        partition = partitions[(home + send.partition_shift) % len(partitions)]
        future = await self._producer.send(self._topic, send.value, key, partition)
        self._outstanding.append((future, send))
        self._sent += 1

    async def settle(self, outstanding_max: int) -> None:
        """Turn acknowledgements into truth, in the order of the sends; wait only while too many are outstanding."""
        while self._outstanding and (self._outstanding[0][0].done() or len(self._outstanding) > outstanding_max):
            future, send = self._outstanding[0]
            landed = _placed(future.result() if future.done() else await _acknowledged(future))
            self._outstanding.popleft()
            self._deserved[send.verdict, send.reason] += 1
            self._ends[landed.partition] = landed.offset + 1
            self._truth(_deserved(landed, send))

    def abandon(self) -> None:
        """Wait for no more acknowledgements."""
        for future, _ in self._outstanding:
            future.cancel()
        self._outstanding.clear()

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    def report(self) -> Sent:
        """Say how far the run is."""
        return Sent(
            sent=self._sent,
            acknowledged=self._sent - len(self._outstanding),
            seconds=self._elapsed_s(),
            deserved=dict(self._deserved),
            ends=dict(self._ends),
        )


async def _acknowledged(future: asyncio.Future[RecordMetadata]) -> RecordMetadata:
    """Wait for an acknowledgement; an idempotent producer would for ever."""
    try:
        return await asyncio.wait_for(asyncio.shield(future), ACKNOWLEDGE_S_MAX)
    except TimeoutError:
        raise KafkaTimeoutError(f"no acknowledgement for {ACKNOWLEDGE_S_MAX:.0f} s") from None


def _placed(landed: RecordMetadata) -> RecordMetadata:
    """Pass on an acknowledgement that says where. Raises DuplicateSequenceNumber when it only says that it landed.

    That is what a broker answers to a repetition whose first try it has forgotten; aiokafka makes a success of it, with
    offsets that count from -1. What tells it is that the log's beginning is not known either.
    """
    if landed.log_start_offset < 0:
        raise DuplicateSequenceNumber(f"what was sent stands in partition {landed.partition}, and nobody knows where")
    return landed


def _deserved(landed: RecordMetadata, send: Send) -> Deserved:
    lived = send.lived and msgspec.structs.replace(send.lived, received_at_ms=landed.timestamp)
    return Deserved(
        topic=landed.topic,
        partition=landed.partition,
        offset=landed.offset,
        verdict=send.verdict,
        reason=send.reason,
        group=send.group,
        fault=send.cause,
        device_id=send.device_id,
        lived=lived,
    )
