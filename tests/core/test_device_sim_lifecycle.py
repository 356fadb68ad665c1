"""Do vehicles ask for what the registry takes, and say before and after what the contract has a verdict for?"""

from collections import Counter
from collections.abc import Iterator

import cbor2
import pytest
from msgspec.structs import replace

from device_sim.fleet import Mix, Plan, sends
from device_sim.hindsight import Done, look_back
from device_sim.identity import Fleet, Identity
from device_sim.lifecycle import CALM_TURNS, Ask, Deed, Lives, Part
from device_sim.truth import Deserved
from device_sim.vehicle import Lived, Send
from device_sim.wire import CLAIM_BOOT, CLAIM_EPOCH, CLAIM_SEQ, LABEL_CLAIMS, LABEL_KID
from ingest.core.proof import read_request
from ingest.core.verdict import Verdict

START_S = 1_795_000_000.0
VEHICLES = 8
ACCEPTED = ("accepted", "")
KEY_REVOKED = (Verdict.REFUSED, "key_revoked")


class Road:
    """A fleet whose vehicles all have one part."""

    def __init__(self, part: Part) -> None:
        self.identity = Identity(Fleet(5, VEHICLES))
        self.lives = Lives(self.identity)
        self._sends = sends(Plan(self.identity.fleet, Mix({part: 1.0}), START_S, samples_max=1), self.lives)

    def hear(self, count: int) -> list[Send]:
        return [next(self._sends) for _ in range(count)]

    def ask(self, number: int | None = None) -> Ask:
        """Let everybody speak until it is time for somebody, or for this vehicle; nothing is done for the others."""
        for _ in range(20 * VEHICLES * CALM_TURNS):
            ask = self.lives.due()
            if ask is not None and number in (None, ask.number):
                return ask
            self.hear(1)
        raise AssertionError("nobody is due")

    def after(self, ask: Ask, last_seq: int | None = None) -> list[Send]:
        """Do it, and hear what the vehicle says then."""
        self.lives.done(ask, last_seq)
        name = self.identity.device_id(ask.number)
        heard = self.hear(VEHICLES * 20)
        return [send for send in heard if send.device_id.startswith(name)]


def deserved(said: list[Send]) -> list[tuple[str, str]]:
    return [(send.verdict.value, send.reason) for send in said]


def header(send: Send) -> tuple[bytes, int, int, bytes]:
    """Give kid, epoch, number and boot."""
    read = cbor2.loads(cbor2.loads(send.value or b"").value[0])
    claims = read[LABEL_CLAIMS]
    return read[LABEL_KID], claims[CLAIM_EPOCH], claims[CLAIM_SEQ], claims[CLAIM_BOOT]


def asks(part: Part) -> Iterator[Ask]:
    """Do what is due, for a while."""
    road = Road(part)
    for _ in range(3 * VEHICLES):
        ask = road.ask()
        yield ask
        road.after(ask, ask.last_seq if ask.deed is Deed.ROTATE else 10_000)


@pytest.mark.parametrize("part", [Part.ROTATION, Part.REPLACEMENT, Part.REVOCATION, Part.REENROLMENT])
def test_every_request_proves_its_key_and_no_key_comes_twice(part: Part) -> None:
    identity, keys = Identity(Fleet(5, VEHICLES)), set()
    for ask in asks(part):
        if ask.deed in (Deed.REVOKE, Deed.DECOMMISSION):
            assert ask.request == ""
            continue
        candidate = read_request(ask.request)
        assert candidate.public not in keys
        keys.add(candidate.public)
        assert (candidate.vehicle_id, candidate.last_seq) == (ask.vehicle_id, ask.last_seq)
        assert candidate.device_id == identity.device_id(ask.number, ask.papers)
        assert (candidate.device_id == ask.device_id) == (ask.deed is not Deed.REPLACE)


@pytest.mark.parametrize("part", Part)
def test_where_nobody_decides_anything_everything_is_honest_and_the_same_each_time(part: Part) -> None:
    said = Road(part).hear(200)
    assert set(deserved(said)) == {ACCEPTED}
    assert [send.value for send in Road(part).hear(200)] == [send.value for send in said]


def test_a_rotated_key_signs_what_was_buffered_and_whoever_goes_on_with_it_is_held() -> None:
    road = Road(Part.ROTATION)
    ask = road.ask()
    said = road.after(ask, ask.last_seq)
    old, new = road.identity.kid(ask.number), road.identity.kid(ask.number, ask.papers)
    assert ask.last_seq is not None
    for send in said:
        kid, _, seq, _ = header(send)
        assert kid in (old, new)
        assert deserved([send]) == ([("held", "key_retired")] if kid == old and seq > ask.last_seq else [ACCEPTED])
    stolen = [header(send)[2] for send in said if send.reason == "key_retired"]
    assert stolen[0] in {header(send)[2] for send in said if header(send)[0] == new}, "who has the new key uses it"


