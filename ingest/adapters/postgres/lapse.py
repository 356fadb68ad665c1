"""When does a message leave the held lane unjudged? When its time is over, or when there is nothing to judge.

It becomes a refusal in one transaction with the end of its row in the lane, and its number is free again. Its time is
told by the broker's clock, as far as the log was judged; the database's may only make it later. So no clock that is
wrong, of the two, ends what should wait.
"""

from collections.abc import Sequence

import asyncpg

from ingest.adapters.postgres import queries
from ingest.adapters.postgres.chain import fact_of, relink
from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.provenance import Provenance, Stamp, sign
from ingest.core.policy import Policy

MESSAGES_AT_ONCE = 500
LOCK = 0x6C61707365  # "lapse": one process at a time looks for what is overdue
LAPSER = "weighbridge upkeep"  # the connection's name


async def lapse(connection: Connection, stamp: Stamp, held: Sequence[asyncpg.Record], why: str, policy: Policy) -> int:
    """Refuse messages of one partition that are held, in the caller's transaction; returns how many still were.

    Their devices' rows are locked first, as by everybody who adds to the lane or takes from it.
    """
    await connection.execute(queries.LOCK_DEVICES, sorted({row["device_no"] for row in held}))
    offsets = [row["kafka_offset"] for row in held]
    lapsed = await connection.fetch(
        queries.LAPSE, stamp.topic_no, stamp.partition, offsets, why, stamp.judged_by, policy.refused_bytes_max
    )
    await relink(connection, stamp, [fact_of(row) for row in lapsed])
    return len(lapsed)


async def expire(connection: Connection, provenance: Provenance) -> int:
    """Refuse all that has waited for longer than the policy says, some at a time; returns how many those were."""
    before = await connection.fetchval(queries.HELD_BEFORE, provenance.policy.held_s_max)
    if before is None or not await connection.fetchval("select pg_try_advisory_lock($1)", LOCK):
        return 0  # nothing was judged since the clock is kept, or somebody else is at it
    try:
        judged_by = await sign(connection, provenance)
        lapsed = 0
        for row in await connection.fetch(queries.LEASES):
            stamp = Stamp(row["topic_no"], row["partition"], 0, judged_by, LAPSER)
            lapsed += await _expire(connection, stamp, before, provenance.policy)
        return lapsed
    finally:
        await connection.execute("select pg_advisory_unlock($1)", LOCK)


async def _expire(connection: Connection, stamp: Stamp, before: int, policy: Policy) -> int:
    """Go through a partition's part of the lane, in the order of its log, to the first messages that may still wait."""
    where, after, lapsed = (stamp.topic_no, stamp.partition), -1, 0
    why = f"nobody released it within {policy.held_s_max} s (held_s_max)"
    while overdue := await connection.fetch(queries.HELD_OVERDUE, *where, after, before, MESSAGES_AT_ONCE):
        async with connection.transaction():
            lapsed += await lapse(connection, stamp, overdue, why, policy)
        after = overdue[-1]["kafka_offset"]
    return lapsed
