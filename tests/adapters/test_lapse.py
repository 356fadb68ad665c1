"""What nobody releases in time leaves the lane as refused, with a record, and its number is free again."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

import schemas
from ingest.adapters.postgres import lapse
from ingest.adapters.postgres import store as postgres_store
from ingest.adapters.postgres.connection import Connection, connect
from ingest.adapters.postgres.lapse import expire
from ingest.adapters.postgres.provenance import Provenance
from ingest.adapters.postgres.registry import Entry, import_devices
from ingest.adapters.postgres.store import PostgresStore
from ingest.core.device import Algorithm
from ingest.core.evidence import allot
from ingest.core.message import Refused
from ingest.core.outcome import span_of
from ingest.core.payload import load
from ingest.core.policy import Policy
from ingest.decision import decide
from tests.core.court import EPOCH, Say
from tests.core.court import examined as examine

pytestmark = pytest.mark.real

DAY_MS = 86_400_000
NOW_MS = int(time.time() * 1000)
LONG_AGO_MS = NOW_MS - 91 * DAY_MS
POLICY = Policy(held_bytes_max=2_500, refused_bytes_max=100)
PROVENANCE = Provenance("test", "none", POLICY, load(schemas.read_telemetry()).schemas)
LONG = bytes(range(256)) * 4


def held(seq: int, at_ms: int = LONG_AGO_MS) -> Say:
    return Say(seq, readable=False, key_version=2, value=LONG, at_ms=at_ms)


def refused(seq: int, at_ms: int) -> Say:
    return Say(seq, authentic=False, at_ms=at_ms)


async def weigh(database: str, *says: Say) -> None:
    """Take a batch of partition 0 through judge and commit; the import of its key made key version 2."""
    connection = await connect(database, "test")
    await import_devices(connection, [Entry("d-1", "tenant", "vehicle", EPOCH, b"k", Algorithm.ED25519, bytes(32))])
    await connection.close()
    store = PostgresStore(database, lambda: PROVENANCE)
    async with store.take_over("t", 0) as lease, lease.transaction() as transaction:
        messages = [examine(say, lease.next_offset + at) for at, say in enumerate(says)]
        records = [m.record if isinstance(m, Refused) else m.verified.record for m in messages]
        outcome = await decide(transaction, messages, POLICY, span_of(records, lease.next_offset))
        await transaction.commit(allot(outcome, lease.allowance, POLICY))


@pytest.fixture
async def connection(store_database: str) -> AsyncIterator[Connection]:
    connection = await connect(store_database, "test")
    yield connection
    await connection.close()


async def fetch(connection: Connection, query: str) -> list[tuple[object, ...]]:
    return [tuple(row) for row in await connection.fetch(query)]


async def verdicts(connection: Connection) -> list[tuple[object, ...]]:
    return await fetch(connection, "select kafka_offset, verdict, reason from weighbridge.verdict order by 1")


async def share(connection: Connection) -> list[tuple[object, ...]]:
    return await fetch(connection, "select held, held_bytes from store.device_state")


async def test_what_waits_for_too_long_is_refused_with_its_reason_and_leaves_its_devices_share(
    store_database: str, connection: Connection
) -> None:
    await weigh(store_database, held(1), held(2), held(3), held(4, NOW_MS))
    assert await share(connection) == [(4, 2_048)]
    assert await expire(connection, PROVENANCE) == 3
    kept = await fetch(
        connection,
        "select kafka_offset, verdict, reason, detail, reached, device_id, seq, envelope_bytes, envelope "
        "from weighbridge.exception order by 1",
    )
    why = "held schema_unknown; nobody released it within 7776000 s (held_s_max)"
    assert kept == [
        (at, "refused", "lapsed", why, "verified", "d-1", at + 1, 1_024, beginning)
        for at, beginning in enumerate([LONG[:100], LONG[:100], None])
    ]
    assert await verdicts(connection) == [
        *((at, "refused", "lapsed") for at in range(3)),
        (3, "held", "schema_unknown"),
    ]
    assert await share(connection) == [(1, 0)]
    assert await expire(connection, PROVENANCE) == 0


async def test_the_same_message_is_judged_as_a_new_one_when_it_comes_after_its_time(
    store_database: str, connection: Connection
) -> None:
    await weigh(store_database, held(1), refused(9, NOW_MS))
    await weigh(store_database, held(1, NOW_MS))
    await expire(connection, PROVENANCE)
    await weigh(store_database, held(1, NOW_MS))
    assert [row[1:] for row in await verdicts(connection)] == [
        ("refused", "lapsed"),
        ("refused", "bad_signature"),
        ("duplicate", None),
        ("held", "schema_unknown"),
    ]


@pytest.mark.parametrize(("judged_to_ms", "arrived_ms"), [(LONG_AGO_MS, LONG_AGO_MS), (NOW_MS + 91 * DAY_MS, NOW_MS)])
async def test_no_clock_ends_a_wait_alone(
    store_database: str, connection: Connection, judged_to_ms: int, arrived_ms: int
) -> None:
    """By the broker's the log has not gone on; or it has leapt, and the database knows of no such time."""
    await weigh(store_database, held(1, arrived_ms), refused(9, judged_to_ms))
    assert await expire(connection, PROVENANCE) == 0


async def test_before_any_batch_has_told_the_time_nothing_lapses(store_database: str, connection: Connection) -> None:
    await weigh(store_database, held(1), refused(9, NOW_MS))
    await connection.execute("update store.partition_lease set judged_to = null")
    assert await expire(connection, PROVENANCE) == 0


async def test_much_lapses_some_at_a_time_and_once_whoever_looks(
    store_database: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lapse, "MESSAGES_AT_ONCE", 3)
    await weigh(store_database, *[held(seq) for seq in range(1, 11)], refused(99, NOW_MS))
    others = [await connect(store_database, "test") for _ in range(3)]
    counts = await asyncio.gather(*(expire(one, PROVENANCE) for one in [connection, *others]))
    assert sum(counts) == 10
    assert await verdicts(connection) == [
        *((at, "refused", "lapsed") for at in range(10)),
        (10, "refused", "bad_signature"),
    ]
    assert await share(connection) == [(0, 0)]
    for one in others:
        await one.close()


async def test_a_worker_looks_after_it_now_and_then(
    store_database: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_store, "UPKEEP_EVERY_S", 0.01)
    await weigh(store_database, held(1), refused(9, NOW_MS))
    upkeep = asyncio.create_task(PostgresStore(store_database, lambda: PROVENANCE).upkeep())
    async with asyncio.timeout(30):
        while (await verdicts(connection))[0] != (0, "refused", "lapsed"):  # noqa: ASYNC110 (a row tells of no event)
            await asyncio.sleep(0.01)
    upkeep.cancel()
    await asyncio.gather(upkeep, return_exceptions=True)
