"""What is a record to us? Taken from what the client library read or, where it stumbles, from the batch's own bytes.

The library decodes what nobody asked for, such as the keys of headers, and fails with all that it has fetched. Here
each record stands for itself. What is read is Kafka's record batch in format 2, whose structure the broker has checked.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
from aiokafka import ConsumerRecord, TopicPartition
from aiokafka.codec import gzip_decode, lz4_decode, snappy_decode, zstd_decode
from aiokafka.record.util import calc_crc32c

from ingest.core.message import RawRecord
from ingest.ports import TroubleError

LOG_APPEND_TIME = 1
TRACEPARENT_CHARS_MAX = 64

_HEADER = struct.Struct(">qiibIhiqqqhii")
_LENGTH_END = 12  # the batch's length counts from here
_CHECKED_FROM = 21  # and its checksum
_CODEC, _APPEND_TIME, _CONTROL = 0x07, 0x08, 0x20  # attributes
_VARINT_BITS_MAX = 64
_DECODERS: dict[int, Callable[[bytes], bytes]] = {
    0: bytes,
    1: gzip_decode,
    2: snappy_decode,
    3: lz4_decode,
    4: zstd_decode,
}


class Stretch(msgspec.Struct, frozen=True):
    """What a stretch of a partition holds, the offset behind it, and the end of the batch that this offset lies in."""

    records: list[RawRecord]
    next_offset: int
    batch_end: int


class _Batch(msgspec.Struct, frozen=True):
    at: TopicPartition
    base_offset: int
    next_offset: int
    attributes: int
    received_at_ms: int
    count: int
    body: bytes  # the records, compressed


def taken(given: Sequence[ConsumerRecord], at: TopicPartition, offset: int) -> list[RawRecord]:
    """Take over what the library has read, from this offset on. Raises TroubleError when a time is not the broker's."""
    topic, partition = at
    wanted = [record for record in given if record.offset >= offset]
    if any(record.timestamp_type != LOG_APPEND_TIME for record in wanted):
        raise _claimed_time(topic)
    return [
        RawRecord(
            topic, partition, record.offset, record.timestamp, record.value or b"",
            _trace(record.headers) if record.headers else None,
        )
        for record in wanted
    ]  # fmt: skip


def read(data: bytes, at: TopicPartition, offset: int, records_max: int) -> Stretch:
    """Read whole batches, as the broker gave them, from this offset on. Raises TroubleError when they are damaged."""
    records: list[RawRecord] = []
    for batch in _batches(data, at):
        for record in _records(batch):
            if record.offset >= offset:
                if len(records) == records_max:
                    return Stretch(records, record.offset, batch.next_offset)
                records.append(record)
        offset = max(offset, batch.next_offset)
    return Stretch(records, offset, offset)


def _batches(data: bytes, at: TopicPartition) -> Iterator[_Batch]:
    """Cut the batches apart. The last may be cut off by the broker, and is fetched again."""
    start = 0
    while start + _HEADER.size <= len(data):
        base, length, _, magic, crc, attributes, last, _, newest, _, _, _, count = _HEADER.unpack_from(data, start)
        end = start + _LENGTH_END + length
        if end > len(data):
            return
        where = f"partition {at.partition}: the batch at offset {base}"
        if magic != 2:
            raise TroubleError(f"{where} is of format {magic}; only 2 is read")
        if end < start + _HEADER.size or calc_crc32c(data[start + _CHECKED_FROM : end]) != crc:
            raise TroubleError(f"{where} is not what its checksum says: it was damaged on the disk or on the way")
        body = data[start + _HEADER.size : end]
        yield _Batch(at, base, base + last + 1, attributes, newest, count, body)
        start = end


def _records(batch: _Batch) -> Iterator[RawRecord]:
    """Give each position its record; an unreadable one where there is nothing better to give."""
    if batch.attributes & _CONTROL:
        return
    if not batch.attributes & _APPEND_TIME:
        raise _claimed_time(batch.at.topic)
    try:
        body = _DECODERS[batch.attributes & _CODEC](batch.body)
    except MemoryError:
        raise  # this is our own trouble
    except Exception as error:  # noqa: BLE001 (each codec has errors of its own, and all say the same)
        why = f"the batch that it came in cannot be decompressed ({type(error).__name__})"
        yield from (_unreadable(batch, offset, why) for offset in range(batch.base_offset, batch.next_offset))
        return
    expected, start = batch.base_offset, 0
    for _ in range(min(batch.count, batch.next_offset - batch.base_offset)):
        size = 0
        try:
            size, start = _varint(body, start)
            record = _record(batch, body[start : start + size], expected)
        except (ValueError, IndexError) as error:
            record = _unreadable(batch, expected, f"its structure is broken ({type(error).__name__})")
        yield record
        expected, start = record.offset + 1, start + max(0, size)
        if expected == batch.next_offset:
            return


def _record(batch: _Batch, data: bytes, expected: int) -> RawRecord:
    _, at = _varint(data, 1)  # its own time, behind a byte of attributes
    delta, at = _varint(data, at)
    offset = batch.base_offset + delta
    # The broker does not check this in a batch that is not compressed. Compaction alone makes a batch thinner.
    last = expected if batch.count == batch.next_offset - batch.base_offset else batch.next_offset - 1
    if not expected <= offset <= last:
        raise ValueError("the offset is not in its place")
    _, at = _bytes(data, at)
    value, at = _bytes(data, at)
    count, at = _varint(data, at)
    trace = None
    for _ in range(count):
        name, at = _bytes(data, at)
        content, at = _bytes(data, at)
        if name == b"traceparent" and trace is None:
            trace = content
    topic, partition = batch.at
    return RawRecord(topic, partition, offset, batch.received_at_ms, value or b"", _text(trace))


def _unreadable(batch: _Batch, offset: int, why: str) -> RawRecord:
    return RawRecord(batch.at.topic, batch.at.partition, offset, batch.received_at_ms, b"", unreadable=why)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a signed number in the zigzag of protocol buffers; returns it and the place behind it."""
    value = 0
    for shift in range(0, _VARINT_BITS_MAX, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at
    raise ValueError("a number is too long")


def _bytes(data: bytes, at: int) -> tuple[bytes | None, int]:
    size, at = _varint(data, at)
    end = at + max(0, size)
    if end > len(data):
        raise ValueError("the record ends before its content does")
    return (data[at:end] if size >= 0 else None), end


def _claimed_time(topic: str) -> TroubleError:
    return TroubleError(
        f"topic {topic} is not set to message.timestamp.type=LogAppendTime: "
        "its times are the senders' claims; set it (for new records) and purge or move past the old ones"
    )


def _trace(headers: Iterable[tuple[str, bytes]]) -> str | None:
    return _text(next((value for name, value in headers if name == "traceparent"), None))


def _text(trace: bytes | None) -> str | None:
    """Take what a sender calls a trace context for text, as far as it is printable ASCII; its sense is not ours."""
    text = trace.decode("ascii", "replace")[:TRACEPARENT_CHARS_MAX] if trace else ""
    return text if text.isascii() and text.isprintable() and text else None
