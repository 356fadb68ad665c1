"""How do messages leave the held lane? By a decision, under which each is judged again, once.

A batch of them is one transaction: their rows are taken out of the lane, judged under the registry and the policy of
today as if they had never been seen, and written where they belong, at the position that they came in. So a release
that was interrupted goes on where it stopped. What is held again stays, marked with the decision it was judged under;
what has no bytes to be judged by lapses.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

import asyncpg
from msgspec.structs import replace

from ingest.adapters.postgres.audit import UnfitActError
from ingest.adapters.postgres.chain import relink
from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.keyring import Keyring
from ingest.adapters.postgres.lapse import lapse
from ingest.adapters.postgres.provenance import Provenance, Stamp, columns_of, sign
from ingest.adapters.postgres.transaction import Ownership, PostgresTransaction
from ingest.core.alert import proven
from ingest.core.device import Device
from ingest.core.evidence import allot
from ingest.core.examine import Examiner
from ingest.core.judge import Content, KeysMovedError
from ingest.core.message import Examined, RawRecord, Verified
from ingest.core.outcome import Outcome, span_of
from ingest.core.policy import Policy
from ingest.core.rate import Bucket
from ingest.core.seal import facts_of
from ingest.core.verdict import Hold, Refusal, Verdict
from ingest.decision import decide
from ingest.ports import TroubleError

MESSAGES_AT_ONCE = 500
BYTES_AT_ONCE = 2**20  # of small samples, as many as a transaction writes in some two seconds
BEGINNING = -1, -1, -1  # before the first partition, topic and offset
NOT_KEPT = "its bytes were not kept (held_bytes_max), so it could not be judged when it was released"
ROUNDS_MAX = 10  # of one batch whose senders' keys move while it is examined
REVIEWER = "weighbridge held lane"  # the connection's name

_LOCK_REVIEW = "select pg_try_advisory_lock(hashtextextended('weighbridge held lane', 0))"  # one at a time

_RELEASED = "select device_no, reason from store.release where release_no = $1"

# In the order of the log, from behind $3 to $5, so many messages ($6) and about so many bytes ($7). What was held again
# under this decision is marked with it. It is asked as a range, from one place in an index to another: nothing before
# it is read, and no other index will do.
_WAITING = """
    select * from (
        select h.topic_no, t.topic, h.partition, h.kafka_offset, h.received_at, h.traceparent, h.envelope, h.device_no,
               sum(coalesce(octet_length(h.envelope), 0)) over place - coalesce(octet_length(h.envelope), 0) as bytes
        from (
            select * from store.held
            where ({whose}, partition, topic_no, kafka_offset) > ($1, $3, $4, $5) and {whose} <= $1
            and coalesce(release_no, 0) < $2 and held_at <= (select decided_at from store.release where release_no = $2)
            order by {whose}, partition, topic_no, kafka_offset limit $6
        ) h join store.topic t using (topic_no)
        window place as (order by h.partition, h.topic_no, h.kafka_offset)
    ) w where bytes < $7 order by partition, topic_no, kafka_offset"""

_WAITING_OF_DEVICE = _WAITING.format(whose="device_no")

_WAITING_FOR_REASON = _WAITING.format(whose="reason")

_TAKE_OUT = """
    delete from store.held where topic_no = $1 and partition = $2 and kafka_offset = any($3)
    returning kafka_offset, device_no, digest, envelope_bytes, reason"""

_HELD_AGAIN = """
    update store.held set release_no = $4 where topic_no = $1 and partition = $2 and kafka_offset = any($3)"""

_RELEASE_COUNTED = """
    update store.release set
        accepted = accepted + $2, duplicate = duplicate + $3, held = held + $4, refused = refused + $5
    where release_no = $1"""

_RELEASE_DONE = "update store.release set done_at = clock_timestamp() where release_no = $1"


class Review:
    """Judges again what is held, as this process judges."""

    def __init__(self, connection: Connection, examiner: Examiner, provenance: Provenance) -> None:
        self._connection = connection
        self._keys = Keyring()
        self._examiner = examiner
        self._provenance = provenance
        self._fields = columns_of(provenance.schemas)

    async def run(self, release_no: int) -> AsyncIterator[Counter[Verdict | Refusal]]:
        """Judge all that the decision is about, batch by batch; gives what came of each. Raises UnfitActError."""
        if not await self._connection.fetchval(_LOCK_REVIEW):
            raise UnfitActError("somebody else is judging held messages again at this moment; type it once more later")
        judged_by = await sign(self._connection, self._provenance)
        released = await self._connection.fetchrow(_RELEASED, release_no)
        assert released is not None, "a decision is written down before it is carried out"
        device_no, reason = released
        query, whose = (_WAITING_FOR_REASON, reason) if device_no is None else (_WAITING_OF_DEVICE, device_no)
        after, most = BEGINNING, (MESSAGES_AT_ONCE, BYTES_AT_ONCE)
        while waiting := await self._connection.fetch(query, whose, release_no, *after, *most):
            stamp = Stamp(waiting[0]["topic_no"], waiting[0]["partition"], 0, judged_by, REVIEWER)
            batch = [row for row in waiting if (row["topic_no"], row["partition"]) == (stamp.topic_no, stamp.partition)]
            yield await self._end(release_no, stamp, batch)
            after = stamp.partition, stamp.topic_no, batch[-1]["kafka_offset"]
        await self._connection.execute(_RELEASE_DONE, release_no)

    async def _end(
        self, release_no: int, stamp: Stamp, waiting: Sequence[asyncpg.Record]
    ) -> Counter[Verdict | Refusal]:
        """End the wait of some messages of a partition: first of those without bytes, which are mere numbers."""
        whole = [row for row in waiting if row["envelope"] is not None]
        empty = [row for row in waiting if row["envelope"] is None]
        ended = await self._lapse(release_no, stamp, empty) if empty else Counter()
        return ended + await self._judge(release_no, stamp, whole) if whole else ended

    async def _lapse(
        self, release_no: int, stamp: Stamp, empty: Sequence[asyncpg.Record]
    ) -> Counter[Verdict | Refusal]:
        async with self._connection.transaction():
            lapsed = await lapse(self._connection, stamp, empty, NOT_KEPT, self._examiner.policy)
            await self._connection.execute(_RELEASE_COUNTED, release_no, 0, 0, 0, lapsed)
        return Counter({Refusal.LAPSED: lapsed})

    async def _judge(
        self, release_no: int, stamp: Stamp, whole: Sequence[asyncpg.Record]
    ) -> Counter[Verdict | Refusal]:
        """Examine messages, take them out of the lane, judge them; keys that move meanwhile send them round again."""
        for _ in range(ROUNDS_MAX):
            messages = self._examiner.read([_record(row) for row in whole])
            examined = self._examiner.examine(messages, await self._keys.read(self._connection, messages))
            try:
                async with self._connection.transaction():
                    batch = PostgresTransaction(Ownership(self._connection, stamp, self._fields))
                    return await self._settle(release_no, batch, whole, examined)
            except KeysMovedError:
                continue
        raise TroubleError(f"keys moved between reading and lock {ROUNDS_MAX} times in a row")

    async def _settle(
        self,
        release_no: int,
        batch: PostgresTransaction,
        waiting: Sequence[asyncpg.Record],
        examined: Sequence[Examined],
    ) -> Counter[Verdict | Refusal]:
        where = batch.stamp.topic_no, batch.stamp.partition
        devices = await batch.lock({row["device_no"] for row in waiting})
        policy = _with_room(self._examiner.policy, devices)
        offsets = [row["kafka_offset"] for row in waiting]
        taken = {row["kafka_offset"]: row for row in await self._connection.fetch(_TAKE_OUT, *where, offsets)}
        ours = [(_record(row), one) for row, one in zip(waiting, examined, strict=True) if row["kafka_offset"] in taken]
        if not ours:
            return Counter()  # they have lapsed meanwhile
        view = _View(batch, _without(devices, taken.values()), list(taken.values()))
        span = span_of([record for record, _ in ours], ours[0][0].offset)
        outcome = await decide(view, [one for _, one in ours], policy, span)
        kept = allot(view.whole(outcome), Bucket(), policy)
        await batch.write(replace(kept, alerts=proven(outcome, policy)))
        await relink(self._connection, batch.stamp, facts_of(kept))
        again = [held.verified.record.offset for held in outcome.held]
        await self._connection.execute(_HELD_AGAIN, *where, again, release_no)
        totals = [outcome.total(verdict) for verdict in Verdict]
        await self._connection.execute(_RELEASE_COUNTED, release_no, *totals)
        return Counter(dict(zip(Verdict, totals, strict=True)))


def _with_room(policy: Policy, devices: Mapping[int, Device]) -> Policy:
    """Let whatever is held again stay whole, though less may be held now than when it came."""
    return replace(policy, held_bytes_max=max(policy.held_bytes_max, *(one.held_bytes for one in devices.values())))


class _View:
    """A transaction in which some messages are not held any more, and speak against nobody.

    What they gave as evidence counted when they came; what looks like it now, after all that came since, is none. Only
    what could not be read until now is heard for the first time.
    """

    def __init__(self, batch: PostgresTransaction, devices: dict[int, Device], taken: Sequence[asyncpg.Record]) -> None:
        self._batch = batch
        self._devices = devices
        self._heard = {(row["device_no"], row["digest"]) for row in taken if row["reason"] != Hold.SCHEMA_UNKNOWN}
        self._unheard = {(row["device_no"], row["digest"]) for row in taken} - self._heard
        self.priors = batch.priors
        self.trips = batch.trips
        self.commit = batch.commit

    async def recall(self, accountable: Iterable[Verified]) -> Mapping[int, Device]:  # noqa: ARG002 (they are locked already)
        """See ingest.ports.Transaction."""
        return self._devices

    async def known(self, blamed: Sequence[Verified]) -> AbstractSet[Content]:  # noqa: ARG002 (more is asked for)
        """See ingest.ports.Transaction."""
        return self._heard | await self._batch.known_contents(list(self._unheard))

    async def shares(self, tenants: AbstractSet[int]) -> None:
        """See ingest.ports.Transaction: what waited is not too much at once, and is charged to nobody."""

    def whole(self, outcome: Outcome) -> Outcome:
        """Let the rows be written of all whose messages were taken out, whatever became of those."""
        rows = self._devices | {device.device_no: device for device in outcome.devices}
        return replace(outcome, devices=[rows[device_no] for device_no in sorted(rows)])


def _without(devices: Mapping[int, Device], taken: Iterable[asyncpg.Record]) -> dict[int, Device]:
    """Count what is taken out of the lane."""
    rows = dict(devices)
    for row in taken:
        device = rows[row["device_no"]]
        rows[row["device_no"]] = replace(
            device, held=device.held - 1, held_bytes=device.held_bytes - row["envelope_bytes"]
        )
    return rows


def _record(row: asyncpg.Record) -> RawRecord:
    return RawRecord(
        row["topic"],
        row["partition"],
        row["kafka_offset"],
        row["received_at"] // 1000,
        row["envelope"],
        row["traceparent"],
    )
