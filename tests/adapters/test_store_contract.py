"""What both stores promise: the one in PostgreSQL, and its twin in memory that the simulation runs on."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec
import pytest
from msgspec.structs import replace

import schemas
from ingest.adapters.memory.store import MemoryStore
from ingest.adapters.postgres.connection import connect
from ingest.adapters.postgres.registry import Entry, import_devices
from ingest.adapters.postgres.store import PostgresStore, Provenance
from ingest.core.device import Algorithm, Device, Key, KeyState, Sender, Standing
from ingest.core.judge import KeysMovedError, Prior, Suspect, judge, number, suspects
from ingest.core.message import Envelope, Examined, RawRecord, Reading, Refused, Sample, Verified
from ingest.core.outcome import Outcome, span_of
from ingest.core.payload import load
from ingest.core.policy import Policy
from ingest.core.sequence import Ledger
from ingest.core.verdict import Hold, Refusal, Verdict
from ingest.ports import FencedError, Lease, Store, Transaction, TroubleError

TOPIC = "telemetry.test"
NOW_S = int(time.time())
CATALOGUE = load(schemas.read_telemetry())
SCHEMA = min(CATALOGUE.known)
POLICY = Policy(ledger_ranges_max=4)
DEVICES = ("tcu-1", "tcu-2", "tcu-3")
Verdicts = dict[tuple[int, int], tuple[str, str]]  # by partition and offset


class World(Protocol):
    """A store, and what a test must know and do behind its back."""

    store: Store

    async def verdicts(self) -> Verdicts: ...

    async def revoke_keys(self, device_id: str) -> None: ...


class Memory:
    def __init__(self) -> None:
        keys = {
            d: Key(n, d.encode(), Algorithm.ED25519, bytes(32), KeyState.ACTIVE, 0, None, None) for n, d in _numbered()
        }
        senders = {d: Sender(n, n, 1, 1, {d.encode(): keys[d]}) for n, d in _numbered()}
        self.twin = MemoryStore(senders, [Device(n, Standing.TRUSTED, 1, 7, 0, (), {}) for n, _ in _numbered()])
        self.store: Store = self.twin

    async def verdicts(self) -> Verdicts:
        return {(p, o): (str(v[0][0]), str(v[0][1])) for (_, p, o), v in self.twin.verdicts.items()}

    async def revoke_keys(self, device_id: str) -> None:
        sender = self.twin.senders[device_id]
        self.twin.senders[device_id] = replace(sender, key_version=sender.key_version + 1)
        device = self.twin.devices[sender.device_no]
        self.twin.devices[sender.device_no] = replace(device, key_version=device.key_version + 1)


def _numbered() -> list[tuple[int, str]]:
    return list(enumerate(DEVICES, 1))


class Postgres:
    def __init__(self, database: str) -> None:
        self._database = database
        known = tuple(known.schema for known in CATALOGUE.known.values())
        self.store: Store = PostgresStore(database, Provenance("test", "none", POLICY, known))

    async def enrol(self) -> None:
        entries = [Entry(d, "tenant", f"vehicle of {d}", 7, d.encode(), Algorithm.ED25519, bytes(32)) for d in DEVICES]
        connection = await connect(self._database, "test")
        await import_devices(connection, entries)
        await connection.close()

    async def verdicts(self) -> Verdicts:
        rows = await self.fetch(
            "select partition, kafka_offset, verdict, coalesce(reason, '') from weighbridge.verdict"
        )
        given = {(int(str(row[0])), int(str(row[1]))): (str(row[2]), str(row[3])) for row in rows}
        assert len(given) == len(rows)
        return given

    async def revoke_keys(self, device_id: str) -> None:
        await self.fetch(
            "update store.device_state set key_version = key_version + 1 "
            "where device_no = (select device_no from store.device where device_id = $1)",
            device_id,
        )

    async def fetch(self, query: str, *arguments: object) -> list[Sequence[object]]:
        connection = await connect(self._database, "test")
        try:
            return [tuple(row) for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
async def postgres(store_database: str) -> Postgres:
    real = Postgres(store_database)
    await real.enrol()
    return real


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.real)])
def world(request: pytest.FixtureRequest) -> World:
    found: World = request.getfixturevalue(request.param)
    return found


class Said(msgspec.Struct, frozen=True):
    """What a test lets a device say."""

    seq: int
    device: str = "tcu-1"
    content: str = "a"
    epoch: int = 7
    boot: bytes = b"boot-one"
    issued_at_s: float = NOW_S
    expires_at_s: float | None = None


def record(offset: int, said: Said | None = None, partition: int = 0) -> RawRecord:
    return RawRecord(TOPIC, partition, offset, NOW_S * 1000, repr(said).encode())


def envelope(said: Said, at: RawRecord) -> Envelope:
    return Envelope(
        at, -8, said.device.encode(), said.device, said.issued_at_s, said.expires_at_s, said.epoch, said.seq, said.boot,
        "1.0", bytes(32), b"", bytes(64), b"",
    )  # fmt: skip


async def examined(lease: Lease, saids: Sequence[Said | None], offset: int, partition: int = 0) -> list[Examined]:
    """Give what an examination would; None stands for a record that is malformed."""
    claims = [(said, record(offset + i, said, partition)) for i, said in enumerate(saids)]
    ring = await lease.key_ring([envelope(said, at) for said, at in claims if said])
    return [_examined(said, at, ring.senders.get(said.device) if said else None) for said, at in claims]


def _examined(said: Said | None, at: RawRecord, sender: Sender | None) -> Examined:
    if said is None or sender is None:
        return Refused(at, Refusal.MALFORMED, "not CBOR")
    verified = Verified(envelope(said, at), sender, sender.keys[said.device.encode()], said.content.encode().ljust(32))
    fields = {"recorded_at_us": NOW_S * 1_000_000, "event": "BUS_OVERLOAD", "severity": "LOW", "source": "gateway",
              "event_id": 1, "count": 1, "detail": None}  # fmt: skip
    return Reading(verified, SCHEMA, (Sample("SecurityEvent", fields),))


async def weigh(lease: Lease, *saids: Said | None, partition: int = 0) -> Outcome:
    """Take a batch through recall, judge and commit."""
    offset = lease.next_offset
    messages = await examined(lease, saids, offset, partition)
    async with lease.transaction() as transaction:
        return await settle(transaction, messages, offset)


async def settle(transaction: Transaction, messages: Sequence[Examined], offset: int) -> Outcome:
    devices = await transaction.recall(messages)
    priors = await transaction.priors(suspects(messages, devices))
    records = [m.record if isinstance(m, Refused) else m.verified.record for m in messages]
    outcome = judge(messages, devices, priors, POLICY, span_of(records, offset))
    await transaction.commit(outcome)
    return outcome


async def settle_late(lease: Lease, messages: Sequence[Examined], then: Callable[[], object] = bool) -> None:
    async with lease.transaction() as transaction:
        await settle(transaction, messages, 0)
        then()


def take(world: World, partition: int = 0) -> AbstractAsyncContextManager[Lease]:
    return world.store.take_over(TOPIC, partition)


async def test_a_batch_moves_the_offset_and_gives_each_record_one_verdict(world: World) -> None:
    async with take(world) as lease:
        await weigh(lease, Said(1), None, Said(1), Said(1, content="b"), Said(2, epoch=8))
        assert lease.next_offset == 5
    async with take(world) as lease:
        assert lease.next_offset == 5
    assert await world.verdicts() == {
        (0, 0): ("accepted", ""),
        (0, 1): ("refused", "malformed"),
        (0, 2): ("duplicate", ""),
        (0, 3): ("held", "equivocation"),
        (0, 4): ("held", "epoch_unknown"),
    }


async def test_a_successor_fences_its_predecessor(world: World) -> None:
    async with take(world) as old:
        await weigh(old, Said(1))
        async with take(world) as new:
            await weigh(new, Said(2))
            with pytest.raises(TroubleError):
                await weigh(old, Said(2))
            await weigh(new, Said(3))
    assert len(await world.verdicts()) == 3


async def test_an_offset_that_moved_meanwhile_stops_the_commit(world: World) -> None:
    """A retry of a batch whose COMMIT took effect though its reply was lost must not be stored twice."""
    async with take(world) as lease:
        messages = await examined(lease, [Said(1)], 0)
        await weigh(lease, Said(1))
        with pytest.raises(FencedError):
            await settle_late(lease, messages)
    assert len(await world.verdicts()) == 1


async def test_an_exception_inside_a_transaction_leaves_nothing_behind(world: World) -> None:
    async with take(world) as lease:
        messages = await examined(lease, [Said(1)], 0)
        with pytest.raises(ZeroDivisionError):
            await settle_late(lease, messages, then=lambda: 1 // 0)
        with pytest.raises(TroubleError):
            await weigh(lease, Said(1))
    async with take(world) as lease:
        assert lease.next_offset == 0
        outcome = await weigh(lease, Said(1))
    assert outcome.total(Verdict.ACCEPTED) == 1


async def test_a_device_row_comes_back_as_it_was_written(world: World) -> None:
    async with take(world) as lease:
        await weigh(lease, *[Said(seq) for seq in (5, 6, 9, 12, 15, 18)], Said(20, boot=b"boot-two"), Said(99, epoch=8))
        messages = await examined(lease, [Said(21)], lease.next_offset)
        async with lease.transaction() as transaction:
            (device,) = (await transaction.recall(messages)).values()
            raise_away = await settle(transaction, messages, lease.next_offset)
    assert raise_away.total(Verdict.ACCEPTED) == 1
    assert device.ledgers[7] == Ledger((12, 13, 15, 16, 18, 19, 20, 21), 10, 5, 20, 7)
    assert device.boots == (b"boot-one", b"boot-two")
    assert device.held == 1


async def test_priors_are_found_stored_or_held_whenever_they_were_issued(world: World) -> None:
    day_s = 86_400
    async with take(world) as lease:
        await weigh(lease, Said(1, issued_at_s=NOW_S - 20 * day_s), Said(2, epoch=8), Said(1, content="b"))
        asked = [Said(1), Said(1, content="b"), Said(2, epoch=8), Said(3)]
        messages = await examined(lease, asked, lease.next_offset)
        verified = [m.verified for m in messages if isinstance(m, Reading)]
        async with lease.transaction() as transaction:
            await transaction.recall(messages)
            priors = await transaction.priors([Suspect(one, stored=True, held=True) for one in verified])
            await settle(transaction, messages, lease.next_offset)
    first, again, second, third = (sorted(priors.get(number(v), []), key=lambda prior: prior.digest) for v in verified)
    assert first == [Prior(b"a".ljust(32), b"boot-one", owner=True), Prior(b"b".ljust(32), b"boot-one", owner=False)]
    assert again == first
    assert second == [Prior(b"a".ljust(32), b"boot-one", owner=True)]
    assert third == []


async def test_keys_that_move_between_reading_and_lock_send_the_batch_round_again(world: World) -> None:
    async with take(world) as lease:
        messages = await examined(lease, [Said(1)], 0)
        await world.revoke_keys("tcu-1")
        with pytest.raises(KeysMovedError):
            await settle_late(lease, messages)
        outcome = await weigh(lease, Said(1))
    assert outcome.total(Verdict.ACCEPTED) == 1


async def test_partitions_do_not_disturb_each_other(world: World) -> None:
    async with take(world, 0) as first, take(world, 1) as second:
        await weigh(first, Said(1), Said(1, device="tcu-2"))
        outcome = await weigh(second, Said(1), Said(1, device="tcu-3"), partition=1)
        await weigh(first, Said(1, device="tcu-3"))
    assert [outcome.total(verdict) for verdict in Verdict] == [1, 1, 0, 0]
    assert (await world.verdicts())[0, 2] == ("duplicate", "")


async def test_a_held_message_is_remembered_by_its_content(world: World) -> None:
    async with take(world) as lease:
        await weigh(lease, Said(2**30))
        again = await weigh(lease, Said(2**30), Said(2**30, content="b"), Said(1))
    assert [again.total(verdict) for verdict in Verdict] == [1, 1, 1, 0]
    assert (await world.verdicts())[0, 2] == ("held", Hold.EQUIVOCATION)


async def test_any_finite_time_can_be_kept(world: World) -> None:
    """A time beyond every calendar is a claim like any other: it must not stop the partition for ever."""
    async with take(world) as lease:
        await weigh(lease, Said(1, expires_at_s=1e308), Said(2, issued_at_s=1e308), Said(3, issued_at_s=-1e308))
        await weigh(lease, Said(1, expires_at_s=1e308), Said(2, issued_at_s=1e308), Said(3, issued_at_s=-1e308))
    given = await world.verdicts()
    assert [given[0, offset] for offset in range(3)] == [("accepted", ""), ("held", "clock_future"), ("held", "stale")]
    assert [given[0, offset] for offset in range(3, 6)] == [("duplicate", "")] * 3


async def test_one_number_used_for_ever_new_contents_costs_no_more_than_they_are(world: World) -> None:
    """A device that signs thousands of contents under one number must not stop its partition."""
    contents = [Said(1, content=f"{i:05}") for i in range(1_500)]
    async with take(world) as lease:
        first = await weigh(lease, *contents)
        second = await weigh(lease, *(Said(1, content=f"{i:05}") for i in range(1_500, 3_000)))
        again = await weigh(lease, *contents)
    assert [first.total(verdict) for verdict in Verdict] == [1, 0, 1_499, 0]
    assert [second.total(verdict) for verdict in Verdict] == [0, 0, 1_500, 0]
    assert [again.total(verdict) for verdict in Verdict] == [0, 1_500, 0, 0]
