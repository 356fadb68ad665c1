"""Partitions of days are made ahead, in nobody's way."""

import asyncio

import asyncpg
import pytest

from ingest.adapters.postgres.connection import Connection, connect
from ingest.adapters.postgres.days import prepare_days
from ingest.core.policy import Policy

pytestmark = pytest.mark.real
FAR = "2040-01-02 03:04:05Z"


async def make_exception(connection: Connection, received_at: str) -> None:
    await connection.execute(
        "insert into store.exception (topic_no, partition, kafka_offset, verdict, received_at, reached, judged_by, "
        "envelope_bytes, envelope) values (1, 0, 0, 'refused', $1::text::timestamptz, 'record', 1, 0, '')",
        received_at,
    )


async def test_what_went_to_the_default_partition_moves_to_its_day(store_database: str) -> None:
    connection = await connect(store_database, "test")
    await make_exception(connection, FAR)
    assert await connection.fetchval("select count(*) from store.exception_other") == 1
    await connection.execute("select store.prepare_day('exception', '2040-01-02')")
    assert await connection.fetchval("select count(*) from store.exception_other") == 0
    assert await connection.fetchval("select count(*) from store.exception_20400102") == 1
    await make_exception(connection, FAR)
    assert await connection.fetchval("select count(*) from store.exception_20400102") == 2
    await connection.close()


async def test_a_partition_of_a_day_has_what_its_parent_has(store_database: str) -> None:
    connection = await connect(store_database, "test")
    await connection.execute("select store.prepare_day('message', '2040-01-02')")
    indexes = await connection.fetchval("select count(*) from pg_indexes where tablename = 'message_20400102'")
    assert indexes == await connection.fetchval("select count(*) from pg_indexes where tablename = 'message'")
    attached = await connection.fetchval(
        "select count(*) from pg_inherits where inhrelid = 'store.message_20400102'::regclass"
    )
    assert attached == 1
    await connection.close()


async def test_a_long_reader_stops_neither_batches_nor_a_take_over(store_database: str) -> None:
    """A dump holds its locks for hours; a day that cannot be made meanwhile is made later."""
    reader, worker = await connect(store_database, "reader"), await connect(store_database, "worker")
    await worker.execute("drop table store.exception_" + (await _tomorrow(worker)))
    async with reader.transaction():
        await reader.execute("lock table store.exception_other, store.exception in access share mode")
        await prepare_days(worker, Policy())
        async with asyncio.timeout(30):
            await make_exception(worker, "2026-01-01")
    await prepare_days(worker, Policy())
    assert await worker.fetchval(f"select to_regclass('store.exception_{await _tomorrow(worker)}') is not null")
    await reader.close()
    await worker.close()


async def test_two_at_once_make_each_day_once(store_database: str) -> None:
    connections = [await connect(store_database, "test") for _ in range(2)]
    await connections[0].execute("drop table store.batch_" + (await _tomorrow(connections[0])))
    await asyncio.gather(*(prepare_days(connection, Policy()) for connection in connections))
    for connection in connections:
        await connection.close()


async def _tomorrow(connection: Connection) -> str:
    text: str = await connection.fetchval("select to_char((now() at time zone 'UTC')::date + 1, 'YYYYMMDD')")
    return text


async def test_a_day_that_is_not_one_is_refused(store_database: str) -> None:
    connection = await connect(store_database, "test")
    with pytest.raises(asyncpg.PostgresError):
        await connection.execute("select store.prepare_day('no_such_table', '2040-01-02')")
    await connection.close()
