"""What do contract tests say to a store, and what do they do behind its back? Devices in short."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec
from msgspec.structs import replace

import schemas
from ingest.adapters.memory.store import MemoryStore
from ingest.adapters.memory.wire import QUIET
from ingest.adapters.postgres.connection import connect
from ingest.adapters.postgres.provenance import Provenance
from ingest.adapters.postgres.registry import Entry, import_devices
from ingest.adapters.postgres.store import PostgresStore
from ingest.core.alert import alarm
from ingest.core.device import Algorithm, Device, Key, KeyState, Sender, Standing
from ingest.core.evidence import allot
from ingest.core.message import Envelope, Examined, RawRecord, Reading, Refused, Sample, Verified
from ingest.core.outcome import Outcome, Strangers, span_of
from ingest.core.payload import load
from ingest.core.policy import Policy
from ingest.core.rate import Bucket
from ingest.core.verdict import Refusal
from ingest.decision import decide
from ingest.ports import Lease, Store, Transaction

TOPIC = "telemetry.test"
NOW_S = int(time.time())
CATALOGUE = load(schemas.read_telemetry())
SCHEMA = min(CATALOGUE.known)
POLICY = Policy(ledger_ranges_max=4, quarantined_from=10**9)
EMPTY = Bucket()
DEVICES = ("tcu-1", "tcu-2", "tcu-3")
Verdicts = dict[tuple[int, int], tuple[str, str]]  # by partition and offset


class World(Protocol):
    """A store as one process sees it, and what a test must know and do behind its back."""

    store: Store

    def start_process(self) -> Store: ...

    async def verdicts(self) -> Verdicts: ...

    async def revoke_keys(self, device_id: str) -> None: ...

    async def rob(self) -> None: ...

    async def halted_why(self) -> str | None: ...

    async def alerts(self) -> list[tuple[str, str, int]]: ...


class Memory:
    def __init__(self) -> None:
        keys = {
            d: Key(n, d.encode(), Algorithm.ED25519, bytes(32), KeyState.ACTIVE, 0, None, None) for n, d in _numbered()
        }
        senders = {d: Sender(n, n, 1, 1, {d.encode(): keys[d]}) for n, d in _numbered()}
        self.twin = MemoryStore(senders, [Device(n, Standing.TRUSTED, 1, 7, 0, (), {}) for n, _ in _numbered()])
        self.store = self.start_process()

    def start_process(self) -> Store:
        return self.twin.through(QUIET)

    async def verdicts(self) -> Verdicts:
        return {(p, o): (str(v[0][0]), str(v[0][1])) for (_, p, o), v in self.twin.verdicts.items()}

    async def revoke_keys(self, device_id: str) -> None:
        sender = self.twin.senders[device_id]
        self.twin.senders[device_id] = replace(sender, key_version=sender.key_version + 1)
        device = self.twin.devices[sender.device_no]
        self.twin.devices[sender.device_no] = replace(device, key_version=device.key_version + 1)

    async def rob(self) -> None:
        self.twin.leases[TOPIC, 0].owner_epoch += 1

    async def halted_why(self) -> str | None:
        return self.twin.leases[TOPIC, 0].halted_why

    async def alerts(self) -> list[tuple[str, str, int]]:
        return [(one.kind.value, one.subject, one.record.offset) for one in self.twin.alerts.values()]


def _numbered() -> list[tuple[int, str]]:
    return list(enumerate(DEVICES, 1))


class Postgres:
    def __init__(self, database: str) -> None:
        self._database = database
        self.store = self.start_process()

    def start_process(self) -> Store:
        return PostgresStore(self._database, lambda: Provenance("test", "none", POLICY, CATALOGUE.schemas))

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

    async def rob(self) -> None:
        await self.fetch("update store.partition_lease set owner_epoch = owner_epoch + 1")

    async def halted_why(self) -> str | None:
        ((why,),) = await self.fetch(
            "select halted_why from weighbridge.partition where partition = 0 "
            "and (halted_why is null) = (halted_at is null)"
        )
        return None if why is None else str(why)

    async def alerts(self) -> list[tuple[str, str, int]]:
        rows = await self.fetch("select kind, subject, kafka_offset from weighbridge.alert order by alert_no")
        return [(str(kind), str(subject), int(str(offset))) for kind, subject, offset in rows]

    async def fetch(self, query: str, *arguments: object) -> list[Sequence[object]]:
        connection = await connect(self._database, "test")
        try:
            return [tuple(row) for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()


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
    if said is None:
        return Refused(at, Refusal.MALFORMED, "not CBOR")
    if sender is None:
        return Refused(envelope(said, at), Refusal.UNKNOWN_DEVICE, "it is not registered")
    verified = Verified(envelope(said, at), sender, sender.keys[said.device.encode()], said.content.encode().ljust(32))
    event = (NOW_S * 1_000_000, "BUS_OVERLOAD", "LOW", "gateway", 1, 1, None)
    return Reading(verified, SCHEMA, (Sample("SecurityEvent", event),))


async def weigh(lease: Lease, *saids: Said | None, partition: int = 0) -> Outcome:
    """Take a batch through recall, judge and commit."""
    offset = lease.next_offset
    messages = await examined(lease, saids, offset, partition)
    async with lease.transaction() as transaction:
        return await settle(transaction, messages, offset, lease)


async def settle(
    transaction: Transaction, messages: Sequence[Examined], offset: int, lease: Lease | None = None
) -> Outcome:
    records = [m.record if isinstance(m, Refused) else m.verified.record for m in messages]
    allowance, strangers = (lease.allowance, lease.strangers) if lease else (EMPTY, Strangers())
    outcome = allot(await decide(transaction, messages, POLICY, span_of(records, offset)), allowance, POLICY)
    outcome = alarm(outcome, strangers, POLICY)
    await transaction.commit(outcome)
    return outcome


async def settle_late(
    lease: Lease, messages: Sequence[Examined], then: Callable[[], object] = bool, offset: int = 0
) -> None:
    async with lease.transaction() as transaction:
        await settle(transaction, messages, offset)
        then()


def take(world: World, partition: int = 0) -> AbstractAsyncContextManager[Lease]:
    return world.store.take_over(TOPIC, partition)


def take_elsewhere(world: World) -> AbstractAsyncContextManager[Lease]:
    """Take partition 0 over as a process that never had it; to leave the block is to die."""
    return world.start_process().take_over(TOPIC, 0)
