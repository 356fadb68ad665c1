"""What would the real store do? A twin that keeps what a test may ask about, behind connections that may break."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager

import msgspec

from ingest.adapters.memory.wire import QUIET, Connection, Wire
from ingest.core.device import Device, KeyRing, Sender
from ingest.core.judge import Content, Number, Prior, Priors, Suspect, number, owns_its_number
from ingest.core.message import Envelope, Refused, Verified
from ingest.core.outcome import Accepted, Alert, Duplicate, Held, Outcome, Span, Strangers, verdict_of
from ingest.core.rate import FLEET, Bucket, Shares
from ingest.core.seal import BEGINNING, links_of, seal
from ingest.core.standing import Accusation, Cohort, Trips, quarantines
from ingest.core.verdict import Verdict
from ingest.ports import FencedError, Mark, Store, UnkeepableError

Position = tuple[str, int, int]  # topic, partition, offset


class Owned(msgspec.Struct):
    """The row of a lease."""

    owner_epoch: int = 0
    next_offset: int = 0
    log_id: str | None = None
    record_hash: bytes | None = None
    allowance: Bucket = Bucket()
    shares: dict[int, Bucket] = {}  # by tenant_no
    strangers: Strangers = Strangers()
    seal: bytes = BEGINNING
    attempts: int = 0
    attempt_offset: int | None = None
    died_offset: int | None = None
    halted_why: str | None = None
    owner: Connection | None = None
    row: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)


class MemoryStore:
    """Everything that the real store keeps and a test may ask about."""

    def __init__(
        self, senders: Mapping[str, Sender], devices: Iterable[Device], unkeepable: Collection[bytes] = ()
    ) -> None:
        self.senders = dict(senders)
        self.devices = {device.device_no: device for device in devices}
        self.verdicts: dict[Position, list[tuple[Verdict, str]]] = defaultdict(list)
        self.stored: dict[Number, list[Prior]] = defaultdict(list)
        self.batches: list[Span] = []
        self.leases: dict[tuple[str, int], Owned] = defaultdict(Owned)
        self.shown: dict[Position, int] = {}  # how many bytes are kept of what was refused
        self.accusations: dict[Content, Accusation] = {}
        self.alerts: dict[str, Alert] = {}  # by id, in the order of their rows
        self.unkeepable = frozenset(unkeepable)  # the values of records whose rows it refuses
        self.locks: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.cohorts: dict[Cohort, asyncio.Lock] = defaultdict(asyncio.Lock)

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
        self.shown.update({(span.topic, span.partition, offset): size for offset, size in outcome.shown.items()})
        self.accusations.update({(a.verified.sender.device_no, a.verified.digest): a for a in outcome.accusations})
        for alert in outcome.alerts:
            self.alerts.setdefault(alert.id, alert)
        self.batches.append(span)

    def trips(self, cohort: Cohort) -> Trips:
        """Count what happened to a cohort."""
        fallen = [a for a in quarantines(self.accusations.values()) if a.cohort == cohort]
        tenants = {sender.device_no: sender.tenant_no for sender in self.senders.values()}
        alike = [d for d in self.devices.values() if (tenants[d.device_no], d.software) == cohort]
        return Trips(tuple(a.verified.record.received_at_ms for a in fallen), len(alike))

    def write_devices(self, devices: Iterable[Device]) -> None:
        """Write device rows."""
        self.devices.update({device.device_no: device for device in devices})


class _Client(msgspec.Struct, frozen=True):
    store: MemoryStore
    wire: Wire
    owned_last: dict[tuple[str, int], int] = {}  # the epoch under which this client owned each partition last

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
            lease = await _own(self.store, connection, owned, self.owned_last.get((topic, partition)))
            self.owned_last[topic, partition] = lease.owner_epoch
            yield lease
        finally:
            connection.hang_up()


async def _own(store: MemoryStore, connection: Connection, owned: Owned, epoch_last: int | None) -> "MemoryLease":
    async with connection.call("take over"):
        await connection.lock(owned.row)
        if owned.attempt_offset != owned.next_offset:
            owned.attempts = 1
        elif owned.owner_epoch != epoch_last:
            owned.attempts += 1
        if owned.attempts > 1:
            owned.died_offset = owned.next_offset
        owned.attempt_offset = owned.next_offset
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
        self.owner_epoch = owned.owner_epoch
        self.mark = Mark(owned.next_offset, owned.log_id, owned.record_hash)
        self.attempts, self.died_offset = owned.attempts, owned.died_offset
        self.allowance, self.strangers = owned.allowance, owned.strangers

    @property
    def next_offset(self) -> int:
        """See ingest.ports.Lease."""
        return self.mark.next_offset

    async def confirmed(self, log_id: str) -> None:
        """See ingest.ports.Lease."""
        await self._note("confirmed", log_id=log_id, halted_why=None)

    async def halted(self, why: str) -> None:
        """See ingest.ports.Lease."""
        await self._note("halted", halted_why=why)

    async def release(self) -> None:
        """See ingest.ports.Lease."""
        await self._note("release", attempts=self._owned.attempts - 1, owner_epoch=self.owner_epoch + 1)

    async def _note(self, operation: str, **values: object) -> None:
        async with self._connection.call(operation):
            await self._connection.lock(self._owned.row)
            if self._owned.owner_epoch == self.owner_epoch:
                for name, value in values.items():
                    setattr(self._owned, name, value)
            self._connection.commit()

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
            batch = MemoryTransaction(self._store, self._connection, self._owned, self.owner_epoch)
            yield batch
        if batch.outcome is not None:
            span, outcome = batch.outcome.span, batch.outcome
            self.allowance, self.strangers = outcome.allowance, outcome.strangers
            self.mark = Mark(span.to_offset, self.mark.log_id, span.record_hash)


class MemoryTransaction:
    """See ingest.ports.Transaction."""

    def __init__(self, store: MemoryStore, connection: Connection, owned: Owned, owner_epoch: int) -> None:
        self._store = store
        self._connection = connection
        self._owned = owned
        self._owner_epoch = owner_epoch
        self.outcome: Outcome | None = None

    async def recall(self, accountable: Iterable[Verified]) -> Mapping[int, Device]:
        """See ingest.ports.Transaction."""
        numbers = sorted({verified.sender.device_no for verified in accountable})
        async with self._connection.call("recall"):
            for device_no in numbers:
                await self._connection.lock(self._store.locks[device_no])
            return {device_no: self._store.devices[device_no] for device_no in numbers}

    async def priors(self, suspects: Sequence[Suspect]) -> Priors:
        """See ingest.ports.Transaction."""
        async with self._connection.call("priors"):
            numbers = [number(suspect.verified) for suspect in suspects]
            return {asked: list(self._store.stored[asked]) for asked in numbers if asked in self._store.stored}

    async def known(self, blamed: Sequence[Verified]) -> AbstractSet[Content]:
        """See ingest.ports.Transaction."""
        if not blamed:
            return frozenset()
        async with self._connection.call("known"):
            return {(v.sender.device_no, v.digest) for v in blamed} & self._store.accusations.keys()

    async def trips(self, cohorts: Collection[Cohort]) -> Mapping[Cohort, Trips]:
        """See ingest.ports.Transaction."""
        async with self._connection.call("trips"):
            for cohort in sorted(cohorts):
                await self._connection.lock(self._store.cohorts[cohort])
            return {cohort: self._store.trips(cohort) for cohort in cohorts}

    async def shares(self, tenants: AbstractSet[int]) -> Shares:
        """See ingest.ports.Transaction."""
        async with self._connection.call("shares"):
            return {no: self._owned.shares.get(no, Bucket()) for no in {*tenants, FLEET}}

    async def commit(self, outcome: Outcome) -> None:
        """See ingest.ports.Transaction: takes effect at the end of the block."""
        async with self._connection.call("write"):
            self._check_values(outcome)
            await self._connection.lock(self._owned.row)
            self._fence(outcome.span)
            self._connection.stage(lambda: self._settle(outcome))
            self.outcome = outcome

    def _check_values(self, outcome: Outcome) -> None:
        values = {verified.record.value for verified, _ in _remembered(outcome)}
        if values & self._store.unkeepable:
            raise UnkeepableError("a row has a value that cannot be kept")

    def _fence(self, span: Span) -> None:
        if (self._owned.owner_epoch, self._owned.next_offset) != (self._owner_epoch, span.from_offset):
            raise FencedError(f"partition {span.partition}: another worker owns it since epoch {self._owner_epoch}")

    def _settle(self, outcome: Outcome) -> None:
        self._store.apply(outcome)
        self._move(outcome)

    def _move(self, outcome: Outcome) -> None:
        span, owned = outcome.span, self._owned
        owned.next_offset, owned.record_hash = span.to_offset, span.record_hash
        owned.allowance, owned.strangers = outcome.allowance, outcome.strangers
        owned.seal = seal(owned.seal, links_of(outcome))
        owned.shares = {**owned.shares, **outcome.shares}


def _remembered(outcome: Outcome) -> list[tuple[Verified, bool]]:
    accepted = [(one.verified, True) for one in outcome.accepted]
    return accepted + [(one.verified, owns_its_number(one.reason)) for one in outcome.held]


def _verdicts(outcome: Outcome) -> Iterable[tuple[int, tuple[Verdict, str]]]:
    authentic: list[Accepted | Duplicate | Held] = [*outcome.accepted, *outcome.duplicates, *outcome.held]
    for one in authentic:
        yield one.verified.record.offset, verdict_of(one)
    for refused in outcome.refused:
        yield refused.record.offset, verdict_of(refused)
