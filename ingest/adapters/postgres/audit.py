"""Who decided what, about whom, and why? A chain of rows: each is hashed together with the hash of the one before it.

An act and its row are one transaction, one act at a time. Whoever may write to the table could make the whole chain
anew; that is noticed by those who have kept a `Head` elsewhere.
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec

from ingest.adapters.postgres.connection import Connection

ACTS_LOCK = 0x61637473  # "acts": one at a time, or two could each find things as they are not any more
HEAD_LOCK = 0x68656164  # "head": of the chain
LIST_ROWS_MAX = 10_000
BEGINNING = bytes(32)  # stands for the hash before the first row's

_LAST = "select audit_no, hash from store.audit order by audit_no desc limit 1"
_APPEND = "insert into store.audit values ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
_CHAIN = """
    select audit_no, acted_at, actor, act, subject, reason, before, after, hash from store.audit order by audit_no"""
_NEWEST = """
    select * from (
        select audit_no, acted_at::text, actor, act, subject, reason, before::text, after::text, hash
        from weighbridge.audit order by audit_no desc limit $1
    ) newest order by audit_no"""


class UnfitActError(Exception):
    """What a person asks for does not fit how things stand; the text says why, and what to do."""


class Decision(msgspec.Struct, frozen=True):
    """Who decides, and why."""

    actor: str
    reason: str


class Act(msgspec.Struct, frozen=True):
    """What is done to whom, and how things stood before and after. Its numbers are whole: those come back as sent."""

    name: str
    subject: str
    before: dict[str, Any]
    after: dict[str, Any]


class Head(msgspec.Struct, frozen=True):
    """How many rows a chain has, and the hash of the last one."""

    rows: int = 0
    hash: bytes = BEGINNING

    def __str__(self) -> str:
        return f"{self.rows}:{self.hash.hex()}"


class BrokenChainError(Exception):
    """A row of the chain was changed, removed or moved; the text names the first."""


@contextlib.asynccontextmanager
async def acting(connection: Connection) -> AsyncIterator[None]:
    """Begin an act of a person, and commit it at the end of the block."""
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock($1)", ACTS_LOCK)
        yield


async def lock_head(connection: Connection) -> None:
    """Lock the end of the chain until the end of the transaction; `append` does, unless a later lock is taken first."""
    await connection.execute("select pg_advisory_xact_lock($1)", HEAD_LOCK)


async def append(connection: Connection, decision: Decision, act: Act) -> None:
    """Write an act down, in the transaction that does it."""
    await lock_head(connection)
    last = await connection.fetchrow(_LAST)
    number, previous = (0, BEGINNING) if last is None else (last["audit_no"] + 1, last["hash"])
    acted_at = await connection.fetchval("select clock_timestamp()")
    content = (number, acted_at, decision.actor, act.name, act.subject, decision.reason, act.before, act.after)
    before, after = (msgspec.json.encode(one).decode() for one in (act.before, act.after))
    await connection.execute(_APPEND, *content[:-2], before, after, _link(previous, content))


def _link(previous: bytes, content: tuple[Any, ...]) -> bytes:
    """Hash a row: SHA-256 over the hash before it and its columns as one JSON array, keys sorted, without spaces."""
    return hashlib.sha256(previous + msgspec.json.encode(content, order="deterministic")).digest()


async def verify(connection: Connection, expected: Head | None = None) -> Head:
    """Follow the chain from its beginning, past the head that it once had. Raises BrokenChainError."""
    head = Head()
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        async for row in connection.cursor(_CHAIN, prefetch=1_000):
            _compare(row, head)
            head = Head(head.rows + 1, row["hash"])
            if expected is not None and expected.rows == head.rows and expected.hash != head.hash:
                raise BrokenChainError(
                    f"row {head.rows - 1} is not the one that the chain ended with: it was made anew"
                )
    if expected is not None and expected.rows > head.rows:
        raise BrokenChainError(
            f"row {head.rows} is not there: the chain had {expected.rows} rows, and now ends before it"
        )
    return head


def _compare(row: asyncpg.Record, head: Head) -> None:
    number, *columns, before, after, found = row.values()
    if number != head.rows:
        raise BrokenChainError(f"row {head.rows} is not there: row {number} follows the {head.rows} rows before it")
    content = (number, *columns, msgspec.json.decode(before), msgspec.json.decode(after))
    if found != _link(head.hash, content):
        raise BrokenChainError(f"row {number} is not the one that was written there")


async def list_acts(connection: Connection) -> list[dict[str, Any]]:
    """List the newest acts, at most LIST_ROWS_MAX, oldest first."""
    found = [dict(row) for row in await connection.fetch(_NEWEST, LIST_ROWS_MAX)]
    return [row | {name: msgspec.json.decode(row[name]) for name in ("before", "after")} for row in found]
