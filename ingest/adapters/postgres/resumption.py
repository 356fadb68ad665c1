"""How does a partition go on whose log is broken? As a person decides, and with a record of what was decided.

Records that are gone before they were judged are passed over, and the gap is written down. Another log (its topic was
made anew, or its end was lost, so that its offsets come again) is read from its beginning, as another incarnation of
the topic: what of it was judged before comes out as duplicates.
"""

from typing import Any

import asyncpg
import msgspec

from ingest.adapters.postgres import queries
from ingest.adapters.postgres.audit import Act, Decision, acting, append, lock_head
from ingest.adapters.postgres.connection import Connection


class NotHaltedError(ValueError):
    """The partition does not wait for a person."""


class State(msgspec.Struct, frozen=True):
    """What a log is now: its id, and the offset of the first record that it holds."""

    log_id: str
    first_offset: int


class Resumption(msgspec.Struct, frozen=True):
    """Where a partition halted, and where it goes on."""

    halted_at: int  # offset
    halted_why: str
    lost: int | None  # records that were never judged; None when it is another log, and nobody knows


async def list_partitions(connection: Connection, topic: str) -> list[dict[str, Any]]:
    """Give the rows of the view weighbridge.partition, halted ones first."""
    return [dict(row) for row in await connection.fetch(queries.PARTITIONS, topic)]


async def resume(connection: Connection, at: tuple[str, int], state: State, decision: Decision) -> Resumption:
    """Let a halted partition, given as (topic, number), go on. Raises NotHaltedError."""
    topic, partition = at
    async with acting(connection):
        await lock_head(connection)  # it comes before the lease in the order of locks
        halted = await connection.fetchrow(queries.HALTED, topic, partition)
        if halted is None:
            raise NotHaltedError(f"partition {partition} of {topic} is not halted; see `weighbridge partitions list`")
        stopped_at, topic_no = halted["next_offset"], halted["topic_no"]
        if halted["log_id"] == state.log_id and stopped_at < state.first_offset:
            went_on_in, went_on_at, lost = topic_no, state.first_offset, state.first_offset - stopped_at
            await connection.execute(queries.SKIP, topic_no, partition, stopped_at, went_on_at, decision.actor)
            await connection.execute(queries.GO_ON, topic_no, partition, went_on_at)
        else:
            went_on_in, went_on_at, lost = await _incarnation(connection, at, state.log_id, halted), 0, None
            await connection.execute(queries.LEASE_EXISTS, went_on_in, partition)
            await connection.execute(queries.GO_ON, topic_no, partition, stopped_at)
        await connection.execute(
            queries.RESUMPTION, topic_no, partition, stopped_at, halted["halted_why"], went_on_in, went_on_at,
            decision.reason, decision.actor,
        )  # fmt: skip
        before = {"next_offset": stopped_at, "halted_why": halted["halted_why"], "topic_no": topic_no}
        after = {"next_offset": went_on_at, "topic_no": went_on_in, "lost": lost}
        await append(connection, decision, Act("resume", f"{topic}/{partition}", before, after))
    return Resumption(stopped_at, halted["halted_why"], lost)


async def _incarnation(connection: Connection, at: tuple[str, int], log_id: str, halted: asyncpg.Record) -> int:
    """Find the incarnation that other partitions of this log went on in, or begin one."""
    await connection.execute(queries.LOCK_TOPICS)
    found: int | None = await connection.fetchval(queries.LATER_INCARNATION, *at, halted["incarnation"], log_id)
    if found is None:
        found = await connection.fetchval(queries.NEW_INCARNATION, at[0], log_id)
    assert found is not None, "the insert returns it"
    return found
