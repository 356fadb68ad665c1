"""Where does it storm? On a pair of servers of its own, with tables, a topic, a fleet and workers behind the proxy."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import click
import msgspec
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
from loadtest.chaos import disk
from loadtest.chaos.crew import Crew
from loadtest.chaos.load import Load
from loadtest.chaos.proxy import Proxy

PARTITIONS = 6
WORKERS = 3
MARK = "chaos"  # a state directory without it is somebody's, and is not erased
DEATH_S_MAX = 60.0
LOOK_EVERY_S = 0.05


class Servers:
    """Both servers, started and ended by process number, and found again after each start."""

    def __init__(self, state: Path, lent: embedded.Addresses | None = None) -> None:
        self.state = state
        self._addresses = lent or embedded.Addresses("", "")
        self.busy = asyncio.Lock()  # one server at a time is in trouble
        self.disk: disk.Disk | None = None  # of the tables, where it can be filled

    @property
    def kafka(self) -> str:
        """Where Kafka is."""
        return self._addresses.kafka

    def database(self, name: str) -> str:
        """Where a database is, proxy aside."""
        return urlsplit(self._addresses.database)._replace(path=f"/{name}").geturl()

    def find_database(self) -> tuple[str, int]:
        """Say where the proxy has to lead."""
        at = urlsplit(self._addresses.database)
        assert at.hostname, "ours has a host"
        assert at.port, "and a port"
        return at.hostname, at.port

    def pids(self) -> tuple[int | None, int | None]:
        """Give the process numbers of Kafka and PostgreSQL."""
        memory = recall(self.state)
        return alive(kafka.daemon(self.state)), alive(postgres.daemon(self.state, memory))

    async def up(self) -> None:
        """Start what is down."""
        self._addresses = await asyncio.to_thread(embedded.up, self.state, _quiet)

    async def end(self, pid: int, how: signal.Signals) -> None:
        """End one of the two, and wait for it."""
        assert pid in self.pids(), "only what is ours"
        os.kill(pid, how)
        for _ in range(int(DEATH_S_MAX / LOOK_EVERY_S)):
            if pid not in self.pids():
                return
            await asyncio.sleep(LOOK_EVERY_S)

    async def make_database(self, name: str) -> str:
        """Make a database, on the disk that can be filled if there is one; returns its URL."""
        server = await asyncpg.connect(self._addresses.database)
        try:
            await server.execute(f'create database "{name}"')
            if self.disk:
                await server.execute(f'alter database "{name}" set default_tablespace = small')
        finally:
            await server.close()
        return self.database(name)

    async def drop_database(self, name: str) -> None:
        """Drop a database, whoever still uses it; one that is not there is as good."""
        server = await asyncpg.connect(self._addresses.database)
        try:
            await server.execute(f'drop database if exists "{name}" with (force)')
        finally:
            await server.close()

    async def use_small_disk(self) -> None:
        """Mount the disk that can be filled, where we may, and let PostgreSQL have it."""
        self.disk = disk.mount(_small_disk(self.state))
        if self.disk:
            server = await asyncpg.connect(self._addresses.database)
            await server.execute(f"create tablespace small location '{self.disk.place}'")
            await server.close()

    async def add_partition(self, topic: str) -> int:
        """Add a partition to a topic; returns how many more there are now."""
        async with self.administered() as client:
            (found,) = await client.describe_topics([topic])
            now = len(found["partitions"])
            await client.create_partitions({topic: NewPartitions(total_count=now + 1)})
            (found,) = await client.describe_topics([topic])
            return len(found["partitions"]) - now

    @contextlib.asynccontextmanager
    async def administered(self) -> AsyncIterator[AIOKafkaAdminClient]:
        """Administer Kafka for the length of the block."""
        client = AIOKafkaAdminClient(bootstrap_servers=self.kafka)
        await client.start()
        try:
            yield client
        finally:
            await client.close()


class Scene(msgspec.Struct, frozen=True):
    """What is played on a pair of servers."""

    name: str  # of its database, its topic and its group
    broken: tuple[str, ...] = ()  # what is wrong with its workers, see `variants`


class Stage:
    """All that a storm may strike."""

    def __init__(self, scene: Scene, servers: Servers, proxy: Proxy, crew: Crew) -> None:
        self.topic = scene.name
        self.servers = servers
        self.proxy = proxy
        self.crew = crew

    @property
    def database(self) -> str:
        """Where its database is, proxy aside."""
        return self.servers.database(self.topic)

    async def ask(self, query: str, *values: object) -> list[asyncpg.Record]:
        """Ask PostgreSQL, past the proxy."""
        connection = await asyncpg.connect(self.database, timeout=5, command_timeout=10)
        try:
            found: list[asyncpg.Record] = await connection.fetch(query, *values)
            return found
        finally:
            connection.terminate()


@contextlib.asynccontextmanager
async def raised(state: Path) -> AsyncIterator[Servers]:
    """Raise a pair of servers from nothing, and leave nothing of it running."""
    clear(state)
    servers = Servers(state)
    try:
        await servers.up()
        await servers.use_small_disk()
        yield servers
    finally:
        await asyncio.to_thread(embedded.down, state, _quiet)
        disk.unmount(_small_disk(state))


@contextlib.asynccontextmanager
async def set_up(scene: Scene, servers: Servers, load: Load) -> AsyncIterator[Stage]:
    """Set up a scene from nothing, with its workers at work for the length of the block."""
    await prepare_topic(servers.kafka, scene.name, PARTITIONS)
    database = await servers.make_database(scene.name)
    await migrate(database)
    await _enrol(database, load)
    proxy = Proxy(servers.find_database)
    folder = servers.state / "journals" / scene.name
    folder.mkdir(parents=True)
    async with proxy.listening() as port:
        crew = Crew(folder, _environ(scene, servers, port), scene.broken)
        try:
            for _ in range(WORKERS):
                await crew.start()
            yield Stage(scene, servers, proxy, crew)
        finally:
            await crew.close()


def _small_disk(state: Path) -> Path:
    home = recall(state).database_home
    return (home or state) / "small"


def clear(state: Path) -> None:
    """Make a state directory empty, if it is one of ours, whatever an earlier run has left there."""
    if state.exists() and any(state.iterdir()) and not (state / MARK).exists():
        raise ValueError(f"{state} is not a state directory of an earlier chaos: name an empty or a new one")
    state.mkdir(parents=True, exist_ok=True)
    (state / MARK).touch()
    embedded.down(state, _quiet)
    disk.unmount(_small_disk(state))
    embedded.erase(state, _quiet)
    shutil.rmtree(state / "journals", ignore_errors=True)


async def _enrol(database: str, load: Load) -> None:
    connection = await connect(database, "weighbridge chaos")
    try:
        for fleet in load.fleets:
            await import_devices(connection, read_lines(registry_lines(fleet)))
    finally:
        await connection.close()


def _environ(scene: Scene, servers: Servers, port: int) -> dict[str, str]:
    at = urlsplit(servers.database(scene.name))
    through = at._replace(netloc=f"{at.username}:{at.password}@127.0.0.1:{port}").geturl()
    ours = {"KAFKA": servers.kafka, "DATABASE": through, "TOPIC": scene.name, "GROUP": scene.name}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WEIGHBRIDGE_")}
    return kept | {f"WEIGHBRIDGE_{name}": value for name, value in ours.items()}


_quiet = partial(click.echo, err=True)
