"""What does a test need that reads a topic as the worker does? A member of a group of its own, and who sends to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.errors import UnknownTopicOrPartitionError

from ingest.adapters.kafka import KafkaLog, open_log
from ingest.adapters.watch import VIGILANCE, Vigilance
from ingest.config import Settings
from ingest.core.message import RawRecord

READS_MAX = 50
ATTEMPTS = 100


def settings_for(kafka: str, topic: str) -> Settings:
    """Settings for a group that nobody else is in."""
    return Settings(kafka=kafka, topic=topic, group=topic, batch_wait_ms=100)


def refuse(error: Exception) -> None:
    """Hear of a failure where there may be none."""
    raise error


@contextlib.asynccontextmanager
async def joined(
    settings: Settings, failed: Callable[[Exception], None] = refuse, vigilance: Vigilance = VIGILANCE
) -> AsyncIterator[KafkaLog]:
    """Open the log, and wait for its only partition."""
    ours = asyncio.Event()

    async def assigned(_: frozenset[int]) -> None:
        ours.set()

    async def revoked(_: frozenset[int]) -> None:
        pass

    async with administering(settings) as admin:
        await _settle(admin, settings.topic, 0)  # else its members may be assigned none of its partitions
    async with open_log(settings, vigilance) as log:
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


@contextlib.asynccontextmanager
async def administering(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """Do what the group's members may not."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka)
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def forget(settings: Settings, before: int) -> None:
    """Take the oldest records out of the log, as retention does."""
    async with administering(settings) as admin:
        await admin.delete_records({TopicPartition(settings.topic, 0): RecordsToDelete(before_offset=before)})


async def delete(settings: Settings) -> None:
    """Delete the topic."""
    async with administering(settings) as admin:
        await admin.delete_topics([settings.topic])
        await _settle(admin, settings.topic, UnknownTopicOrPartitionError.errno)


async def replace(settings: Settings) -> None:
    """Delete the topic, and make another of its name at once: a consumer may not see that it was gone."""
    wanted = NewTopic(settings.topic, 1, 1, topic_configs={"message.timestamp.type": "LogAppendTime"})
    async with administering(settings) as admin:
        await admin.delete_topics([settings.topic])
        answer = await admin.create_topics([wanted])
        assert all(code == 0 for _, code, *_ in answer.topic_errors), answer
        await _settle(admin, settings.topic, 0)


async def _settle(admin: AIOKafkaAdminClient, topic: str, code: int) -> None:
    """Wait until the brokers say this of the topic and of its partition."""
    for _ in range(ATTEMPTS):
        (known,) = await admin.describe_topics([topic])
        if {known["error_code"], *(one["error_code"] for one in known["partitions"])} == {code}:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("the brokers did not settle")
