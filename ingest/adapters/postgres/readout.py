"""What does the store say? Verdicts by position, and the counts that a person watches; read, never written."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from ingest.adapters.postgres.connection import Connection, trouble

ROWS_AT_ONCE = 5_000

_VERDICTS = """
    select kafka_offset, verdict, coalesce(reason, '') as reason from weighbridge.verdict
    where topic = $1 and partition = $2 and kafka_offset between $3 and $4
    and incarnation = (select max(incarnation) from weighbridge.partition where topic = $1 and partition = $2)"""

_OWNERS = """
    select kafka_offset, tenant from weighbridge.message
    where topic = $1 and partition = $2 and kafka_offset between $3 and $4
    and incarnation = (select max(incarnation) from weighbridge.partition where topic = $1 and partition = $2)"""

_POSITIONS = """
    select partition, next_offset from weighbridge.partition
    where topic = $1 and incarnation = (select max(incarnation) from weighbridge.partition where topic = $1)"""

_OWNED = """
    select count(*) from store.partition_lease l
    join store.topic t using (topic_no)
    join pg_stat_activity a on a.pid = l.owner_pid and a.backend_start = l.owner_started
    where t.topic = $1"""

_TOTALS = """
    select coalesce(sum(accepted), 0)::bigint as accepted, coalesce(sum(duplicate), 0)::bigint as duplicate,
           coalesce(sum(held), 0)::bigint as held, coalesce(sum(refused), 0)::bigint as refused
    from weighbridge.batch where topic = $1"""

_WAITING = """
    select reason, count(*) as messages, count(distinct device_no) as devices,
           coalesce(sum(envelope_bytes) filter (where envelope is not null), 0)::bigint as bytes,
           count(*) filter (where envelope is null) as without_bytes,
           date_trunc('second', min(received_at))::text as oldest,
           date_trunc('second', min(received_at) + make_interval(secs => $1))::text as lapses_from
    from store.held group by reason order by messages desc, reason"""


class Totals(msgspec.Struct, frozen=True):
    """How many records have got which verdict."""

    accepted: int = 0
    duplicate: int = 0
    held: int = 0
    refused: int = 0

    @property
    def consumed(self) -> int:
        """How many records have a verdict."""
        return self.accepted + self.duplicate + self.held + self.refused

    def since(self, earlier: "Totals") -> "Totals":
        """Subtract what was there before."""
        return Totals(*(getattr(self, name) - getattr(earlier, name) for name in Totals.__struct_fields__))


async def read_totals(connection: Connection, topic: str) -> Totals:
    """Add up the batches of a topic."""
    with trouble("adding up the batches"):
        row = await connection.fetchrow(_TOTALS, topic)
    assert row is not None, "an aggregate always has a row"
    return Totals(*row)


async def list_waiting(connection: Connection, held_s_max: int) -> list[dict[str, Any]]:
    """Say how much is held for each reason, since when, and from when on it lapses."""
    return [dict(row) for row in await connection.fetch(_WAITING, held_s_max)]


async def count_owned(connection: Connection, topic: str) -> int:
    """Count the partitions of a topic whose owner is alive."""
    owned: int = await connection.fetchval(_OWNED, topic)
    return owned


async def read_verdicts(
    connection: Connection, topic: str, partition: int, offsets: tuple[int, int]
) -> AsyncIterator[tuple[int, str, str]]:
    """Give (offset, verdict, reason) of a range of offsets, both ends included, in no order."""
    with trouble("reading verdicts"):
        async with connection.transaction(readonly=True):
            async for row in connection.cursor(_VERDICTS, topic, partition, *offsets, prefetch=ROWS_AT_ONCE):
                yield row["kafka_offset"], row["verdict"], row["reason"]


async def read_owners(
    connection: Connection, topic: str, partition: int, offsets: tuple[int, int]
) -> AsyncIterator[tuple[int, str]]:
    """Give (offset, tenant) of the messages stored of a range of offsets, both ends included, in no order."""
    with trouble("reading owners"):
        async with connection.transaction(readonly=True):
            async for row in connection.cursor(_OWNERS, topic, partition, *offsets, prefetch=ROWS_AT_ONCE):
                yield row["kafka_offset"], row["tenant"]


async def read_positions(connection: Connection, topic: str) -> dict[int, int]:
    """Tell of each partition up to which offset, that one not included, all is judged."""
    with trouble("reading how far all is judged"):
        return {row["partition"]: row["next_offset"] for row in await connection.fetch(_POSITIONS, topic)}
