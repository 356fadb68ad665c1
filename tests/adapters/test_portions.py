"""A file of devices that is too large for one transaction: nothing of it if a line is wrong, and no line twice."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from msgspec.structs import replace

from ingest.adapters.postgres.audit import list_acts, verify
from ingest.adapters.postgres.connection import Connection, connect
from ingest.adapters.postgres.registry import BY_PROGRAM, Entry, Imported, ImportProblemsError, import_devices
from ingest.core.device import Algorithm

pytestmark = pytest.mark.real

PORTION_LINES = 2


@pytest.fixture
async def connection(store_database: str) -> AsyncIterator[Connection]:
    connection = await connect(store_database, "test")
    yield connection
    await connection.close()


def entry(number: int, kid: bytes = b"k", epoch: int = 1) -> Entry:
    public = (b"%d " % number + kid).rjust(32)
    return Entry(f"d-{number}", "tenant", f"v-{number}", epoch, kid, Algorithm.ED25519, public)


FIVE = [entry(number) for number in (5, 3, 1, 4, 2)]


def ignore(_done: Imported) -> None:
    pass


async def enrol(connection: Connection, entries: list[Entry], tell: Callable[[Imported], None] = ignore) -> Imported:
    return await import_devices(connection, entries, BY_PROGRAM, tell, PORTION_LINES)


async def enrolled(connection: Connection) -> list[tuple[str, int, int]]:
    """List devices with their epochs, and how many of their keys are good for it."""
    await verify(connection)
    found = await connection.fetch(
        "select device_id, epoch, count(*) from store.device join store.device_state using (device_no) "
        "join store.device_key using (device_no) where epoch_until is null group by 1, 2 order by 1"
    )
    return [tuple(row) for row in found]


async def test_each_portion_is_told_and_the_last_is_the_whole(connection: Connection) -> None:
    told: list[Imported] = []
    assert await enrol(connection, FIVE, told.append) == told[-1] == Imported(5, 5, 5, 0, 0)
    assert [done.lines for done in told] == [2, 4, 5]
    assert await enrolled(connection) == [(f"d-{number}", 1, 1) for number in range(1, 6)]
    subjects = [act["subject"] for act in await list_acts(connection)]
    assert subjects == ["2 devices", "2 devices", "d-5"]


async def test_a_device_is_not_cut_in_two(connection: Connection) -> None:
    await enrol(connection, FIVE)
    keys = [entry(3, kid, epoch=2) for kid in (b"a", b"b", b"c")]
    assert await enrol(connection, [keys[0], entry(1), keys[1], entry(5), keys[2]]) == Imported(5, 0, 3, 1, 0)
    assert ("d-3", 2, 3) in await enrolled(connection)


async def test_a_key_of_devices_in_several_portions_is_one_that_is_shared(connection: Connection) -> None:
    shared = [replace(one, public=bytes(32)) for one in FIVE]
    assert (await enrol(connection, shared)).keys_shared == 1


async def test_all_that_is_wrong_is_said_and_nothing_is_imported(connection: Connection) -> None:
    await enrol(connection, [entry(4), entry(5)])
    before = await enrolled(connection)
    wrong = [replace(entry(4), vehicle_id="v-9"), replace(entry(5), public=bytes(32))]
    torn = [replace(entry(8), vehicle_id="v-1", tenant="other")]
    with pytest.raises(ImportProblemsError) as raised:
        await enrol(connection, [*FIVE[1:3], *wrong, *torn])
    assert str(raised.value).splitlines()[0] == "nothing was imported:"
    assert raised.value.problems == (
        "device d-4 is of vehicle v-4; to move it is not an import",
        "device d-5: kid 6b is another key; a new key needs a new kid",
        "vehicle v-1 is given to several tenants",
    )
    assert await enrolled(connection) == before


async def test_who_is_interrupted_types_it_again(connection: Connection) -> None:
    def interrupt(_done: Imported) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await enrol(connection, FIVE, interrupt)
    assert [name for name, _, _ in await enrolled(connection)] == ["d-1", "d-2"]
    assert await enrol(connection, FIVE) == Imported(5, 3, 3, 0, 0)
    assert await enrolled(connection) == [(f"d-{number}", 1, 1) for number in range(1, 6)]


async def test_what_somebody_else_changed_meanwhile_is_found_and_what_was_done_is_said(
    connection: Connection, store_database: str
) -> None:
    async def take() -> None:
        other = await connect(store_database, "another person")
        await import_devices(other, [replace(entry(3), tenant="other")])
        await other.close()

    def meddle(done: Imported) -> None:
        if done.lines == PORTION_LINES:
            with ThreadPoolExecutor() as elsewhere:
                elsewhere.submit(asyncio.run, take()).result()

    with pytest.raises(ImportProblemsError) as raised:
        await enrol(connection, FIVE, meddle)
    assert str(raised.value).splitlines() == [
        "2 lines were imported, and then no more:",
        "  vehicle v-3 belongs to tenant other, not tenant",
    ]
    assert [name for name, _, _ in await enrolled(connection)] == ["d-1", "d-2", "d-3"]
