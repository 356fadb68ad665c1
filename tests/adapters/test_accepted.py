"""Are rows that are made as columns the rows that the driver would have written, value by value?"""

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ingest.adapters.postgres.accepted import MESSAGE, Writing
from ingest.adapters.postgres.columns import BYTES_AT_ONCE, ROWS_AT_ONCE
from ingest.adapters.postgres.connection import Connection, connect
from ingest.adapters.postgres.provenance import Stamp
from ingest.adapters.postgres.rows import CALENDAR_S_MAX, microseconds, signed
from ingest.core.device import Algorithm, Key, KeyState, Sender
from ingest.core.message import Envelope, RawRecord, Reading, Sample, Verified
from ingest.core.outcome import Accepted
from ingest.core.seal import fact_of, link
from ingest.core.verdict import TimeQuality
from ingest.ports import UnkeepableError

pytestmark = pytest.mark.real

STAMP = Stamp(3, 5, 1, 77, "test")
COUNT = 2 * ROWS_AT_ONCE + 100
LARGE_BYTES = 65_536
SECONDS = (
    0.0,
    -0.0,
    -1.0,
    1e300,
    -1e300,
    CALENDAR_S_MAX,
    253_402_300_799.9,
    0.0000005,
    0.0000015,
    1_790_000_000.123_456_5,
)


def accepted(rng: random.Random, offset: int, **changed: object) -> Accepted:
    """A message of which everything is drawn, though not much of it would be accepted together."""
    said: dict[str, Any] = {
        "seconds": rng.choice(SECONDS) if rng.random() < 0.1 else rng.uniform(0, 2e9),
        "ends": rng.choice((None, None, 1_790_000_000.25, *SECONDS)),
        "value": rng.randbytes(LARGE_BYTES if rng.random() < 0.02 else rng.randrange(600)),
        "received_at_ms": rng.randrange(2**42),
        "samples": 1,
    } | changed
    trace = rng.choice((None, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
    record = RawRecord("t", STAMP.partition, offset, said["received_at_ms"], said["value"], trace)
    key = Key(rng.randrange(2**63), b"k", Algorithm.ED25519, bytes(32), KeyState.ACTIVE, 0, None, None)
    sender = Sender(rng.randrange(2**63), rng.randrange(2**63), 1, 1, {})
    envelope = Envelope(
        record, rng.choice((-7, -8, -9, -19)), b"k", "d", said["seconds"], said["ends"], rng.randrange(2**32),
        rng.choice((1, 2**63 - 2, rng.randrange(1, 2**63))), rng.randbytes(8), rng.choice(("1", "tcu 4", "x" * 64)),
        rng.randbytes(32), b"", b"", b"",
    )  # fmt: skip
    reading = Reading(
        Verified(envelope, sender, key, rng.randbytes(32)), rng.choice((0, 2**63 - 1, 2**63, 2**64 - 1)),
        (Sample("Diagnostics", ()),) * said["samples"],
    )  # fmt: skip
    return Accepted(reading, rng.choice(list(TimeQuality)))


def row_of(one: Accepted) -> tuple[Any, ...]:
    """Give what the driver is to be told of it, one value after the other."""
    reading = one.reading
    verified, envelope = reading.verified, reading.verified.envelope
    record, ends = envelope.record, envelope.expires_at_s
    values = {
        "topic_no": STAMP.topic_no, "partition": record.partition, "judged_by": STAMP.judged_by,
        "kafka_offset": record.offset, "received_at": record.received_at_ms * 1000,
        "issued_at": microseconds(envelope.issued_at_s), "expires_at": None if ends is None else microseconds(ends),
        "time_quality": one.quality, "device_no": verified.sender.device_no, "vehicle_no": verified.sender.vehicle_no,
        "key_no": verified.key.key_no, "cose_alg": envelope.alg, "epoch": envelope.epoch, "seq": envelope.seq,
        "boot": envelope.boot, "software": envelope.software, "configuration": envelope.configuration,
        "schema": signed(reading.schema), "samples": len(reading.samples), "digest": verified.digest,
        "traceparent": record.traceparent, "envelope": record.value,
    }  # fmt: skip
    return tuple([values[name] for name in MESSAGE])


async def write(connection: Connection, messages: list[Accepted]) -> Writing:
    """Write messages into a table like that of the store."""
    await connection.execute("create temp table message (like store.message)")
    asked = await connection.prepare(f"select {', '.join(MESSAGE)} from message")  # noqa: S608 (names of ours)
    types = [attribute.type.name for attribute in asked.get_attributes()]
    writing = Writing(STAMP)
    parts = [part async for part in writing.messages(messages, types)]
    largest = max(len(one.reading.verified.record.value) for one in messages)
    assert max(map(len, parts)) < 1.5 * BYTES_AT_ONCE + largest

    async def again() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    await connection.copy_to_table("message", source=again(), columns=MESSAGE, format="binary")
    return writing


async def test_rows_of_messages_are_those_that_the_driver_would_write(store_database: str) -> None:
    rng = random.Random(5)
    messages = [accepted(rng, offset) for offset in range(COUNT)]
    rng.shuffle(messages)
    messages.sort(key=lambda one: len(one.verified.record.value) == LARGE_BYTES)  # these are side by side
    connection = await connect(store_database, "test")
    try:
        writing = await write(connection, messages)
        found = await connection.fetch(f"select {', '.join(MESSAGE)} from message order by kafka_offset")  # noqa: S608 (names of ours)
        assert [tuple(row) for row in found] == [
            row_of(one) for one in sorted(messages, key=lambda one: one.verified.record.offset)
        ]
    finally:
        await connection.close()
    assert writing.links == [(one.verified.record.offset, link(fact_of(one))) for one in messages]
    assert [len(rows) for rows in writing.rows.values()] == [COUNT]


SPOILT: dict[str, dict[str, int]] = {
    "more samples than a smallint counts": {"samples": 2**15},
    "a time of the broker's after all calendars": {"received_at_ms": 2**60},
    "a time of the broker's before all calendars": {"received_at_ms": -(2**63) // 1000 + 1},
    "a time of the broker's before all numbers": {"received_at_ms": -(2**63) // 1000},
}


@pytest.mark.parametrize("changed", SPOILT.values(), ids=SPOILT)
async def test_a_value_that_its_column_cannot_have_is_known_for_what_it_is(
    store_database: str, changed: dict[str, int]
) -> None:
    rng = random.Random(5)
    connection = await connect(store_database, "test")
    try:
        with pytest.raises(UnkeepableError):
            await write(connection, [accepted(rng, 0), accepted(rng, 1, **changed)])
    finally:
        await connection.close()
