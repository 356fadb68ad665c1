"""What do people decide of devices that are suspected, and of what is held? One alone, or two where policy asks for it.

What one of two wants is written down, and takes effect when the other approves it. That they are two is what they say:
decisions/quarantine.md has what that proves.
"""

from enum import StrEnum
from typing import Any

import asyncpg
import msgspec

from ingest.adapters.postgres.audit import Act, Decision, UnfitActError, acting, append
from ingest.adapters.postgres.connection import Connection
from ingest.core.device import Standing

PROPOSAL_DAYS_MAX = 7
LIST_ROWS_MAX = 10_000

SUSPECT = (Standing.WATCHED, Standing.QUARANTINED)

_LOCK_STANDING = """
    select s.device_no, d.device_id, s.standing, s.suspicion
    from store.device_state s join store.device d using (device_no)
    where d.device_id = $1 for no key update of s"""

_SET_STANDING = """
    update store.device_state set standing = $2, suspicion = 0, rolled = '', key_version = key_version + 1
    where device_no = $1"""

_PARDON = """
    insert into store.pardon (device_no, before, after, actor, reason) values ($1, $2, $3, $4, $5)"""

_UNFINISHED_RELEASE = """
    select r.release_no from store.release r left join store.device d using (device_no)
    where r.done_at is null and ($1 = 'release' and d.device_id = $2 or $1 = 'rejudge' and r.reason = $2)
    order by r.release_no limit 1"""

_RELEASE_DECIDED = """
    insert into store.release (device_no, reason, actor, why) values ($1, $2, $3, $4) returning release_no"""

_OPEN_PROPOSAL = """
    select proposal_no, actor from weighbridge.proposal where act = $1 and subject = $2 and state = 'open'
    order by proposal_no limit 1"""

_PROPOSE = """
    insert into store.proposal (act, subject, actor, why, stale_at)
    values ($1, $2, $3, $4, clock_timestamp() + make_interval(days => $5)) returning proposal_no"""

_PROPOSAL = "select * from weighbridge.proposal where proposal_no = $1"

_PROPOSALS = """
    select proposal_no, act, subject, actor, why, date_trunc('second', proposed_at)::text as proposed_at,
           date_trunc('second', stale_at)::text as stale_at
    from weighbridge.proposal where state = 'open' and ($1::text is null or subject = $1)
    order by proposal_no limit $2"""

_END_PROPOSAL = """
    update store.proposal set outcome = $2, ended_by = $3, ended_why = $4, ended_at = clock_timestamp()
    where proposal_no = $1"""


class Kind(StrEnum):
    """What can be decided."""

    RELEASE = "release"  # trust a device again, and judge again what is held of it
    REVOKE = "revoke"  # never trust a device again; its keys are a matter of their own
    REJUDGE = "rejudge"  # judge again all that is held for one reason


class Ruling(msgspec.Struct, frozen=True):
    """What is decided, and of whom."""

    kind: Kind
    subject: str  # a device's id; of REJUDGE, the reason

    def __str__(self) -> str:
        return f"{self.kind} {self.subject}"


class Effect(msgspec.Struct, frozen=True):
    """A decision that was made."""

    ruling: Ruling
    release_no: int | None  # under which messages are judged again; None: there are none to be judged


class Proposal(msgspec.Struct, frozen=True):
    """A decision that waits for another person."""

    ruling: Ruling
    number: int


async def rule(connection: Connection, ruling: Ruling, decision: Decision, approvals: int) -> Effect | Proposal:
    """Let a decision take effect, or write it down as one that another person has to approve.

    What was decided before and was interrupted is given again: it is decided already. Raises UnfitActError.
    """
    async with acting(connection):
        unfinished: int | None = await connection.fetchval(_UNFINISHED_RELEASE, ruling.kind.value, ruling.subject)
        if unfinished is not None:
            return Effect(ruling, unfinished)
        if approvals > 1:
            return await _propose(connection, ruling, decision)
        return await _carry_out(connection, ruling, decision)


async def approve(connection: Connection, number: int, decision: Decision) -> Effect:
    """Let a proposal of somebody else take effect. Raises UnfitActError."""
    async with acting(connection):
        row = await _pending(connection, number)
        if _is_same(row["actor"], decision.actor):
            raise UnfitActError(f"proposal {number} is {row['actor']}'s own: another person has to approve it")
        ruling = Ruling(Kind(row["act"]), row["subject"])
        both = Decision(f"{row['actor']}, approved by {decision.actor}", row["why"])
        effect = await _carry_out(connection, ruling, both)
        await _end(connection, row, "approved", decision)
    return effect


async def withdraw(connection: Connection, number: int, decision: Decision) -> None:
    """Take a proposal back: one's own, or anybody's, since nothing happens by it. Raises UnfitActError."""
    async with acting(connection):
        await _end(connection, await _pending(connection, number), "withdrawn", decision)


