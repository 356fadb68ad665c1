"""How does the device's clock stand to the broker's? Our own clock has no part in it."""

from ingest.core.message import Envelope
from ingest.core.policy import Policy
from ingest.core.verdict import Hold, TimeQuality

_OK = TimeQuality.OK  # named here, for the enum takes longer to find it than all the rest takes


def expired(envelope: Envelope) -> bool:
    """Say whether the message was received after the end that its device gave it (`exp`)."""
    end = envelope.expires_at_s
    return end is not None and envelope.record.received_at_ms > end * 1000


def ahead_s(envelope: Envelope) -> float:
    """Say by how many seconds the device's clock was ahead of the broker's; negative when behind or late."""
    return envelope.issued_at_s - envelope.record.received_at_ms / 1000


def doubt(ahead: float, policy: Policy) -> Hold | None:
    """Say why a message whose clock is so many seconds ahead needs a person, if it does."""
    if ahead > policy.clock_ahead_s_max:
        return Hold.CLOCK_FUTURE
    if -ahead > policy.age_s_max:
        return Hold.STALE
    return None


def quality(ahead: float, policy: Policy) -> TimeQuality:
    """Flag a drifting clock or a late message: both are accepted, for late data is not guilty."""
    if abs(ahead) <= policy.clock_ok_s_max:
        return _OK
    return TimeQuality.AHEAD if ahead > 0 else TimeQuality.BEHIND


def fine_s(policy: Policy) -> float:
    """Say how far off a clock may be, either way, without being doubted or flagged."""
    return min(policy.clock_ok_s_max, policy.clock_ahead_s_max, policy.age_s_max)
