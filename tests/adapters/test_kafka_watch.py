"""A log that moved under its reader is noticed, and a consumer that stopped without a word: on real Kafka."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaClient, TopicPartition

from deploy import embedded
from deploy.embedded import pair
from deploy.embedded.process import stop as stop_process
from ingest.adapters import kafka
from ingest.adapters.brokers import fetch
from ingest.adapters.kafka import KafkaLog
from ingest.adapters.topics import prepare_topic
from ingest.adapters.watch import SilentError, Vigilance, Watch
from ingest.config import Settings
from ingest.core.outcome import hash_of
from ingest.ports import BrokenLogError, Mark, TroubleError
from tests.adapters.member import delete, joined, read_some, replace, send, settings_for, transact
from tests.conftest import FreshTopic
from tests.whole.house import free_ports_in_a_row

pytestmark = pytest.mark.real

VALUES = [b"0", b"1", b"2"]
NOTHING = Mark(0, None, None)
OFTEN = Vigilance(look_every_s=0.1)
IMPATIENT = Vigilance(look_every_s=0.1, silent_s_max=1.0)
TURNS_MAX = 300
LOOKS = 30  # reads, each as long as the time between two looks: enough for silence to be called one


class Failures:
    """Takes down what the log says is wrong."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    def take(self, error: Exception) -> None:
        self.errors.append(error)


@pytest.fixture
async def settings(servers: embedded.Addresses, fresh_topic: FreshTopic) -> Settings:
    return settings_for(servers.kafka, await fresh_topic())


async def begin(log: KafkaLog) -> Mark:
    """Take the partition over for the first time."""
    mark = Mark(0, await log.confirm(0, NOTHING), None)
    log.seek(0, 0)
    return mark


async def read_until(log: KafkaLog, offset: int, trouble: str) -> None:
    """Read on, through any other trouble, until this one comes."""
    for _ in range(TURNS_MAX):
        try:
            assert await log.read(0, offset) == []
        except TroubleError as error:
            if trouble in str(error):
                return
            await asyncio.sleep(0.05)
    raise AssertionError("nobody noticed")


async def test_a_topic_made_anew_under_its_reader_is_noticed_and_then_found_broken(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "METADATA_MS_MAX", 300)  # the group may take the partition away, until it is seen again
    async with joined(settings, vigilance=OFTEN) as log:
        mark = await begin(log)
        await replace(settings)
        await read_until(log, 0, "its topic was made anew")
        with pytest.raises(BrokenLogError, match="another log"):
            await log.confirm(0, mark)


class Broker:
    """A Kafka of this test's own, that may be killed."""

    def __init__(self, state: Path) -> None:
        self._memory = pair.prepare(state)
        self._server, _ = pair.servers(state, self._memory)
        self._data = state / "kafka" / "data"

    def start(self) -> None:
        pair.set_going(self._server, lambda _: None)
        pair.insist(self._server, lambda _: None)

    def kill(self) -> None:
        stop_process(self._server.daemon, [(signal.SIGKILL, 30.0)])

    def restart(self, lost: str = "") -> None:
        """Kill it and start it again. A topic may lose its last batch, as when a machine dies too soon."""
        self.kill()
        if lost:
            self._cut_off(lost)
        self.start()

    def _cut_off(self, topic: str) -> None:
        with (self._data / f"{topic}-0" / "00000000000000000000.log").open("r+b") as file:
            file.truncate(file.seek(0, os.SEEK_END) - 1)

    @property
    def address(self) -> str:
        return self._server.address


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


async def test_a_log_that_lost_its_end_in_a_crash_is_found_broken_though_it_grew_again(broker: Broker) -> None:
    """And one that lost nothing is read on."""
    settings = settings_for(broker.address, "lost")
    await prepare_topic(settings.kafka, settings.topic, 1)
    async with joined(settings, vigilance=OFTEN) as log:
        log_id = (await begin(log)).log_id
        for value in VALUES:
            await send(settings, [value])  # each in a batch of its own
        records = await read_some(log, 0)
        while len(records) < len(VALUES):
            records += await read_some(log, len(records))
        mark = Mark(3, log_id, hash_of(records[-1]))

        await asyncio.to_thread(broker.restart)
        await read_until(log, 3, "its leader has changed")
        assert await log.confirm(0, mark) == log_id

        await asyncio.to_thread(broker.restart, lost=settings.topic)
        await asyncio.sleep(LOOKS * OFTEN.look_every_s)  # what is read before anybody has looked is not told apart
        await send(settings, [b"new"] * 3)
        await read_until(log, 3, "its leader has changed")
        with pytest.raises(BrokenLogError, match="another record at offset 2"):
            await log.confirm(0, mark)


