"""Which stores are held to the contract? The real one and its twin in memory."""

import pytest

from tests.adapters.contract import Memory, Postgres, World


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
async def postgres(store_database: str) -> Postgres:
    real = Postgres(store_database)
    await real.enrol()
    return real


@pytest.fixture(params=["memory", pytest.param("postgres", marks=pytest.mark.real)])
def world(request: pytest.FixtureRequest) -> World:
    found: World = request.getfixturevalue(request.param)
    return found
