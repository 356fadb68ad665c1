"""What the log that the worker reads does when its client library goes astray, in this process: on real Kafka."""

import asyncio
import time

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from deploy import embedded
from ingest.adapters import batches, brokers, kafka
from ingest.config import Settings
from ingest.core.message import RawRecord
from tests.adapters.member import READS_MAX, joined, read_some, send, settings_for, transact
from tests.conftest import FreshTopic
from tests.whole.batch import append, batch, record

pytestmark = pytest.mark.real

VALUES = [b"0", b"1", b"2"]


@pytest.fixture
async def settings(servers: embedded.Addresses, fresh_topic: FreshTopic) -> Settings:
    return settings_for(servers.kafka, await fresh_topic())


async def test_a_position_that_strayed_to_the_end_comes_back(settings: Settings) -> None:
    await send(settings, VALUES)
    async with joined(settings) as log:
        log.seek(0, len(VALUES))
        assert [record.value for record in await read_some(log, 0)] == VALUES


async def test_a_log_that_ends_in_a_marker_has_no_lag_and_is_left_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    await transact(settings, VALUES)
    async with joined(settings) as log:
        log.seek(0, 0)
        assert [record.offset for record in await read_some(log, 0)] == [0, 1, 2]
        sought: list[int] = []
        seek = log._consumer.seek

        def note(at: TopicPartition, offset: int) -> None:
            sought.append(offset)
            seek(at, offset)

        monkeypatch.setattr(log._consumer, "seek", note)
        for _ in range(10):
            assert await log.read(0, 3) == []
        assert sought == [3]  # once, to see whether the position had only strayed
        assert log.waiting(0, 3) == 0
        await transact(settings, VALUES)
        assert [record.offset for record in await read_some(log, 3)] == [4, 5, 6]


async def test_a_log_of_transactions_is_left_alone_at_its_end(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marker behind the second is no record: what is asked for next is found there by nobody."""
    asked: list[int] = []
    fetch = brokers.fetch

    async def note(kafka: str, at: TopicPartition, offset: int, bytes_max: int) -> bytes:
        asked.append(offset)
        return await fetch(kafka, at, offset, bytes_max)

    monkeypatch.setattr(brokers, "fetch", note)
    await transact(settings, VALUES)
    await transact(settings, VALUES)
    async with joined(settings) as log:
        log.seek(0, 0)
        offsets: list[int] = []
        while 6 not in offsets:
            offsets += [record.offset for record in await read_some(log, offsets[-1] + 1 if offsets else 0)]
        assert offsets == [0, 1, 2, 4, 5, 6]
        assert asked, "behind a gap we read for ourselves"
        asked.clear()
        for _ in range(10):
            assert await log.read(0, 7) == []
        assert asked == []
        assert log.waiting(0, 7) == 0


@pytest.mark.parametrize("records_max", [1, 4, 8_000])
async def test_a_record_that_claims_the_place_of_others_gets_poison_in_its_own(
    settings: Settings, records_max: int
) -> None:
    """The broker lets such a batch in; what stands behind it must not be passed over."""
    at = TopicPartition(settings.topic, 0)
    await send(settings, [b"before"])
    for deltas in ([0, 1_000, 2], [0, 2, 1], [0, -1, 1], [1, 2, 3], [5, 6, 7]):
        body = b"".join(record(delta, b"hostile") for delta in deltas)
        await append(settings.kafka, at, batch(body, 3))
    await send(settings, [b"after"] * 3)
    limited = msgspec.structs.replace(settings, batch_records_max=records_max)
    async with joined(limited) as log:
        log.seek(0, 0)
        records = await read_some(log, 0)
        while len(records) < 19:
            records += await read_some(log, len(records))
    assert [one.offset for one in records] == list(range(19))
    readable = {one.offset for one in records if one.unreadable is None}
    assert readable == {0, 1, 3, 4, 7, 16, 17, 18}
    assert [one.value for one in records[16:]] == [b"after"] * 3


async def test_a_position_that_strayed_out_of_the_log_comes_back_also_while_a_batch_is_gathered(
    settings: Settings,
) -> None:
    await send(settings, VALUES)
    patient = Settings(kafka=settings.kafka, topic=settings.topic, group=settings.group, batch_wait_ms=5_000)
    async with joined(patient) as log:
        log.seek(0, 0)
        reading = asyncio.ensure_future(log.read(0, 0))
        for _ in range(READS_MAX):
            if await log._consumer.position(TopicPartition(settings.topic, 0)) == len(VALUES):
                break
            await asyncio.sleep(0.05)
        log.seek(0, 1_000)
        assert [record.value for record in await reading] == VALUES
        await send(settings, [b"3"])
        assert [record.value for record in await read_some(log, 3)] == [b"3"]


@pytest.mark.parametrize(("off_s", "least_ms", "most_ms"), [(0, 0, 250), (3 * 3_600, 250, 250), (-3 * 3_600, 0, 0)])
def test_a_clock_unlike_the_brokers_changes_no_more_than_how_long_a_batch_is_waited_for(
    off_s: int, least_ms: int, most_ms: int
) -> None:
    first = RawRecord("t", 0, 0, int((time.time() + off_s) * 1000), b"")
    assert least_ms <= kafka._patience_s([first], 250) * 1000 <= most_ms


async def test_who_joins_a_group_without_offsets_reads_from_where_it_is_told(settings: Settings) -> None:
    """Also when its seek came before the group's answer, which knows of no offset."""
    await send(settings, VALUES)
    async with joined(settings) as log:
        assert [record.value for record in await read_some(log, 1)] == VALUES[1:]


async def test_advice_to_the_group_survives_whatever_befalls_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, failures = AIOKafkaConsumer.commit, [RuntimeError("not foreseen"), ValueError("nor this")]

    async def stumble(self: AIOKafkaConsumer, offsets: object) -> None:
        if failures:
            raise failures.pop()
        await commit(self, offsets)

    monkeypatch.setattr(kafka, "ADVISE_EVERY_S", 0.05)
    monkeypatch.setattr(AIOKafkaConsumer, "commit", stumble)
    await send(settings, VALUES)
    async with joined(settings) as log:
        log.done(0, 3)
        for _ in range(READS_MAX):
            if await log._consumer.committed(TopicPartition(settings.topic, 0)) == 3:
                break
            await asyncio.sleep(0.05)
        assert await log._consumer.committed(TopicPartition(settings.topic, 0)) == 3


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
async def test_what_we_read_ourselves_is_what_the_library_reads(settings: Settings, codec: str | None) -> None:
    at = TopicPartition(settings.topic, 0)
    await send(settings, [b"x" * size for size in (0, 1, 63, 64, 9_000)], codec)
    await transact(settings, VALUES, codec)
    async with AIOKafkaConsumer(bootstrap_servers=settings.kafka) as consumer:
        consumer.assign([at])
        consumer.seek(at, 0)
        theirs = batches.taken([await consumer.getone() for _ in range(8)], at, 0)
    data = await brokers.fetch(settings.kafka, at, 0, 2**20)
    assert batches.read(data, at, 0, 100) == batches.Stretch(theirs, 9, 9)  # behind the marker
    assert batches.read(data, at, 2, 4) == batches.Stretch(theirs[2:6], 6, 8)
