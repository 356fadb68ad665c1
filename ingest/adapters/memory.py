"""What would the real log and store do? Twins in memory, for the simulation only, under the same contract tests.

One thread, no I/O. What a transaction writes becomes visible at its end, not before; rows are locked in device order,
the lease last. Every request and every reply passes a wire, so that the simulation can let anything happen on the way.
"""

import asyncio
import contextlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from ingest.core.device import Device, KeyRing, Sender
from ingest.core.judge import KeysMovedError, Number, Prior, Priors, Suspect, number, owns_its_number
from ingest.core.message import Envelope, Examined, RawRecord, Refused, Verified
from ingest.core.outcome import Accepted, Duplicate, Held, Outcome, Span, verdict_of
from ingest.core.verdict import Verdict
from ingest.ports import FencedError, Store, TroubleError

STATEMENT_S_MAX = 60.0  # how long a statement waits for a lock
WAIT_S = 0.005  # how long a read waits at the end of the log

Position = tuple[str, int, int]  # topic, partition, offset


class Call(msgspec.Struct, frozen=True):
    """One thing that a client asks of a server; of the log when there is no connection."""

    operation: str
    partition: int
    connection: "Connection | None" = None


class Wire(Protocol):
    """What lies between a client and the servers. What it raises is trouble."""

    async def request(self, call: Call) -> None:
        """Carry a request. If this raises, the server never heard of it."""

    async def reply(self, call: Call) -> None:
        """Carry the reply. If this raises, the server has done its part already."""

    def end(self, connection: "Connection") -> None:
        """Let the server end a connection: at once, or when it comes to it."""


class _Quiet:
    async def request(self, call: Call) -> None:  # noqa: ARG002 (the wire's shape)
        await asyncio.sleep(0)

    async def reply(self, call: Call) -> None:
        pass

    def end(self, connection: "Connection") -> None:
        connection.end()


QUIET = _Quiet()


class MemoryLog:
    """A topic whose partitions are lists of records, read by a consumer that has a position in each."""

    def __init__(
        self,
        partitions: Mapping[int, Sequence[RawRecord]],
        batch_records_max: int,
        wire: Wire = QUIET,
        wait_s: float = WAIT_S,
    ) -> None:
        self._partitions = partitions
        self._batch_records_max = batch_records_max
        self._wire = wire
        self._wait_s = wait_s
        self._positions: dict[int, int] = defaultdict(int)
        self._doubts: dict[int, tuple[int, int]] = {}  # a hole at the start, seen once: from, to

    def seek(self, partition: int, offset: int) -> None:
        """See ingest.ports.Log. The simulation leads a consumer astray with it."""
        self._positions[partition] = offset

    async def read(self, partition: int, offset: int) -> Sequence[RawRecord]:
        """See ingest.ports.Log. Like the adapter for Kafka: believes a hole at the start when two readings agree."""
        records = await self._gather(partition, offset)
        first = records[0].offset if records else self._positions[partition]
        if first > offset and self._doubts.get(partition) != (offset, first):
            self._doubts[partition] = offset, first
            self.seek(partition, offset)
            return []
        if records:
            self._doubts.pop(partition, None)
        return records

    def done(self, partition: int, next_offset: int) -> int:
        """See ingest.ports.Log."""
        return len(self._partitions[partition]) - self._find(partition, next_offset)

    async def _gather(self, partition: int, offset: int) -> list[RawRecord]:
        call = Call("fetch", partition)
        await self._wire.request(call)
        at = self._find(partition, self._positions[partition])
        records = self._partitions[partition][at : at + self._batch_records_max]
        if records:
            self._positions[partition] = records[-1].offset + 1
        else:
            await asyncio.sleep(self._wait_s)
        await self._wire.reply(call)
        return [record for record in records if record.offset >= offset]

    def _find(self, partition: int, offset: int) -> int:
        return bisect_left(self._partitions[partition], offset, key=lambda record: record.offset)


