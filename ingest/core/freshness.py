"""How does the device's clock stand to the broker's? Our own clock has no part in it."""

from ingest.core.message import Envelope
from ingest.core.policy import Policy
from ingest.core.verdict import Hold, TimeQuality

# Named here, for the enum takes longer to find them than all the rest takes.
_OK, _AHEAD, _BEHIND = TimeQuality.OK, TimeQuality.AHEAD, TimeQuality.BEHIND


def expired(envelope: Envelope) -> bool:
    """Say whether the message was received after the end that its device gave it (`exp`)."""
    end = envelope.expires_at_s
    return end is not None and envelope.record.received_at_ms > end * 1000


def ahead_s(envelope: Envelope) -> float:
    """Say by how many seconds the device's clock was ahead of the broker's; negative when behind or late."""
    return envelope.issued_at_s - envelope.record.received_at_ms / 1000


def timing(envelope: Envelope, policy: Policy) -> TimeQuality | Hold:
    """Say of what quality a message's time is, or why it needs a person.

    A drifting clock or a late message is flagged and accepted, for late data is not guilty. What is well is not
    doubted: a policy by which it could be both is refused (ingest.config).
    """
    ahead = envelope.issued_at_s - envelope.record.received_at_ms / 1000  # as in `ahead_s`: asked of every message
    if abs(ahead) <= policy.clock_ok_s_max:
        return _OK
    if ahead > policy.clock_ahead_s_max:
        return Hold.CLOCK_FUTURE
    if -ahead > policy.age_s_max:
        return Hold.STALE
    return _AHEAD if ahead > 0 else _BEHIND
