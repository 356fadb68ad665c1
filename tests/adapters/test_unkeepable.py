"""A message whose rows the database refuses, for what is in them, is refused alone; what the driver refuses, too."""

import asyncio
import json
import time
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from ingest.adapters.memory.log import MemoryLog
from ingest.adapters.postgres.connection import connect
from ingest.adapters.postgres.provenance import Provenance
from ingest.adapters.postgres.registry import import_devices, read_lines
from ingest.adapters.postgres.store import PostgresStore
from ingest.core.examine import Examiner
from ingest.core.message import Examined, RawRecord, Reading
from ingest.core.outcome import span_of
from ingest.core.policy import Policy
from ingest.core.signature import OpenSSL
from ingest.core.verdict import Verdict
from ingest.decision import decide
from ingest.ports import Lease, UnkeepableError
from ingest.worker import Worker
from tests.adapters.contract import CATALOGUE, Postgres, Said, examined, record, settle_late, take, weigh
from tests.simulation.corridor import UntilOffset, kill_nobody
from tests.whole.device import Stranger, ed25519_key, encode, state

pytestmark = pytest.mark.real

COUNT, BAD = 500, 249  # messages, and the offset of the one that the database refuses
LONG = encode(*[state()] * 60)
REFUSE_NUL = """
    create function store.refuse() returns trigger language plpgsql as
    $$ begin raise exception 'invalid byte sequence for encoding "UTF8": 0x00' using errcode = '22021'; end $$;
    create trigger refuse before insert on store.message for each row
    when (new.software = 'unit nul') execute function store.refuse();"""
FORGET = """
    update store.device_state set seen = '{}', seen_floor = 0, lowest = 0, highest = 0, accepted = 0, boots = ''"""


async def ask(database: str, query: str) -> list[tuple[object, ...]]:
    connection = await connect(database, "test")
    rows = await connection.fetch(query)
    await connection.close()
    return [tuple(row) for row in rows]


async def enrol(database: str) -> Stranger:
    device = Stranger("one", ed25519_key())
    connection = await connect(database, "test")
    await import_devices(connection, read_lines([json.dumps(device.registration())]))
    await connection.execute(REFUSE_NUL)
    await connection.close()
    return device


async def tend(database: str, values: Sequence[bytes], partition: int = 0) -> UntilOffset:
    """Let a worker judge all this."""
    received_at_ms = int(time.time() * 1000)
    records = [RawRecord("t", partition, at, received_at_ms, value) for at, value in enumerate(values)]
    store = PostgresStore(database, lambda: Provenance("test", "portable", Policy(), CATALOGUE.schemas))
    listener = UntilOffset(len(values))
    examiner = Examiner(Policy(), CATALOGUE, OpenSSL())
    worker = Worker("t", MemoryLog({partition: records}, COUNT), store, examiner, kill_nobody, listener)
    await asyncio.wait_for(worker.tend(partition, listener.stopping), 120)
    return listener


async def check_refused_alone(database: str, value: bytes) -> None:
    refused = "select kafka_offset, verdict, reason, envelope from weighbridge.exception where partition = 0"
    assert await ask(database, refused) == [(BAD, "refused", "poison", value)]
    stored = await ask(database, "select kafka_offset from weighbridge.message where partition = 0 order by 1")
    assert stored == [(at,) for at in range(COUNT) if at != BAD]


async def test_of_500_messages_the_one_that_the_database_refuses_is_refused_and_kept_whole(store_database: str) -> None:
    device = await enrol(store_database)
    values = [device.say(seq) for seq in range(1, COUNT + 1)]
    values[BAD] = device.say(BAD + 1, payload=LONG, m70004="unit nul")
    assert len(values[BAD]) > Policy().refused_bytes_max
    listener = await tend(store_database, values)
    await check_refused_alone(store_database, values[BAD])
    assert {type(error) for error in listener.troubles} == {UnkeepableError}
    assert len(listener.troubles) < 2 * COUNT.bit_length(), "it is halved, not tried one by one"


async def test_a_number_that_is_stored_though_its_device_knows_nothing_of_it_stops_nobody(store_database: str) -> None:
    device = await enrol(store_database)
    values = [device.say(seq) for seq in range(1, COUNT + 1)]
    await tend(store_database, [values[BAD]], partition=1)
    await ask(store_database, FORGET)
    listener = await tend(store_database, values)
    await check_refused_alone(store_database, values[BAD])
    assert {type(error) for error in listener.troubles} == {UnkeepableError}


SPOILT = {
    "an integer out of its range": {"event_id": 2**40},
    "an integer out of any range": {"count": 2**80},
    "a time out of any calendar": {"recorded_at_us": 2**80},
    "a surrogate": {"detail": "a\ud800"},
    "a NUL": {"detail": "a\x00b"},
    "text for a number": {"count": "3"},
    "a number for text": {"source": 3},
    "text for a time": {"recorded_at_us": "now"},
}


@pytest.mark.parametrize("fields", SPOILT.values(), ids=SPOILT)
async def test_a_value_that_the_driver_or_the_database_cannot_take_is_known_for_what_it_is(
    postgres: Postgres, fields: dict[str, object]
) -> None:
    async with take(postgres) as lease:
        (reading,) = await examined(lease, [Said(1)], 0)
        assert isinstance(reading, Reading)
        (sample,) = reading.samples
        said = dict(zip(CATALOGUE.fields[sample.kind], sample.values, strict=True)) | fields
        spoilt = replace(reading, samples=(replace(sample, values=tuple(said.values())),))
        with pytest.raises(UnkeepableError) as raised:
            await settle_late(lease, [spoilt])
        assert not any(str(value) in str(raised.value) for value in fields.values()), "a journal may not quote it"
    async with take(postgres) as lease:
        assert (await weigh(lease, Said(1))).total(Verdict.ACCEPTED) == 1


async def test_a_row_that_we_cannot_make_is_no_fault_of_the_message(postgres: Postgres) -> None:
    async with take(postgres) as lease:
        (reading,) = await examined(lease, [Said(1)], 0)
        assert isinstance(reading, Reading)
        with pytest.raises(AssertionError, match="a row could not be made"):
            await settle_late(lease, [replace(reading, schema="not a number")])
    async with take(postgres) as lease:
        assert (await weigh(lease, Said(1))).total(Verdict.ACCEPTED) == 1


async def test_an_argument_that_the_driver_cannot_take_is_known_for_what_it_is(postgres: Postgres) -> None:
    """Device rows are not copied: the driver checks them in another place, and quotes them."""
    async with take(postgres) as lease:
        messages = await examined(lease, [Said(1)], 0)
        with pytest.raises(UnkeepableError) as raised:
            await settle_with_held(lease, messages, 2**80)
    assert str(2**80) not in str(raised.value)


async def settle_with_held(lease: Lease, messages: Sequence[Examined], held: int) -> None:
    async with lease.transaction() as transaction:
        outcome = await decide(transaction, messages, Policy(), span_of([record(0, Said(1))], 0))
        await transaction.commit(replace(outcome, devices=[replace(row, held=held) for row in outcome.devices]))
