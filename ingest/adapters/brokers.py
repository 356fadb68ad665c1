"""What do the brokers themselves say of a topic? Asked over a connection of its own, apart from the consumer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from enum import IntEnum

from aiokafka import AIOKafkaClient, TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.errors import (
    KafkaError,
    LeaderNotAvailableError,
    OffsetOutOfRangeError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest

from ingest.adapters.metadata import Topic, TopicRequest, topic_of
from ingest.ports import TroubleError

ASK_MS_MAX = 10_000  # one question
READ_UNCOMMITTED = 0
_NO_REPLICA = -1


class End(IntEnum):
    """The two ends of a partition's log, as the protocol calls them."""

    LAST = -1  # behind the last record
    FIRST = -2


class Brokers:
    """Brokers that can be asked. Use `ask`."""

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client

    async def topic(self, name: str) -> Topic:
        """Describe a topic. Raises TroubleError if there is none of this name."""
        node = self._client.get_random_node()
        code, topic = topic_of(await self._client.send(node, TopicRequest(name)))
        if for_code(code) is UnknownTopicOrPartitionError:
            raise TroubleError(
                f"there is no topic {name} at this Kafka: it was deleted, or never made; "
                "`weighbridge prepare` makes it anew, and what it held before is gone"
            )
        if code:
            raise for_code(code)(name)
        return topic

    async def offsets(self, topic: Topic, partitions: Iterable[int], end: End) -> dict[int, int]:
        """Say where these partitions' logs begin or end; one whose leader does not know is left out."""
        by_node: dict[int, list[tuple[int, int]]] = {}
        for partition in partitions:
            leader = topic.leaders.get(partition)
            if leader is not None and leader.node >= 0:
                by_node.setdefault(leader.node, []).append((partition, end))
        found: dict[int, int] = {}
        for node, wanted in by_node.items():
            request = OffsetRequest(_NO_REPLICA, READ_UNCOMMITTED, [(topic.name, wanted)])
            answer = await self._client.send(node, request)
            found |= {number: at for _, all_ in answer.topics for number, code, _, at in all_ if not code}
        return found

    async def fetch(self, topic: Topic, partition: int, offset: int, bytes_max: int) -> bytes:
        """Fetch batches from this offset on, one whole batch at least. Raises OffsetOutOfRangeError."""
        at = TopicPartition(topic.name, partition)
        leader = topic.leaders.get(partition)
        if leader is None or leader.node < 0:
            raise LeaderNotAvailableError(at)
        wanted = [(topic.name, [(partition, offset, bytes_max)])]
        answer = await self._client.send(leader.node, FetchRequest(0, 1, bytes_max, READ_UNCOMMITTED, wanted))
        ((_, ((_, code, *_, data),)),) = answer.topics
        if code:
            raise for_code(code)(at)
        return bytes(data)

    async def members(self, group: str) -> frozenset[str]:
        """Say who is in a group, by their client ids."""
        node = await self._client.coordinator_lookup(CoordinationType.GROUP, group)
        answer = await self._client.send(node, DescribeGroupsRequest([group]))
        ((code, _, _, _, _, members, *_),) = answer.groups
        if code:
            raise for_code(code)(group)
        return frozenset(client for _, client, *_ in members)


@contextlib.asynccontextmanager
async def ask(kafka: str) -> AsyncIterator[Brokers]:
    """Connect for the length of the block. Raises OffsetOutOfRangeError, and TroubleError for anything else."""
    client = AIOKafkaClient(bootstrap_servers=kafka, request_timeout_ms=ASK_MS_MAX)
    starting = asyncio.ensure_future(client.bootstrap())
    try:
        await asyncio.shield(starting)
        yield Brokers(client)
    except OffsetOutOfRangeError:
        raise
    except KafkaError as error:
        raise TroubleError(f"asking Kafka at {kafka}: {type(error).__name__}: {error}") from error
    except NotImplementedError as error:
        raise TroubleError(f"Kafka at {kafka} is older than 2.8, and cannot say which log a topic is") from error
    finally:
        await asyncio.shield(_end(client, starting))


async def _end(client: AIOKafkaClient, starting: asyncio.Future[None]) -> None:
    """Close, whoever is cancelled: the library leaves a connection open while it starts, and swallows it at the end."""
    await asyncio.gather(starting, return_exceptions=True)
    await client.close()


async def fetch(kafka: str, at: TopicPartition, offset: int, bytes_max: int) -> bytes:
    """Fetch a partition's batches from this offset on.

    Raises OffsetOutOfRangeError, and TroubleError for anything else.
    """
    async with ask(kafka) as brokers:
        return await brokers.fetch(await brokers.topic(at.topic), at.partition, offset, bytes_max)
