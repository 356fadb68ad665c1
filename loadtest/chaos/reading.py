"""What do the log and the store hold? A plain consumer and plain SQL, apart from the product's own."""

from collections.abc import Mapping

import asyncpg
import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from loadtest.chaos.load import digest
from loadtest.chaos.oracle import Batch, Books, Given, Position

VERDICTS = """
    select incarnation, partition, kafka_offset, verdict, coalesce(reason, ''), device_id, epoch, seq
    from weighbridge.verdict where topic = $1"""
BATCHES = """
    select incarnation, partition, from_offset, to_offset, accepted + duplicate + held + refused, skipped
    from weighbridge.batch where topic = $1"""
LEDGERS = """
    select device_id, (accepted + coalesce((select sum(c.accepted) from store.closed_ledger c
                                            join store.device d using (device_no)
                                            where d.device_id = v.device_id), 0))::bigint
    from weighbridge.device v"""
SKIPPED = """
    select t.incarnation, partition, generate_series(from_offset, to_offset - 1)
    from store.skipped join store.topic t using (topic_no) where topic = $1"""
REACHED = """
    select distinct on (partition) partition, incarnation, next_offset, halted_why
    from weighbridge.partition where topic = $1 order by partition, incarnation desc"""
JUDGED = """
    select coalesce(sum(to_offset - from_offset), 0)::bigint from weighbridge.batch where topic = $1"""


async def judged(database: str, topic: str) -> int:
    """Count the positions that have been judged."""
    connection = await asyncpg.connect(database, timeout=5)
    try:
        return int(await connection.fetchval(JUDGED, topic))
    finally:
        await connection.close()


class Reached(msgspec.Struct, frozen=True):
    """How far a partition is."""

    incarnation: int
    next_offset: int
    halted_why: str | None


async def reached(database: str, topic: str) -> dict[int, Reached]:
    """Say how far each partition is."""
    connection = await asyncpg.connect(database, timeout=5)
    try:
        return {row[0]: Reached(*row[1:]) for row in await connection.fetch(REACHED, topic)}
    finally:
        await connection.close()


async def log_ends(kafka: str, topic: str) -> dict[int, int]:
    """Say where each partition of the log ends."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka)
    await consumer.start()
    try:
        ends = await consumer.end_offsets(await _partitions(consumer, topic))
        return {at.partition: end for at, end in ends.items()}
    finally:
        await consumer.stop()


async def read_books(database: str, topic: str, log: Mapping[Position, bytes]) -> Books:
    """Read all that the store holds."""
    connection = await asyncpg.connect(database)
    try:
        verdicts = [
            Given((row[0], row[1], row[2]), (row[3], row[4]), None if row[7] is None else (row[5], row[6], row[7]))
            for row in await connection.fetch(VERDICTS, topic)
        ]
        batches = [Batch(*row) for row in await connection.fetch(BATCHES, topic)]
        ledgers = {row[0]: row[1] for row in await connection.fetch(LEDGERS)}
        skipped = [(row[0], row[1], row[2]) for row in await connection.fetch(SKIPPED, topic)]
    finally:
        await connection.close()
    return Books(log, verdicts, batches, ledgers, skipped=skipped)


async def read_log(kafka: str, topic: str, incarnations: Mapping[int, int]) -> dict[Position, bytes]:
    """Read all that the log holds, of the incarnation given for each partition, or else of the first."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partitions = await _partitions(consumer, topic)
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        log: dict[Position, bytes] = {}
        while any([await consumer.position(at) < end for at, end in ends.items()]):
            for at, records in (await consumer.getmany(timeout_ms=1_000)).items():
                incarnation = incarnations.get(at.partition, 1)
                log |= {(incarnation, at.partition, record.offset): digest(record.value) for record in records}
        return log
    finally:
        await consumer.stop()


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
    cluster = await consumer._client.fetch_all_metadata()  # noqa: SLF001 (a consumer of nothing knows no topic yet)
    return [TopicPartition(topic, number) for number in cluster.partitions_for_topic(topic) or ()]
