"""Which days have partitions? From the oldest message that may be accepted to a little ahead."""

import math

import asyncpg
import structlog

from ingest.adapters.postgres import queries
from ingest.adapters.postgres.connection import Connection
from ingest.core.policy import Policy

BY_ISSUE = ("message", "vehicle_state", "battery_charging", "diagnostics", "security_event")
BY_ARRIVAL = ("exception", "batch")
DAY_S = 86_400
DAYS_MAX = 400  # either way; what is older or later goes to the default partition
LOCK = 0x5765696768  # "Weigh": one worker at a time prepares days


async def prepare_days(connection: Connection, policy: Policy) -> None:
    """Make the partitions that are missing: each in a transaction of its own, so that no batch can deadlock with it.

    Where a long reader holds what this needs, the rest is left for the next time; its rows go to the default partition.
    """
    back = min(math.ceil(policy.age_s_max / DAY_S) + 1, DAYS_MAX)
    ahead = min(math.ceil(policy.clock_ahead_s_max / DAY_S) + 2, DAYS_MAX)
    if not await connection.fetch(queries.MISSING_DAYS, BY_ISSUE, BY_ARRIVAL, back, ahead):
        return
    if not await connection.fetchval("select pg_try_advisory_lock($1)", LOCK):
        return  # somebody else is at it
    try:
        for row in await connection.fetch(queries.MISSING_DAYS, BY_ISSUE, BY_ARRIVAL, back, ahead):
            await connection.execute(queries.PREPARE_DAY, row["parent"], row["day"])
    except asyncpg.LockNotAvailableError as error:
        structlog.get_logger().warning("days_not_prepared", error=str(error))
    finally:
        await connection.execute("select pg_advisory_unlock($1)", LOCK)
