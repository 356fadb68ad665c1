"""How do alerts get into their topic, and out of it? By an idempotent producer, and by anybody who reads."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

from ingest.ports import TroubleError

STOP_S_MAX = 0.25  # with the drain and the leaving before it, a worker is gone within 10 s
READ_MS = 500
CONTENT_TYPE = ("content-type", b"application/cloudevents+json; charset=UTF-8")


class KafkaChannel:
    """The channel behind `ingest.ports.Channel`. Use `open_channel`."""

    def __init__(self, producer: AIOKafkaProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic

    async def publish(self, events: Sequence[tuple[bytes, bytes]]) -> None:
        """See ingest.ports.Channel."""
        with _trouble(f"publishing to {self._topic}"):
            sent = [await self._producer.send(self._topic, value, key, headers=[CONTENT_TYPE]) for key, value in events]
            await asyncio.gather(*sent)


@contextlib.asynccontextmanager
async def open_channel(kafka: str, topic: str) -> AsyncIterator[KafkaChannel]:
    """Connect a producer. Raises TroubleError."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, enable_idempotence=True, acks="all")
    try:
        with _trouble(f"Kafka at {kafka}"):
            await producer.start()
        yield KafkaChannel(producer, topic)
    finally:
        with contextlib.suppress(TimeoutError):  # what is not acknowledged is not marked: it will be published again
            await asyncio.wait_for(producer.stop(), STOP_S_MAX)


async def listen(kafka: str, topic: str, since_ms: int | None, *, follow: bool) -> AsyncGenerator[bytes, None]:
    """Give what is in the topic, from a time on if one is given, to its end or for ever. Raises TroubleError."""
    with _trouble(f"Kafka at {kafka}"):
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka, auto_offset_reset="earliest")
        try:
            await consumer.start()
            ends = await _begin(consumer, topic, since_ms)
            while follow or any([await consumer.position(at) < end for at, end in ends.items()]):
                for records in (await consumer.getmany(timeout_ms=READ_MS)).values():
                    for record in records:
                        yield record.value or b""
        finally:
            await consumer.stop()


async def _begin(consumer: AIOKafkaConsumer, topic: str, since_ms: int | None) -> dict[object, int]:
    """Go to where the reading begins; returns where each partition ends now."""
    partitions = sorted(consumer.assignment())
    if not partitions:
        raise TroubleError(f"there is no topic {topic} at this Kafka: `weighbridge prepare` makes it")
    ends: dict[object, int] = await consumer.end_offsets(partitions)
    if since_ms is not None:
        found = await consumer.offsets_for_times(dict.fromkeys(partitions, since_ms))
        for at in partitions:
            consumer.seek(at, ends[at] if found[at] is None else found[at].offset)
    return ends


@contextlib.contextmanager
def _trouble(doing: str) -> Iterator[None]:
    try:
        yield
    except KafkaError as error:
        raise TroubleError(f"{doing}: {type(error).__name__}: {error}") from error