class Connection:
    """One connection, with both its ends: what the client asks, and what the server holds for it."""

    def __init__(self, partition: int, wire: Wire) -> None:
        self.partition = partition
        self.ended = False  # by the server
        self._hung_up = False  # by the client
        self._wire = wire
        self._locked: list[asyncio.Lock] = []
        self._staged: Callable[[], None] | None = None

    @contextlib.asynccontextmanager
    async def call(self, operation: str) -> AsyncIterator[None]:
        """Ask the server for what the block does."""
        call = Call(operation, self.partition, self)
        await self._wire.request(call)
        if self.ended or self._hung_up:
            raise TroubleError(f"{operation}: the connection was ended")
        yield
        await self._wire.reply(call)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Begin, and commit at the end of the block; any exception but that keys moved ends the connection."""
        try:
            async with self.call("BEGIN"):
                pass
            try:
                yield
            except KeysMovedError:
                async with self.call("ROLLBACK"):
                    self.roll_back()
                raise
            async with self.call("COMMIT"):
                self.commit()
        except KeysMovedError:
            raise
        except BaseException:
            self.hang_up()
            raise

    def hang_up(self) -> None:
        """Use the connection no more; the server hears of it sooner or later."""
        if not self._hung_up:
            self._hung_up = True
            self._wire.end(self)

    async def lock(self, row: asyncio.Lock) -> None:
        """Lock a row until the end of the transaction. Raises TroubleError."""
        if row in self._locked:
            return
        if row.locked():
            await _wait(row)
        else:
            await row.acquire()
        self._locked.append(row)
        if self.ended:
            self.roll_back()
            raise TroubleError("the connection was ended while it waited for a row")

    def stage(self, effect: Callable[[], None]) -> None:
        """Keep what the transaction writes until it commits."""
        self._staged = effect

    def commit(self) -> None:
        """Let what was written take effect, unless the connection has ended."""
        if self._staged is not None:
            self._staged()
        self.roll_back()

    def roll_back(self) -> None:
        """Forget what was written, and give back the locks."""
        self._staged = None
        for row in self._locked:
            row.release()
        self._locked.clear()

    def end(self) -> None:
        """End it, as the server does when a client is gone or is to go."""
        self.ended = True
        self.roll_back()


async def _wait(row: asyncio.Lock) -> None:
    try:
        async with asyncio.timeout(STATEMENT_S_MAX):
            await row.acquire()
    except TimeoutError as error:
        raise TroubleError(f"a row stayed locked for {STATEMENT_S_MAX:.0f} s") from error


class Owned(msgspec.Struct):
    """The row of a lease."""

    owner_epoch: int = 0
    next_offset: int = 0
    owner: Connection | None = None
    row: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)


class MemoryStore:
    """Everything that the real store keeps and a test may ask about."""

    def __init__(self, senders: Mapping[str, Sender], devices: Iterable[Device]) -> None:
        self.senders = dict(senders)
        self.devices = {device.device_no: device for device in devices}
        self.verdicts: dict[Position, list[tuple[Verdict, str]]] = defaultdict(list)
        self.stored: dict[Number, list[Prior]] = defaultdict(list)
        self.batches: list[Span] = []
        self.leases: dict[tuple[str, int], Owned] = defaultdict(Owned)
        self.locks: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    def through(self, wire: Wire) -> Store:
        """Give the store as the client at the other end of this wire sees it."""
        return _Client(self, wire)

    def take_over(self, topic: str, partition: int) -> AbstractAsyncContextManager["MemoryLease"]:
        """See ingest.ports.Store."""
        return _Client(self, QUIET).take_over(topic, partition)

    def apply(self, outcome: Outcome) -> None:
        """Write all that a batch changes but the offset."""
        span = outcome.span
        self.write_devices(outcome.devices)
        for verified, owner in _remembered(outcome):
            self.stored[number(verified)].append(Prior(verified.digest, verified.envelope.boot, owner))
        for offset, verdict in _verdicts(outcome):
            self.verdicts[span.topic, span.partition, offset].append(verdict)
        self.batches.append(span)

    def write_devices(self, devices: Iterable[Device]) -> None:
        """Write device rows."""
        self.devices.update({device.device_no: device for device in devices})


class _Client(msgspec.Struct, frozen=True):
    store: MemoryStore
    wire: Wire

    @contextlib.asynccontextmanager
    async def take_over(self, topic: str, partition: int) -> AsyncIterator["MemoryLease"]:
        """See ingest.ports.Store."""
        connection = Connection(partition, self.wire)
        owned = self.store.leases[topic, partition]
        try:
            async with connection.call("connect"):
                pass
            async with connection.call("end previous owner"):
                if owned.owner is not None:
                    self.wire.end(owned.owner)
            yield await _own(self.store, connection, owned)
        finally:
            connection.hang_up()


async def _own(store: MemoryStore, connection: Connection, owned: Owned) -> "MemoryLease":
    async with connection.call("take over"):
        await connection.lock(owned.row)
        owned.owner_epoch += 1
        owned.owner = connection
        lease = MemoryLease(store, connection, owned)
        connection.commit()
    return lease


class MemoryLease:
    """See ingest.ports.Lease."""

    def __init__(self, store: MemoryStore, connection: Connection, owned: Owned) -> None:
        self._store = store
        self._connection = connection
        self._owned = owned
        self._owner_epoch = owned.owner_epoch
        self.next_offset = owned.next_offset

    async def key_ring(self, messages: Iterable[Envelope | Refused]) -> KeyRing:
        """See ingest.ports.Lease."""
        known = self._store.senders
        async with self._connection.call("key ring"):
            envelopes = [message for message in messages if isinstance(message, Envelope)]
            senders = {e.device_id: known[e.device_id] for e in envelopes if e.device_id in known}
            kids = {kid: device_id for device_id, sender in known.items() for kid in sender.keys}
            foreign = frozenset(
                e.kid for e in envelopes if e.device_id in senders and kids.get(e.kid, e.device_id) != e.device_id
            )
        return KeyRing(senders, foreign)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator["MemoryTransaction"]:
        """See ingest.ports.Lease."""
        async with self._connection.transaction():
            batch = MemoryTransaction(self._store, self._connection, self._owned, self._owner_epoch)
            yield batch
        if batch.outcome is not None:
            self.next_offset = batch.outcome.span.to_offset


class MemoryTransaction:
    """See ingest.ports.Transaction."""

    def __init__(self, store: MemoryStore, connection: Connection, owned: Owned, owner_epoch: int) -> None:
        self._store = store
        self._connection = connection
        self._owned = owned
        self._owner_epoch = owner_epoch
        self.outcome: Outcome | None = None

    async def recall(self, examined: Iterable[Examined]) -> Mapping[int, Device]:
        """See ingest.ports.Transaction."""
        numbers = sorted({m.verified.sender.device_no for m in examined if not isinstance(m, Refused)})
        async with self._connection.call("recall"):
            for device_no in numbers:
                await self._connection.lock(self._store.locks[device_no])
            return {device_no: self._store.devices[device_no] for device_no in numbers}

    async def priors(self, suspects: Sequence[Suspect]) -> Priors:
        """See ingest.ports.Transaction."""
        async with self._connection.call("priors"):
            numbers = [number(suspect.verified) for suspect in suspects]
            return {asked: list(self._store.stored[asked]) for asked in numbers if asked in self._store.stored}

    async def commit(self, outcome: Outcome) -> None:
        """See ingest.ports.Transaction: takes effect at the end of the block."""
        async with self._connection.call("write"):
            await self._connection.lock(self._owned.row)
            self._fence(outcome.span)
            self._connection.stage(lambda: self._settle(outcome))
            self.outcome = outcome

    def _fence(self, span: Span) -> None:
        if (self._owned.owner_epoch, self._owned.next_offset) != (self._owner_epoch, span.from_offset):
            raise FencedError(f"partition {span.partition}: another worker owns it since epoch {self._owner_epoch}")

    def _settle(self, outcome: Outcome) -> None:
        self._store.apply(outcome)
        self._owned.next_offset = outcome.span.to_offset


def _remembered(outcome: Outcome) -> list[tuple[Verified, bool]]:
    accepted = [(one.verified, True) for one in outcome.accepted]
    return accepted + [(one.verified, owns_its_number(one.reason)) for one in outcome.held]


def _verdicts(outcome: Outcome) -> Iterable[tuple[int, tuple[Verdict, str]]]:
    authentic: list[Accepted | Duplicate | Held] = [*outcome.accepted, *outcome.duplicates, *outcome.held]
    for one in authentic:
        yield one.verified.record.offset, verdict_of(one)
    for refused in outcome.refused:
        yield refused.record.offset, verdict_of(refused)
