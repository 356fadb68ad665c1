"""Which stores are held to the contract? The real one and its twin in memory."""

import pytest

from ingest.adapters.multibuffer import Multibuffer, UnavailableError
from ingest.adapters.sodium import Sodium
from ingest.core.signature import Engine
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


@pytest.fixture(scope="session")
def fast() -> Multibuffer:
    """Give the engine that needs a processor of its kind, where there is one."""
    try:
        return Multibuffer()
    except UnavailableError as error:
        if "self-test" in str(error):  # it is here, and broken
            raise
        pytest.skip(f"there is no multibuffer engine here: {error}")


@pytest.fixture(scope="session", params=["sodium", "multibuffer"])
def rival(request: pytest.FixtureRequest) -> Engine:
    """Give each fast engine that there is here."""
    if request.param == "sodium":
        return Sodium()
    found: Engine = request.getfixturevalue("fast")
    return found
