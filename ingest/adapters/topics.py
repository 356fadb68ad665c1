"""Is the topic what the contract asks of it? Make a missing one; refuse one whose times are the senders' claims."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from ingest.ports import TroubleError

TIME = "message.timestamp.type"
APPEND = "LogAppendTime"
REPLICAS_WANTED = 3  # or as many as there are brokers
ATTEMPTS, ATTEMPT_EVERY_S = 40, 0.25

_Known = TypeVar("_Known", int, str)


class TopicError(Exception):
    """The topic exists and is not fit; the message says why, and what to do."""


class Topic(msgspec.Struct, frozen=True):
    """A topic that is fit."""

    made: bool  # just now; else it was there before
    partitions: int


async def prepare_topic(kafka: str, topic: str, partitions: int) -> Topic:
    """Make the topic of messages, with so many partitions, unless it is there. Raises TopicError, TroubleError."""
    made, time = await make_topic(kafka, topic, partitions)
    if time != APPEND:
        raise TopicError(
            f"topic {topic} has {TIME}={time}; it must be {APPEND}, or freshness would rest on claims: "
            f"set it with kafka-configs --alter --topic {topic} --add-config {TIME}={APPEND}"
        )
    return made


async def make_topic(kafka: str, topic: str, partitions: int) -> tuple[Topic, str]:
    """Make a topic unless it is there; returns what it is, and whose its times are. Raises TroubleError."""
    client = AIOKafkaAdminClient(bootstrap_servers=kafka)
    try:
        await client.start()
        made = await _make(client, topic, partitions)
        time = await _until_known(lambda: _time_type(client, topic))
        found = await _until_known(lambda: _partitions(client, topic))
    except KafkaError as error:
        raise TroubleError(f"Kafka at {kafka}: {type(error).__name__}: {error}") from error
    finally:
        await client.close()
    return Topic(made, found), time


async def _make(client: AIOKafkaAdminClient, topic: str, partitions: int) -> bool:
    brokers = len((await client.describe_cluster())["brokers"])
    copies = min(REPLICAS_WANTED, brokers)
    wanted = NewTopic(topic, num_partitions=partitions, replication_factor=copies, topic_configs={TIME: APPEND})
    answer = await client.create_topics([wanted])
    for _, code, *_ in answer.topic_errors:
        error = for_code(code)
        if error is TopicAlreadyExistsError:
            return False
        if code:
            raise error(topic)
    return True


async def _until_known(ask: Callable[[], Awaitable[_Known | None]]) -> _Known:
    """Ask until the brokers know: of a topic that was just made, they may not for a moment."""
    for _ in range(ATTEMPTS):
        known = await ask()
        if known:
            return known
        await asyncio.sleep(ATTEMPT_EVERY_S)
    raise TroubleError("Kafka does not tell what the topic is set to; is the role allowed to describe it?")


async def _time_type(client: AIOKafkaAdminClient, topic: str) -> str | None:
    answers = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    configs: dict[str, str] = {entry[0]: entry[1] for answer in answers for of in answer.resources for entry in of[4]}
    return configs.get(TIME)


async def _partitions(client: AIOKafkaAdminClient, topic: str) -> int | None:
    (described,) = await client.describe_topics([topic])
    return len(described["partitions"])