async def test_brokers_that_are_away_are_not_taken_for_a_topic_to_which_nobody_writes() -> None:
    nowhere = settings_for(f"127.0.0.1:{free_ports_in_a_row(1)}", "away")
    watch = Watch(nowhere, "member", Vigilance(look_every_s=0.05, away_s_max=0.5))
    looking = asyncio.create_task(watch.keep(lambda: [0], Failures().take))
    said = ""
    for _ in range(TURNS_MAX):
        try:
            watch.asked(0, 0)
        except TroubleError as error:
            said = str(error)
            break
        await asyncio.sleep(0.05)
    assert "the brokers have not answered for" in said
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)


async def test_a_topic_deleted_under_its_reader_is_no_silence(settings: Settings) -> None:
    """The group takes its partitions away, and what cannot be looked at is no reason to do anything."""
    failures = Failures()
    await send(settings, [b"x"])
    async with joined(settings, failures.take, IMPATIENT) as log:
        await begin(log)
        assert len(await read_some(log, 0)) == 1
        await delete(settings)
        for _ in range(LOOKS):
            with contextlib.suppress(TroubleError):
                await log.read(0, 1)
    assert failures.errors == []


async def test_how_much_waits_is_known_also_of_a_consumer_that_gives_nothing(settings: Settings) -> None:
    async with joined(settings, vigilance=OFTEN) as log:
        await begin(log)
        assert log.waiting(0, 0) == 0
        log._consumer._fetcher._fetch_task.cancel()
        await send(settings, [b"x"] * 5)
        for _ in range(TURNS_MAX):
            if log.waiting(0, 0) == 5:
                break
            assert await log.read(0, 0) == []
        assert (log.waiting(0, 0), log.waiting(0, 3), log.waiting(0, 5)) == (5, 2, 0)


@pytest.mark.parametrize("task", ["_fetcher._fetch_task", "_coordinator._coordination_task"])
async def test_a_consumer_that_stopped_while_records_wait_is_said_to_have_failed(settings: Settings, task: str) -> None:
    failures = Failures()
    async with joined(settings, failures.take, IMPATIENT) as log:
        await begin(log)
        await send(settings, [b"x"])
        assert len(await read_some(log, 0)) == 1
        stop(log, task)
        await send(settings, [b"x"])
        await read_on(log, failures)
    (error,) = failures.errors
    assert isinstance(error, SilentError)
    assert "from offset 1 on" in str(error)


def stop(log: KafkaLog, name: str) -> None:
    """End a task inside of the client library."""
    task = log._consumer
    for part in name.split("."):
        task = getattr(task, part)
    task.cancel()


async def read_on(log: KafkaLog, failures: Failures) -> None:
    """As the worker does: what goes wrong is tried again."""
    for _ in range(TURNS_MAX):
        if failures.errors:
            return
        try:
            await log.read(0, 1)
        except TroubleError:
            await asyncio.sleep(0.05)
    raise AssertionError("nobody noticed")


async def test_a_consumer_that_its_group_has_forgotten_is_said_to_have_failed(settings: Settings) -> None:
    """Nothing waits: it would read on for ever, and never hear of a partition given to another."""
    failures = Failures()
    async with joined(settings, failures.take, IMPATIENT) as log:
        await begin(log)
        log._consumer._coordinator._coordination_task.cancel()
        await log._consumer._coordinator._maybe_leave_group()
        await read_on(log, failures)
    (error,) = failures.errors
    assert isinstance(error, SilentError)
    assert f"not been a member of group {settings.group}" in str(error)


async def test_who_asks_the_brokers_can_be_told_to_stop_also_while_the_client_closes(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client library swallows a cancellation that comes then, and whoever waits for our end would wait for ever."""
    closing, close = asyncio.Event(), AIOKafkaClient.close

    async def tell_and_close(client: AIOKafkaClient) -> None:
        closing.set()
        await close(client)

    monkeypatch.setattr(AIOKafkaClient, "close", tell_and_close)
    asking = asyncio.ensure_future(fetch(settings.kafka, TopicPartition(settings.topic, 0), 0, 1))
    await closing.wait()
    asking.cancel()
    await asyncio.wait({asking}, timeout=10)
    assert asking.cancelled()


async def test_markers_at_the_end_are_no_silence(settings: Settings) -> None:
    failures = Failures()
    await transact(settings, [b"x"])
    async with joined(settings, failures.take, IMPATIENT) as log:
        await begin(log)
        assert len(await read_some(log, 0)) == 1
        for _ in range(LOOKS):
            assert await log.read(0, 1) == []
    assert failures.errors == []


async def test_records_that_nobody_asks_for_are_no_silence(settings: Settings) -> None:
    """As while the store is away, or while a partition is halted."""
    failures = Failures()
    await send(settings, [b"x"])
    async with joined(settings, failures.take, IMPATIENT) as log:
        await begin(log)
        assert len(await read_some(log, 0)) == 1
        await send(settings, [b"x"])
        await asyncio.sleep(LOOKS * IMPATIENT.look_every_s)
        assert len(await read_some(log, 1)) == 1
    assert failures.errors == []
