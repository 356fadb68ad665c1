"""Our own pair of servers: up at any time, down at any time, killed at any time, and nothing is lost or harmed."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from click.testing import CliRunner

from deploy import embedded
from deploy.embedded import command, kafka, memory, postgres, process
from deploy.embedded.process import Birth, Daemon
from deploy.software import store

pytestmark = pytest.mark.real

OURS = ("WEIGHBRIDGE_KAFKA", "WEIGHBRIDGE_DATABASE")


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One pair for this file. Its first start is two at once, after one that was killed on its way."""
    with pytest.MonkeyPatch.context() as patch:
        for name in OURS:
            patch.delenv(name, raising=False)
        folder = tmp_path_factory.mktemp("state")
        try:
            yield folder
        finally:
            embedded.erase(folder, command.say)


def spawn(name: str, state: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ingest", name, "--state", str(state)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def daemons(state: Path) -> tuple[Daemon, Daemon]:
    return kafka.daemon(state), postgres.daemon(state, memory.recall(state))


def pids(state: Path) -> tuple[int | None, ...]:
    return tuple(process.alive(daemon) for daemon in daemons(state))


def quiet(_: str) -> None:
    pass


def kill(pid: int | None) -> None:
    """As the kernel does when memory runs out: without a word, and not waited for."""
    assert pid
    os.kill(pid, signal.SIGKILL)


async def leave_a_mark(addresses: embedded.Addresses) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=addresses.kafka)
    await admin.start()
    await admin.create_topics([NewTopic("marks", 1, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=addresses.kafka, max_request_size=kafka.RECORD_BYTES_MAX)
    await producer.start()
    await producer.send_and_wait("marks", b"mark" * 20_000, partition=0)  # larger than any envelope may be
    await producer.stop()
    connection = await asyncpg.connect(addresses.database)
    await connection.execute("create table if not exists marks (mark text); insert into marks values ('mark')")
    await connection.close()


async def marks(addresses: embedded.Addresses) -> tuple[int, int]:
    consumer = AIOKafkaConsumer(bootstrap_servers=addresses.kafka)
    await consumer.start()
    ends = await consumer.end_offsets([TopicPartition("marks", 0)])
    await consumer.stop()
    connection = await asyncpg.connect(addresses.database)
    rows = await connection.fetchval("select count(*) from marks")
    await connection.close()
    return ends[TopicPartition("marks", 0)], rows


def test_two_at_once_after_one_that_was_killed_on_its_way_start_one_pair(state: Path) -> None:
    first = spawn("up", state)
    assert first.stderr
    assert first.stderr.readline()  # it is at work
    first.kill()
    first.communicate()
    both = [spawn("up", state) for _ in range(2)]
    (one, said_one), (other, said_other) = (each.communicate(timeout=120) for each in both)
    assert [each.returncode for each in both] == [0, 0], said_one + said_other
    assert one == other
    assert [line.split("=")[0] for line in one.splitlines()] == [f"export {name}" for name in OURS]
    assert process.workers(daemons(state)[0].home, "java") == [pids(state)[0]]


def test_up_twice_changes_nothing(state: Path) -> None:
    first = embedded.up(state, quiet)
    before = pids(state)
    assert embedded.up(state, quiet) == first
    assert pids(state) == before


async def test_what_was_written_survives_kill_9_of_each_server_and_a_calm_stop(state: Path) -> None:
    addresses = embedded.up(state, quiet)
    await leave_a_mark(addresses)
    left = await marks(addresses)
    for victim in range(2):
        kill(pids(state)[victim])
        assert embedded.up(state, quiet) == addresses
        assert await marks(addresses) == left
    embedded.down(state, quiet)
    assert pids(state) == (None, None)
    assert await marks(embedded.up(state, quiet)) == left


def test_status_says_how_both_are_and_down_may_be_said_twice(state: Path) -> None:
    addresses = embedded.up(state, quiet)
    run = CliRunner().invoke
    running = run(command.status, ["--state", str(state)])
    assert running.exit_code == 0
    assert f"Kafka: running, at {addresses.kafka}" in running.output
    where = urlsplit(addresses.database)
    assert f"PostgreSQL: running, at postgresql://127.0.0.1:{where.port}/weighbridge" in running.output
    assert where.password
    assert where.password not in running.output
    for _ in range(2):
        assert run(command.down, ["--state", str(state)]).exit_code == 0
    stopped = run(command.status, ["--state", str(state)])
    assert stopped.exit_code == command.STOPPED
    assert stopped.output.count("stopped") == 2


def test_a_port_that_somebody_took_meanwhile_is_left_to_them(state: Path) -> None:
    embedded.up(state, quiet)
    embedded.down(state, quiet)
    taken = memory.recall(state).kafka_port
    with socket.create_server((memory.LOOPBACK, taken)):
        assert embedded.up(state, quiet).kafka != f"{memory.LOOPBACK}:{taken}"


@pytest.fixture
def innocent(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "300"], cwd=tmp_path) as sleeper:
        yield sleeper
        sleeper.kill()


def test_a_lock_file_of_postgresql_that_names_an_innocent_process_does_not_keep_it_down(
    state: Path, innocent: subprocess.Popen[bytes]
) -> None:
    embedded.up(state, quiet)
    embedded.down(state, quiet)
    data = daemons(state)[1].home
    (data / "postmaster.pid").write_text(f"{innocent.pid}\n{data}\n{int(time.time())}\n0\n")
    embedded.up(state, quiet)
    assert innocent.poll() is None


def test_a_server_that_cannot_start_shows_the_end_of_its_log(state: Path) -> None:
    embedded.up(state, quiet)
    embedded.down(state, quiet)
    data = daemons(state)[1].home
    control = data / "global" / "pg_control"
    control.rename(control.with_suffix(".away"))
    try:
        with pytest.raises(embedded.Stuck, match="could not open file"):
            embedded.up(state, quiet)
    finally:
        control.with_suffix(".away").rename(control)


def test_a_record_that_names_an_innocent_process_harms_nobody(state: Path, innocent: subprocess.Popen[bytes]) -> None:
    embedded.down(state, quiet)
    actual = process.birth(innocent.pid)
    assert actual
    reused = Birth(actual.pid, actual.started_ticks - 1, actual.boot)
    other_boot = Birth(actual.pid, actual.started_ticks, "of another boot")
    for recorded in (actual, reused, other_boot):  # `actual` is the very process, but it works elsewhere
        for daemon in daemons(state):
            daemon.record.write_bytes(msgspec.json.encode(recorded))
        assert {report.condition for report in embedded.status(state)} == {embedded.Condition.STOPPED}
        embedded.down(state, quiet)
    assert innocent.poll() is None


def test_a_process_of_ours_by_place_but_not_by_birth_is_not_signalled(
    tmp_path: Path, innocent: subprocess.Popen[bytes]
) -> None:
    daemon = Daemon("sleeper", tmp_path / "record", tmp_path / "log", tmp_path)
    born = process.birth(innocent.pid)
    assert born
    daemon.record.write_bytes(process.written(msgspec.structs.replace(born, started_ticks=0)))
    process.stop(daemon, [(signal.SIGKILL, 1.0)])
    assert innocent.poll() is None
    daemon.record.write_bytes(process.written(born))
    process.stop(daemon, [(signal.SIGKILL, 10.0)])  # and with the right birth it is
    assert innocent.wait(10) == -signal.SIGKILL


def test_servers_named_by_the_environment_are_used_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = embedded.Addresses("kafka.example:9092", "postgresql://example/weighbridge")
    monkeypatch.setenv("WEIGHBRIDGE_KAFKA", given.kafka)
    monkeypatch.setenv("WEIGHBRIDGE_DATABASE", given.database)
    assert embedded.up(tmp_path, quiet) == given
    assert {report.condition for report in embedded.status(tmp_path)} == {embedded.Condition.GIVEN}
    embedded.down(tmp_path, quiet)
    assert not list(tmp_path.glob("*.pid.json"))
    assert memory.recall(tmp_path).database_home is None  # no room was made for what is not started


def test_software_that_was_half_fetched_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SOFTWARE", tmp_path)

    def die(half: Path) -> None:
        (half / "some.jar").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.fetch(tmp_path / "kafka", die)
    assert not (tmp_path / "kafka").exists()
    whole = store.fetch(tmp_path / "kafka", lambda half: (half / "some.jar").touch())
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["kafka"]
    assert [path.name for path in whole.iterdir()] == ["some.jar"]
