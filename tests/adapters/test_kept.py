"""What does the store keep of messages that were not accepted, and of offsets that hold none?"""

import asyncio
from collections.abc import Sequence

import pytest

import schemas
from ingest.adapters.memory.log import MemoryLog
from ingest.adapters.postgres.connection import connect
from ingest.adapters.postgres.provenance import Provenance
from ingest.adapters.postgres.registry import Entry, import_devices
from ingest.adapters.postgres.store import PostgresStore
from ingest.core.device import Algorithm
from ingest.core.evidence import allot
from ingest.core.examine import Examiner
from ingest.core.message import Examined, RawRecord, Refused
from ingest.core.outcome import span_of
from ingest.core.payload import load
from ingest.core.policy import Policy
from ingest.core.signature import OpenSSL
from ingest.core.verdict import Refusal
from ingest.decision import decide
from ingest.ports import TroubleError
from ingest.worker import Worker
from tests.core.court import EPOCH, NOW_MS, Say, examined
from tests.simulation.corridor import UntilOffset, kill_nobody

pytestmark = pytest.mark.real

POLICY = Policy(refused_bytes_max=100)
LONG = bytes(range(256)) * 4


async def weigh(database: str, messages: Sequence[Examined], policy: Policy = POLICY) -> None:
    """Take the first batch of partition 0 through judge and commit; the import of its key made key version 2."""
    connection = await connect(database, "test")
    await import_devices(connection, [Entry("d-1", "tenant", "vehicle", EPOCH, b"k", Algorithm.ED25519, bytes(32))])
    await connection.close()
    provenance = Provenance("test", "none", policy, load(schemas.read_telemetry()).schemas)
    store = PostgresStore(database, lambda: provenance)
    records = [m.record if isinstance(m, Refused) else m.verified.record for m in messages]
    async with store.take_over("t", 0) as lease, lease.transaction() as transaction:
        outcome = await decide(transaction, messages, policy, span_of(records, lease.next_offset))
        await transaction.commit(allot(outcome, lease.allowance, policy))


async def fetch(database: str, query: str) -> list[tuple[object, ...]]:
    connection = await connect(database, "test")
    rows = await connection.fetch(query)
    await connection.close()
    return [tuple(row) for row in rows]


async def test_a_refused_message_keeps_its_reason_its_length_and_its_beginning(store_database: str) -> None:
    raw = Refused(RawRecord("t", 0, 0, NOW_MS, LONG), Refusal.MALFORMED, "not CBOR")
    forged = examined(Say(5, authentic=False, value=b"short"), 1)
    await weigh(store_database, [raw, forged, examined(Say(1, epoch=EPOCH - 1, key_version=2, value=LONG), 2)])
    kept = await fetch(
        store_database,
        "select kafka_offset, reason, detail, reached, device_id, seq, envelope_bytes, envelope "
        "from weighbridge.exception order by kafka_offset",
    )
    assert kept == [
        (0, "malformed", "not CBOR", "record", None, None, 1_024, LONG[:100]),
        (1, "bad_signature", "it does not hold", "envelope", "d-1", 5, 5, b"short"),
        (2, "epoch_closed", "epoch 6 is closed; the device is at 7", "verified", "d-1", 1, 1_024, LONG[:100]),
    ]


async def test_a_held_message_is_kept_whole_and_its_duplicate_is_noted(store_database: str) -> None:
    held = Say(1, readable=False, key_version=2, value=LONG)
    await weigh(store_database, [examined(held, 0), examined(held, 1)])
    assert await fetch(store_database, "select reason, envelope from weighbridge.held") == [("schema_unknown", LONG)]
    noted = await fetch(
        store_database, "select kafka_offset, verdict, reason, envelope_bytes from weighbridge.exception"
    )
    assert noted == [(1, "duplicate", None, 1_024)]


async def test_what_is_more_than_may_be_kept_has_a_row_without_bytes(store_database: str) -> None:
    policy = Policy(refused_bytes_max=100, refused_burst_bytes_max=250, refused_bytes_per_s_max=1)
    forged = [examined(Say(seq, authentic=False, value=LONG), seq - 1) for seq in range(1, 5)]
    pill = Refused(RawRecord("t", 0, 4, NOW_MS, LONG), Refusal.POISON, "it ended the process that examined it")
    await weigh(store_database, forged[:2], policy)
    await weigh(store_database, [*forged[2:], pill], policy)
    kept = await fetch(
        store_database,
        "select kafka_offset, reason, envelope_bytes, envelope from weighbridge.exception order by kafka_offset",
    )
    beginnings = [LONG[:100], LONG[:100], None, None]
    assert kept == [
        *((at, "bad_signature", 1_024, beginning) for at, beginning in enumerate(beginnings)),
        (4, "poison", 1_024, LONG),
    ]


async def test_a_device_that_has_filled_its_share_of_the_lane_is_held_without_bytes(store_database: str) -> None:
    policy = Policy(held_bytes_max=2_500)
    waiting = [Say(seq, readable=False, key_version=2, value=LONG) for seq in range(1, 4)]
    await weigh(store_database, [examined(say, at) for at, say in enumerate(waiting[:1])], policy)
    await weigh(store_database, [examined(say, at) for at, say in enumerate([*waiting[1:], waiting[2]], 1)], policy)
    held = await fetch(store_database, "select seq, envelope_bytes, envelope from weighbridge.held order by seq")
    assert held == [(1, 1_024, LONG), (2, 1_024, LONG), (3, 1_024, None)]
    assert await fetch(store_database, "select held, held_bytes from store.device_state") == [(3, 2_048)]
    assert await fetch(store_database, "select kafka_offset, verdict from weighbridge.exception") == [(3, "duplicate")]


async def test_offsets_that_the_log_holds_no_record_for_are_written_down(store_database: str) -> None:
    await weigh(
        store_database, [examined(Say(seq, authentic=False), offset) for seq, offset in ((1, 2), (2, 3), (3, 6))]
    )
    skipped = await fetch(store_database, "select from_offset, to_offset from store.skipped order by from_offset")
    assert skipped == [(0, 2), (4, 6)]
    assert await fetch(store_database, "select from_offset, to_offset, refused, skipped from weighbridge.batch") == [
        (0, 7, 3, 4)
    ]


class Untroubled(UntilOffset):
    """Sees no trouble on the way."""

    def trouble(self, partition: int, error: TroubleError) -> None:  # noqa: ARG002 (the observer's shape)
        raise AssertionError("there is no trouble here") from error


async def test_every_record_of_the_log_gets_its_verdict_whatever_it_holds(store_database: str) -> None:
    values = [b"", b"", b"\x00", bytes(70_000), b"", b"\xd2\x84", b""]
    records = [RawRecord("t", 0, offset, NOW_MS, value) for offset, value in enumerate(values)]
    catalogue = load(schemas.read_telemetry())
    store = PostgresStore(store_database, lambda: Provenance("test", "none", POLICY, catalogue.schemas))
    observer = Untroubled(len(values))
    worker = Worker(
        "t", MemoryLog({0: records}, 2), store, Examiner(POLICY, catalogue, OpenSSL()), kill_nobody, observer
    )
    await asyncio.wait_for(worker.tend(0, observer.stopping), 60)
    found = await fetch(store_database, "select kafka_offset, reason from weighbridge.verdict order by kafka_offset")
    assert found == [(at, "oversize" if at == 3 else "malformed") for at in range(len(values))]
    assert await fetch(store_database, "select sum(skipped) from weighbridge.batch") == [(0,)]
