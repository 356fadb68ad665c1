"""How does a test use the whole house? As a person does: by its commands, with a database and a topic of its own."""

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from click.testing import CliRunner, Result

from deploy import embedded
from ingest.__main__ import main

COMMAND_S_MAX = 60.0
WAIT_S_MAX = 60.0
DRAIN_S_MAX = 10.0
LOOK_EVERY_S = 0.03
RECORD_BYTES_MAX = 1_000_000

T = TypeVar("T")
Headers = Sequence[tuple[str, bytes]]


class Record(msgspec.Struct, frozen=True):
    """What a plain Kafka producer is told to send."""

    value: bytes | None
    partition: int = 0
    key: bytes | None = None
    headers: Headers = ()


class Batch(msgspec.Struct, frozen=True):
    """One row of weighbridge.batch."""

    from_offset: int
    to_offset: int
    consumed: int
    skipped: int


class Running(msgspec.Struct, frozen=True):
    """A worker process, and where it writes its journal."""

    process: subprocess.Popen[bytes]
    path: Path

    def journal(self) -> list[dict[str, Any]]:
        """Read its journal so far; a line that is not JSON is a fault. The last may be on its way."""
        return [json.loads(line) for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Read the events of one kind."""
        return [event for event in self.journal() if event["event"] == name]

    def stop(self) -> int:
        """Tell it to stop, and wait for its end within the drain time; returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DRAIN_S_MAX)

    def children(self) -> list[int]:
        """Name the processes that it has started."""
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class House(msgspec.Struct, frozen=True):
    """A topic, a database and the environment that points every command at them."""

    folder: Path
    kafka: str
    database: str
    topic: str
    environ: Mapping[str, str]

    def attempt(self, *arguments: str | Path, **settings: object) -> subprocess.CompletedProcess[str]:
        """Run a command of `weighbridge`, whatever comes of it."""
        command = [sys.executable, "-m", "ingest", *map(str, arguments)]
        environ = {**self.environ, **_variables(settings)}
        return subprocess.run(
            command, env=environ, cwd=self.folder, capture_output=True, text=True, timeout=COMMAND_S_MAX, check=False
        )

    def call(self, *arguments: str | Path) -> str:
        """Run a command of `weighbridge` that must succeed, in a process of its own; returns what it printed."""
        done = self.attempt(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *arguments: str | Path, status: int = 0) -> Result:
        """Run a command of `weighbridge` in this process, which is quicker."""
        done = CliRunner().invoke(
            main, [str(argument) for argument in arguments], env=self.environ, prog_name="weighbridge"
        )
        assert done.exit_code == status, (done.output, done.exception)
        assert done.exception is None or isinstance(done.exception, SystemExit)
        return done

    def refuse(self, *arguments: str | Path, **settings: object) -> str:
        """Run a command of `weighbridge` that must fail in good order; returns what it said."""
        done = self.attempt(*arguments, **settings)
        assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done.stderr

    def worker(self, *options: str, **settings: object) -> contextlib.AbstractContextManager[Running]:
        """Run a worker for the length of the block; where the block left it running it drains at the end."""
        return self.running("ingest", "worker", *options, **settings)

    @contextlib.contextmanager
    def running(self, module: str, *arguments: str, **settings: object) -> Iterator[Running]:
        """Run a module as a worker."""
        path = self.folder / f"worker-{secrets.token_hex(4)}.log"
        environ = {**self.environ, **_variables(settings)}
        command = [sys.executable, "-m", module, *arguments]
        with path.open("wb") as file, subprocess.Popen(command, env=environ, cwd=self.folder, stderr=file) as process:
            running = Running(process, path)
            try:
                yield running
                if process.poll() is None:
                    running.stop()
            finally:
                _end(running)

    def enrol(self, lines: Iterable[Mapping[str, object]], status: int = 0) -> Result:
        """Import devices."""
        path = self.folder / f"devices-{secrets.token_hex(4)}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return self.run("devices", "import", path, status=status)

    def send_fleet(self, run: int, count: int) -> Path:
        """Let a fleet that does everything send so many messages; returns the file with what they deserve."""
        truth = self.folder / f"truth-{run}.jsonl"
        fleet = ("--vehicles", "200", "--samples", "4", "--run", str(run))
        self.run("simulate", *fleet, "--count", str(count), "--truth", truth)
        return truth

    def check(self, truth: Path) -> dict[str, Any]:
        """Compare truth and store; they must agree."""
        found: dict[str, Any] = json.loads(self.run("check", "--truth", truth, "--json").stdout.splitlines()[-1])
        assert (found["unaccounted"], found["wrong_verdicts"]) == (0, 0)
        return found

    def query(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Ask the database."""

        async def ask() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(self.database)
            try:
                return list(await connection.fetch(statement, *arguments))
            finally:
                await connection.close()

        return asyncio.run(ask())

    def consumed(self) -> int:
        """Count the records that have a verdict, by the batches."""
        (row,) = self.query("select coalesce(sum(accepted + duplicate + held + refused), 0) from weighbridge.batch")
        return int(row[0])

    def wait_consumed(self, count: int) -> None:
        """Wait until so many records have a verdict."""
        wait_for(lambda: self.consumed() >= count, lambda: f"{self.consumed()} of {count} consumed")

    def send(self, records: Sequence[Record]) -> list[int]:
        """Produce records as any program could; returns their offsets."""
        return asyncio.run(_send(self.kafka, self.topic, records))

    def weigh(self, *values: bytes) -> list[tuple[str, str]]:
        """Send messages to partition 0 and wait for what becomes of them: verdict and reason, in their order."""
        expected = self.consumed() + len(values)
        offsets = self.send([Record(value) for value in values])
        self.wait_consumed(expected)
        rows = self.query(
            "select verdict, coalesce(reason, '') from weighbridge.verdict "
            "where partition = 0 and kafka_offset = any($1) order by kafka_offset",
            offsets,
        )
        return [(row[0], row[1]) for row in rows]

    def records(self, topic: str | None = None) -> list[ConsumerRecord]:
        """Read a topic, that of messages if none is named, from beginning to end, as any program could."""
        return asyncio.run(_read(self.kafka, topic or self.topic))

    def batches(self) -> dict[int, list[Batch]]:
        """Read the batches of each partition, in order."""
        rows = self.query(
            "select * from weighbridge.batch where topic = $1 order by partition, from_offset", self.topic
        )
        batches: dict[int, list[Batch]] = {}
        for row in rows:
            consumed = sum(row[verdict] for verdict in ("accepted", "duplicate", "held", "refused"))
            one = Batch(row["from_offset"], row["to_offset"], consumed, row["skipped"])
            batches.setdefault(row["partition"], []).append(one)
        return batches

    def check_tiles(self) -> None:
        """Check that batches tile each partition, and that each position but the skipped has exactly one verdict."""
        for partition, batches in self.batches().items():
            ends = [0, *(batch.to_offset for batch in batches)]
            assert [batch.from_offset for batch in batches] == ends[:-1], partition
            assert all(b.consumed + b.skipped == b.to_offset - b.from_offset for b in batches), partition
            positions = set(range(ends[-1]))
            skipped = self.query("select from_offset, to_offset from store.skipped where partition = $1", partition)
            for start, end in skipped:
                positions -= set(range(start, end))
            given = self.query("select kafka_offset from weighbridge.verdict where partition = $1", partition)
            assert sorted(row[0] for row in given) == sorted(positions), partition


@contextlib.contextmanager
def open_house(servers: embedded.Addresses, folder: Path, partitions: int = 3, **settings: object) -> Iterator[House]:
    """Prepare a database and a topic, and throw them away at the end."""
    name = f"whole_{secrets.token_hex(6)}"
    database = urlsplit(servers.database)._replace(path=f"/{name}").geturl()
    named = {"topic": name, "alerts_topic": f"{name}.alerts", "group": name}
    ours = {"kafka": servers.kafka, "database": database, **named, **settings}
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WEIGHBRIDGE_")}
    house = House(folder, servers.kafka, database, name, {**kept, **_variables(ours)})
    asyncio.run(_administer(servers, f"create database {name}"))
    try:
        if partitions:
            house.run("prepare", "--partitions", str(partitions))
        yield house
    finally:
        asyncio.run(_administer(servers, f"drop database {name} with (force)"))
        asyncio.run(delete_topics(servers.kafka, name, f"{name}.alerts"))


def wait_for(reached: Callable[[], bool], explain: Callable[[], str], seconds: float = WAIT_S_MAX) -> None:
    """Wait until something is so; not for ever."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, explain()
        time.sleep(LOOK_EVERY_S)


def free_ports_in_a_row(count: int) -> int:
    """Find as many free ports one after the other; returns the first."""
    for _ in range(100):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            port = int(first.getsockname()[1])
            for number in range(1, count):
                stack.enter_context(socket.create_server(("127.0.0.1", port + number)))
            return port
    raise AssertionError(f"no {count} free ports in a row")


def create_topic(kafka: str, topic: str, **configs: str) -> None:
    """Create a topic as somebody else might, with settings of theirs."""

    async def create(admin: AIOKafkaAdminClient) -> None:
        named = {name.replace("_", "."): value for name, value in configs.items()}
        answer = await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=named)])
        assert all(code == 0 for _, code, *_ in answer.topic_errors), answer

    asyncio.run(as_admin(kafka, create))


