"""What would the real log and store do? Twins in memory, for the simulation only, under the same contract tests.

One thread, no I/O. What a transaction writes becomes visible at its end, not before; rows are locked in device order.
"""

import asyncio
import contextlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

import msgspec

from ingest.core.device import Device, KeyRing, Sender
from ingest.core.judge import KeysMovedError, Number, Prior, Priors, number, owns_its_number
from ingest.core.message import Envelope, Examined, RawRecord, Refused, Verified
from ingest.core.outcome import Accepted, Duplicate, Held, Outcome, Span, verdict_of
from ingest.core.verdict import Verdict
from ingest.ports import FencedError, TroubleError

Position = tuple[str, int, int]  # topic, partition, offset


class MemoryLog:
    """A topic whose partitions are lists of records."""

    def __init__(self, partitions: Mapping[int, Sequence[RawRecord]], batch_records_max: int) -> None:
        self._partitions = partitions
        self._batch_records_max = batch_records_max

    def seek(self, partition: int, offset: int) -> None:
        """See ingest.ports.Log: reading names its offset, so there is nothing to do."""

    async def read(self, partition: int, offset: int) -> Sequence[RawRecord]:
        """See ingest.ports.Log."""
        await asyncio.sleep(0)
        at = self._find(partition, offset)
        return self._partitions[partition][at : at + self._batch_records_max]

    def done(self, partition: int, next_offset: int) -> int:
        """See ingest.ports.Log."""
        return len(self._partitions[partition]) - self._find(partition, next_offset)

    def _find(self, partition: int, offset: int) -> int:
        return bisect_left(self._partitions[partition], offset, key=lambda record: record.offset)


class _Owned(msgspec.Struct):
    owner_epoch: int = 0
    next_offset: int = 0


class MemoryStore:
    """Everything that the real store keeps and a test may ask about."""

    def __init__(self, senders: Mapping[str, Sender], devices: Iterable[Device]) -> None:
        self.senders = dict(senders)
        self.devices = {device.device_no: device for device in devices}
        self.verdicts: dict[Position, list[tuple[Verdict, str]]] = defaultdict(list)
        self.stored: dict[Number, list[Prior]] = defaultdict(list)
        self.batches: list[Span] = []
        self.leases: dict[tuple[str, int], _Owned] = defaultdict(_Owned)
        self.locks: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    @contextlib.asynccontextmanager
    async def take_over(self, topic: str, partition: int) -> AsyncIterator["MemoryLease"]:
        """See ingest.ports.Store."""
        owned = self.leases[topic, partition]
        owned.owner_epoch += 1
        yield MemoryLease(self, owned)


class MemoryLease:
    """See ingest.ports.Lease."""

    def __init__(self, store: MemoryStore, owned: _Owned) -> None:
        self._store = store
        self._owned = owned
        self._owner_epoch = owned.owner_epoch
        self.next_offset = owned.next_offset
        self._broken = False

    async def key_ring(self, messages: Iterable[Envelope | Refused]) -> KeyRing:
        """See ingest.ports.Lease."""
        await asyncio.sleep(0)
        envelopes = [message for message in messages if isinstance(message, Envelope)]
        senders = {
            e.device_id: self._store.senders[e.device_id] for e in envelopes if e.device_id in self._store.senders
        }
        kids = {kid: device_id for device_id, sender in self._store.senders.items() for kid in sender.keys}
        foreign = frozenset(
            e.kid for e in envelopes if e.device_id in senders and kids.get(e.kid, e.device_id) != e.device_id
        )
        return KeyRing(senders, foreign)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator["MemoryTransaction"]:
        """See ingest.ports.Lease."""
        if self._broken:
            raise TroubleError("the lease ended with an earlier exception")
        batch = MemoryTransaction(self._store)
        self._broken = True
        try:
            yield batch
            await asyncio.sleep(0)
            self._apply(batch)
            self._broken = False
        except KeysMovedError:
            self._broken = False
            raise
        finally:
            batch.release()

    def _apply(self, batch: "MemoryTransaction") -> None:
        outcome = batch.outcome
        if outcome is None:
            return
        span = outcome.span
        if (self._owned.owner_epoch, self._owned.next_offset) != (self._owner_epoch, span.from_offset):
            raise FencedError(f"partition {span.partition}: another worker owns it since epoch {self._owner_epoch}")
        self._store.devices.update({device.device_no: device for device in outcome.devices})
        for verified, owner in _remembered(outcome):
            self._store.stored[number(verified)].append(Prior(verified.digest, verified.envelope.boot, owner))
        for offset, verdict in _verdicts(outcome):
            self._store.verdicts[span.topic, span.partition, offset].append(verdict)
        self._store.batches.append(span)
        self.next_offset = self._owned.next_offset = span.to_offset


class MemoryTransaction:
    """See ingest.ports.Transaction."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._locked: list[asyncio.Lock] = []
        self.outcome: Outcome | None = None

    async def recall(self, examined: Iterable[Examined]) -> Mapping[int, Device]:
        """See ingest.ports.Transaction."""
        numbers = sorted({m.verified.sender.device_no for m in examined if not isinstance(m, Refused)})
        for device_no in numbers:
            lock = self._store.locks[device_no]
            if lock not in self._locked:
                await lock.acquire()
                self._locked.append(lock)
        return {device_no: self._store.devices[device_no] for device_no in numbers}

    async def priors(self, suspects: Sequence[Verified]) -> Priors:
        """See ingest.ports.Transaction."""
        await asyncio.sleep(0)
        return {number(v): self._store.stored[number(v)] for v in suspects if number(v) in self._store.stored}

    async def commit(self, outcome: Outcome) -> None:
        """See ingest.ports.Transaction: takes effect at the end of the block."""
        await asyncio.sleep(0)
        self.outcome = outcome

    def release(self) -> None:
        """Give back the row locks."""
        for lock in self._locked:
            lock.release()
        self._locked.clear()


def _remembered(outcome: Outcome) -> list[tuple[Verified, bool]]:
    accepted = [(one.verified, True) for one in outcome.accepted]
    return accepted + [(one.verified, owns_its_number(one.reason)) for one in outcome.held]


def _verdicts(outcome: Outcome) -> Iterable[tuple[int, tuple[Verdict, str]]]:
    authentic: list[Accepted | Duplicate | Held] = [*outcome.accepted, *outcome.duplicates, *outcome.held]
    for one in authentic:
        yield one.verified.record.offset, verdict_of(one)
    for refused in outcome.refused:
        yield refused.record.offset, verdict_of(refused)
