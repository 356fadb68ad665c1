"""How do messages leave the held lane? A person decides, and each is judged again, once for each decision.

A batch of them is one transaction: their rows are taken out of the lane, judged under the registry and the policy of
today as if they had never been seen, and written where they belong, at the position that they came in. So a release
that was interrupted goes on where it stopped. What is held again stays, marked with the decision it was judged under.
"""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

import asyncpg
from msgspec.structs import replace

from ingest.adapters.postgres import queries
from ingest.adapters.postgres.audit import Act, Decision, UnfitActError, acting, append
from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.keyring import read_ring
from ingest.adapters.postgres.provenance import Provenance, Stamp, columns_of, sign
from ingest.adapters.postgres.transaction import Ownership, PostgresTransaction
from ingest.core.alert import proven
from ingest.core.device import Device, Standing
from ingest.core.evidence import allot
from ingest.core.examine import Examiner
from ingest.core.judge import Content, KeysMovedError
from ingest.core.message import Examined, RawRecord, Verified
from ingest.core.outcome import Allowance, Outcome, span_of
from ingest.core.verdict import Hold, Verdict
from ingest.decision import decide
from ingest.ports import TroubleError

MESSAGES_AT_ONCE = 500
ROUNDS_MAX = 10  # of one batch whose senders' keys move while it is examined
REVIEWER = "weighbridge held lane"  # the connection's name

SUSPECT = (Standing.WATCHED, Standing.QUARANTINED)


async def release_device(connection: Connection, device_id: str, decision: Decision) -> int:
    """Trust a device again, and decide that what is held of it is judged again; returns the decision's number.

    One that is underway already is given again. Raises UnfitActError.
    """
    async with acting(connection):
        row = await _standing(connection, device_id)
        unfinished: int | None = await connection.fetchval(queries.UNFINISHED_RELEASE, row["device_no"], None)
        if unfinished is not None:
            return unfinished
        if row["standing"] not in SUSPECT:
            raise UnfitActError(
                f"device {device_id} is {row['standing']}: only one that is watched or quarantined can be released"
            )
        await _set_standing(connection, device_id, row, Standing.RELEASED, decision)
        release_no: int = await connection.fetchval(
            queries.RELEASE_DECIDED, row["device_no"], None, decision.actor, decision.reason
        )
    return release_no


async def release_reason(connection: Connection, reason: Hold, decision: Decision) -> int:
    """Decide that all that is held for one reason is judged again; returns the decision's number."""
    async with acting(connection):
        unfinished: int | None = await connection.fetchval(queries.UNFINISHED_RELEASE, None, reason.value)
        if unfinished is not None:
            return unfinished
        release_no: int = await connection.fetchval(
            queries.RELEASE_DECIDED, None, reason.value, decision.actor, decision.reason
        )
        await append(connection, decision, Act("rejudge", reason.value, {}, {"release": release_no}))
    return release_no


async def revoke_standing(connection: Connection, device_id: str, decision: Decision) -> None:
    """Decide that a device is not to be trusted again; its keys are a matter of their own. Raises UnfitActError."""
    async with acting(connection):
        row = await _standing(connection, device_id)
        if row["standing"] == Standing.REVOKED:
            raise UnfitActError(f"device {device_id} is revoked already")
        await _set_standing(connection, device_id, row, Standing.REVOKED, decision)


async def _standing(connection: Connection, device_id: str) -> asyncpg.Record:
    row = await connection.fetchrow(queries.LOCK_STANDING, device_id)
    if row is None:
        raise UnfitActError(f"no device {device_id} is enrolled; `weighbridge devices list` shows those that are")
    return row


async def _set_standing(
    connection: Connection, device_id: str, row: asyncpg.Record, after: Standing, decision: Decision
) -> None:
    await connection.execute(queries.SET_STANDING, row["device_no"], after.value)
    await connection.execute(
        queries.PARDON, row["device_no"], row["standing"], after.value, decision.actor, decision.reason
    )
    before = {"standing": row["standing"], "suspicion": row["suspicion"]}
    await append(connection, decision, Act("standing", device_id, before, {"standing": after.value}))


