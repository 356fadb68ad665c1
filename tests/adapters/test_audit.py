"""The record of what people decided: each act is in it, and whoever touches it afterwards is found out."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import embedded
from ingest.adapters.postgres.audit import Decision, verify
from ingest.adapters.postgres.connection import connect
from ingest.adapters.postgres.tenants import add_tenant
from tests.whole.house import House, open_house

pytestmark = pytest.mark.real

ROWS = 5
NOTHING = "0:" + "00" * 32  # the head of a chain without rows


@pytest.fixture(scope="module")
def prepared(servers: embedded.Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(servers, tmp_path_factory.mktemp("audit"), partitions=1) as house:
        yield house


@pytest.fixture
def house(prepared: House) -> House:
    """A house in which some acts were done, and no others."""
    prepared.query("truncate store.audit")
    prepared.query("delete from store.tenant")
    for number in range(ROWS):
        prepared.run("tenants", "add", f"tenant {number}", "--reason", f'ünïcode \\ " {number}', "--by", "Ada")
    return prepared


def head(house: House, early: str = NOTHING) -> str:
    """Verify, given the head that the chain of acts had once; gives the one that it has."""
    first, *_ = house.run("audit", "verify", "--expect", kept(house, f"acts {early}")).stdout.splitlines()
    return str(first.removeprefix("acts "))


def broken(house: House, early: str = NOTHING) -> str:
    return house.run("audit", "verify", "--expect", kept(house, f"acts {early}"), status=1).stderr


def kept(house: House, lines: str) -> Path:
    path = house.folder / "heads"
    path.write_text(lines)
    return path


def test_an_unbroken_chain_has_a_head_that_later_ones_go_on_from(house: House) -> None:
    early = head(house)
    assert early.startswith(f"{ROWS}:")
    house.run("tenants", "add", "one more")
    assert head(house, early).startswith(f"{ROWS + 1}:")


def test_the_chain_of_nothing_is_unbroken(house: House) -> None:
    house.query("truncate store.audit")
    assert head(house) == NOTHING


@pytest.mark.parametrize(
    "change",
    [
        "acted_at = acted_at + interval '1 microsecond'",
        "actor = 'Eve'",
        "act = 'revoke'",
        "subject = 'tenant 9'",
        "reason = reason || ' '",
        "before = '{\"devices\": 1}'",
        "after = '[]'",
        "hash = sha256('')",
    ],
)
def test_a_changed_row_is_named(house: House, change: str) -> None:
    house.query(f"update store.audit set {change} where audit_no = 2")  # noqa: S608 (one of the above)
    assert "row 2 is not the one that was written there" in broken(house)


@pytest.mark.parametrize("number", [0, 2])
def test_a_removed_row_is_named(house: House, number: int) -> None:
    house.query("delete from store.audit where audit_no = $1", number)
    assert f"row {number} is not there" in broken(house)


def test_a_removed_row_is_named_when_those_after_it_move_up(house: House) -> None:
    house.query("delete from store.audit where audit_no = 2")
    house.query("update store.audit set audit_no = audit_no - 1 where audit_no = 3")
    house.query("update store.audit set audit_no = audit_no - 1 where audit_no = 4")
    assert "row 2 is not the one that was written there" in broken(house)


def test_rows_that_changed_places_are_named(house: House) -> None:
    house.query("update store.audit set audit_no = 4 - audit_no + 100 where audit_no in (1, 3)")
    house.query("update store.audit set audit_no = audit_no - 100 where audit_no > 100")
    assert "row 1 is not the one that was written there" in broken(house)


def test_rows_that_were_cut_off_are_missed_by_who_kept_the_head(house: House) -> None:
    early = head(house)
    house.query("delete from store.audit where audit_no = $1", ROWS - 1)
    assert head(house).startswith(f"{ROWS - 1}:")
    assert f"the chain had {ROWS} rows" in broken(house, early)


def test_a_chain_that_was_made_anew_is_known_by_who_kept_the_head(house: House) -> None:
    early = head(house)
    house.query("delete from store.audit where audit_no = $1", ROWS - 1)
    house.query("delete from store.tenant where tenant = $1", f"tenant {ROWS - 1}")
    house.run("tenants", "add", f"tenant {ROWS - 1}", "--by", "Eve")
    assert head(house).startswith(f"{ROWS}:")
    assert "made anew" in broken(house, early)


@pytest.mark.parametrize(
    "lines", ["acts", "5:" + "00" * 32, "acts x:00", "acts -1:" + "00" * 32, "acts 5:00", "acts 5"]
)
def test_what_is_no_head_is_not_taken_for_one(house: House, lines: str) -> None:
    house.run("audit", "verify", "--expect", kept(house, lines), status=2)


def test_acts_are_listed_in_their_order(house: House) -> None:
    listed = [json.loads(line) for line in house.run("audit", "list", "--json").stdout.splitlines()]
    assert [(row["audit_no"], row["act"], row["subject"], row["actor"]) for row in listed] == [
        (number, "add tenant", f"tenant {number}", "Ada") for number in range(ROWS)
    ]
    assert "Ada  add tenant  tenant 0  ünïcode" in house.run("audit", "list").stdout


def test_a_person_who_goes_on_with_a_broken_log_is_in_it(house: House) -> None:
    house.query("insert into store.topic (topic) values ($1) on conflict do nothing", house.topic)
    house.query("insert into store.partition_lease (topic_no, partition, halted_at, halted_why) "
                "select topic_no, 0, now(), 'a test' from store.topic where topic = $1", house.topic)  # fmt: skip
    house.run("partitions", "resume", "0", "--reason", "it is well", "--by", "Ada")
    act = json.loads(house.run("audit", "list", "--json").stdout.splitlines()[-1])
    assert (act["act"], act["subject"], act["reason"]) == ("resume", f"{house.topic}/0", "it is well")
    assert act["before"]["halted_why"] == "a test"
    head(house)


async def test_those_who_act_at_once_make_one_chain(store_database: str) -> None:
    async def act(number: int) -> None:
        connection = await connect(store_database, "test")
        await add_tenant(connection, f"at once {number}", Decision("Ada", "a test"))
        await connection.close()

    await asyncio.gather(*[act(number) for number in range(8)])
    connection = await connect(store_database, "test")
    assert (await verify(connection)).rows == 8
    await connection.close()
