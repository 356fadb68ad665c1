"""A database is brought up to date once, whoever asks; what does not fit is refused: on real PostgreSQL."""

import asyncio

import asyncpg
import pytest

from ingest.adapters.postgres.migration import MigrationError, migrate, released
from ingest.ports import TroubleError

pytestmark = pytest.mark.real

NAMES = [name for name, _ in released()]


async def shape(database: str) -> list[asyncpg.Record]:
    """Everything that a schema is made of, but for its statistics."""
    connection = await asyncpg.connect(database)
    try:
        return list(
            await connection.fetch(
                "select table_schema, table_name, column_name, data_type from information_schema.columns "
                "where table_schema in ('store', 'weighbridge') order by 1, 2, ordinal_position"
            )
        )
    finally:
        await connection.close()


async def execute(database: str, statement: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute(statement)
    await connection.close()


async def test_a_second_time_there_is_nothing_to_do(fresh_database: str) -> None:
    assert await migrate(fresh_database) == NAMES
    before = await shape(fresh_database)
    assert await migrate(fresh_database) == []
    assert await shape(fresh_database) == before


async def test_two_at_once_apply_each_migration_once(fresh_database: str) -> None:
    applied = await asyncio.gather(*(migrate(fresh_database) for _ in range(2)))
    assert sorted(applied) == [[], NAMES]


async def test_a_migration_that_was_edited_is_refused(store_database: str) -> None:
    await execute(store_database, "update store.migration set sha256 = 'something else'")
    before = await shape(store_database)
    with pytest.raises(MigrationError, match=r"0001_store\.sql.* differ .*restore"):
        await migrate(store_database)
    assert await shape(store_database) == before


async def test_a_migration_of_a_later_version_is_refused(store_database: str) -> None:
    await execute(store_database, "insert into store.migration (name, sha256) values ('9999_later.sql', '')")
    with pytest.raises(MigrationError, match=r"9999_later.*update the code"):
        await migrate(store_database)


async def test_a_migration_that_fails_leaves_nothing_behind(fresh_database: str) -> None:
    await execute(fresh_database, "create schema weighbridge; create table weighbridge.theirs (a int)")
    with pytest.raises(TroubleError, match="weighbridge"):
        await migrate(fresh_database)
    assert {(row[0], row[1]) for row in await shape(fresh_database)} == {
        ("store", "migration"),
        ("weighbridge", "theirs"),
    }
