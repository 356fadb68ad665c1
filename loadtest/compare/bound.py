"""What cannot be avoided? Each part of the work alone: fetch, one verification, one decoding, COPY, the devices' rows.

What they cost together on all cores is the rate that no design can exceed which does each of them as it is done here.
"""

import io
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import fastavro
import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from fastavro.schema import fingerprint, to_parsing_canonical_form

from ingest.adapters.postgres import accepted, queries, rows
from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.provenance import columns_of, table_of
from ingest.adapters.postgres.registry import read_lines
from ingest.config import Settings
from ingest.core import envelope
from ingest.core.message import Envelope, RawRecord
from ingest.core.payload import HEADER_BYTES, load
from ingest.core.signature import Engine, Job
from loadtest.compare.cpu import CORES, Times, used_s
from loadtest.compare.ground import PARTITIONS, PATIENCE_S, Ground
from schemas import read_telemetry

BATCH = Settings().batch_records_max  # the product's, as it is set by itself
ENVELOPE_BYTES_MAX = 65_536

Table = tuple[str, tuple[str, ...], list[tuple[Any, ...]]]

_DEVICES_OF_BATCHES = """
    select b.accepted, array_agg(distinct m.device_no order by m.device_no) as device_nos
    from store.batch b
    join store.message m on m.partition = b.partition and m.kafka_offset between b.from_offset and b.to_offset - 1
    where b.partition = (select min(partition) from store.batch where accepted > 0)
    group by b.from_offset, b.accepted"""

_COLUMNS_OF_A_DEVICE = """
    select attname from pg_attribute where attrelid = 'store.changed_device'::regclass and attnum > 0 order by attnum"""


class Parts(msgspec.Struct, frozen=True):
    """Microseconds of processor for each message, whoever's: ours, the broker's, the database's."""

    fetch: float
    verify: float
    decode: float
    copy: float
    state: float

    @property
    def rate(self) -> float:
        """Messages per second, if all cores did nothing else."""
        return CORES * 1e6 / (self.fetch + self.verify + self.decode + self.copy + self.state)


class Work(msgspec.Struct, frozen=True):
    """What the parts are tried with, made ready before."""

    jobs: list[Job]
    payloads: list[bytes]


def prepare(first: Ground) -> Work:
    """Take the first messages apart."""
    with first.corpus.registrations.open(encoding="utf-8") as lines:
        keys = {entry.device_id: entry for entry in read_lines(itertools.islice(lines, first.messages))}
    read = [_read(value) for value in first.corpus.values(0, first.messages)]
    jobs = [Job((key := keys[one.device_id]).algorithm, key.public, one.signed, one.signature) for one in read]
    return Work(jobs, [one.payload for one in read])


def _read(value: bytes) -> Envelope:
    read = envelope.read(RawRecord("", 0, 0, 0, value), ENVELOPE_BYTES_MAX)
    assert isinstance(read, Envelope), "the corpus is honest"
    return read


def verify(engine: Engine, jobs: Sequence[Job]) -> float:
    """Verify batch by batch; returns µs for each."""
    began_ns = time.process_time_ns()
    held = [all(engine.check(jobs[at : at + BATCH])) for at in range(0, len(jobs), BATCH)]
    used_us = (time.process_time_ns() - began_ns) / 1e3
    assert all(held), "the corpus is honest"
    return used_us / len(jobs)


def decode(payloads: Sequence[bytes]) -> float:
    """Decode with the library that most people take; returns µs for each."""
    schemas = _schemas()
    began_ns = time.process_time_ns()
    for payload in payloads:
        fastavro.schemaless_reader(io.BytesIO(payload[HEADER_BYTES:]), schemas[payload[2:HEADER_BYTES]], None)
    return (time.process_time_ns() - began_ns) / 1e3 / len(payloads)


