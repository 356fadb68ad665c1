"""Did each revocation take effect? Counted for each, a while after it, apart from what sees to it that it does.

An act of revocation notes how far all partitions and the held lane had come. What is stored under the key from beyond
there came after it, and there should be none. After a day it is counted once more: by then a device that was silent, or
a partition that was far behind, has been heard.
"""

import asyncio
from typing import NoReturn, Protocol

import structlog

from ingest.adapters.postgres.connection import Connection, connect, trouble
from ingest.ports import TroubleError

CHECK_AFTER_S = 60.0  # what was on its way then has come, unless its partition is behind
OVERDUE_AFTER_S = 600.0
LOOK_EVERY_S = 30.0
AT_ONCE = 100
COUNT_S_MAX = 300.0  # for one: it reads all that a device has stored, and nobody waits for it
LOCK = 0x7265766F6B65  # "revoke": one process at a time

# In no order: those that cannot be counted in time do not keep the others waiting.
_DUE = """
    select key_no from store.revocation
    where checked_at is null and began_at < clock_timestamp() - make_interval(secs => $1)
    or checked_at < began_at + interval '1 day' and began_at < clock_timestamp() - interval '1 day'
    order by random() limit $2"""

_CHECK = """
    update store.revocation r set checked_at = clock_timestamp(), stored_after = s.after, last_stored_at = s.last_at
    from store.stored_under($1) s, store.device_key k, store.revocation before
    where r.key_no = $1 and k.key_no = $1 and before.key_no = $1
    and (r.checked_at is null or r.checked_at < r.began_at + interval '1 day')
    returning extract(epoch from greatest(k.revoked_at, s.last_at) - r.began_at)::double precision,
              s.after - coalesce(before.stored_after, 0), before.checked_at is not null"""

_UNCHECKED = """
    select count(*) from store.revocation
    where checked_at is null and began_at < clock_timestamp() - make_interval(secs => $1)"""


class Observer(Protocol):
    """Who is told what was found: the metrics."""

    def revoked(self, seconds: float, stored_after: int) -> None:
        """Take note of a revocation: from asking for it to the last moment at which anything could be stored."""

    def unchecked(self, revocations: int) -> None:
        """Take note of how many are overdue."""


async def watch_revocations(database: str, observer: Observer) -> NoReturn:
    """Check each revocation when it is time, unless somebody else does; through any trouble, for ever."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            await _look(database, observer)
        except TroubleError as error:
            structlog.get_logger().warning("trouble", what="revocations", error=str(error))


async def _look(database: str, observer: Observer) -> None:
    connection = await connect(database, "weighbridge revocations")
    try:
        with trouble("checking revocations"):
            observer.unchecked(await connection.fetchval(_UNCHECKED, OVERDUE_AFTER_S))
            if await connection.fetchval("select pg_try_advisory_lock($1)", LOCK):
                await check(connection, observer, CHECK_AFTER_S)
    finally:
        connection.terminate()  # and the lock with it


async def check(connection: Connection, observer: Observer, after_s: float) -> None:
    """Check those that are so old, and were not checked before or only on their first day."""
    for (key_no,) in await connection.fetch(_DUE, after_s, AT_ONCE):
        found = await connection.fetchrow(_CHECK, key_no, timeout=COUNT_S_MAX)
        if found is None:
            continue
        seconds, stored_after, again = found
        if stored_after or not again:
            observer.revoked(seconds, stored_after)
        if stored_after:
            structlog.get_logger().error("stored_after_revocation", key_no=key_no, messages=stored_after)
