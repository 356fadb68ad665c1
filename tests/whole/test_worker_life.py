"""A worker is told to stop, killed, cut off, started wrongly: nothing is lost, doubled or decided wrongly."""

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from deploy import embedded
from tests.whole.house import House, Record, Running, create_topic, free_ports_in_a_row, open_house, wait_for

pytestmark = pytest.mark.real

BACKLOG = 2_500
BATCH = 40  # small, so that there is always a batch in flight


@pytest.fixture(scope="module")
def house(servers: embedded.Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("life")
    with open_house(servers, folder, batch_records_max=BATCH) as house:
        yield house


@pytest.fixture
def backlog(house: House) -> Iterator[int]:
    """Let a fleet send while nobody works; returns how many records have a verdict once all have. Then checks them."""
    before = house.consumed()
    truth = house.send_fleet(run=1 + before // BACKLOG, count=BACKLOG)
    yield before + BACKLOG
    assert house.check(truth)["sent"] == BACKLOG
    house.check_tiles()


def wait_for_work(house: House, done: int) -> None:
    """Wait until a worker is in the middle of a backlog."""
    before = done - BACKLOG
    wait_for(lambda: house.consumed() > before, lambda: "nothing was consumed")


def next_offsets(house: House) -> dict[int, int]:
    return {row[0]: row[1] for row in house.query("select partition, next_offset from store.partition_lease")}


def begun_at(worker: Running) -> dict[int, int]:
    """Where it began to work in each partition."""
    begun: dict[int, int] = {}
    for event in worker.events("batch"):
        begun.setdefault(event["partition"], event["from_offset"])
    return begun


def test_sigterm_under_load_finishes_the_batches_in_flight_and_the_next_worker_goes_on_there(
    house: House, backlog: int
) -> None:
    with house.worker() as worker:
        wait_for_work(house, backlog)
        assert worker.stop() == 0
    left = next_offsets(house)
    assert house.consumed() < backlog, "it was told to stop, not to finish"
    (revoked,) = [event for event in worker.events("revoked") if event["partitions"]]
    assert revoked["cut_off"] == 0
    with house.worker() as successor:
        house.wait_consumed(backlog)
    begun = begun_at(successor)
    assert begun == {partition: left[partition] for partition in begun}


def test_after_kill_9_under_load_the_next_worker_loses_and_doubles_nothing(house: House, backlog: int) -> None:
    with house.worker() as worker:
        wait_for_work(house, backlog)
        worker.process.kill()
        assert worker.process.wait() == -signal.SIGKILL
    assert house.consumed() < backlog
    with house.worker():
        house.wait_consumed(backlog)


def test_a_worker_process_that_is_killed_is_started_again(house: House, backlog: int) -> None:
    with house.worker("--processes", "2") as worker:
        wait_for_work(house, backlog)
        victim = worker.children()[0]
        os.kill(victim, signal.SIGKILL)
        house.wait_consumed(backlog)
        wait_for(lambda: len(worker.children()) == 2, lambda: "it was not started again")
        (died,) = worker.events("worker_died")
        assert (died["pid"], died["status"]) == (victim, -signal.SIGKILL)
        assert victim not in worker.children()


def test_workers_whose_supervisor_is_killed_drain_and_end(house: House, backlog: int) -> None:
    with house.worker("--processes", "2") as worker:
        wait_for_work(house, backlog)
        orphans = worker.children()
        worker.process.kill()
        assert worker.process.wait() == -signal.SIGKILL
        wait_for(lambda: not any(map(runs, orphans)), lambda: "they go on as orphans")
    assert len(worker.events("orphaned")) == len(worker.events("stopped")) == len(orphans) == 2
    with house.worker():
        house.wait_consumed(backlog)


def runs(pid: int) -> bool:
    """Whether a process is there; one that has ended and that nobody has asked after yet is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_database_connection_that_ends_is_made_again(house: House, backlog: int) -> None:
    with house.worker() as worker:
        wait_for_work(house, backlog)
        ended = house.query(
            "select pg_terminate_backend(a.pid) from store.partition_lease l "
            "join pg_stat_activity a on a.pid = l.owner_pid and a.backend_start = l.owner_started"
        )
        assert [row[0] for row in ended] == [True] * 3
        house.wait_consumed(backlog)
        assert worker.events("trouble")


def test_a_take_over_uses_up_nothing(house: House, backlog: int) -> None:
    """A worker may take a partition over for years: no number of the store's may run out by it."""
    numbers = "select last_value from pg_sequences where schemaname = 'store' and sequencename in ($1, $2) order by 1"
    with house.worker():
        house.wait_consumed(backlog)
        before = house.query(numbers, "topic_topic_no_seq", "judged_by_judged_by_seq")
    with house.worker() as worker:
        wait_for(lambda: bool(worker.events("assigned")), lambda: "it got no partitions")
        epochs = "select sum(owner_epoch) from store.partition_lease"
        (taken,) = house.query(epochs)
        wait_for(lambda: house.query(epochs) >= [taken], lambda: "it took nothing over")
    assert house.query(numbers, "topic_topic_no_seq", "judged_by_judged_by_seq") == before


def test_all_that_is_wrong_with_the_settings_is_said_at_once(house: House) -> None:
    wrong = {
        "database": "mysql://somebody:hunter2@127.0.0.1/x",
        "http_port": "many",
        "batch_records_max": 0,
        "policy_age_s_max": "a month",
        "log_levle": "info",
    }
    said = house.refuse("worker", **wrong)
    for name in (
        "WEIGHBRIDGE_DATABASE",
        "WEIGHBRIDGE_HTTP_PORT",
        "batch_records_max",
        "policy.age_s_max",
        "WEIGHBRIDGE_LOG_LEVEL",
    ):
        assert name in said
    assert "hunter2" not in said


@pytest.mark.parametrize("command", ["worker", "prepare", "devices list"])
def test_a_database_address_that_makes_no_sense_is_said_without_its_password(house: House, command: str) -> None:
    said = house.refuse(*command.split(), database="postgresql://somebody:hunter2@127.0.0.1:port/x")
    assert "hunter2" not in said
    assert "database" in said


def test_a_topic_whose_times_are_the_senders_claims_is_not_judged(servers: embedded.Addresses, house: House) -> None:
    topic = f"claims.{secrets.token_hex(6)}"
    create_topic(servers.kafka, topic)
    claims = House(house.folder, house.kafka, house.database, topic, {**house.environ, "WEIGHBRIDGE_TOPIC": topic})
    claims.send([Record(b"anything")])
    with claims.worker(group=topic) as worker:
        wait_for(lambda: len(worker.events("trouble")) > 3, lambda: "it said nothing")
    assert all("message.timestamp.type=LogAppendTime" in event["error"] for event in worker.events("trouble"))
    waits = [event["retry_in_s"] for event in worker.events("trouble")]
    assert waits == sorted(waits)
    assert waits[3] > waits[0], "what will not get better by itself is tried less and less often"
    assert claims.query("select * from weighbridge.batch where topic = $1", topic) == []
    said = claims.refuse("prepare")
    assert f"kafka-configs --alter --topic {topic} --add-config message.timestamp.type=LogAppendTime" in said


@contextlib.asynccontextmanager
async def door(port: int, kafka: str) -> AsyncIterator[None]:
    """Open a port that leads to the broker."""
    host, _, broker_port = kafka.rpartition(":")

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_broker = await asyncio.open_connection(host, int(broker_port))
        await asyncio.gather(pour(reader, to_broker[1]), pour(to_broker[0], writer))

    async with await asyncio.start_server(lead, "127.0.0.1", port):
        yield


def test_a_worker_that_is_there_before_the_broker_waits_for_it(house: House, backlog: int) -> None:
    port = free_ports_in_a_row(1)

    async def open_late(worker: Running) -> None:
        await asyncio.to_thread(wait_for, lambda: len(worker.events("trouble")) > 1, lambda: "it did not wait")
        async with door(port, house.kafka):
            await asyncio.to_thread(house.wait_consumed, backlog)

    with house.worker(kafka=f"127.0.0.1:{port}") as worker:
        asyncio.run(open_late(worker))
    assert {event["what"] for event in worker.events("trouble")} == {"kafka"}


def test_a_worker_that_waits_for_the_broker_can_be_told_to_stop(house: House) -> None:
    with house.worker(kafka=f"127.0.0.1:{free_ports_in_a_row(1)}") as worker:
        wait_for(lambda: bool(worker.events("trouble")), lambda: "it did not wait")
        assert worker.stop() == 0
