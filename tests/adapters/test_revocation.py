"""Each revocation is checked once: how long it took, and whether anything was stored after it, by whatever way."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from msgspec.structs import replace

import schemas
from ingest.adapters.postgres import lifecycle
from ingest.adapters.postgres import revocation as watched
from ingest.adapters.postgres.audit import Decision
from ingest.adapters.postgres.chain import FACTS, fact_of, relink
from ingest.adapters.postgres.connection import Connection, connect
from ingest.adapters.postgres.provenance import Provenance, Stamp
from ingest.adapters.postgres.registry import Entry, import_devices
from ingest.adapters.postgres.revocation import check, watch_revocations
from ingest.adapters.postgres.store import PostgresStore
from ingest.core.device import Algorithm
from ingest.core.evidence import allot
from ingest.core.message import Reading, Refused, Unreadable
from ingest.core.outcome import span_of
from ingest.core.payload import load
from ingest.core.policy import Policy
from ingest.decision import decide
from tests.core.court import EPOCH, Say
from tests.core.court import examined as examine

pytestmark = pytest.mark.real

POLICY = Policy()
PROVENANCE = Provenance("test", "none", POLICY, load(schemas.read_telemetry()).schemas)
WHY = Decision("me", "a test")


class Witness:
    """Whoever is told of revocations writes down what."""

    def __init__(self) -> None:
        self.found: list[tuple[float, int]] = []
        self.overdue: list[int] = []

    def revoked(self, seconds: float, stored_after: int) -> None:
        self.found.append((seconds, stored_after))

    def unchecked(self, revocations: int) -> None:
        self.overdue.append(revocations)


def examined(say: Say, offset: int) -> Reading | Unreadable:
    """Give what an examination would, of a message without samples."""
    message = examine(say, offset)
    assert not isinstance(message, Refused)
    return replace(message, samples=()) if isinstance(message, Reading) else message


async def weigh(database: str, *says: Say) -> None:
    """Take a batch through judge and commit, as one would that has not heard of any revocation."""
    store = PostgresStore(database, lambda: PROVENANCE)
    connection = await connect(database, "test")
    version = await connection.fetchval("select key_version from store.device_state")
    await connection.execute("update store.device_state set key_version = 1")
    async with store.take_over("t", 0) as lease, lease.transaction() as transaction:
        messages = [examined(say, lease.next_offset + at) for at, say in enumerate(says)]
        records = [message.verified.record for message in messages]
        outcome = await decide(transaction, messages, POLICY, span_of(records, lease.next_offset))
        await transaction.commit(allot(outcome, lease.allowance, POLICY))
    await connection.execute("update store.device_state set key_version = $1", version)
    await connection.close()


@pytest.fixture
async def connection(store_database: str) -> AsyncIterator[Connection]:
    connection = await connect(store_database, "test")
    await import_devices(connection, [Entry("d-1", "tenant", "vehicle", EPOCH, b"k", Algorithm.ED25519, bytes(32))])
    yield connection
    await connection.close()


async def until(reached: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if reached():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not come to that")


async def found(connection: Connection) -> list[tuple[float, int]]:
    witness = Witness()
    await check(connection, witness, after_s=0)
    return witness.found


async def shown(connection: Connection) -> tuple[object, ...]:
    row = await connection.fetchrow("select stored_before, stored_after, stored_now from weighbridge.revocation")
    assert row is not None
    return tuple(row)


async def test_a_revocation_is_checked_once_and_not_before_its_time(
    store_database: str, connection: Connection
) -> None:
    await weigh(store_database, Say(1), Say(2))
    await lifecycle.revoke(connection, "d-1", None, None, WHY)
    assert await shown(connection) == (2, None, 2)
    witness = Witness()
    await check(connection, witness, after_s=3_600)
    assert witness.found == []
    ((seconds, stored_after),) = await found(connection)
    assert (seconds > 0, stored_after) == (True, 0)
    assert await found(connection) == []
    assert await shown(connection) == (2, 0, 2)


async def test_what_is_committed_after_a_revocation_is_found_with_the_time_of_the_last(
    store_database: str, connection: Connection
) -> None:
    await weigh(store_database, Say(1), Say(2))
    await lifecycle.decommission(connection, "d-1", WHY)
    await weigh(store_database, Say(3), Say(4))
    await weigh(store_database, Say(5))
    ((seconds, stored_after),) = await found(connection)
    assert stored_after == 3
    last = "select extract(epoch from max(committed_at) - min(began_at))::float8 from store.batch, store.revocation"
    assert seconds == pytest.approx(await connection.fetchval(last), abs=1e-5)
    assert await shown(connection) == (2, 3, 5)


async def test_what_leaves_the_held_lane_after_a_revocation_is_found(
    store_database: str, connection: Connection
) -> None:
    await weigh(store_database, Say(1), Say(2, readable=False))
    await lifecycle.revoke(connection, "d-1", b"k", None, WHY)
    await connection.execute("delete from store.held")
    columns = await connection.fetchval(
        "select string_agg(column_name, ', ') from information_schema.columns "
        "where table_schema = 'store' and table_name = 'message' and column_name not in ('kafka_offset', 'seq')"
    )
    await connection.execute(
        f"insert into store.message (kafka_offset, seq, {columns}) select 1, 2, {columns} from store.message"  # noqa: S608 (names of columns)
    )
    facts = [fact_of(row) for row in await connection.fetch(FACTS, 1, 0, 1, 2)]
    async with connection.transaction():
        await relink(connection, Stamp(1, 0, 0, 1, "test"), facts)
    ((_, stored_after),) = await found(connection)
    assert stored_after == 1
    assert await shown(connection) == (1, 1, 2)


async def test_what_other_keys_say_is_no_matter(store_database: str, connection: Connection) -> None:
    other = Entry("d-1", "tenant", "vehicle", EPOCH, b"new", Algorithm.ED25519, bytes(31) + b"\1")
    await import_devices(connection, [other])
    await lifecycle.revoke(connection, "d-1", b"new", None, WHY)
    await weigh(store_database, Say(1))
    assert [late for _, late in await found(connection)] == [0]


async def test_one_process_at_a_time_looks_and_each_tells_what_is_overdue(
    store_database: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(watched, "CHECK_AFTER_S", 0.0)
    monkeypatch.setattr(watched, "OVERDUE_AFTER_S", 0.0)
    await lifecycle.revoke(connection, "d-1", None, None, WHY)
    await connection.execute("select pg_advisory_lock($1)", watched.LOCK)
    witness = Witness()
    watching = asyncio.create_task(watch_revocations(store_database, witness))
    await until(lambda: len(witness.overdue) > 2)
    assert (witness.found, set(witness.overdue)) == ([], {1})
    await connection.execute("select pg_advisory_unlock($1)", watched.LOCK)
    await until(lambda: witness.overdue[-1] == 0)
    watching.cancel()
    assert len(witness.found) == 1
