"""What does a vehicle say when people decide about it? Stories by part, before a deed, meanwhile and after it.

Who decides is outside: `Lives.due` says for which vehicle it is time, with what the device itself brings; somebody does
it at the registry; `Lives.done` tells the vehicle. Most of what it says deserves the same verdict whether it is judged
before the deed or after: up to its own cut-off a key that is rotated is good; whoever goes to the workshop is silent.
Where that is not so, a message says what it deserves otherwise, and hindsight.py tells which of the two it was.
"""

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import msgspec
from msgspec.structs import replace

from device_sim.identity import Identity, Papers
from device_sim.request import write_request
from device_sim.vehicle import Draft, Lived, Send, Turn, Vehicle
from ingest.core.verdict import Hold, Refusal, Verdict

CALM_TURNS = 2  # that a vehicle has after one deed, before it is due for another
BUFFERED_MAX = 4
THEFTS_MAX = 4  # with a retired key, upon one unit: it is watched for them, and not quarantined
LATE = 2**21  # numbers that a replaced unit may still send: enough even where its first is still on its way
_AHEAD = 3  # numbers that a unit keeps for its old key while the new one is registered
_BUFFERED_S_MAX = 3 * 86_400
_BACK_DATED_S = 10 * 86_400
_CLOCK_AHEAD_S = 3_600
_RETIRED_KEY_USED = 10  # suspicion, as the policy weighs it by default


class Part(StrEnum):
    """What people do with a vehicle, again and again."""

    ROTATION = "rotation"
    REVOCATION = "revocation"  # and it is enrolled again
    REPLACEMENT = "replacement"
    TRANSFER = "transfer"
    DECOMMISSION = "decommission"  # and it is enrolled again
    REENROLMENT = "reenrolment"  # with a higher epoch, while its old key was never revoked


class Deed(StrEnum):
    """What a person does at the registry."""

    ROTATE = "rotate"
    REVOKE = "revoke"
    REPLACE = "replace"
    TRANSFER = "transfer"
    DECOMMISSION = "decommission"
    ENROL = "enrol"


_DEEDS: Mapping[Part, Deed] = MappingProxyType(
    {
        Part.ROTATION: Deed.ROTATE,
        Part.REVOCATION: Deed.REVOKE,
        Part.REPLACEMENT: Deed.REPLACE,
        Part.TRANSFER: Deed.TRANSFER,
        Part.DECOMMISSION: Deed.DECOMMISSION,
        Part.REENROLMENT: Deed.ENROL,
    }
)


class Ask(msgspec.Struct, frozen=True):
    """What a person is asked to do for one vehicle, with what it takes."""

    number: int  # the vehicle
    ordinal: int  # which of the deeds upon this vehicle
    deed: Deed
    device_id: str
    vehicle_id: str
    tenant: str  # whose the vehicle is, or is to be
    papers: Papers  # that the unit has once it is done
    request: str  # of the device that is to have a new key: JSON; else ""
    last_seq: int | None  # under the old key, where the device says so
    settled: bool  # only once all that the device has sent is judged
    sent: int  # so many messages had the vehicle sent by then


class Life(msgspec.Struct):
    """What a vehicle with a part remembers."""

    part: Part
    unit: Vehicle
    tenant: str
    former: Vehicle  # the unit, or this one with the papers that it had, before the last deed
    buffered: list[Draft]
    asked: Ask | None = None
    news: Deed | None = None  # what was done since the vehicle spoke
    deeds: int = 0
    calm: int = 0
    sent: int = 0
    last_seq: int = 0  # that the keys before these may sign
    out: bool = False  # its keys are revoked


