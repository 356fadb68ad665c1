"""Where does it storm? On a pair of servers of its own, with tables, a topic, a fleet and workers behind the proxy."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import click
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions

from deploy import embedded
from deploy.embedded import kafka, postgres
from deploy.embedded.memory import recall
from deploy.embedded.process import alive
from device_sim.command import registry_lines
from ingest.adapters.postgres.connection import connect
from ingest.adapters.postgres.migration import migrate
from ingest.adapters.postgres.registry import import_devices, read_lines
from ingest.adapters.topics import prepare_topic
from loadtest.chaos.crew import Crew
from loadtest.chaos.load import Load
from loadtest.chaos.proxy import Proxy

TOPIC = "chaos.raw"
PARTITIONS = 6
WORKERS = 3
BATCH_RECORDS_MAX = 400  # a backlog in one batch takes longer than it is until the next fault, and nothing gets done
MARK = "chaos"  # a state directory without it is somebody's, and is not erased
DEATH_S_MAX = 60.0
LOOK_EVERY_S = 0.05


class Servers:
    """Both servers, started and ended by process number, and found again after each start."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._addresses = embedded.Addresses("", "")
        self.busy = asyncio.Lock()  # one server at a time is down

    @property
    def kafka(self) -> str:
        """Where Kafka is."""
        return self._addresses.kafka

    @property
    def database(self) -> str:
        """Where PostgreSQL is, proxy aside."""
        return self._addresses.database

    def find_database(self) -> tuple[str, int]:
        """Say where the proxy has to lead."""
        at = urlsplit(self.database)
        assert at.hostname, "ours has a host"
        assert at.port, "and a port"
        return at.hostname, at.port

    def pids(self) -> tuple[int | None, int | None]:
        """Give the process numbers of Kafka and PostgreSQL."""
        memory = recall(self._state)
        return alive(kafka.daemon(self._state)), alive(postgres.daemon(self._state, memory))

    async def up(self) -> None:
        """Start what is down."""
        self._addresses = await asyncio.to_thread(embedded.up, self._state, _quiet)

    async def end(self, pid: int, how: signal.Signals) -> None:
        """End one of the two, and wait for it."""
        assert pid in self.pids(), "only what is ours"
        os.kill(pid, how)
        for _ in range(int(DEATH_S_MAX / LOOK_EVERY_S)):
            if pid not in self.pids():
                return
            await asyncio.sleep(LOOK_EVERY_S)

    async def add_partition(self) -> int:
        """Add a partition to the topic; returns how many there are now."""
        client = AIOKafkaAdminClient(bootstrap_servers=self.kafka)
        await client.start()
        try:
            (topic,) = await client.describe_topics([TOPIC])
            now = len(topic["partitions"])
            await client.create_partitions({TOPIC: NewPartitions(total_count=now + 1)})
            (topic,) = await client.describe_topics([TOPIC])
            return len(topic["partitions"]) - now
        finally:
            await client.close()


class Stage:
    """All that a storm may strike."""

    def __init__(self, servers: Servers, proxy: Proxy, crew: Crew) -> None:
        self.servers = servers
        self.proxy = proxy
        self.crew = crew

    async def ask(self, query: str, *values: object) -> list[asyncpg.Record]:
        """Ask PostgreSQL, past the proxy."""
        connection = await asyncpg.connect(self.servers.database, timeout=5, command_timeout=10)
        try:
            found: list[asyncpg.Record] = await connection.fetch(query, *values)
            return found
        finally:
            connection.terminate()


@contextlib.asynccontextmanager
async def built(state: Path, load: Load) -> AsyncIterator[Stage]:
    """Build the stage from nothing, and leave nothing of it running."""
    _clear(state)
    servers = Servers(state)
    proxy = Proxy(servers.find_database)
    try:
        await servers.up()
        await prepare_topic(servers.kafka, TOPIC, PARTITIONS)
        await migrate(servers.database)
        await _enrol(servers.database, load)
        async with proxy.listening() as port:
            crew = Crew(state, _environ(servers, port))
            try:
                for _ in range(WORKERS):
                    await crew.start()
                yield Stage(servers, proxy, crew)
            finally:
                await crew.close()
    finally:
        await asyncio.to_thread(embedded.down, state, _quiet)


def _clear(state: Path) -> None:
    """Begin with an empty state directory, if it is one of ours."""
    if state.exists() and any(state.iterdir()) and not (state / MARK).exists():
        raise ValueError(f"{state} is not a state directory of an earlier chaos: name an empty or a new one")
    state.mkdir(parents=True, exist_ok=True)
    (state / MARK).touch()
    embedded.erase(state, _quiet)
    for journal in state.glob("worker-*.jsonl"):
        journal.unlink()


async def _enrol(database: str, load: Load) -> None:
    connection = await connect(database, "weighbridge chaos")
    try:
        for fleet in load.fleets:
            await import_devices(connection, read_lines(registry_lines(fleet)))
    finally:
        await connection.close()


def _environ(servers: Servers, port: int) -> dict[str, str]:
    at = urlsplit(servers.database)
    through = at._replace(netloc=f"{at.username}:{at.password}@127.0.0.1:{port}").geturl()
    ours = {"KAFKA": servers.kafka, "DATABASE": through, "TOPIC": TOPIC, "GROUP": TOPIC}
    ours["BATCH_RECORDS_MAX"] = str(BATCH_RECORDS_MAX)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WEIGHBRIDGE_")}
    return kept | {f"WEIGHBRIDGE_{name}": value for name, value in ours.items()}


_quiet = partial(click.echo, err=True)
