"""What do the log and the store hold? A plain consumer and plain SQL, apart from the product's own."""

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from loadtest.chaos.load import digest
from loadtest.chaos.oracle import Batch, Books, Given, Position

VERDICTS = """
    select partition, kafka_offset, verdict, coalesce(reason, ''), device_id, epoch, seq
    from weighbridge.verdict where topic = $1"""
BATCHES = """
    select partition, from_offset, to_offset, accepted + duplicate + held + refused, skipped
    from weighbridge.batch where topic = $1"""
LEDGERS = """
    select device_id, (accepted + coalesce((select sum(c.accepted) from store.closed_ledger c
                                            join store.device d using (device_no)
                                            where d.device_id = v.device_id), 0))::bigint
    from weighbridge.device v"""
JUDGED = """
    select coalesce(sum(to_offset - from_offset), 0)::bigint from weighbridge.batch where topic = $1"""


async def judged(database: str, topic: str) -> int:
    """Count the positions that have been judged."""
    connection = await asyncpg.connect(database, timeout=5)
    try:
        return int(await connection.fetchval(JUDGED, topic))
    finally:
        await connection.close()


async def log_size(kafka: str, topic: str) -> int:
    """Count the positions of the log."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka)
    await consumer.start()
    try:
        return sum((await consumer.end_offsets(await _partitions(consumer, topic))).values())
    finally:
        await consumer.stop()


async def read_books(kafka: str, database: str, topic: str) -> Books:
    """Read all of it."""
    connection = await asyncpg.connect(database)
    try:
        verdicts = [
            Given((row[0], row[1]), (row[2], row[3]), None if row[6] is None else (row[4], row[5], row[6]))
            for row in await connection.fetch(VERDICTS, topic)
        ]
        batches = [Batch(*row) for row in await connection.fetch(BATCHES, topic)]
        ledgers = {row[0]: row[1] for row in await connection.fetch(LEDGERS)}
    finally:
        await connection.close()
    return Books(await _read_log(kafka, topic), verdicts, batches, ledgers)


async def _read_log(kafka: str, topic: str) -> dict[Position, bytes]:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partitions = await _partitions(consumer, topic)
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        log: dict[Position, bytes] = {}
        while any([await consumer.position(at) < end for at, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=1_000)).values():
                log |= {(record.partition, record.offset): digest(record.value) for record in records}
        return log
    finally:
        await consumer.stop()


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> list[TopicPartition]:
    cluster = await consumer._client.fetch_all_metadata()  # noqa: SLF001 (a consumer of nothing knows no topic yet)
    return [TopicPartition(topic, number) for number in cluster.partitions_for_topic(topic) or ()]
