"""How do we speak to PostgreSQL? With times as whole microseconds since 1970 UTC, and one kind of error for trouble."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import TypeAlias, TypeVar

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from ingest.ports import TroubleError, UnkeepableError

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

T = TypeVar("T")

POSTGRES_EPOCH_US = 946_684_800_000_000  # 2000-01-01 UTC
CONNECT_S_MAX = 10.0
STATEMENT_S_MAX = 20.0  # a batch that takes longer comes back half as large; a connection may be half open

_WORLD = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)


async def connect(database: str, name: str) -> Connection:
    """Open a connection; `name` is what `pg_stat_activity` shows. Raises TroubleError."""
    with trouble("connecting"):
        connection = await asyncpg.connect(
            database,
            timeout=CONNECT_S_MAX,
            command_timeout=STATEMENT_S_MAX,
            target_session_attrs=SessionAttribute.read_write,  # of several hosts, the one that is not a standby
            server_settings={"application_name": name, "timezone": "UTC", "jit": "off"},
        )
        await connection.set_type_codec(
            "timestamptz",
            schema="pg_catalog",
            format="tuple",
            encoder=lambda us: (us - POSTGRES_EPOCH_US,),
            decoder=lambda value: value[0] + POSTGRES_EPOCH_US,
        )
    return connection


@contextlib.contextmanager
def trouble(doing: str) -> Iterator[None]:
    """Turn what a driver raises when the world is bad into the one error that the worker knows."""
    try:
        yield
    except asyncpg.UndefinedTableError as error:
        raise TroubleError("PostgreSQL: the tables are not there; make them with `weighbridge prepare`") from error
    except asyncpg.TargetServerAttributeNotMatched as error:
        raise TroubleError("PostgreSQL: this server is read-only, such as a standby; name the primary") from error
    except _WORLD as error:
        kind = UnkeepableError if _about_content(error) else TroubleError
        raise kind(f"PostgreSQL, {doing}: {type(error).__name__}{_about(error)}") from error


@contextlib.contextmanager
def encoding() -> Iterator[None]:
    """Turn what the driver's COPY raises for a value that no such column can have into what it means."""
    try:
        yield
    except (OverflowError, TypeError, ValueError) as error:
        raise UnkeepableError(f"PostgreSQL: a value does not fit its column: {type(error).__name__}") from error


@contextlib.contextmanager
def making() -> Iterator[None]:
    """Tell rows that cannot be made, which is our own fault, from values that cannot be encoded."""
    try:
        yield
    except (OverflowError, TypeError, ValueError) as error:
        raise AssertionError("a row could not be made") from error


def made(rows: Iterable[T]) -> Iterator[T]:
    """Give rows that are made while they are encoded."""
    with making():
        yield from rows


def _about_content(error: BaseException) -> bool:
    """Tell values that cannot be kept (class 22, a key that exists, or too large: 54) from trouble of the world."""
    state = getattr(error, "sqlstate", None) or ""  # the driver's own word for an argument is a ValueError without one
    return state[:2] in ("22", "54") or isinstance(error, asyncpg.UniqueViolationError | ValueError)


def _about(error: BaseException) -> str:
    """Say what a journal may show: the first line, for details quote rows; of a value that was no good, nothing."""
    return (
        ""
        if isinstance(error, asyncpg.DataError | asyncpg.InternalClientError | ValueError)
        else f": {str(error).partition(chr(10))[0]}"
    )
