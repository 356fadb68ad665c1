"""What does a test need that reads a topic as the worker does? A member of a group of its own, and who sends to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiokafka import AIOKafkaProducer

from ingest.adapters.kafka import KafkaLog, open_log
from ingest.config import Settings
from ingest.core.message import RawRecord

READS_MAX = 50


def settings_for(kafka: str, topic: str) -> Settings:
    """Settings for a group that nobody else is in."""
    return Settings(kafka=kafka, topic=topic, group=topic, batch_wait_ms=100)


@contextlib.asynccontextmanager
async def joined(settings: Settings, failures: list[Exception] | None = None) -> AsyncIterator[KafkaLog]:
    """Open the log, and wait for its only partition. What the log says is wrong is raised, or taken down."""
    ours = asyncio.Event()

    async def assigned(_: frozenset[int]) -> None:
        ours.set()

    async def revoked(_: frozenset[int]) -> None:
        pass

    def failed(error: Exception) -> None:
        if failures is None:
            raise error
        failures.append(error)

    async with open_log(settings) as log:
        log.join(assigned, revoked, failed)
        await asyncio.wait_for(ours.wait(), 30)
        yield log


async def send(settings: Settings, values: list[bytes], codec: str | None = None) -> None:
    """Send to the only partition."""
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka, compression_type=codec, linger_ms=20) as producer:
        for sent in [await producer.send(settings.topic, value, partition=0) for value in values]:
            await sent


async def transact(settings: Settings, values: list[bytes], codec: str | None = None) -> None:
    """Send in a transaction: behind the values comes its marker."""
    named = {"transactional_id": settings.topic, "compression_type": codec}
    async with AIOKafkaProducer(bootstrap_servers=settings.kafka, **named) as producer, producer.transaction():
        for value in values:
            await producer.send(settings.topic, value, partition=0)


async def read_some(log: KafkaLog, offset: int) -> list[RawRecord]:
    """Read until something comes, but not for ever."""
    for _ in range(READS_MAX):
        if records := await log.read(0, offset):
            return list(records)
    raise AssertionError("nothing came")
