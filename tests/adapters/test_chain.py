"""Whatever lawfully happens to a partition, its rows lead to its links, and its links to its seal."""

import pytest
from msgspec.structs import replace

from ingest.adapters.postgres import queries
from ingest.adapters.postgres.audit import Head
from ingest.adapters.postgres.connection import Connection, connect
from ingest.adapters.postgres.findings import Findings
from ingest.adapters.postgres.inspection import LANE, inspect
from ingest.adapters.postgres.lapse import expire
from ingest.adapters.postgres.provenance import Provenance
from ingest.core.seal import BEGINNING
from tests.adapters.contract import CATALOGUE, POLICY, TOPIC, Postgres, Said, take, take_elsewhere, weigh

pytestmark = pytest.mark.real

PLACE = f"{TOPIC}/1/0"
AT_ONCE = Provenance("test", "none", replace(POLICY, held_s_max=-1), CATALOGUE.schemas)


async def whole(connection: Connection, expected: dict[str, Head] | None = None) -> dict[str, Head]:
    return await inspect(connection, expected or {}, 0, Findings(pytest.fail, print))


async def test_a_chain_goes_on_with_each_owner_through_gaps_and_lapses(postgres: Postgres, store_database: str) -> None:
    connection = await connect(store_database, "test")
    async with take(postgres) as lease:
        await weigh(lease, Said(1), Said(2, epoch=8), None, Said(1))
        await weigh(lease, Said(3), Said(4, epoch=8))
    first = await whole(connection)
    assert (first[LANE], first[PLACE].rows) == (Head(), 6)
    async with take_elsewhere(postgres) as lease:
        await weigh(lease, Said(5))
    assert await expire(connection, AT_ONCE) == 2
    second = await whole(connection, first)
    assert (second[LANE].rows, second[PLACE].rows) == (1, 7)
    await connection.execute(queries.SKIP, 1, 0, 7, 10, "a person")
    await connection.execute(queries.GO_ON, 1, 0, 10)
    skipped = await whole(connection, second)
    assert skipped[PLACE] == Head(10, second[PLACE].hash)
    async with take(postgres) as lease:
        await weigh(lease, Said(6))
    third = await whole(connection, skipped)
    assert third[PLACE].rows == 11
    assert third[PLACE].hash not in (BEGINNING, second[PLACE].hash)
    await connection.close()
