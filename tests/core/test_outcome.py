"""An outcome accounts for every position of its span, or the process dies: we are bad, not the message."""

import pytest

from ingest.core.message import RawRecord, Refused
from ingest.core.outcome import Accepted, Duplicate, Held, Judged, Span, account, hash_of, span_of, verdict_of
from ingest.core.verdict import Hold, Refusal, TimeQuality, Verdict
from tests.core.court import PATIENT, Court, Say, examined


def record(offset: int) -> RawRecord:
    return RawRecord("t", 3, offset, 0, b"")


def refused(offset: int) -> Refused:
    return Refused(record(offset), Refusal.MALFORMED, "not CBOR")


def test_a_span_runs_from_where_the_last_ended_to_behind_its_last_record() -> None:
    assert span_of([record(5), record(6)], 5) == Span("t", 3, 5, 7, (), hash_of(record(6)))


def test_a_span_names_what_the_log_skipped() -> None:
    assert span_of([record(7), record(8), record(11)], 5) == Span("t", 3, 5, 12, ((5, 7), (9, 11)), hash_of(record(11)))


def test_a_record_is_known_again_by_its_bytes_and_its_time_wherever_it_stands() -> None:
    """Headers and keys are not ours; the broker's time tells two records of the same bytes apart."""
    known = hash_of(RawRecord("t", 3, 5, 1_000, b"abc"))
    assert hash_of(RawRecord("u", 1, 9, 1_000, b"abc", "00-trace")) == known
    assert hash_of(RawRecord("t", 3, 5, 1_001, b"abc")) != known
    assert hash_of(RawRecord("t", 3, 5, 1_000, b"abd")) != known
    assert hash_of(RawRecord("t", 3, 5, -1, b"")) != hash_of(RawRecord("t", 3, 5, 1, b""))


@pytest.mark.parametrize("offsets", [[4], [5, 5], [6, 5]])
def test_a_record_that_was_judged_already_is_our_own_fault(offsets: list[int]) -> None:
    with pytest.raises(AssertionError, match="was next"):
        span_of([record(offset) for offset in offsets], 5)


def test_consumed_is_the_sum_of_the_verdicts() -> None:
    says = [Say(1), Say(1), Say(2), Say(1, content="b"), Say(3, readable=False), Say(9, authentic=False)]
    outcome = Court(policy=PATIENT).judge(*says)
    assert {verdict: outcome.total(verdict) for verdict in Verdict} == {
        Verdict.ACCEPTED: 2,
        Verdict.DUPLICATE: 1,
        Verdict.HELD: 2,
        Verdict.REFUSED: 1,
    }
    assert outcome.consumed == len(says) == sum(outcome.counts.values())
    assert outcome.counts == {
        (Verdict.ACCEPTED, ""): 2,
        (Verdict.DUPLICATE, ""): 1,
        (Verdict.HELD, Hold.EQUIVOCATION): 1,
        (Verdict.HELD, Hold.SCHEMA_UNKNOWN): 1,
        (Verdict.REFUSED, Refusal.BAD_SIGNATURE): 1,
    }


def test_what_nobody_was_given_is_not_counted() -> None:
    assert Court().judge(Say(1, authentic=False)).counts == {(Verdict.REFUSED, Refusal.BAD_SIGNATURE): 1}


def test_skipped_positions_need_no_verdict() -> None:
    assert account([refused(5), refused(7)], [], [], Span("t", 3, 5, 8, ((6, 7),))).consumed == 2


@pytest.mark.parametrize("offsets", [[], [5], [5, 6, 7]], ids=["none", "one lost", "one too many"])
def test_a_batch_with_a_verdict_too_few_or_too_many_is_never_committed(offsets: list[int]) -> None:
    with pytest.raises(AssertionError, match="2 positions"):
        account([refused(offset) for offset in offsets], [], [], Span("t", 3, 5, 7))


def test_every_verdict_has_its_name_and_reason() -> None:
    reading, unreadable = examined(Say(1), 0), examined(Say(2, readable=False), 1)
    assert not isinstance(reading, Refused)
    assert not isinstance(unreadable, Refused)
    cases: list[tuple[Judged, tuple[Verdict, str]]] = [
        (Duplicate(reading.verified), (Verdict.DUPLICATE, "")),
        (Held(unreadable, Hold.SCHEMA_UNKNOWN), (Verdict.HELD, "schema_unknown")),
        (refused(1), (Verdict.REFUSED, "malformed")),
    ]
    assert [verdict_of(judged) for judged, _ in cases] == [named for _, named in cases]
    (accepted,) = Court().judge(Say(1)).accepted
    assert isinstance(accepted, Accepted)
    assert (verdict_of(accepted), accepted.quality) == ((Verdict.ACCEPTED, ""), TimeQuality.OK)