async def list_proposals(connection: Connection, subject: str | None = None) -> list[dict[str, Any]]:
    """List the proposals that wait, the oldest first, at most LIST_ROWS_MAX."""
    return [dict(row) for row in await connection.fetch(_PROPOSALS, subject, LIST_ROWS_MAX)]


async def _propose(connection: Connection, ruling: Ruling, decision: Decision) -> Proposal:
    if ruling.kind is not Kind.REJUDGE:
        await _find(connection, ruling)
    known = await connection.fetchrow(_OPEN_PROPOSAL, ruling.kind.value, ruling.subject)
    if known is not None and not _is_same(known["actor"], decision.actor):
        number = known["proposal_no"]
        raise UnfitActError(
            f"{known['actor']} has proposed the same, and waits for somebody to type "
            f"`weighbridge quarantine approve {number}`"
        )
    if known is not None:
        return Proposal(ruling, known["proposal_no"])
    number = await connection.fetchval(
        _PROPOSE, ruling.kind.value, ruling.subject, decision.actor, decision.reason, PROPOSAL_DAYS_MAX
    )
    await append(connection, decision, Act(f"propose {ruling.kind}", ruling.subject, {}, {"proposal": number}))
    return Proposal(ruling, number)


async def _pending(connection: Connection, number: int) -> asyncpg.Record:
    row = await connection.fetchrow(_PROPOSAL, number)
    if row is None:
        raise UnfitActError(f"there is no proposal {number}; `weighbridge quarantine proposals` lists those that wait")
    if row["state"] == "stale":
        raise UnfitActError(
            f"proposal {number} is more than {PROPOSAL_DAYS_MAX} days old, and what it was made for may have changed: "
            f"look again, and propose it anew"
        )
    if row["state"] != "open":
        raise UnfitActError(f"proposal {number} was {row['state']} by {row['ended_by']} already")
    return row


async def _end(connection: Connection, row: asyncpg.Record, outcome: str, decision: Decision) -> None:
    """Write down how a proposal ended, after what it has led to: the end of the chain is locked last."""
    await connection.execute(_END_PROPOSAL, row["proposal_no"], outcome, decision.actor, decision.reason)
    before = {"proposal": row["proposal_no"], "actor": row["actor"], "reason": row["why"]}
    await append(connection, decision, Act(f"{row['act']} {outcome}", row["subject"], before, {}))


def _is_same(one: str, other: str) -> bool:
    return one.strip().casefold() == other.strip().casefold()


async def _carry_out(connection: Connection, ruling: Ruling, decision: Decision) -> Effect:
    if ruling.kind is Kind.REJUDGE:
        rejudged = await _let_out(connection, None, ruling.subject, decision)
        await append(connection, decision, Act(ruling.kind.value, ruling.subject, {}, {"release": rejudged}))
        return Effect(ruling, rejudged)
    device = await _find(connection, ruling)
    revoked = ruling.kind is Kind.REVOKE
    await _set_standing(connection, device, Standing.REVOKED if revoked else Standing.RELEASED, decision)
    return Effect(ruling, None if revoked else await _let_out(connection, device["device_no"], None, decision))


async def _find(connection: Connection, ruling: Ruling) -> asyncpg.Record:
    """Lock the device that is decided of, if that can be decided of it as it stands."""
    row = await connection.fetchrow(_LOCK_STANDING, ruling.subject)
    if row is None:
        raise UnfitActError(f"no device {ruling.subject} is enrolled; `weighbridge devices list` shows those that are")
    if ruling.kind is Kind.REVOKE and row["standing"] == Standing.REVOKED:
        raise UnfitActError(f"device {ruling.subject} is revoked already")
    if ruling.kind is Kind.RELEASE and row["standing"] not in SUSPECT:
        raise UnfitActError(
            f"device {ruling.subject} is {row['standing']}: only one that is watched or quarantined can be released"
        )
    return row


async def _set_standing(connection: Connection, device: asyncpg.Record, after: Standing, decision: Decision) -> None:
    await connection.execute(_SET_STANDING, device["device_no"], after.value)
    await connection.execute(
        _PARDON, device["device_no"], device["standing"], after.value, decision.actor, decision.reason
    )
    before = {"standing": device["standing"], "suspicion": device["suspicion"]}
    await append(connection, decision, Act("standing", device["device_id"], before, {"standing": after.value}))


async def _let_out(connection: Connection, device_no: int | None, reason: str | None, decision: Decision) -> int:
    """Write down that messages are to be judged again, of a device or for a reason; returns the decision's number."""
    release_no: int = await connection.fetchval(_RELEASE_DECIDED, device_no, reason, decision.actor, decision.reason)
    return release_no
