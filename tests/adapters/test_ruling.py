"""Where two people must want it: what one proposes waits for the other, and neither is both."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from ingest.adapters.postgres.audit import Decision, UnfitActError, list_acts, verify
from ingest.adapters.postgres.connection import Connection, connect
from ingest.adapters.postgres.registry import Entry, import_devices
from ingest.adapters.postgres.ruling import Effect, Kind, Proposal, Ruling, approve, list_proposals, rule, withdraw
from ingest.core.device import Algorithm

pytestmark = pytest.mark.real

ADA, BOB = Decision("ada", "the copy was found"), Decision("bob", "I have seen it")
RELEASE, REVOKE = Ruling(Kind.RELEASE, "d-1"), Ruling(Kind.REVOKE, "d-1")
REJUDGE = Ruling(Kind.REJUDGE, "schema_unknown")


@pytest.fixture
async def connection(store_database: str) -> AsyncIterator[Connection]:
    """Give a database in which device d-1 is quarantined."""
    connection = await connect(store_database, "test")
    await import_devices(connection, [Entry("d-1", "tenant", "vehicle", 1, b"k", Algorithm.ED25519, bytes(32))])
    await connection.execute("update store.device_state set standing = 'quarantined', suspicion = 100")
    yield connection
    await connection.close()


async def standing(connection: Connection) -> str:
    found: str = await connection.fetchval("select standing from store.device_state")
    return found


async def acts(connection: Connection) -> list[tuple[str, str, str]]:
    await verify(connection)
    return [(row["actor"], row["act"], row["subject"]) for row in await list_acts(connection) if row["act"] != "enrol"]


async def test_where_one_is_enough_a_decision_takes_effect_at_once(connection: Connection) -> None:
    assert await rule(connection, RELEASE, ADA, 1) == Effect(RELEASE, 1)
    assert await standing(connection) == "released"
    assert await acts(connection) == [("ada", "standing", "d-1")]


async def test_a_release_forgives_and_does_not_forget_when_a_device_was_accused(connection: Connection) -> None:
    """By that the store is asked whether the same content has spoken against it before."""
    await connection.execute("update store.device_state set suspicion_at = $1", accused_at := 1_700_000_000_000_000)
    await rule(connection, RELEASE, ADA, 1)
    (row,) = await connection.fetch("select suspicion, suspicion_at from store.device_state")
    assert tuple(row) == (0, accused_at)


async def test_what_one_proposes_changes_nothing_until_another_approves_it(connection: Connection) -> None:
    assert await rule(connection, RELEASE, ADA, 2) == Proposal(RELEASE, 1)
    assert await standing(connection) == "quarantined"
    assert [(row["proposal_no"], row["actor"], row["why"]) for row in await list_proposals(connection, "d-1")] == [
        (1, "ada", "the copy was found")
    ]
    assert await approve(connection, 1, BOB) == Effect(RELEASE, 1)
    assert await standing(connection) == "released"
    assert await list_proposals(connection) == []
    assert await acts(connection) == [
        ("ada", "propose release", "d-1"),
        ("ada, approved by bob", "standing", "d-1"),
        ("bob", "release approved", "d-1"),
    ]
    (row,) = await connection.fetch("select actor, why from weighbridge.release")
    assert tuple(row) == ("ada, approved by bob", "the copy was found")


@pytest.mark.parametrize("name", ["ada", "Ada", " ADA "])
async def test_nobody_approves_a_proposal_of_their_own(connection: Connection, name: str) -> None:
    await rule(connection, RELEASE, ADA, 2)
    with pytest.raises(UnfitActError, match="ada's own: another person has to approve it"):
        await approve(connection, 1, Decision(name, "myself"))
    assert await standing(connection) == "quarantined"
    assert len(await list_proposals(connection)) == 1


async def test_who_proposes_twice_has_proposed_once_and_who_wants_the_same_is_told_to_approve(
    connection: Connection,
) -> None:
    await rule(connection, RELEASE, ADA, 2)
    assert await rule(connection, RELEASE, ADA, 2) == Proposal(RELEASE, 1)
    with pytest.raises(UnfitActError, match="weighbridge quarantine approve 1"):
        await rule(connection, RELEASE, BOB, 2)
    assert await rule(connection, REVOKE, BOB, 2) == Proposal(REVOKE, 2)


async def test_a_proposal_is_withdrawn_and_a_stale_one_is_made_anew(connection: Connection) -> None:
    await rule(connection, RELEASE, ADA, 2)
    await withdraw(connection, 1, BOB)
    with pytest.raises(UnfitActError, match="withdrawn by bob already"):
        await approve(connection, 1, BOB)
    await rule(connection, RELEASE, ADA, 2)
    await connection.execute("update store.proposal set stale_at = clock_timestamp() where proposal_no = 2")
    with pytest.raises(UnfitActError, match="more than 7 days old"):
        await approve(connection, 2, BOB)
    assert await list_proposals(connection) == []
    assert await rule(connection, RELEASE, ADA, 2) == Proposal(RELEASE, 3)
    assert await acts(connection) == [
        ("ada", "propose release", "d-1"),
        ("bob", "release withdrawn", "d-1"),
        ("ada", "propose release", "d-1"),
        ("ada", "propose release", "d-1"),
    ]


async def test_what_no_longer_fits_is_not_approved(connection: Connection) -> None:
    await rule(connection, RELEASE, ADA, 2)
    await connection.execute("update store.device_state set standing = 'revoked'")
    with pytest.raises(UnfitActError, match="device d-1 is revoked"):
        await approve(connection, 1, BOB)
    assert await standing(connection) == "revoked"


@pytest.mark.parametrize(
    ("ruling", "why"),
    [(Ruling(Kind.RELEASE, "nobody"), "no device nobody"), (Ruling(Kind.REVOKE, "nobody"), "no device nobody")],
)
async def test_what_does_not_fit_is_not_even_proposed(connection: Connection, ruling: Ruling, why: str) -> None:
    with pytest.raises(UnfitActError, match=why):
        await rule(connection, ruling, ADA, 2)
    with pytest.raises(UnfitActError, match="there is no proposal 1"):
        await approve(connection, 1, BOB)


async def test_revoking_a_device_and_judging_for_a_reason_take_two_as_well(connection: Connection) -> None:
    await rule(connection, REVOKE, ADA, 2)
    await rule(connection, REJUDGE, ADA, 2)
    assert await approve(connection, 1, BOB) == Effect(REVOKE, None)
    assert await standing(connection) == "revoked"
    assert await approve(connection, 2, BOB) == Effect(REJUDGE, 1)


async def test_what_was_interrupted_goes_on_and_asks_nobody_again(connection: Connection) -> None:
    await rule(connection, RELEASE, ADA, 2)
    await approve(connection, 1, BOB)
    assert await rule(connection, RELEASE, ADA, 2) == Effect(RELEASE, 1)
    assert len(await acts(connection)) == 3


async def test_of_two_who_approve_at_once_one_does(store_database: str, connection: Connection) -> None:
    await rule(connection, RELEASE, ADA, 2)
    other = await connect(store_database, "test")
    done = await asyncio.gather(
        approve(connection, 1, BOB), approve(other, 1, Decision("eve", "me too")), return_exceptions=True
    )
    assert sorted(isinstance(one, UnfitActError) for one in done) == [False, True]
    assert await connection.fetchval("select count(*) from store.release") == 1
    await other.close()
