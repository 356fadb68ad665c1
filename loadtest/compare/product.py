"""How fast does the product take a backlog? Real worker processes, timed by what they committed."""

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaConsumer

from ingest.adapters.postgres.connection import Connection
from loadtest.compare.cpu import times, used_s
from loadtest.compare.ground import PARTITIONS, Ground, connected

READY_S_MAX = 60.0
STALLED_S_MAX = 60.0
LOOK_EVERY_S = 0.1

_WAITING = """
    select count(distinct application_name) from pg_stat_activity
    where application_name like $1 and wait_event_type = 'Lock' and datname = current_database()"""

_RESULT = """
    select b.accepted, b.others, extract(epoch from b.ended_at - l.began_at)::float8 as seconds,
           (select count(*) from store.message) as stored
    from (select sum(accepted)::bigint as accepted, sum(duplicate + held + refused + skipped)::bigint as others,
                 max(committed_at) as ended_at from store.batch) b,
         (select min(taken_at) as began_at from store.partition_lease) l"""


class Cpu(msgspec.Struct, frozen=True):
    """Microseconds of processor for each message."""

    worker: float
    postgres: float
    kafka: float


class Drained(msgspec.Struct, frozen=True):
    """What came of a backlog."""

    messages: int
    seconds: float  # from the take-over of the first partition to the last commit, by the database's clock
    cpu: Cpu

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.messages / self.seconds


class WrongError(Exception):
    """The product did not do what it should: its rate means nothing."""


class Workers(msgspec.Struct, frozen=True):
    """Worker processes, side by side. One that ends before it is told has no successor."""

    processes: list[Process]
    journal: Path  # of them all

    @property
    def pids(self) -> list[int]:
        """Their process numbers."""
        return [process.pid for process in self.processes]

    def check(self) -> None:
        """Raise WrongError if one has ended."""
        for process in self.processes:
            if process.returncode is not None:
                how = f"worker {process.pid} has ended with status {process.returncode}"
                raise WrongError(f"{how}; the end of its journal {self.journal} says why")


async def drain(ground: Ground, database: str, processes: int, engine: str) -> Drained:
    """Let workers take the whole backlog. Raises WrongError unless every message is accepted."""
    async with connected(database) as connection:
        async with standing_by(ground, database, processes, engine) as (workers, begin):
            before = times(workers.pids), *ground.server_times()
            await begin()
            await _until_taken(connection, ground.messages, workers)
            after = times(workers.pids), *ground.server_times()
        seconds = await _judge(connection, ground.messages, workers.journal)
    used = [used_s(*pair) * 1e6 / ground.messages for pair in zip(before, after, strict=True)]
    return Drained(ground.messages, seconds, Cpu(worker=used[0], kafka=used[1], postgres=used[2]))


@contextlib.asynccontextmanager
async def standing_by(
    ground: Ground, database: str, processes: int, engine: str
) -> AsyncIterator[tuple[Workers, Callable[[], Awaitable[None]]]]:
    """Run workers that all wait to take their partitions over; gives them, and what lets them begin."""
    group = database.rpartition("/")[2]
    async with (
        connected(database) as connection,
        connected(database) as gate,
        _keeping_open(ground.servers.kafka, ground.topic, group) as leave,
    ):
        barred = gate.transaction()
        await barred.start()
        # Nobody can take a partition over before this transaction ends: all begin at the same moment.
        await gate.execute("lock table store.partition_lease in share row exclusive mode")
        async with _working(ground, database, processes, engine) as workers:
            await _joined(ground, group, workers)
            await leave()
            await _waiting(connection, ground.topic, workers)
            yield workers, barred.commit


@contextlib.asynccontextmanager
async def _working(ground: Ground, database: str, processes: int, engine: str) -> AsyncIterator[Workers]:
    """Run workers for the length of the block, and kill them: if all went well all is committed by then."""
    command = ["-m", "ingest", "worker", "--engine", engine, "--parent", str(os.getpid())]  # should we end, so do they
    name = database.rpartition("/")[2]
    environ = ground.environ(database, name)
    workers = Workers([], ground.servers.state / f"{name}.jsonl")
    try:
        with workers.journal.open("ab") as file:
            for _ in range(processes):
                workers.processes.append(
                    await asyncio.create_subprocess_exec(sys.executable, *command, env=environ, stderr=file)
                )
        yield workers
    finally:
        for process in workers.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        for process in workers.processes:
            await process.wait()


@contextlib.asynccontextmanager
async def _keeping_open(kafka: str, topic: str, group: str) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Be a member of the group, one that is slow to notice others; gives the means to leave it.

    Until then, no assignment is made to those who have joined meanwhile: so they are all dealt in at once, and none
    of them has to give up what it was dealt alone.
    """
    member = AIOKafkaConsumer(
        topic,
        bootstrap_servers=kafka,
        group_id=group,
        enable_auto_commit=False,
        session_timeout_ms=60_000,
        heartbeat_interval_ms=20_000,
    )
    await member.start()
    try:
        yield member.stop
    finally:
        await member.stop()


async def _joined(ground: Ground, group: str, workers: Workers) -> None:
    """Wait until all of them, beside the one who keeps it open, have joined the group."""
    async with ground.servers.administered() as client:
        for _ in range(int(READY_S_MAX / LOOK_EVERY_S)):
            (answer,) = await client.describe_consumer_groups([group])
            if len(answer.groups[0][5]) > len(workers.processes):
                return
            workers.check()
            await asyncio.sleep(LOOK_EVERY_S)
    raise WrongError(f"{len(workers.processes)} workers have not joined group {group} within {READY_S_MAX:.0f} s")


async def _waiting(connection: Connection, topic: str, workers: Workers) -> None:
    """Wait until all partitions wait to be taken over."""
    for _ in range(int(READY_S_MAX / LOOK_EVERY_S)):
        if await connection.fetchval(_WAITING, f"weighbridge {topic}/%") == PARTITIONS:
            return
        workers.check()
        await asyncio.sleep(LOOK_EVERY_S)
    raise WrongError(f"the partitions of {topic} were not dealt out within {READY_S_MAX:.0f} s")


async def _until_taken(connection: Connection, messages: int, workers: Workers) -> None:
    """Wait until every message has its verdict; not for ever, and not for workers that are gone."""
    taken, stalled_s = 0, 0.0
    while taken < messages:
        workers.check()
        if stalled_s > STALLED_S_MAX:
            raise WrongError(f"the workers took {taken:,} of {messages:,} messages, and no more")
        await asyncio.sleep(LOOK_EVERY_S)
        now = await connection.fetchval("select coalesce(sum(next_offset), 0)::bigint from store.partition_lease")
        taken, stalled_s = now, 0.0 if now > taken else stalled_s + LOOK_EVERY_S


async def _judge(connection: Connection, messages: int, journal: Path) -> float:
    """Count what became of them; returns how long it took."""
    row = await connection.fetchrow(_RESULT)
    assert row is not None, "aggregates always have a row"
    if (row["accepted"], row["others"], row["stored"]) != (messages, 0, messages):
        raise WrongError(f"of {messages:,} honest messages: {dict(row)}; the journal is {journal}")
    return float(row["seconds"])
