"""When does a message leave the held lane unjudged? When its time is over, or when there is nothing to judge.

It becomes a refusal in one transaction with the end of its row in the lane, and its number is free again. Its time is
told by the broker's clock, as far as the log was judged; the database's may only make it later. So no clock that is
wrong, of the two, ends what should wait.
"""

from collections.abc import Sequence

import asyncpg

from ingest.adapters.postgres.chain import fact_of, relink
from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.provenance import Provenance, Stamp, sign
from ingest.core.policy import Policy

MESSAGES_AT_ONCE = 500
LOCK = 0x6C61707365  # "lapse": one process at a time looks for what is overdue
LAPSER = "weighbridge upkeep"  # the connection's name

# Nothing while no batch has told how late it is.
_HELD_BEFORE = """
    select least(max(judged_to), now()) - make_interval(secs => $1) from store.partition_lease
    having max(judged_to) is not null"""

_LEASES = "select topic_no, partition from store.partition_lease order by topic_no, partition"

# A log is in the order of its times, or nearly: what is behind the first ones that may still wait is overdue later.
_HELD_OVERDUE = """
    select kafka_offset, device_no from (
        select kafka_offset, device_no, received_at from store.held
        where topic_no = $1 and partition = $2 and kafka_offset > $3 order by kafka_offset limit $5
    ) first where received_at < $4 order by kafka_offset"""

_LOCK_DEVICES = "select from store.device_state where device_no = any($1) order by device_no for no key update"

_LAPSE = """
    with gone as (
        delete from store.held where topic_no = $1 and partition = $2 and kafka_offset = any($3) returning *
    ), told as (
        insert into store.exception (topic_no, partition, kafka_offset, verdict, reason, detail, received_at, reached,
                                     device_id, epoch, seq, digest, judged_by, envelope_bytes, envelope)
        select g.topic_no, g.partition, g.kafka_offset, 'refused', 'lapsed', format('held %s; %s', g.reason, $4::text),
               g.received_at, 'verified', d.device_id, g.epoch, g.seq, g.digest, $5, g.envelope_bytes,
               substring(g.envelope from 1 for $6)
        from gone g join store.device d using (device_no) returning *
    ), counted as (
        update store.device_state s set held = s.held - g.messages, held_bytes = s.held_bytes - g.bytes
        from (
            select device_no, count(*) as messages,
                   coalesce(sum(envelope_bytes) filter (where envelope is not null), 0) as bytes
            from gone group by device_no
        ) g where s.device_no = g.device_no
    )
    select * from told order by kafka_offset"""


async def lapse(connection: Connection, stamp: Stamp, held: Sequence[asyncpg.Record], why: str, policy: Policy) -> int:
    """Refuse messages of one partition that are held, in the caller's transaction; returns how many still were.

    Their devices' rows are locked first, as by everybody who adds to the lane or takes from it.
    """
    await connection.execute(_LOCK_DEVICES, sorted({row["device_no"] for row in held}))
    offsets = [row["kafka_offset"] for row in held]
    lapsed = await connection.fetch(
        _LAPSE, stamp.topic_no, stamp.partition, offsets, why, stamp.judged_by, policy.refused_bytes_max
    )
    await relink(connection, stamp, [fact_of(row) for row in lapsed])
    return len(lapsed)


async def expire(connection: Connection, provenance: Provenance) -> int:
    """Refuse all that has waited for longer than the policy says, some at a time; returns how many those were."""
    before = await connection.fetchval(_HELD_BEFORE, provenance.policy.held_s_max)
    if before is None or not await connection.fetchval("select pg_try_advisory_lock($1)", LOCK):
        return 0  # nothing was judged since the clock is kept, or somebody else is at it
    try:
        judged_by = await sign(connection, provenance)
        lapsed = 0
        for row in await connection.fetch(_LEASES):
            stamp = Stamp(row["topic_no"], row["partition"], 0, judged_by, LAPSER)
            lapsed += await _expire(connection, stamp, before, provenance.policy)
        return lapsed
    finally:
        await connection.execute("select pg_advisory_unlock($1)", LOCK)


async def _expire(connection: Connection, stamp: Stamp, before: int, policy: Policy) -> int:
    """Go through a partition's part of the lane, in the order of its log, to the first messages that may still wait."""
    where, after, lapsed = (stamp.topic_no, stamp.partition), -1, 0
    why = f"nobody released it within {policy.held_s_max} s (held_s_max)"
    while overdue := await connection.fetch(_HELD_OVERDUE, *where, after, before, MESSAGES_AT_ONCE):
        async with connection.transaction():
            lapsed += await lapse(connection, stamp, overdue, why, policy)
        after = overdue[-1]["kafka_offset"]
    return lapsed