class Review:
    """Judges again what is held, as this process judges."""

    def __init__(self, connection: Connection, examiner: Examiner, provenance: Provenance) -> None:
        self._connection = connection
        self._examiner = examiner
        self._provenance = provenance
        self._fields = columns_of(provenance.schemas)

    async def run(self, release_no: int) -> AsyncIterator[Counter[Verdict]]:
        """Judge all that the decision is about, batch by batch; gives what came of each. Raises UnfitActError."""
        if not await self._connection.fetchval(queries.LOCK_REVIEW):
            raise UnfitActError("somebody else is judging held messages again at this moment; type it once more later")
        judged_by = await sign(self._connection, self._provenance)
        while waiting := await self._connection.fetch(queries.HELD_WAITING, release_no, MESSAGES_AT_ONCE):
            yield await self._batch(release_no, waiting, judged_by)
        await self._connection.execute(queries.RELEASE_DONE, release_no)

    async def _batch(self, release_no: int, waiting: Sequence[asyncpg.Record], judged_by: int) -> Counter[Verdict]:
        """Take some of one partition out of the lane and judge them; keys that move meanwhile send them round again."""
        topic_no, partition = waiting[0]["topic_no"], waiting[0]["partition"]
        stamp = Stamp(topic_no, partition, 0, judged_by, REVIEWER)
        waiting = [row for row in waiting if (row["topic_no"], row["partition"]) == (topic_no, partition)]
        for _ in range(ROUNDS_MAX):
            messages = self._examiner.read([_record(row) for row in waiting])
            examined = self._examiner.examine(messages, await read_ring(self._connection, messages))
            try:
                async with self._connection.transaction():
                    batch = PostgresTransaction(Ownership(self._connection, stamp, self._fields))
                    return await self._settle(release_no, batch, waiting, examined)
            except KeysMovedError:
                continue
        raise TroubleError(f"keys moved between reading and lock {ROUNDS_MAX} times in a row")

    async def _settle(
        self,
        release_no: int,
        batch: PostgresTransaction,
        waiting: Sequence[asyncpg.Record],
        examined: Sequence[Examined],
    ) -> Counter[Verdict]:
        policy, records = self._examiner.policy, [_record(row) for row in waiting]
        where, offsets = (batch.stamp.topic_no, batch.stamp.partition), [record.offset for record in records]
        devices = await batch.lock({row["device_no"] for row in waiting})
        taken = await self._connection.fetch(queries.TAKE_OUT, *where, offsets)
        assert len(taken) == len(records), "whoever holds the review's lock takes them alone"
        view = _View(batch, _without(devices, taken), taken)
        outcome = await decide(view, examined, policy, span_of(records, offsets[0]))
        kept = allot(view.whole(outcome), Allowance(), policy)
        await batch.write(replace(kept, alerts=proven(outcome, policy)))
        counts = Counter({verdict: outcome.total(verdict) for verdict in Verdict})
        again = [held.verified.record.offset for held in outcome.held]
        await self._connection.execute(queries.HELD_AGAIN, *where, again, release_no)
        await self._connection.execute(queries.RELEASE_COUNTED, release_no, *[counts[verdict] for verdict in Verdict])
        return counts


class _View:
    """A transaction in which some messages are not held any more, and no evidence that they gave counts again."""

    def __init__(self, batch: PostgresTransaction, devices: dict[int, Device], taken: Sequence[asyncpg.Record]) -> None:
        self._batch = batch
        self._devices = devices
        self._contents = [(row["device_no"], row["digest"]) for row in taken]
        self.priors = batch.priors
        self.trips = batch.trips
        self.commit = batch.commit

    async def recall(self, accountable: Iterable[Verified]) -> Mapping[int, Device]:  # noqa: ARG002 (they are locked already)
        """See ingest.ports.Transaction."""
        return self._devices

    async def known(self, blamed: Sequence[Verified]) -> AbstractSet[Content]:  # noqa: ARG002 (more is asked for)
        """See ingest.ports.Transaction."""
        return await self._batch.known_contents(self._contents)

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
