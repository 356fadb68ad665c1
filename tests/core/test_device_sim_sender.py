"""Does the truth name the positions at which its messages really stand? Real Kafka, nothing in between."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import groupby, islice

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import DuplicateSequenceNumber
from aiokafka.producer.message_accumulator import MessageBatch
from aiokafka.structs import ConsumerRecord

from deploy.embedded import Addresses
from device_sim.fleet import MIXES, Plan, sends
from device_sim.identity import Fleet
from device_sim.sender import Pace, Sent, Target, drive
from device_sim.truth import Deserved
from device_sim.vehicle import Send

pytestmark = pytest.mark.real
PARTITIONS = 3
FreshTopic = Callable[..., Awaitable[str]]


def fleet_sends() -> list[Send]:
    plan = Plan(Fleet(2, 60), MIXES["everything"], time.time(), samples_max=2)
    return list(islice(sends(plan), 1_500))


async def written(kafka: str, topic: str) -> AsyncIterator[ConsumerRecord]:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka)
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(partitions)
        for _ in range(sum(ends.values())):
            yield await asyncio.wait_for(consumer.getone(), 10)
    finally:
        await consumer.stop()


async def test_every_position_holds_the_message_that_the_truth_says(
    servers: Addresses, fresh_topic: FreshTopic
) -> None:
    topic, truth, reports = await fresh_topic(partitions=PARTITIONS), list[Deserved](), list[Sent]()
    sent = fleet_sends()
    result = await drive(sent, Pace(rate=900), Target(servers.kafka, topic), truth.append, reports.append)
    log = {(r.partition, r.offset): r async for r in written(servers.kafka, topic)}
    assert len(log) == result.sent == result.acknowledged == len(truth) == len(sent)
    assert reports
    for row, send in zip(truth, sent, strict=True):
        record = log[row.partition, row.offset]
        assert (record.key, record.value) == (send.device_id.encode(), send.value)
        assert (row.verdict, row.reason, row.fault) == (send.verdict, send.reason, send.cause)
    assert result.ends == {p: 1 + max(o for q, o in log if q == p) for p in result.ends}


async def test_a_devices_messages_stand_in_the_order_in_which_they_were_sent(
    servers: Addresses, fresh_topic: FreshTopic
) -> None:
    topic, truth = await fresh_topic(partitions=PARTITIONS), list[Deserved]()
    await drive(fleet_sends(), Pace(), Target(servers.kafka, topic), truth.append)
    own = [row for row in truth if row.group is None]
    own.sort(key=lambda row: row.device_id)  # stable: the order of the sends stays within a device
    for _, rows in groupby(own, key=lambda row: row.device_id):
        positions = [(row.partition, row.offset) for row in rows]
        assert len({partition for partition, _ in positions}) == 1
        assert positions == sorted(positions)


async def test_what_landed_nobody_knows_where_has_no_truth(
    servers: Addresses, fresh_topic: FreshTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the broker has forgotten the first try of a repetition: it knows neither offset nor time."""
    done = MessageBatch.done

    def forgotten(batch: MessageBatch, *_: int) -> None:
        done(batch, -1, -1, -1)

    monkeypatch.setattr(MessageBatch, "done", forgotten)
    topic, truth = await fresh_topic(partitions=PARTITIONS), list[Deserved]()
    with pytest.raises(DuplicateSequenceNumber, match="nobody knows where"):
        await drive(fleet_sends(), Pace(), Target(servers.kafka, topic), truth.append)
    assert truth == []


async def test_copies_for_other_partitions_go_there(servers: Addresses, fresh_topic: FreshTopic) -> None:
    topic, truth = await fresh_topic(partitions=PARTITIONS), list[Deserved]()
    await drive(fleet_sends(), Pace(), Target(servers.kafka, topic), truth.append)
    groups: dict[int, list[int]] = {}
    for row in truth:
        if row.group is not None:
            groups.setdefault(row.group, []).append(row.partition)
    assert groups
    assert all(len(set(partitions)) == len(partitions) for partitions in groups.values())


async def test_a_run_ends_at_its_count_or_its_time(servers: Addresses, fresh_topic: FreshTopic) -> None:
    topic, truth = await fresh_topic(partitions=PARTITIONS), list[Deserved]()
    target = Target(servers.kafka, topic)
    assert (await drive(fleet_sends(), Pace(count=7), target, truth.append)).sent == 7
    brief = await drive(fleet_sends(), Pace(rate=50, seconds=0.2), target, truth.append)
    assert 0 < brief.sent <= 11
    assert len(truth) == 7 + brief.sent


async def test_a_cancelled_run_still_gives_the_truth_of_what_it_sent(
    servers: Addresses, fresh_topic: FreshTopic
) -> None:
    topic, truth = await fresh_topic(partitions=PARTITIONS), list[Deserved]()
    run = asyncio.create_task(drive(fleet_sends(), Pace(rate=300), Target(servers.kafka, topic), truth.append))
    await asyncio.sleep(1.5)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    standing = {(r.partition, r.offset) async for r in written(servers.kafka, topic)}
    assert standing == {(row.partition, row.offset) for row in truth}
    assert standing


async def test_a_topic_that_is_not_there_is_named_at_once(servers: Addresses) -> None:
    with pytest.raises(ValueError, match="no topic no\\.such\\.topic"):
        await drive([], Pace(), Target(servers.kafka, "no.such.topic"), lambda _: None)