async def fetch(first: Ground) -> float:
    """Fetch the first messages, and do nothing with them; returns µs for each, the broker's included."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=first.servers.kafka, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        consumer.assign([TopicPartition(first.topic, partition) for partition in range(PARTITIONS)])

        async def all_of_them() -> None:
            taken = 0
            while taken < first.messages:
                found = await consumer.getmany(timeout_ms=1_000, max_records=BATCH)
                taken += sum(len(records) for records in found.values())

        return await _us(first, all_of_them) / first.messages
    finally:
        await consumer.stop()


async def copy(first: Ground, connection: Connection) -> float:
    """Write as many rows once more as the product has written, batch by batch; returns µs for each message."""
    tables = await _stored(connection, first.messages)
    count = len(tables[0][2])
    batches = list(zip(*(_slices(table, count) for table in tables), strict=True))

    async def all_of_them() -> None:
        for batch in batches:
            async with connection.transaction():
                for name, columns, records in batch:
                    await connection.copy_records_to_table(name, records=records, columns=columns, schema_name="store")

    return await _us(first, all_of_them) / count


async def state(ground: Ground, connection: Connection) -> float:
    """Lock, read and write back the rows of devices, by the batches that the product has made of one partition.

    Returns µs for each message. Whoever checks sequence numbers has to keep which of them were used.
    """
    found = await connection.fetch(_DEVICES_OF_BATCHES, timeout=PATIENCE_S)
    columns = [row["attname"] for row in await connection.fetch(_COLUMNS_OF_A_DEVICE)]
    batches = []
    for one in found:
        recalled = await connection.fetch(queries.RECALL, numbers := rows.listed(one["device_nos"]))
        batches.append((numbers, [tuple(row[column] for column in columns) for row in recalled]))

    async def all_of_them() -> None:
        for numbers, devices in batches:
            async with connection.transaction():
                await connection.fetch(queries.RECALL, numbers)
                await connection.execute(queries.UPDATE_DEVICES, devices)

    await all_of_them()  # what a statement costs for the first time belongs to no message
    messages: int = sum(one["accepted"] for one in found)
    return await _us(ground, all_of_them) / messages


def _slices(table: Table, messages: int) -> Iterator[Table]:
    """Cut a table into as many parts as the messages make batches."""
    name, columns, records = table
    parts = -(-messages // BATCH)
    for part in range(parts):
        yield name, columns, records[part * len(records) // parts : (part + 1) * len(records) // parts]


async def _us(ground: Ground, work: Callable[[], Awaitable[None]]) -> float:
    """Do the work; returns the µs of processor that it took, the servers' included."""
    servers: tuple[Times, Times] = ground.server_times()
    began_ns = time.process_time_ns()
    await work()
    ours_us = (time.process_time_ns() - began_ns) / 1e3
    return ours_us + sum(used_s(*pair) for pair in zip(servers, ground.server_times(), strict=True)) * 1e6


async def _stored(connection: Connection, messages: int) -> list[Table]:
    """Read back the rows of the first messages, as many of each partition, and of their samples, in another epoch."""
    first = f"select device_no, epoch, seq from store.message where kafka_offset < {messages // PARTITIONS:d}"  # noqa: S608 (a number)
    tables: list[tuple[str, tuple[str, ...]]] = [("message", accepted.MESSAGE)]
    tables += [
        (table_of(kind), accepted.SAMPLE + own) for kind, own in columns_of(load(read_telemetry()).schemas).items()
    ]
    found = []
    for name, columns in tables:
        # Under their own numbers the index would not have them twice.
        listed = ", ".join("r.epoch + 1" if column == "epoch" else f"r.{column}" for column in columns)
        query = f"select {listed} from store.{name} r join ({first}) m using (device_no, epoch, seq)"  # noqa: S608 (names of ours)
        found.append((name, columns, [tuple(row) for row in await connection.fetch(query, timeout=PATIENCE_S)]))
    return found


def _schemas() -> dict[bytes, Any]:
    definitions = [json.loads(text) for text in read_telemetry().values()]
    return {
        bytes.fromhex(fingerprint(to_parsing_canonical_form(one), "CRC-64-AVRO")): fastavro.parse_schema(one)
        for one in definitions
    }
