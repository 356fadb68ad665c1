"""What the log may hold beside honest records, and that the worker gives each its due: one worker, real servers."""

import asyncio
import secrets
import time
from collections.abc import Iterator

import aiokafka.codec
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.records_to_delete import RecordsToDelete

from deploy import embedded
from ingest.adapters.kafka import KafkaLog, open_log
from ingest.adapters.watch import VIGILANCE, Watch
from ingest.config import Settings
from ingest.ports import TroubleError
from tests.whole.batch import GZIP, append, batch, record, squeezed
from tests.whole.device import Stranger, ed25519_key
from tests.whole.house import House, Record, open_house, wait_for

pytestmark = pytest.mark.real

PLAIN, TRANSACTIONS, QUIET = range(3)  # partitions
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
HOSTILE = {
    "nothing": b"",
    "NUL": b"00-\0-\0",
    "10 kB": b"0" * 10_000,
    "not ASCII": "00-ü-ß-\u202e".encode(),
    "no UTF-8": b"\xff\xfe\x80",
    "control characters": b"00-\r\n\x1b[31m",
}


@pytest.fixture(scope="module")
def house(servers: embedded.Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(servers, tmp_path_factory.mktemp("kafka"), partitions=3) as house, house.worker():
        yield house
        house.check_tiles()


@pytest.fixture
def device(house: House) -> Stranger:
    device = Stranger(f"device-{secrets.token_hex(6)}", ed25519_key())
    house.enrol([device.registration()])
    return device


def verdicts(house: House, records: list[Record]) -> list[tuple[str, str]]:
    """Send records, and wait for what becomes of them."""
    expected = house.consumed() + len(records)
    offsets = house.send(records)
    house.wait_consumed(expected)
    return verdicts_at(house, records[0].partition, offsets)


def verdicts_at(house: House, partition: int, offsets: list[int]) -> list[tuple[str, str]]:
    rows = house.query(
        "select verdict, coalesce(reason, '') from weighbridge.verdict "
        "where partition = $1 and kafka_offset = any($2) order by kafka_offset",
        partition,
        offsets,
    )
    return [(row[0], row[1]) for row in rows]


def test_a_tombstone_is_malformed(house: House, device: Stranger) -> None:
    records = [Record(None, key=device.name.encode()), Record(device.say(1))]
    assert verdicts(house, records) == [("refused", "malformed"), ("accepted", "")]


def test_an_envelope_of_a_byte_too_many_is_oversize(house: House) -> None:
    assert verdicts(house, [Record(bytes(65_536)), Record(bytes(65_537)), Record(bytes(900_000))]) == [
        ("refused", "malformed"),
        ("refused", "oversize"),
        ("refused", "oversize"),
    ]


def test_a_key_that_names_another_device_changes_nothing(house: House, device: Stranger) -> None:
    records = [Record(device.say(1), key=b"somebody else"), Record(device.say(2), key=b"\xff\0" * 5_000)]
    assert verdicts(house, records) == [("accepted", "")] * 2
    rows = house.query("select seq from weighbridge.message where device_id = $1 order by 1", device.name)
    assert [row[0] for row in rows] == [1, 2]


def test_a_trace_context_is_carried_along(house: House, device: Stranger) -> None:
    headers = (("other", b"x"), ("traceparent", TRACE.encode()), ("traceparent", b"a second one"))
    assert verdicts(house, [Record(device.say(1), headers=headers), Record(device.say(2))]) == [("accepted", "")] * 2
    assert traces(house, device) == [TRACE, None]


def test_a_hostile_trace_context_does_no_harm(house: House, device: Stranger) -> None:
    values = [(("traceparent", value),) for value in HOSTILE.values()]
    records = [Record(device.say(seq), headers=headers) for seq, headers in enumerate(values, 1)]
    assert verdicts(house, records) == [("accepted", "")] * len(records)
    for trace in traces(house, device):
        assert trace is None or (len(trace) <= 64 and trace.isascii() and trace.isprintable())


def traces(house: House, device: Stranger) -> list[str | None]:
    rows = house.query("select traceparent from weighbridge.message where device_id = $1 order by seq", device.name)
    return [row[0] for row in rows]


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_a_batch_of_any_codec_is_read(house: House, device: Stranger, codec: str) -> None:
    expected = house.consumed() + 20
    offsets = asyncio.run(compress(house, codec, [device.say(seq) for seq in range(1, 21)]))
    house.wait_consumed(expected)
    assert verdicts_at(house, PLAIN, offsets) == [("accepted", "")] * 20


async def compress(house: House, codec: str, values: list[bytes]) -> list[int]:
    """Send these values in batches of this codec; returns their offsets."""
    async with AIOKafkaProducer(bootstrap_servers=house.kafka, compression_type=codec, linger_ms=50) as producer:
        sent = [await producer.send(house.topic, value, partition=PLAIN) for value in values]
        return [(await one).offset for one in sent]


async def test_a_read_that_a_rebalance_holds_up_comes_back_without_records() -> None:
    """The rebalance waits for our drain, which waits for this read: somebody has to give in."""

    class Rebalancing:
        async def getmany(self, *_partitions: TopicPartition, **_limits: int) -> None:
            await asyncio.Event().wait()

        async def position(self, _partition: TopicPartition) -> int:
            await asyncio.Event().wait()
            return 0

        def assignment(self) -> set[TopicPartition]:
            return set()

    settings = Settings(batch_wait_ms=1)
    log = KafkaLog(Rebalancing(), settings, Watch(settings, "nobody", VIGILANCE))
    assert await asyncio.wait_for(log.read(0, 0), 10) == []


async def test_who_lacks_a_codec_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiokafka.codec, "cramjam", None)
    with pytest.raises(TroubleError, match=r"snappy, lz4, zstd .* requirements\.lock"):
        async with open_log(Settings(kafka="127.0.0.1:1")):
            pass


