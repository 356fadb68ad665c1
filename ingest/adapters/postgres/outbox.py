"""Which alerts has nobody been told of yet? Read by one relay at a time, and marked when they are published.

Never those above the last number seen: numbers are given before the commit, and commits overtake each other.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from ingest.adapters.postgres.connection import Connection, connect, trouble
from ingest.ports import Backlog, Notice

IDLE_S_MAX = 60  # a relay that is silent for so long has frozen, or its machine is gone: another one takes over
LIST_ROWS_MAX = 10_000

_SET_IDLE = f"set idle_session_timeout = '{IDLE_S_MAX}s'"

_LEAD = "select pg_try_advisory_lock(hashtextextended('weighbridge feed', 0))"

_BACKLOG = """
    select count(*), coalesce(extract(epoch from clock_timestamp() - min(written_at)), 0)::double precision
    from (select written_at from store.alert where published_at is null order by alert_no limit 10000) a"""

_READ = """
    select alert_no, alert_id, kind, subject, device_id, tenant, raised_at, topic, incarnation, partition, kafka_offset,
           evidence::text
    from weighbridge.alert where published_at is null order by alert_no limit $1"""

_MARK = "update store.alert set published_at = clock_timestamp() where alert_no = any($1)"

_NEWEST = """
    select * from (
        select alert_no, raised_at::text, kind, subject, device_id, tenant, topic, incarnation, partition, kafka_offset,
               evidence::text, alert_id, published_at::text
        from weighbridge.alert order by alert_no desc limit $1
    ) newest order by alert_no"""


@contextlib.asynccontextmanager
async def open_outbox(database: str) -> AsyncIterator["PostgresOutbox"]:
    """Connect for one relay. Raises TroubleError."""
    connection = await connect(database, "weighbridge feed")
    try:
        with trouble("opening the feed"):
            await connection.execute(_SET_IDLE)
        yield PostgresOutbox(connection)
    finally:
        connection.terminate()


class PostgresOutbox:
    """The outbox behind `ingest.ports.Outbox`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def lead(self) -> bool:
        """See ingest.ports.Outbox."""
        with trouble("asking for the feed"):
            return bool(await self._connection.fetchval(_LEAD))

    async def backlog(self) -> Backlog:
        """See ingest.ports.Outbox."""
        with trouble("counting alerts"):
            row = await self._connection.fetchrow(_BACKLOG)
        assert row is not None, "an aggregate always has a row"
        return Backlog(*row)

    async def read(self, most: int) -> Sequence[Notice]:
        """See ingest.ports.Outbox."""
        with trouble("reading alerts"):
            return [Notice(*row) for row in await self._connection.fetch(_READ, most)]

    async def mark(self, notices: Sequence[Notice]) -> None:
        """See ingest.ports.Outbox."""
        with trouble("marking alerts"):
            await self._connection.execute(_MARK, [notice.number for notice in notices])


async def list_alerts(connection: Connection) -> list[dict[str, Any]]:
    """List the newest alerts, at most LIST_ROWS_MAX, oldest first."""
    return [dict(row) for row in await connection.fetch(_NEWEST, LIST_ROWS_MAX)]