def _variables(settings: Mapping[str, object]) -> dict[str, str]:
    return {f"WEIGHBRIDGE_{name.upper()}": str(value) for name, value in settings.items()}


def _end(running: Running) -> None:
    """Leave nothing running, whatever the test has come to."""
    if running.process.poll() is None:
        left = running.children()
        running.process.kill()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def _administer(servers: embedded.Addresses, statement: str) -> None:
    assert re.fullmatch(r"[\w ()]+", statement)
    connection = await asyncpg.connect(servers.database)
    await connection.execute(statement)
    await connection.close()


async def as_admin(kafka: str, work: Callable[[AIOKafkaAdminClient], Awaitable[T]]) -> T:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        return await work(admin)
    finally:
        await admin.close()


async def delete_topics(kafka: str, *topics: str) -> None:
    await as_admin(kafka, lambda admin: admin.delete_topics(list(topics)))


async def _send(kafka: str, topic: str, records: Sequence[Record]) -> list[int]:
    producer = AIOKafkaProducer(bootstrap_servers=kafka, max_request_size=RECORD_BYTES_MAX)
    await producer.start()
    try:
        sent = [
            await producer.send(topic, r.value, r.key, r.partition, headers=list(r.headers) or None) for r in records
        ]
        return [(await one).offset for one in sent]
    finally:
        await producer.stop()


async def _read(kafka: str, topic: str) -> list[ConsumerRecord]:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest")
    await consumer.start()
    try:
        await consumer._client.force_metadata_update()
        partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        records: list[ConsumerRecord] = []
        while any([await consumer.position(at) < end for at, end in ends.items()]):
            for fetched in (await consumer.getmany(timeout_ms=1_000)).values():
                records += fetched
        return records
    finally:
        await consumer.stop()
