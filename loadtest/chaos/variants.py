"""Would the oracle notice on real servers? Ways to break the commit, each a mistake that somebody could make.

`python -m loadtest.chaos.variants NAME...` is a worker that is broken in these ways, and whole in all others. That each
of them is caught is shown by `python -m loadtest.chaos.proof`.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from types import MappingProxyType
from unittest.mock import patch

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from ingest.__main__ import main
from ingest.adapters.postgres import queries
from ingest.adapters.postgres.connection import Connection, trouble
from ingest.adapters.postgres.store import PostgresLease, PostgresStore
from ingest.adapters.postgres.transaction import PostgresTransaction
from ingest.core.device import Device
from ingest.core.outcome import Outcome
from ingest.ports import FencedError, Mark, TroubleError
from loadtest.chaos.crew import ENDS_NOBODY

LOOKS_MAX, LOOK_EVERY_S = 40, 0.5
FENCE = "owner_epoch = $3 and next_offset = $4"
MOVE = """
    update store.partition_lease set next_offset = $5, record_hash = null
    where topic_no = $1 and partition = $2 and owner_epoch = $3 and next_offset = $4"""
LEASE = """
    select next_offset from store.partition_lease join store.topic using (topic_no)
    where topic = $1 and partition = $2 order by incarnation desc limit 1"""

_whole_own = PostgresStore._own  # noqa: SLF001 (to break a thing one reaches into it)
_whole_update = PostgresTransaction._update  # noqa: SLF001 (as above)
_whole_commit = PostgresTransaction.commit
_whole_transaction = PostgresLease.transaction


async def _own_as_remembered(self: PostgresStore, connection: Connection, topic: str, partition: int) -> PostgresLease:
    """Go on from where we were ourselves when our COMMIT failed: the lease is not asked whether it did."""
    lease = await _whole_own(self, connection, topic, partition)
    remembered: dict[int, PostgresLease] = vars(self).setdefault("remembered", {})
    before, remembered[partition] = remembered.get(partition), lease
    if before is not None and _epoch(lease) == _epoch(before) + 1:
        _begin_at(lease, before.next_offset)
    return lease


async def _own_as_before(self: PostgresStore, connection: Connection, topic: str, partition: int) -> PostgresLease:
    """Go on from what the lease said before the take-over, and before its owner committed once more."""
    next_offset = await connection.fetchval(LEASE, topic, partition)
    for _ in range(LOOKS_MAX if next_offset else 0):
        if await connection.fetchval(LEASE, topic, partition) != next_offset:
            break
        await asyncio.sleep(LOOK_EVERY_S)
    lease = await _whole_own(self, connection, topic, partition)
    return _begin_at(lease, next_offset or 0)


async def _own_as_the_group_says(
    self: PostgresStore, connection: Connection, topic: str, partition: int
) -> PostgresLease:
    """Go on from the offset that the group has."""
    lease = await _whole_own(self, connection, topic, partition)
    client = AIOKafkaAdminClient(bootstrap_servers=os.environ["WEIGHBRIDGE_KAFKA"])
    try:
        await client.start()
        offsets = await client.list_consumer_group_offsets(os.environ["WEIGHBRIDGE_GROUP"])
    except KafkaError as error:
        raise TroubleError(f"asking for the group's offsets: {error}") from error
    finally:
        await client.close()
    advised = offsets.get(TopicPartition(topic, partition))
    return _begin_at(lease, advised.offset if advised else 0)


async def _own_without_index(self: PostgresStore, connection: Connection, topic: str, partition: int) -> PostgresLease:
    """Rely on the device row alone: an index cannot be unique across the days that its table is partitioned by."""
    await connection.execute("drop index if exists store.message_device_no_epoch_seq_issued_at_idx")
    return await _whole_own(self, connection, topic, partition)


def _begin_at(lease: PostgresLease, next_offset: int) -> PostgresLease:
    lease.mark = Mark(next_offset, lease.mark.log_id, None)
    return lease


def _epoch(lease: PostgresLease) -> int:
    return lease._ownership.stamp.owner_epoch  # noqa: SLF001 (as above)


@contextlib.asynccontextmanager
async def _go_on_after_failure(self: PostgresLease) -> AsyncIterator[PostgresTransaction]:
    """Take a COMMIT that failed for one that did not."""
    batch = None
    try:
        async with _whole_transaction(self) as batch:
            yield batch
    except FencedError:
        raise
    except TroubleError:
        if batch is None or batch.outcome is None:
            raise
        _begin_at(self, batch.outcome.span.to_offset)


async def _commit_offset_first(self: PostgresTransaction, outcome: Outcome) -> None:
    await _move(self, outcome)
    await self._connection.execute("commit; begin")
    await _whole_commit(self, outcome)


@contextlib.asynccontextmanager
async def _move_offset_last(self: PostgresLease) -> AsyncIterator[PostgresTransaction]:
    async with _whole_transaction(self) as batch:
        yield batch
    if batch.outcome is not None:
        with trouble("moving the offset"):
            await _move(batch, batch.outcome)


async def _move(batch: PostgresTransaction, outcome: Outcome) -> None:
    stamp, span = batch.stamp, outcome.span
    ours = stamp.topic_no, stamp.partition, stamp.owner_epoch
    if await batch._connection.execute(MOVE, *ours, span.from_offset, span.to_offset) != "UPDATE 1":  # noqa: SLF001 (as above)
        raise FencedError(f"partition {stamp.partition}: another worker owns it")


@contextlib.asynccontextmanager
async def _write_rows_later(self: PostgresLease) -> AsyncIterator[PostgresTransaction]:
    async with _whole_transaction(self) as batch:
        yield batch
    if batch.outcome is not None:
        with trouble("writing device rows"):
            await _whole_update(batch, batch.outcome.devices)


async def _update_nothing(self: PostgresTransaction, devices: Sequence[Device]) -> None:
    pass


def _query(name: str, changes: Mapping[str, str]) -> tuple[object, str, object]:
    broken: str = vars(queries)[name]
    for old, new in changes.items():
        assert old in broken, f"{name} has changed, and this variant breaks nothing"
        broken = broken.replace(old, new)
    return queries, name, broken


_NO_FENCE = _query("CLOSE", {FENCE: "$3::bigint + $4::bigint > 0"})
_EPOCH_ONLY = _query("CLOSE", {"next_offset = $4": "$4::bigint >= 0"})
_STAY = _query(
    "CLOSE",
    {
        "next_offset = $5": "next_offset = next_offset + 0 * $5::bigint",
        "record_hash = $18": "record_hash = nullif($18::bytea, $18)",
        "next_offset = $4": "$4::bigint >= 0",
    },
)

VARIANTS: Mapping[str, tuple[tuple[object, str, object], ...]] = MappingProxyType(
    {
        ENDS_NOBODY: (_query("END_PREVIOUS_OWNER", {"a.pid <> pg_backend_pid()": "false"}),),
        "no fence": (_NO_FENCE,),
        "epoch only, and the lease read before the take-over": (_EPOCH_ONLY, (PostgresStore, "_own", _own_as_before)),
        "epoch only, and a failed commit tried again": (_EPOCH_ONLY, (PostgresStore, "_own", _own_as_remembered)),
        "a failed commit taken for done": (
            _NO_FENCE,
            (PostgresStore, "_own", _own_as_remembered),
            (PostgresLease, "transaction", _go_on_after_failure),
        ),
        "offset committed before the effects": (_STAY, (PostgresTransaction, "commit", _commit_offset_first)),
        "offset committed after the effects": (_STAY, (PostgresLease, "transaction", _move_offset_last)),
        "device rows committed after the verdicts": (
            (PostgresTransaction, "_update", _update_nothing),
            (PostgresLease, "transaction", _write_rows_later),
        ),
        "the group's offsets believed": (_NO_FENCE, (PostgresStore, "_own", _own_as_the_group_says)),
        "no row locks": (
            _query("RECALL", {"for no key update": ""}),
            (PostgresStore, "_own", _own_without_index),
        ),
    }
)


def work(names: Sequence[str]) -> None:
    """Be a worker that is broken in these ways."""
    with contextlib.ExitStack() as stack:
        for name in names:
            for target, attribute, replacement in VARIANTS[name]:
                stack.enter_context(patch.object(target, attribute, replacement))
        main(["worker"])


if __name__ == "__main__":
    work(sys.argv[1:])
