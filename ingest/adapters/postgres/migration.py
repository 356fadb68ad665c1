"""Is the database's schema the one that this code expects? Apply what is missing, in order; refuse what was edited."""

import hashlib
from importlib import resources

from ingest.adapters.postgres.connection import connect, trouble
from ingest.adapters.postgres.days import prepare_days
from ingest.core.policy import Policy

LOCK = 0x6D69677261  # "migra": one at a time

_BOOK = """
    create schema if not exists store;
    create table if not exists store.migration (
        name       text primary key,
        sha256     text not null,
        applied_at timestamptz not null default now()
    )"""


class MigrationError(Exception):
    """The database was made by other migrations than these; the message says which, and what to do."""


def released() -> list[tuple[str, str]]:
    """List the migrations in order: (name, SQL)."""
    folder = resources.files("ingest.adapters.postgres") / "migrations"
    return sorted((file.name, file.read_text()) for file in folder.iterdir() if file.name.endswith(".sql"))


async def migrate(database: str) -> list[str]:
    """Bring the database up to date and prepare its days; returns the names of the migrations that it applied."""
    connection = await connect(database, "weighbridge migrate")
    try:
        with trouble("migrating"):
            await connection.execute("select pg_advisory_lock($1)", LOCK)
            await connection.execute(_BOOK)
            rows = await connection.fetch("select name, sha256 from store.migration")
            done = {row["name"]: row["sha256"] for row in rows}
            applied = []
            for name, sql in _outstanding(done):
                async with connection.transaction():
                    await connection.execute(sql)
                    await connection.execute(
                        "insert into store.migration (name, sha256) values ($1, $2)", name, _digest(sql)
                    )
                applied.append(name)
            await prepare_days(connection, Policy())
    finally:
        await connection.close()
    return applied


def _outstanding(done: dict[str, str]) -> list[tuple[str, str]]:
    ours = released()
    strange = set(done) - {name for name, _ in ours}
    if strange:
        raise MigrationError(
            f"the database has migrations that this version does not know ({sorted(strange)}): update the code"
        )
    edited = [name for name, sql in ours if name in done and done[name] != _digest(sql)]
    if edited:
        raise MigrationError(
            f"{edited} differ from what was applied: restore them and put the change in a new migration"
        )
    return [(name, sql) for name, sql in ours if name not in done]


def _digest(sql: str) -> str:
    return hashlib.sha256(sql.encode()).hexdigest()
