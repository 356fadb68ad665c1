"""Would the oracle notice? Ways to break the twins or the judge, each a mistake that somebody could make.

A variant replaces one or two methods of the product or its twins for the length of a block; the oracle stays as it is.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from unittest.mock import patch

from msgspec.structs import replace

from ingest import worker
from ingest.adapters.memory import store as memory_store
from ingest.adapters.memory.log import MemoryLog
from ingest.adapters.memory.store import MemoryLease, MemoryStore, MemoryTransaction, Owned
from ingest.adapters.memory.wire import Call, Connection
from ingest.core import judge
from ingest.core.device import Device
from ingest.core.message import Envelope, Examined, RawRecord, Refused
from ingest.core.outcome import Outcome, Span
from ingest.pace import BACKOFF_S_MAX, Pace
from ingest.ports import FencedError, Mark, TroubleError, UnkeepableError
from loadtest.simulation.trial import Trial

SEEDS_TO_CATCH_MAX = 300

_whole_transaction = MemoryLease.transaction
_whole_commit = MemoryTransaction.commit
_own = vars(memory_store)["_own"]
_move = vars(MemoryTransaction)["_move"]
_failed = Pace.failed
_without = vars(worker)["_without"]


def _fence_nothing(self: MemoryTransaction, span: Span) -> None:
    pass


def _fence_epoch_only(self: MemoryTransaction, span: Span) -> None:
    if self._owned.owner_epoch != self._owner_epoch:
        raise FencedError(f"partition {span.partition}: another worker owns it since epoch {self._owner_epoch}")


@contextlib.asynccontextmanager
async def _retry(self: MemoryLease) -> AsyncIterator[MemoryTransaction]:
    """Write a batch whose COMMIT failed once more."""
    batch = None
    try:
        async with _whole_transaction(self) as batch:
            yield batch
    except FencedError:
        raise
    except TroubleError:
        if batch is None or batch.outcome is None:
            raise
        await asyncio.sleep(0.01)
        _write_again(batch, batch.outcome)
        self.mark, self.allowance = _mark_behind(batch.outcome), batch.outcome.allowance


def _write_again(self: MemoryTransaction, outcome: Outcome) -> None:
    self._fence(outcome.span)
    self._settle(outcome)


async def _move_offset_first(self: MemoryTransaction, outcome: Outcome) -> None:
    await _whole_commit(self, outcome)
    self._move(outcome)


def _settle_effects(self: MemoryTransaction, outcome: Outcome) -> None:
    self._store.apply(outcome)


@contextlib.asynccontextmanager
async def _move_offset_last(self: MemoryLease) -> AsyncIterator[MemoryTransaction]:
    async with _whole_transaction(self) as batch:
        yield batch
    if self._owned.owner_epoch == self.owner_epoch:
        self._owned.next_offset, self._owned.record_hash = self.mark.next_offset, self.mark.record_hash
        self._owned.allowance = self.allowance
        self._owned.shares = {**self._owned.shares, **(batch.outcome.shares if batch.outcome else {})}


def _settle_without_rows(self: MemoryTransaction, outcome: Outcome) -> None:
    self._store.apply(replace(outcome, devices=[]))
    self._move(outcome)


@contextlib.asynccontextmanager
async def _write_rows_later(self: MemoryLease) -> AsyncIterator[MemoryTransaction]:
    async with _whole_transaction(self) as batch:
        yield batch
    if batch.outcome is not None:
        self._store.write_devices(batch.outcome.devices)


async def _recall_without_locks(self: MemoryTransaction, examined: Iterable[Examined]) -> Mapping[int, Device]:
    async with self._connection.call("recall"):
        return {no: self._store.devices[no] for no in _devices(examined)}


async def _recall_before_locks(self: MemoryTransaction, examined: Iterable[Examined]) -> Mapping[int, Device]:
    async with self._connection.call("recall"):
        found = {no: self._store.devices[no] for no in _devices(examined)}
        for device_no in found:
            await self._connection.lock(self._store.locks[device_no])
        return found


def _devices(examined: Iterable[Examined]) -> list[int]:
    return sorted({m.verified.sender.device_no for m in examined if not isinstance(m, Refused)})


async def _own_as_before(
    store: MemoryStore, connection: Connection, owned: Owned, epoch_last: int | None
) -> MemoryLease:
    """Take over, but go on from what the lease said before that."""
    mark = Mark(owned.next_offset, owned.log_id, owned.record_hash)
    lease: MemoryLease = await _own(store, connection, owned, epoch_last)
    lease.mark = mark
    return lease


async def _own_as_the_first(
    store: MemoryStore, connection: Connection, owned: Owned, epoch_last: int | None
) -> MemoryLease:
    owned.attempt_offset = None
    lease: MemoryLease = await _own(store, connection, owned, epoch_last)
    return lease


def _move_offset_only(self: MemoryTransaction, outcome: Outcome) -> None:
    self._owned.next_offset, self._owned.record_hash = outcome.span.to_offset, outcome.span.record_hash


def _move_past_the_dead(self: MemoryTransaction, outcome: Outcome) -> None:
    """Let a commit make up for those who died before it."""
    _move(self, outcome)
    self._owned.died_offset = None


def _fail_as_large(_self: Pace, _error: TroubleError) -> float:
    return BACKOFF_S_MAX


def _fail_and_blame_the_first(self: Pace, error: TroubleError) -> float:
    if isinstance(error, UnkeepableError) and self._taken:
        self._unkeepable = self._taken[0].record.offset
    return _failed(self, error)


def _without_any(messages: Sequence[Envelope | Refused], killers: Collection[int]) -> list[Envelope | Refused]:
    refused: list[Envelope | Refused] = _without(messages, range(len(messages)) if killers else ())
    return refused


def _mark_behind(outcome: Outcome) -> Mark:
    return Mark(outcome.span.to_offset, None, outcome.span.record_hash)


def _remember_nothing(self: object, verified: object, *, owner: bool) -> None:
    pass


async def _gather_all(self: MemoryLog, partition: int, offset: int) -> list[RawRecord]:  # noqa: ARG001 (that is the mistake)
    """Hand out whatever the consumer has, older records too."""
    await self._wire.request(Call("fetch", partition))
    at = self._find(partition, self._positions[partition])
    records = list(self._partitions[partition][at : at + self._batch_records_max])
    if records:
        self._positions[partition] = records[-1].offset + 1
    else:
        await asyncio.sleep(self._wait_s)
    return records


async def _read_once(self: MemoryLog, partition: int, offset: int) -> list[RawRecord]:
    return await self._gather(partition, offset)


_EPOCH_ONLY = (MemoryTransaction, "_fence", _fence_epoch_only)
_NO_FENCE = (MemoryTransaction, "_fence", _fence_nothing)
_RETRY = (MemoryLease, "transaction", _retry)

VARIANTS: Mapping[str, tuple[tuple[object, str, object], ...]] = MappingProxyType(
    {
        "no fence": (_NO_FENCE,),
        "epoch only, and a failed commit tried again": (_EPOCH_ONLY, _RETRY),
        "a failed commit tried again blindly": (_NO_FENCE, _RETRY),
        "epoch only, and the lease read before the take-over": (_EPOCH_ONLY, (memory_store, "_own", _own_as_before)),
        "offset committed before the effects": ((MemoryTransaction, "commit", _move_offset_first),),
        "offset committed after the effects": (
            (MemoryTransaction, "_settle", _settle_effects),
            (MemoryLease, "transaction", _move_offset_last),
        ),
        "device rows committed after the verdicts": (
            (MemoryTransaction, "_settle", _settle_without_rows),
            (MemoryLease, "transaction", _write_rows_later),
        ),
        "no row locks": ((MemoryTransaction, "recall", _recall_without_locks),),
        "rows read before they are locked": ((MemoryTransaction, "recall", _recall_before_locks),),
        "the batch's own messages forgotten": ((vars(judge)["_Bench"], "_remember", _remember_nothing),),
        "records redelivered to the worker": ((MemoryLog, "_gather", _gather_all),),
        "a hole believed at first sight": ((MemoryLog, "read", _read_once),),
        "those who died not counted": ((memory_store, "_own", _own_as_the_first),),
        "care forgotten at the next commit": ((MemoryTransaction, "_move", _move_past_the_dead),),
        "a pill's neighbours refused with it": ((worker, "_without", _without_any),),
        "a batch that never gets smaller": ((Pace, "failed", _fail_as_large),),
        "the first message of an unkeepable batch blamed": ((Pace, "failed", _fail_and_blame_the_first),),
        "what may still be kept not handed on": ((MemoryTransaction, "_move", _move_offset_only),),
    }
)


@contextlib.contextmanager
def broken(name: str) -> Iterator[None]:
    """Break the product or its twins in this way for the length of the block."""
    with contextlib.ExitStack() as stack:
        for target, attribute, replacement in VARIANTS[name]:
            stack.enter_context(patch.object(target, attribute, replacement))
        yield


def first_caught(name: str, trials: Sequence[Trial]) -> int | None:
    """Name the first seed under which the oracle objects to this variant."""
    with broken(name):
        seeds = range(SEEDS_TO_CATCH_MAX)
        return next((seed for seed in seeds if trials[seed % len(trials)].play(seed).objections), None)