def test_a_unit_keeps_below_the_number_that_it_has_named_as_the_last_of_its_old_key() -> None:
    road = Road(Part.ROTATION)
    ask = road.ask()
    said = [send for send in road.hear(40 * VEHICLES) if send.device_id == ask.device_id]
    assert ask.last_seq is not None
    assert Counter(send.reason for send in said)["unknown_key"] > 0, (
        "it is silent, and somebody else speaks in its name"
    )
    assert max(header(send)[2] for send in said if send.verdict is Verdict.ACCEPTED) == ask.last_seq


def test_what_was_signed_before_a_revocation_is_refused_after_it_and_what_is_on_its_way_may_be() -> None:
    road = Road(Part.REVOCATION)
    before = road.hear(VEHICLES)
    assert {send.lived.otherwise for send in before if send.lived} == {KEY_REVOKED}
    ask = road.ask()
    said = road.after(ask)
    assert set(deserved(said)) == {("refused", "key_revoked")}
    again = road.ask(ask.number)
    assert again.deed is Deed.ENROL
    said = road.after(again)
    assert Counter(deserved(said))["refused", "key_revoked"] == 1, "the old key, once more"
    assert {header(send)[1] for send in said if send.verdict is Verdict.ACCEPTED} == {
        road.identity.epoch(ask.number) + 1
    }


def test_a_replaced_unit_goes_on_up_to_its_last_number_beside_the_new_one() -> None:
    road = Road(Part.REPLACEMENT)
    ask, last = road.ask(), 3_000_000
    said = road.after(ask, last)
    old = [send for send in said if send.device_id == ask.device_id]
    assert deserved(old)[-2:] == [ACCEPTED, ("held", "key_retired")]
    assert [header(send)[2] for send in old[-2:]] == [last, last + 1]
    new = [header(send)[2] for send in said if send.device_id != ask.device_id]
    assert new[0] == 1
    assert new == sorted(set(new))


def test_in_a_closed_epoch_only_what_was_buffered_is_taken() -> None:
    road = Road(Part.REENROLMENT)
    ask = road.ask()
    assert ask.settled
    said = road.after(ask)
    first = road.identity.epoch(ask.number)
    reasons = Counter(send.reason for send in said)
    assert (reasons["epoch_closed"], reasons["key_not_valid"]) == (1, 2)
    closed = next(header(send)[2] for send in said if send.reason == "epoch_closed")
    buffered = [header(send) for send in said if send.verdict is Verdict.ACCEPTED and header(send)[1] == first]
    assert all(seq < closed for _, _, seq, _ in buffered)


def transferred(ordinal: int, at_ms: int, tenant: str) -> Done:
    ask = next(asks(Part.TRANSFER))
    return Done(replace(ask, number=3, ordinal=ordinal, tenant=tenant), {}, at_ms)


@pytest.mark.parametrize(
    ("issued_at_s", "received_at_ms", "tenant"),
    [
        (99.0, 150_000, "tenant-4"),  # issued before, received after
        (100.0, 100_000, "a"),
        (150.0, 99_999, "tenant-4"),  # its clock is ahead
        (250.0, 150_000, "a"),
        (200.0, 200_000, "b"),
        (1e9, 250_000, "b"),
    ],
)
def test_an_owner_follows_from_when_a_message_was_issued_and_received(
    issued_at_s: float, received_at_ms: int, tenant: str
) -> None:
    done = [transferred(1, 100_000, "a"), transferred(2, 200_000, "b")]
    lived = Lived(3, 1, issued_at_s, None, received_at_ms)
    row = Deserved("t", 0, 0, Verdict.ACCEPTED, "", None, "transfer", "a device", lived)
    (settled,) = look_back([row], done, Identity(Fleet(5, VEHICLES)))
    assert settled.tenant == tenant


def test_only_what_was_on_its_way_when_a_deed_began_may_deserve_something_else() -> None:
    ask = replace(next(asks(Part.REVOCATION)), number=3)
    done = [Done(ask, {0: 10})]
    lived = Lived(3, ask.ordinal, 1.0, KEY_REVOKED, 1_000)
    rows = [
        Deserved("t", partition, offset, Verdict.ACCEPTED, "", None, "revocation", "a device", one)
        for partition, offset, one in (
            (0, 9, lived),
            (0, 10, lived),
            (1, 0, lived),
            (0, 11, replace(lived, deed=ask.ordinal + 1)),
        )
    ]
    settled = look_back(rows, done, Identity(Fleet(5, VEHICLES)))
    assert [row.otherwise for row in settled] == [None, KEY_REVOKED, KEY_REVOKED, None]