def test_a_header_whose_name_is_not_utf8_changes_nothing(house: House, device: Stranger) -> None:
    """The client library stumbles over it, and would with every owner to come."""
    hostile = ((b"\xff\xfe", b"x"), (b"traceparent", TRACE.encode()), (b"\xff", None))
    body = record(0, device.say(2)) + record(1, device.say(3), hostile) + record(2, device.say(4))
    assert verdicts_around(house, device, batch(body, 3), 3) == [("accepted", "")] * 5
    assert traces(house, device) == [None, None, TRACE, None, None]


def test_a_batch_that_nobody_here_can_decompress_is_poison_and_stops_nothing(house: House, device: Stranger) -> None:
    body = squeezed(record(0, device.say(2)) + record(1, device.say(3)))
    poison = ("refused", "poison")
    wanted = [("accepted", ""), poison, poison, ("accepted", "")]
    assert verdicts_around(house, device, batch(body, 2, GZIP), 2) == wanted


def verdicts_around(house: House, device: Stranger, data: bytes, count: int) -> list[tuple[str, str]]:
    """Send a batch of somebody's own making between two honest messages; give the verdicts of all."""
    expected = house.consumed() + count + 2
    (before,) = house.send([Record(device.say(1))])
    first = asyncio.run(append(house.kafka, TopicPartition(house.topic, PLAIN), data))
    (after,) = house.send([Record(device.say(count + 2))])
    house.wait_consumed(expected)
    return verdicts_at(house, PLAIN, [before, *range(first, first + count), after])


def test_markers_of_transactions_are_noted_as_skipped(house: House, device: Stranger) -> None:
    """What a transaction aborts stands in the log like any record, and gets its verdict; its marker is no record."""
    asyncio.run(transact(house, device))
    (last,) = house.send([Record(device.say(6), TRANSACTIONS)])
    wait_for(lambda: bool(verdicts_at(house, TRANSACTIONS, [last])), lambda: "the last record has no verdict")
    assert verdicts_at(house, TRANSACTIONS, list(range(last + 1))) == [("accepted", "")] * 6
    skipped = house.query("select from_offset, to_offset from store.skipped where partition = $1", TRANSACTIONS)
    assert sorted((row[0], row[1]) for row in skipped) == [(3, 4), (6, 7)]
    batches = house.batches()[TRANSACTIONS]
    assert (sum(batch.consumed for batch in batches), sum(batch.skipped for batch in batches)) == (6, 2)


async def transact(house: House, device: Stranger) -> None:
    """Commit three messages, and abort two."""
    async with AIOKafkaProducer(bootstrap_servers=house.kafka, transactional_id=house.topic) as producer:
        async with producer.transaction():
            for seq in (1, 2, 3):
                await producer.send_and_wait(house.topic, device.say(seq), partition=TRANSACTIONS)
        await producer.begin_transaction()
        for seq in (4, 5):
            await producer.send_and_wait(house.topic, device.say(seq), partition=TRANSACTIONS)
        await producer.abort_transaction()


def test_a_hole_in_a_partition_that_is_quiet_holds_nothing_up(house: House, device: Stranger) -> None:
    for seq in (1, 2, 3):
        expected = house.consumed() + 1
        asyncio.run(transact_one(house, device.say(seq)))
        house.wait_consumed(expected)
        time.sleep(1)  # longer than any fetch waits: the marker is read by itself
    wait_for(lambda: asyncio.run(advised(house)) == 6, lambda: "who watches the group sees a lag that never ends")


async def transact_one(house: House, value: bytes) -> None:
    async with (
        AIOKafkaProducer(bootstrap_servers=house.kafka, transactional_id=f"{house.topic}-quiet") as producer,
        producer.transaction(),
    ):
        await producer.send_and_wait(house.topic, value, partition=QUIET)


async def advised(house: House) -> int:
    admin = AIOKafkaAdminClient(bootstrap_servers=house.kafka)
    await admin.start()
    offsets = await admin.list_consumer_group_offsets(house.topic)  # the group's name is the topic's
    await admin.close()
    known = offsets.get(TopicPartition(house.topic, QUIET))
    return -1 if known is None else int(known.offset)  # the group is advised every few seconds


def forget(house: House, before: int) -> None:
    """Take the oldest records out of the log, as retention does."""

    async def delete() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=house.kafka)
        await admin.start()
        await admin.delete_records({TopicPartition(house.topic, 0): RecordsToDelete(before_offset=before)})
        await admin.close()

    asyncio.run(delete())


def test_a_log_whose_beginning_is_gone_is_read_from_where_it_begins(
    servers: embedded.Addresses, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """And records that went before they were judged are never passed over in silence."""
    with open_house(servers, tmp_path_factory.mktemp("gone"), partitions=1) as house:
        house.send([Record(b"x")] * 5)
        forget(house, 3)
        with house.worker() as worker:
            house.wait_consumed(2)
            assert [event["skipped"] for event in worker.events("batch")] == [3]
        house.check_tiles()
        assert [(b.from_offset, b.to_offset, b.skipped) for b in house.batches()[0]] == [(0, 5, 3)]
        house.send([Record(b"x")] * 5)
        forget(house, 8)
        with house.worker() as worker:
            wait_for(lambda: len(worker.events("halted")) > 1, lambda: "it said nothing")
        assert all("begins at offset 8 and was read up to 5" in event["error"] for event in worker.events("halted"))
        assert house.consumed() == 2