class Lives:
    """The vehicles upon which people act."""

    def __init__(self, identity: Identity) -> None:
        self._identity: Final = identity
        self._lives: dict[int, Life] = {}
        self._waiting: deque[int] = deque()

    def play(self, turn: Turn, part: Part) -> Iterator[Send]:
        """Give what the vehicle says in its turn: decided at once, whatever is done before the last of it is sent."""
        life = self._lives.get(turn.vehicle.number) or self._begin(turn.vehicle, part)
        turn = replace(turn, vehicle=life.unit)
        sends = list(_ordinary(turn, life) if life.news is None else _AFTER[life.news](turn, life))
        life.sent += len(sends)
        if life.news is None:
            self._rest(life)
        life.news = None
        return iter(sends)

    def _begin(self, vehicle: Vehicle, part: Part) -> Life:
        life = Life(part, vehicle, self._identity.tenant(vehicle.number), vehicle, [])
        self._lives[vehicle.number] = life
        return life

    def _rest(self, life: Life) -> None:
        life.calm += 1
        if life.calm == CALM_TURNS:
            self._waiting.append(life.unit.number)

    def due(self) -> Ask | None:
        """Say for which vehicle it is time: for the one that has waited longest, if any does."""
        if not self._waiting:
            return None
        life = self._lives[self._waiting.popleft()]
        life.asked = _ask(life, self._identity)
        return life.asked

    def done(self, ask: Ask, last_seq: int | None) -> None:
        """Tell the vehicle what was done, and which is the last number that its old keys may sign."""
        life = self._lives[ask.number]
        assert life.asked == ask, "one deed at a time"
        life.asked, life.news, life.calm, life.deeds = None, ask.deed, 0, ask.ordinal
        life.tenant = ask.tenant
        life.last_seq = life.last_seq if last_seq is None else last_seq
        life.out = ask.deed in (Deed.REVOKE, Deed.DECOMMISSION)
        if ask.papers != life.unit.papers:
            life.former = life.unit
            life.unit = _renewed(life.unit, ask)


def _renewed(unit: Vehicle, ask: Ask) -> Vehicle:
    """Give the unit that speaks from now on: the same one with a new key, with its memory erased, or another one."""
    unit = copy.copy(unit)
    unit.papers = ask.papers
    if ask.deed is Deed.ROTATE:
        assert ask.last_seq is not None, "a device that rotates its key says so"
        unit.seq = ask.last_seq
        return unit
    unit.seq, unit.boots = 0, unit.boots + 1
    if ask.deed is Deed.REPLACE:
        unit.suspicion = 0
    return unit


def _ask(life: Life, identity: Identity) -> Ask:
    unit, deed = life.unit, Deed.ENROL if life.out else _DEEDS[life.part]
    papers, last_seq = unit.papers, None
    match deed:
        case Deed.ROTATE:
            papers, last_seq = replace(papers, keys=papers.keys + 1), unit.seq + _AHEAD
        case Deed.REPLACE:
            papers = Papers(papers.unit + 1)
        case Deed.ENROL:
            papers = replace(papers, keys=papers.keys + 1, epochs=papers.epochs + 1)
        case _:
            pass
    return Ask(
        number=unit.number,
        ordinal=life.deeds + 1,
        deed=deed,
        device_id=identity.device_id(unit.number, unit.papers),
        vehicle_id=identity.vehicle_id(unit.number),
        tenant=identity.tenant(unit.number + life.deeds + 1) if deed is Deed.TRANSFER else life.tenant,
        papers=papers,
        request=write_request(identity, unit.number, papers, last_seq) if papers != unit.papers else "",
        last_seq=last_seq,
        settled=life.part in (Part.DECOMMISSION, Part.REENROLMENT) and not life.out,
        sent=life.sent,
    )


def _ordinary(turn: Turn, life: Life) -> Iterator[Send]:
    """Say one thing, and perhaps keep another for later, as any vehicle does; or nothing, while something is done."""
    asked, chance = life.asked, turn.vehicle.chance
    if life.out:
        yield turn.refused(turn.draft().seal(), Refusal.KEY_REVOKED)
        return
    if asked is not None and (asked.settled or asked.last_seq == turn.vehicle.seq):
        yield _intruder(turn)
        return
    if asked is None and len(life.buffered) < BUFFERED_MAX and chance.happens(0.5):
        life.buffered.append(turn.draft(at_s=turn.now_s - chance.between(60, _BUFFERED_S_MAX)))
        turn.spend()
    ahead = life.part is Part.TRANSFER and chance.happens(0.25)
    yield _new(turn, life, turn.now_s + _CLOCK_AHEAD_S if ahead else None)


def _intruder(turn: Turn) -> Send:
    """Speak in the name of a vehicle that is silent, under a key that nobody has."""
    signer = turn.world.identity.forger(turn.vehicle.number)
    draft = replace(turn.draft(), signer=replace(signer, kid=turn.vehicle.chance.octets(16)))
    return turn.refused(draft.seal(), Refusal.UNKNOWN_KEY)


