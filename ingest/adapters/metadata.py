"""How is a broker asked which log a topic is? The client library knows no version of the question that old logs answer.

Metadata, version 10: the first that names a topic's id, in the format with compact lengths and tagged fields.
"""

import base64
from io import BytesIO

import msgspec
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

_TEXT = CompactString("utf-8")
_ANY_ID = bytes(16)  # version 10 asks by name


class Leader(msgspec.Struct, frozen=True):
    """Who leads a partition, and since which of the moments at which its log may have been cut off."""

    node: int
    epoch: int


class Topic(msgspec.Struct, frozen=True):
    """A topic as the brokers know it. One that is deleted and made anew has another id."""

    name: str
    log_id: str
    leaders: dict[int, Leader]


class _Id:
    """Sixteen bytes, that do not say how long they are."""

    @staticmethod
    def encode(value: bytes) -> bytes:
        return value

    @staticmethod
    def decode(data: BytesIO) -> bytes:
        return data.read(len(_ANY_ID))


class _Answer(Response):  # type: ignore[misc]  # aiokafka carries no types
    API_KEY = 3
    API_VERSION = 10
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(("node", Int32), ("host", _TEXT), ("port", Int32), ("rack", _TEXT), ("tags", TaggedFields)),
        ),
        ("cluster_id", _TEXT),
        ("controller", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", _TEXT),
                ("id", _Id),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", CompactArray(Int32)),
                        ("in_sync", CompactArray(Int32)),
                        ("offline", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _Question(RequestStruct):  # type: ignore[misc]  # aiokafka carries no types
    API_KEY = 3
    API_VERSION = 10
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = _Answer
    SCHEMA = Schema(
        ("topics", CompactArray(("id", _Id), ("name", _TEXT), ("tags", TaggedFields))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class TopicRequest(Request[_Question]):  # type: ignore[misc]  # aiokafka carries no types
    """Asks for one topic, and never makes it."""

    API_KEY = 3

    def __init__(self, name: str) -> None:
        self._name = name

    def build(self, request_struct_class: type[_Question]) -> _Question:
        """Make the request of the version that both sides speak."""
        return request_struct_class([(_ANY_ID, self._name, {})], False, False, False, {})  # noqa: FBT003 (its shape)


def topic_of(answer: _Answer) -> tuple[int, Topic]:
    """Read the answer; returns the error code as well, 0 if there is such a topic."""
    ((code, name, id_, _, partitions, *_),) = answer.topics
    text = base64.urlsafe_b64encode(id_).decode().rstrip("=")  # as Kafka's own tools print it
    leaders = {partition: Leader(node, epoch) for _, partition, node, epoch, *_ in partitions}
    return code, Topic(name, text, leaders)
