"""A device's clock is judged by the broker's time alone, at exact limits, whatever number it claims."""

import pytest
from msgspec.structs import replace

from ingest.core.freshness import ahead_s, expired, timing
from ingest.core.message import Envelope, RawRecord
from ingest.core.policy import Policy
from ingest.core.verdict import Hold, TimeQuality

NOW_S = 1_790_000_000
POLICY = Policy()
RECORD = RawRecord("t", 0, 0, NOW_S * 1_000, b"")
ENVELOPE = Envelope(RECORD, -8, b"k", "d", NOW_S, None, 1, 1, bytes(8), "1.0", bytes(32), b"", b"", b"")


def issued(ahead: float) -> Envelope:
    return replace(ENVELOPE, issued_at_s=NOW_S + ahead)


@pytest.mark.parametrize(
    ("ahead", "found"),
    [
        (0, TimeQuality.OK),
        (300, TimeQuality.OK),
        (-300, TimeQuality.OK),
        (300.001, TimeQuality.AHEAD),
        (-300.001, TimeQuality.BEHIND),
        (86_400, TimeQuality.AHEAD),
        (-7 * 86_400, TimeQuality.BEHIND),
        (-30 * 86_400, TimeQuality.BEHIND),
        (86_400.001, Hold.CLOCK_FUTURE),
        (-30 * 86_400 - 0.001, Hold.STALE),
        (10 * 365 * 86_400, Hold.CLOCK_FUTURE),
        (-NOW_S, Hold.STALE),  # 1970
        (2.0**62, Hold.CLOCK_FUTURE),
        (1.7e308, Hold.CLOCK_FUTURE),
        (-1.7e308, Hold.STALE),
    ],
)
def test_a_clock_is_fine_flagged_or_doubted(ahead: float, found: Hold | TimeQuality) -> None:
    assert timing(issued(ahead), POLICY) is found


def test_the_limits_are_those_of_the_policy() -> None:
    strict = Policy(clock_ok_s_max=1, clock_ahead_s_max=10, age_s_max=20)
    assert timing(issued(1.5), strict) is TimeQuality.AHEAD
    assert timing(issued(10.5), strict) is Hold.CLOCK_FUTURE
    assert timing(issued(-20.5), strict) is Hold.STALE


def test_how_far_ahead_a_clock_is_counts_from_the_broker_s_time() -> None:
    late = replace(ENVELOPE, record=replace(RECORD, received_at_ms=NOW_S * 1_000 + 1_500))
    assert ahead_s(late) == -1.5


@pytest.mark.parametrize(
    ("exp", "late"),
    [
        (None, False),
        (NOW_S, False),
        (NOW_S + 0.001, False),
        (NOW_S - 0.001, True),
        (0, True),
        (-1.7e308, True),
        (1.7e308, False),
    ],
)
def test_a_message_expires_just_after_its_exp(exp: float | None, late: bool) -> None:  # noqa: FBT001 (a table)
    assert expired(replace(ENVELOPE, expires_at_s=exp)) is late
