"""A topic is made fit, found fit, or refused with the remedy: on real Kafka."""

import asyncio
import secrets

import pytest
from aiokafka import AIOKafkaConsumer

from deploy import embedded
from ingest.adapters.topics import Topic, TopicError, prepare_topic
from ingest.ports import TroubleError
from tests.conftest import FreshTopic

pytestmark = pytest.mark.real


async def test_a_missing_topic_is_made_and_then_found_fit(servers: embedded.Addresses) -> None:
    topic = f"made.{secrets.token_hex(6)}"
    assert await prepare_topic(servers.kafka, topic, 5) == Topic(made=True, partitions=5)
    assert await prepare_topic(servers.kafka, topic, 7) == Topic(made=False, partitions=5)
    assert await partitions_of(servers.kafka, topic) == 5


async def test_two_who_make_a_topic_at_once_make_one(servers: embedded.Addresses) -> None:
    topic = f"made.{secrets.token_hex(6)}"
    made = await asyncio.gather(*(prepare_topic(servers.kafka, topic, 2) for _ in range(3)))
    assert sorted(one.made for one in made) == [False, False, True]
    assert await partitions_of(servers.kafka, topic) == 2


async def partitions_of(kafka: str, topic: str) -> int:
    async with AIOKafkaConsumer(topic, bootstrap_servers=kafka) as consumer:
        return len(consumer.partitions_for_topic(topic) or ())


async def test_a_topic_whose_times_are_claims_is_refused_with_the_remedy(
    servers: embedded.Addresses, fresh_topic: FreshTopic
) -> None:
    topic = await fresh_topic(message_timestamp_type="CreateTime")
    remedy = f"--alter --topic {topic} --add-config message.timestamp.type=LogAppendTime"
    with pytest.raises(TopicError, match=remedy):
        await prepare_topic(servers.kafka, topic, 1)


async def test_a_broker_that_is_not_there_is_trouble_with_its_address() -> None:
    with pytest.raises(TroubleError, match=r"127\.0\.0\.1:1"):
        await prepare_topic("127.0.0.1:1", "any", 1)
