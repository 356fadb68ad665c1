"""On what is it compared? Servers of its own, a topic that is full before anything is timed, a fleet to copy."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaProducer

from deploy import embedded
from deploy.embedded.command import say
from ingest.adapters.postgres.connection import Connection, connect
from ingest.adapters.postgres.migration import migrate
from ingest.adapters.postgres.registry import import_devices, read_lines
from ingest.adapters.topics import make_topic, prepare_topic
from loadtest.chaos.stage import Servers
from loadtest.compare.cpu import Times, family, times
from loadtest.corpus import Corpus, Order, provide

PARTITIONS = 6
BATCH_BYTES = 131_072  # of a producer's batch
PATIENCE_S = 600.0
TOLD_TIMES = 5
ALERTS = "compare.alerts"


class Ground(msgspec.Struct, frozen=True):
    """A full topic, and a database from which fresh ones are copied."""

    servers: Servers
    corpus: Corpus
    topic: str
    template: str

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


async def lay(servers: Servers, corpus: Corpus, template: str) -> Ground:
    """Fill a topic with the corpus."""
    await make_topic(servers.kafka, ALERTS, 1)
    topic = f"compare.{corpus.order.digest()}"
    await prepare_topic(servers.kafka, topic, PARTITIONS)
    await fill(servers.kafka, topic, corpus)
    return Ground(servers, corpus, topic, template)


async def enrol(servers: Servers, corpus: Corpus, template: str) -> None:
    """Make a database with the tables and the fleet in it, to be copied."""
    database = await servers.make_database(template)
    await migrate(database)
    async with connected(database) as connection:
        with corpus.registrations.open(encoding="utf-8") as lines:
            await import_devices(connection, read_lines(lines))
        await connection.execute("vacuum analyze", timeout=PATIENCE_S)


async def copy_database(servers: Servers, name: str, template: str) -> None:
    """Make a database that is like the template."""
    async with connected(servers.database("postgres")) as server:
        await server.execute(f'create database "{name}" template "{template}"', timeout=PATIENCE_S)


async def fill(kafka: str, topic: str, corpus: Corpus) -> None:
    """Produce the corpus, batch by batch, each device to its own partition."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka, acks="all", max_batch_size=BATCH_BYTES, linger_ms=0)
    await producer.start()
    try:
        await asyncio.gather(*(_fill_partition(producer, topic, corpus, number) for number in range(PARTITIONS)))
    finally:
        await producer.stop()


async def _fill_partition(producer: AIOKafkaProducer, topic: str, corpus: Corpus, partition: int) -> None:
    ids = corpus.device_ids()
    batch, acknowledged = producer.create_batch(), []
    for index in range(len(corpus)):
        number = corpus.number(index)
        if number % PARTITIONS != partition:
            continue
        key, value = ids[number].encode(), corpus[index]
        if batch.append(key=key, value=value, timestamp=None) is None:
            acknowledged.append(await producer.send_batch(batch, topic, partition=partition))
            batch = producer.create_batch()
            assert batch.append(key=key, value=value, timestamp=None) is not None, "an empty batch has room"
    acknowledged.append(await producer.send_batch(batch, topic, partition=partition))
    await asyncio.gather(*acknowledged)
