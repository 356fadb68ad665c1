"""Is the topic what the contract asks of it? Make a missing one; refuse one whose times are the senders' claims."""

import msgspec
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from ingest.ports import TroubleError

TIME = "message.timestamp.type"
APPEND = "LogAppendTime"
REPLICAS_WANTED = 3  # or as many as there are brokers


class TopicError(Exception):
    """The topic exists and is not fit; the message says why, and what to do."""


class Topic(msgspec.Struct, frozen=True):
    """A topic that is fit."""

    made: bool  # just now; else it was there before
    partitions: int


async def prepare_topic(kafka: str, topic: str, partitions: int) -> Topic:
    """Make the topic, with so many partitions, unless it is there. Raises TopicError, TroubleError."""
    client = AIOKafkaAdminClient(bootstrap_servers=kafka)
    try:
        await client.start()
        made = await _make(client, topic, partitions)
        await _check(client, topic)
        (described,) = await client.describe_topics([topic])
    except KafkaError as error:
        raise TroubleError(f"Kafka at {kafka}: {type(error).__name__}: {error}") from error
    finally:
        await client.close()
    return Topic(made, len(described["partitions"]))


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


async def _check(client: AIOKafkaAdminClient, topic: str) -> None:
    answers = await client.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
    configs = {entry[0]: entry[1] for answer in answers for resource in answer.resources for entry in resource[4]}
    if configs.get(TIME) != APPEND:
        raise TopicError(
            f"topic {topic} has {TIME}={configs.get(TIME)}; it must be {APPEND}, or freshness would rest on claims: "
            f"set it with kafka-configs --alter --topic {topic} --add-config {TIME}={APPEND}"
        )
