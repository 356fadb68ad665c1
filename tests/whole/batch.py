"""What can a program of its own making send? A record batch written byte by byte, as no client library would."""

import gzip
import struct
from collections.abc import Sequence

from aiokafka import AIOKafkaClient, TopicPartition
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.util import calc_crc32c

GZIP = 1
LOG_APPEND_TIME = 8

Headers = Sequence[tuple[bytes, bytes | None]]


def varint(number: int) -> bytes:
    """Write a signed number as protocol buffers do."""
    rest, out = (number << 1) ^ (number >> 63), bytearray()
    while rest > 0x7F:
        out.append(0x80 | rest & 0x7F)
        rest >>= 7
    return bytes((*out, rest))


def sized(data: bytes | None) -> bytes:
    """Write bytes with their length before them."""
    return varint(-1) if data is None else varint(len(data)) + data


def record(delta: int, value: bytes | None, headers: Headers = ()) -> bytes:
    """Write one record; `delta` is its place in the batch."""
    named = b"".join(sized(name) + sized(content) for name, content in headers)
    return sized(b"\0" + varint(0) + varint(delta) + sized(None) + sized(value) + varint(len(headers)) + named)


def batch(body: bytes, count: int, attributes: int = 0, base_offset: int = 0) -> bytes:
    """Write a batch around records that may be compressed."""
    checked = struct.pack(">hiqqqhii", attributes, count - 1, 0, 1, -1, -1, -1, count) + body
    head = struct.pack(">ibI", 0, 2, calc_crc32c(checked))
    return struct.pack(">qi", base_offset, len(head) + len(checked)) + head + checked


def squeezed(body: bytes) -> bytes:
    """Compress as gzip does, with something behind it: Java passes over that, Python does not."""
    return gzip.compress(body) + b"something else"


async def append(kafka: str, at: TopicPartition, data: bytes) -> int:
    """Let the broker append a batch; returns the offset that it gave to the first record."""
    client = AIOKafkaClient(bootstrap_servers=kafka)
    await client.bootstrap()
    try:
        await client.set_topics([at.topic])
        leader = client.cluster.leader_for_partition(at)
        answer = await client.send(leader, ProduceRequest(None, -1, 10_000, [(at.topic, [(at.partition, data)])]))
    finally:
        await client.close()
    ((_, ((_, code, offset, *_),)),) = answer.topics
    assert code == 0, code
    return int(offset)
