"""A changed record has another link, and no way of cutting the log makes another seal."""

import hashlib

import msgspec
import pytest
from msgspec.structs import replace

from ingest.core.outcome import Outcome
from ingest.core.seal import (
    BEGINNING,
    LINK_BYTES,
    Fact,
    day_in,
    day_of,
    facts_of,
    link,
    links_of,
    seal,
    split,
    verdict_in,
)
from ingest.core.verdict import Refusal, Verdict
from tests.core.court import NOW_MS, PATIENT, Court, Say

SAYS = [Say(1), Say(1), Say(2, readable=False), Say(3, authentic=False), Say(4), Say(4, content="b"), Say(5)]
SAYS += [Say(6, refused=Refusal.INVALID_PAYLOAD)]
DAY = NOW_MS // 86_400_000


def judged(*says: Say) -> Outcome:
    outcome = Court(policy=PATIENT).judge(*says)
    return replace(outcome, shown={1: 3})


def test_every_record_has_a_link_in_the_order_of_offsets() -> None:
    outcome = judged(*SAYS)
    facts = facts_of(outcome)
    assert [fact.offset for fact in facts] == list(range(len(SAYS)))
    words = ["accepted", "duplicate", "held", "refused", "accepted", "held", "accepted", "refused"]
    assert [fact.verdict for fact in facts] == words
    assert list(split(links_of(outcome))) == [link(fact) for fact in facts]
    assert [verdict_in(one) for one in split(links_of(outcome))] == words
    assert [day_in(one) for one in split(links_of(outcome))] == [0 if word == "held" else DAY for word in words]


def test_any_cut_leads_to_the_same_seal() -> None:
    whole = links_of(judged(*SAYS))
    for cut in range(0, len(whole), LINK_BYTES):
        assert seal(seal(BEGINNING, whole[:cut]), whole[cut:]) == seal(BEGINNING, whole)


def test_links_that_changed_places_lead_to_another_seal() -> None:
    first, second, *_ = split(links_of(judged(*SAYS)))
    assert seal(BEGINNING, first + second) != seal(BEGINNING, second + first)


@pytest.mark.parametrize(
    "changed",
    [
        {"partition": 1},
        {"offset": 8},
        {"verdict": Verdict.DUPLICATE},
        {"reason": "poison"},
        {"received_at_ms": 1},
        {"day": 1},
        {"said": ("", b"")},
        {"said": (None, b"1")},
    ],
)
def test_whatever_is_changed_makes_another_link(changed: dict[str, object]) -> None:
    fact = Fact(0, 7, Verdict.REFUSED, "malformed", 0, 0, (None, b""))
    assert link(replace(fact, **changed)) != link(fact)


def test_others_can_make_the_same_link() -> None:
    """As decisions/audit.md says: SHA-256 of a MessagePack array."""
    fact = Fact(0, 7, Verdict.HELD, "seq_jump", 1, 0, (None, b"bytes"))
    packed = b"\x97\x00\x07\xa4held\xa8seq_jump\x01\x00\x92\xc0\xc4\x05bytes"
    assert msgspec.msgpack.decode(packed) == [0, 7, "held", "seq_jump", 1, 0, [None, b"bytes"]]
    assert link(fact) == b"\x02\x00\x00" + hashlib.sha256(packed).digest()


@pytest.mark.parametrize(
    ("at_us", "day"), [(0, 0), (86_400_000_000 - 1, 0), (86_400_000_000, 1), (-5, 0), (2**63, 65_535)]
)
def test_a_day_is_a_number_that_a_link_has_room_for(at_us: int, day: int) -> None:
    assert day_of(at_us) == day


@pytest.mark.parametrize(("at_ms", "day"), [(1_000, 0), (10**14, 65_535)], ids=["before 1970", "after all days"])
def test_a_time_beyond_the_calendar_has_a_day_too(at_ms: int, day: int) -> None:
    (fact,) = facts_of(judged(Say(1, at_ms=at_ms, late_s=5)))
    assert (fact.verdict, fact.day) == (Verdict.ACCEPTED, day)
