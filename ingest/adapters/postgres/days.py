"""Which days have partitions? From the oldest message that may be accepted to a little ahead."""

from ingest.adapters.postgres import queries
from ingest.adapters.postgres.connection import Connection

BY_ISSUE = ("message", "vehicle_state", "battery_charging", "diagnostics", "security_event")
BY_ARRIVAL = ("exception", "batch")
DAYS_BACK, DAYS_AHEAD = 31, 3
LOCK = 0x5765696768  # "Weigh": one worker at a time prepares days


async def prepare_days(connection: Connection) -> None:
    """Make the partitions that are missing: each in a transaction of its own, so that no batch can deadlock with it."""
    missing = await _missing(connection)
    if not missing:
        return
    await connection.execute("select pg_advisory_lock($1)", LOCK)
    try:
        for parent, day in await _missing(connection):
            await connection.execute(queries.PREPARE_DAY, parent, day)
    finally:
        await connection.execute("select pg_advisory_unlock($1)", LOCK)


async def _missing(connection: Connection) -> list[tuple[str, object]]:
    found = await connection.fetch(queries.MISSING_DAYS, BY_ISSUE, BY_ARRIVAL, DAYS_BACK, DAYS_AHEAD)
    return [(row["parent"], row["day"]) for row in found]