def _new(turn: Turn, life: Life, at_s: float | None = None) -> Send:
    draft = turn.draft(at_s=at_s)
    turn.spend()
    return _accepted(turn, life, draft)


def _accepted(turn: Turn, life: Life, draft: Draft) -> Send:
    """Send what is to be stored, with what its truth rests on."""
    revocable = life.part is Part.REVOCATION and not life.out
    otherwise = (Verdict.REFUSED, Refusal.KEY_REVOKED.value) if revocable else None
    lived = Lived(turn.vehicle.number, life.deeds + 1, draft.claims.issued_at_s, otherwise)
    return replace(turn.accepted(draft.seal()), lived=lived)


def _late(turn: Turn, life: Life) -> Iterator[Send]:
    """Send what was buffered before the last deed, by the unit and under the key that it was buffered with."""
    turn = replace(turn, vehicle=life.former)
    while life.buffered:
        yield _accepted(turn, life, life.buffered.pop())


def _after_rotation(turn: Turn, life: Life) -> Iterator[Send]:
    """Go on with the new key, and send under the old one what was buffered; whoever has the old key cannot go on."""
    yield _new(turn, life)
    yield from _late(turn, life)
    if turn.vehicle.suspicion < THEFTS_MAX * _RETIRED_KEY_USED:
        stolen = replace(turn, vehicle=life.former).draft(turn.vehicle.seq + 1)
        yield turn.held(stolen.seal(), Hold.KEY_RETIRED)
        turn.accuse(_RETIRED_KEY_USED)
    yield _new(turn, life)  # under the very number that the thief tried


def _after_replacement(turn: Turn, life: Life) -> Iterator[Send]:
    """Begin with the new unit, while the old one sends what it has: up to its last number, and beyond."""
    old = replace(turn, vehicle=life.former)
    yield _new(turn, life)
    for late in _late(turn, life):
        yield late
        yield _new(turn, life)
    yield _new(old, life)
    yield _accepted(old, life, old.draft(life.last_seq))
    yield old.held(old.draft(life.last_seq + 1).seal(), Hold.KEY_RETIRED)
    yield _new(turn, life)


def _after_transfer(turn: Turn, life: Life) -> Iterator[Send]:
    """Send what was issued under the owner before, and what was issued since."""
    yield _new(turn, life)
    yield from _late(turn, life)
    yield _new(turn, life, turn.now_s + _CLOCK_AHEAD_S)


def _after_revocation(turn: Turn, life: Life) -> Iterator[Send]:
    """Try with the revoked key: now, with a time before the revocation, and with what was signed before it."""
    backdated = turn.draft(at_s=turn.now_s - _BACK_DATED_S)
    for draft in (turn.draft(), backdated, *life.buffered):
        yield turn.refused(draft.seal(), Refusal.KEY_REVOKED)
    life.buffered.clear()


def _after_enrolment(turn: Turn, life: Life) -> Iterator[Send]:
    """Begin the new epoch; who has kept the old key gets nowhere, but what was buffered in the old epoch is taken."""
    old = replace(turn, vehicle=life.former)
    yield _new(turn, life)
    if life.part is not Part.REENROLMENT:
        yield turn.refused(old.draft().seal(), Refusal.KEY_REVOKED)
    else:
        yield from _late(turn, life)
        ours, theirs = turn.draft(), old.draft()
        yield turn.refused(theirs.seal(), Refusal.EPOCH_CLOSED)
        for draft, epoch in ((theirs, ours.claims.epoch), (ours, theirs.claims.epoch)):
            claims = replace(draft.claims, epoch=epoch)
            yield turn.refused(replace(draft, claims=claims).seal(), Refusal.KEY_NOT_VALID)
    yield _new(turn, life)


_AFTER: Mapping[Deed, Callable[[Turn, Life], Iterator[Send]]] = MappingProxyType(
    {
        Deed.ROTATE: _after_rotation,
        Deed.REPLACE: _after_replacement,
        Deed.TRANSFER: _after_transfer,
        Deed.REVOKE: _after_revocation,
        Deed.DECOMMISSION: _after_revocation,
        Deed.ENROL: _after_enrolment,
    }
)
