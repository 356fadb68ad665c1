"""What is refused is kept in bounds that no flood moves and no cut of the log changes; that it was refused, always."""

import itertools

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from ingest.core.evidence import allot
from ingest.core.message import RawRecord, Reading, Refused
from ingest.core.outcome import Duplicate, Outcome, account, span_of
from ingest.core.policy import Policy
from ingest.core.rate import Bucket
from ingest.core.verdict import Refusal, Verdict
from tests.core.court import NOW_MS, Say, examined

SMALL = Policy(refused_bytes_max=100, refused_bytes_per_s_max=1_000, refused_burst_bytes_max=300)


def room(size: int, at_ms: int = 0) -> Bucket:
    """Give an allowance of so many bytes, so long after NOW_MS."""
    return Bucket(size * 1_000, NOW_MS + at_ms)


FULL = room(SMALL.refused_burst_bytes_max)
SPENT = room(0)


class Ended(msgspec.Struct, frozen=True):
    """A message that was not accepted."""

    size: int
    at_ms: int = 0  # after NOW_MS
    why: str = "malformed"  # or another reason to refuse it, or "duplicate"


def weigh(allowance: Bucket, *ended: Ended, offset: int = 0, policy: Policy = SMALL) -> Outcome:
    """Give what comes of a batch of these."""
    records = [RawRecord("t", 0, at, NOW_MS + one.at_ms, bytes(one.size)) for at, one in enumerate(ended, offset)]
    judged = [_judged(record, one.why) for record, one in zip(records, ended, strict=True)]
    return allot(account(judged, [], [], span_of(records, offset)), allowance, policy)


def _judged(record: RawRecord, why: str) -> Refused | Duplicate:
    if why != "duplicate":
        return Refused(record, Refusal(why), "it is so")
    reading = examined(Say(1), 0)
    assert isinstance(reading, Reading)
    return Duplicate(replace(reading.verified, envelope=replace(reading.verified.envelope, record=record)))


def test_as_much_is_kept_of_each_as_the_policy_says() -> None:
    outcome = weigh(FULL, Ended(1_000), Ended(70), Ended(0), Ended(99, why="duplicate"))
    assert outcome.shown == {0: 100, 1: 70, 2: 0, 3: 99}, "an empty message is shown whole"
    assert outcome.allowance == room(300 - 269)


def test_what_does_not_fit_is_passed_over_and_what_is_smaller_may_still_fit() -> None:
    outcome = weigh(room(150), Ended(100), Ended(51), Ended(50), Ended(1))
    assert outcome.shown == {0: 100, 2: 50}
    assert outcome.total(Verdict.REFUSED) == 4


def test_a_partition_that_nobody_has_read_yet_may_keep_a_whole_burst() -> None:
    assert weigh(Bucket(), *[Ended(100)] * 5).shown == {0: 100, 1: 100, 2: 100}


def test_the_allowance_grows_with_the_brokers_clock_up_to_a_burst() -> None:
    assert weigh(SPENT, Ended(100, at_ms=99)).shown == {}
    assert weigh(SPENT, Ended(100, at_ms=100)).shown == {0: 100}
    assert weigh(SPENT, Ended(100, at_ms=10**9)).allowance == room(200, 10**9)


def test_a_clock_that_goes_back_gives_nothing_twice() -> None:
    outcome = weigh(SPENT, Ended(1, at_ms=100), Ended(99, at_ms=0), Ended(1, at_ms=100))
    assert outcome.shown == {0: 1, 1: 99}
    assert outcome.allowance == room(0, 100)


def test_poison_is_always_kept_whole_and_at_nobodys_expense() -> None:
    outcome = weigh(SPENT, Ended(60_000, why="poison"), Ended(100), Ended(5_000, why="poison"))
    assert outcome.shown == {0: 60_000, 2: 5_000}
    assert outcome.allowance == SPENT


any_ended = st.builds(
    Ended,
    size=st.integers(0, 250),
    at_ms=st.integers(0, 1_000),  # in no order: brokers change, and so do their clocks
    why=st.sampled_from(("malformed", "bad_signature", "poison", "duplicate")),
)


@settings(deadline=None, max_examples=300)  # time is not what is tested
@given(st.lists(any_ended, min_size=1, max_size=60), st.sets(st.integers(1, 59), max_size=10))
def test_any_way_of_cutting_into_batches_keeps_the_same_bytes(ended: list[Ended], cuts: set[int]) -> None:
    whole = weigh(FULL, *ended)
    shown: dict[int, int] = {}
    allowance = FULL
    for start, end in itertools.pairwise([0, *sorted(cut for cut in cuts if cut < len(ended)), len(ended)]):
        outcome = weigh(allowance, *ended[start:end], offset=start)
        shown |= outcome.shown
        allowance = outcome.allowance
    assert (shown, allowance) == (whole.shown, whole.allowance)


def test_a_million_forgeries_fill_what_was_allowed_and_no_more_and_are_counted_each() -> None:
    policy, count, per_s = Policy(), 1_000_000, 10_000
    value, allowance, kept, refused = bytes(2_000), Bucket(), 0, 0
    for start in range(0, count, 8_000):
        records = [RawRecord("t", 0, at, NOW_MS + at * 1000 // per_s, value) for at in range(start, start + 8_000)]
        forged = [Refused(record, Refusal.BAD_SIGNATURE, "it does not hold") for record in records]
        outcome = allot(account(forged, [], [], span_of(records, start)), allowance, policy)
        allowance = outcome.allowance
        kept += sum(outcome.shown.values())
        refused += outcome.total(Verdict.REFUSED)
    allowed = policy.refused_burst_bytes_max + policy.refused_bytes_per_s_max * count // per_s
    assert refused == count
    assert allowed * 0.99 < kept <= allowed
