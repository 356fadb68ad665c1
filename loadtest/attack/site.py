"""Where is it attacked? A topic and a database of its own on whatever servers there are, with a fleet and workers."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import msgspec

from device_sim.command import registry_lines
from device_sim.identity import Fleet
from device_sim.sender import Pace, Sent, TakeTruth, Target, drive
from device_sim.truth import Comparison, Deserved, Differences
from device_sim.vehicle import Send
from ingest.adapters.postgres.connection import Connection, connect, trouble
from ingest.adapters.postgres.migration import migrate
from ingest.adapters.postgres.readout import read_totals
from ingest.adapters.postgres.registry import import_devices, read_lines
from ingest.adapters.topics import make_topic, prepare_topic
from loadtest.chaos.crew import Crew
from loadtest.chaos.stage import Servers
from loadtest.check import settle
from loadtest.view import Progress

PARTITIONS = 6
LOOK_EVERY_S = 0.5
STALLED_LOOKS_MAX = 240  # without one verdict more: something is wrong, and the workers' journals say what
ASKING_S_MAX = 300.0


class Site(msgspec.Struct, frozen=True):
    """A topic and a database of the same name, and who points at them."""

    servers: Servers
    name: str

    @property
    def database(self) -> str:
        """Where its tables are."""
        return self.servers.database(self.name)

    @property
    def target(self) -> Target:
        """Where its messages go."""
        return Target(self.servers.kafka, self.name)

    def environ(self) -> dict[str, str]:
        """Point a process at it, and at nothing else."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WEIGHBRIDGE_")}
        ours = {"KAFKA": self.servers.kafka, "DATABASE": self.database, "TOPIC": self.name, "GROUP": self.name}
        return kept | {f"WEIGHBRIDGE_{name}": value for name, value in ours.items()} | {
            "WEIGHBRIDGE_ALERTS_TOPIC": _alerts(self.name)
        }  # fmt: skip

    async def ask(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Ask its database, patiently."""
        async with self.connected() as connection:
            with trouble("asking what became of it"):
                return [tuple(row) for row in await connection.fetch(query, *values, timeout=ASKING_S_MAX)]

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        """Open a connection for the length of the block."""
        connection = await connect(self.database, "weighbridge attack")
        try:
            yield connection
        finally:
            await connection.close()


class Truth:
    """What was deserved, by position; those of `aside` have a story of their own, and are judged elsewhere."""

    def __init__(self) -> None:
        self.comparison = Comparison()
        self.aside: list[Deserved] = []

    def take(self, row: Deserved) -> None:
        """Take one position's truth."""
        self.comparison.expect(row)

    def lay_aside(self, row: Deserved) -> None:
        """Take a position whose verdict depends on who was first."""
        self.aside.append(row)

    async def compare(self, site: Site) -> Differences:
        """Compare with the store."""
        aside = frozenset((row.partition, row.offset) for row in self.aside)
        return await settle(site.database, self.comparison, aside)


@contextlib.asynccontextmanager
async def opened(servers: Servers, name: str, fleet: Fleet) -> AsyncIterator[Site]:
    """Make a topic and a database, enrol the fleet, and drop both at the end of the block."""
    site = Site(servers, name)
    await prepare_topic(servers.kafka, name, PARTITIONS)
    await make_topic(servers.kafka, _alerts(name), 1)
    try:
        with trouble("making a database for the attack"):
            await servers.make_database(name)
        await migrate(site.database)
        async with site.connected() as connection:
            await import_devices(connection, read_lines(registry_lines(fleet)))
        yield site
    finally:
        async with servers.administered() as client:
            await client.delete_topics([name, _alerts(name)])
        await servers.drop_database(name)


@contextlib.asynccontextmanager
async def at_work(site: Site, processes: int, folder: Path) -> AsyncIterator[Crew]:
    """Run worker processes for the length of the block. Raises ValueError if one of them did not end well."""
    crew = Crew(_made(folder / site.name), site.environ())
    try:
        for _ in range(processes):
            await crew.start()
        yield crew
    finally:
        await crew.close()
    bad = [f"{one.journal}: status {one.status}" for one in crew.exits if one.status]
    if bad:
        raise ValueError(f"a worker did not end well; the end of its journal says why: {'; '.join(bad)}")


async def weigh(site: Site, sends: Iterable[Send], pace: Pace, take: TakeTruth, progress: Progress) -> Sent:
    """Send, and wait until all of it is judged. Raises ValueError when nothing is judged for too long."""
    watching = asyncio.create_task(_watch(site, progress))
    try:
        sent = await drive(sends, pace, site.target, take, lambda so_far: progress.tell(sent=so_far.sent))
        progress.close(sent.acknowledged)
        await watching
    finally:
        watching.cancel()
    return sent


async def _watch(site: Site, progress: Progress) -> None:
    stalled = 0
    async with site.connected() as connection:
        while not progress.complete:
            totals = await read_totals(connection, site.name)
            stalled = 0 if totals != progress.totals else stalled + 1
            if stalled > STALLED_LOOKS_MAX:
                raise ValueError(f"{progress.lag:,} messages wait, and no worker judges them")
            progress.tell(totals=totals)
            await asyncio.sleep(LOOK_EVERY_S)


def _alerts(name: str) -> str:
    return f"{name}.alerts"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
