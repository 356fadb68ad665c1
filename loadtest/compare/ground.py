"""On what is it compared? Servers of its own, a topic that is full before anything is timed, a fleet to copy."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import msgspec
from aiokafka import AIOKafkaProducer

from deploy import embedded
from deploy.embedded.command import say
from ingest.adapters.postgres.connection import Connection, connect
from ingest.adapters.postgres.migration import migrate
from ingest.adapters.postgres.registry import Entry, import_devices, read_lines
from ingest.adapters.topics import make_topic, prepare_topic
from loadtest.chaos.stage import Servers
from loadtest.compare.cpu import Times, family, times
from loadtest.corpus import Corpus, Order, provide

PARTITIONS = 6
BATCH_BYTES = 131_072  # of a producer's batch
PATIENCE_S = 600.0
SMALL_BYTES = 64 * 2**20  # a database; with more, its log would bring on a checkpoint in what is measured
TOLD_TIMES = 5
ALERTS = "compare.alerts"


class Ground(msgspec.Struct, frozen=True):
    """A full topic, and a database from which fresh ones are copied."""

    servers: Servers
    corpus: Corpus
    topic: str
    template: str
    settings: Mapping[str, str] = MappingProxyType({})  # of the workers, by the names of their variables
    messages: int = 0  # so many of the corpus were in the topic from the start

    @contextlib.asynccontextmanager
    async def database(self, name: str) -> AsyncIterator[str]:
        """Lend a fresh database with the fleet in it."""
        await copy_database(self.servers, name, self.template)
        try:
            yield self.servers.database(name)
        finally:
            await self.servers.drop_database(name)

    def environ(self, database: str, group: str) -> dict[str, str]:
        """Point a process at it, and at nothing else."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WEIGHBRIDGE_")}
        return kept | {
            "WEIGHBRIDGE_KAFKA": self.servers.kafka,
            "WEIGHBRIDGE_DATABASE": database,
            "WEIGHBRIDGE_TOPIC": self.topic,
            "WEIGHBRIDGE_ALERTS_TOPIC": ALERTS,
            "WEIGHBRIDGE_GROUP": group,
            **self.settings,
        }

    def server_times(self) -> tuple[Times, Times]:
        """Read the clocks of Kafka and of PostgreSQL."""
        kafka, postgres = self.servers.pids()
        assert kafka, "Kafka runs"
        assert postgres, "PostgreSQL runs"
        return times([kafka]), times(family(postgres))


@contextlib.asynccontextmanager
async def raised(state: Path) -> AsyncIterator[Servers]:
    """Start a pair of servers, and erase them at the end of the block."""
    servers = Servers(state)
    embedded.erase(state, say)  # what a run that was killed has left
    try:
        await servers.up()
        yield servers
    finally:
        await asyncio.to_thread(embedded.erase, state, say)


@contextlib.asynccontextmanager
async def connected(database: str) -> AsyncIterator[Connection]:
    """Open a connection for the length of the block."""
    connection = await connect(database, "weighbridge loadtest")
    try:
        yield connection
    finally:
        await connection.close()


async def sign(order: Order, cache: Path) -> Corpus:
    """Give the corpus, and say now and then how far it is if it has to be signed first."""
    shown = 0

    def tell(done: int, wanted: int) -> None:
        nonlocal shown
        if done * TOLD_TIMES // wanted > shown:
            shown = done * TOLD_TIMES // wanted
            say(f"signing {order}: {done:,} done")

    return await asyncio.to_thread(provide, order, cache, tell)


async def lay(servers: Servers, corpus: Corpus, template: str, messages: int) -> Ground:
    """Fill a topic with the first messages of the corpus."""
    await make_topic(servers.kafka, ALERTS, 1)
    topic = f"compare.{corpus.order.digest()}.{messages}"
    await prepare_topic(servers.kafka, topic, PARTITIONS)
    await fill(servers.kafka, topic, corpus, messages)
    return Ground(servers, corpus, topic, template, messages=messages)


async def enrol(servers: Servers, corpus: Corpus, template: str) -> None:
    """Make a database with the tables and the fleet in it, to be copied."""
    with corpus.registrations.open(encoding="utf-8") as lines:
        await enrol_entries(servers, read_lines(lines), template)


async def enrol_entries(servers: Servers, entries: list[Entry], template: str) -> None:
    """Make a database with the tables and these devices in it, to be copied."""
    database = await servers.make_database(template)
    await migrate(database)
    async with connected(database) as connection:
        await import_devices(connection, entries)
        await connection.execute("vacuum analyze", timeout=PATIENCE_S)


async def copy_database(servers: Servers, name: str, template: str) -> None:
    """Make a database that is like the template: through the log where it is small, else file by file."""
    async with connected(servers.database("postgres")) as server:
        small = await server.fetchval("select pg_database_size($1) <= $2", template, SMALL_BYTES)
        strategy = "wal_log" if small else "file_copy"
        await server.execute(f'create database "{name}" template "{template}" strategy {strategy}', timeout=PATIENCE_S)


async def fill(kafka: str, topic: str, corpus: Corpus, messages: int) -> None:
    """Produce the first messages of the corpus, batch by batch, each device to its own partition."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all", max_batch_size=BATCH_BYTES, linger_ms=0)
    await producer.start()
    try:
        for partition in range(PARTITIONS):
            await _fill_partition(producer, topic, partition, _values(corpus, partition, messages))
    finally:
        await producer.stop()


def _values(corpus: Corpus, partition: int, messages: int) -> Iterator[tuple[bytes, bytes]]:
    """Give keys and values of those of the first messages that go to this partition."""
    ids = [device_id.encode() for device_id in corpus.device_ids()]
    for index in range(messages):
        number = corpus.number(index)
        if number % PARTITIONS == partition:
            yield ids[number], corpus[index]


async def _fill_partition(
    producer: AIOKafkaProducer, topic: str, partition: int, values: Iterable[tuple[bytes, bytes]]
) -> None:
    batch, acknowledged = producer.create_batch(), []
    for key, value in values:
        if batch.append(key=key, value=value, timestamp=None) is None:
            acknowledged.append(await producer.send_batch(batch, topic, partition=partition))
            batch = producer.create_batch()
            assert batch.append(key=key, value=value, timestamp=None) is not None, "an empty batch has room"
    if batch.record_count():
        acknowledged.append(await producer.send_batch(batch, topic, partition=partition))
    await asyncio.gather(*acknowledged)
