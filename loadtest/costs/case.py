"""By which ways do messages end? For each verdict and reason: what is sent, and how things stand when it comes."""

import msgspec

from ingest.core.policy import Policy
from ingest.core.verdict import Hold, Refusal, Verdict
from loadtest.corpus import Content

_REVOKED = "update store.device_key set state = 'revoked', revoked_at = now(), revoked_why = 'for a measurement'"
_ENDED = "update store.device_key set valid_until = now() - interval '1 day'"
_RETIRED = """
    update store.device_key k set state = 'retired', seq_cutoff = 0, cutoff_epoch = s.epoch
    from store.device_state s where s.device_no = k.device_no"""
_QUARANTINED = "update store.device_state set standing = 'quarantined'"
_REPLACED = "update store.device_state set epoch = epoch + 1"
_SPENT = "update store.device_state set rate_milli = 0, rate_at = now() + interval '1 hour'"


class Case(msgspec.Struct, frozen=True):
    """One way."""

    verdict: Verdict
    reason: Refusal | Hold | None = None
    content: Content = Content.HONEST
    first: Content | None = None  # what the same devices have sent before
    change: str = ""  # of the store, before the messages come
    policy: Policy = Policy()
    unreadable: str | None = None  # of each record, why its value could not be had

    def __str__(self) -> str:
        return f"{self.verdict} {self.reason or ''}".strip()


ACCEPTED = Case(Verdict.ACCEPTED)


def _refused(reason: Refusal, content: Content = Content.HONEST, change: str = "") -> Case:
    return Case(Verdict.REFUSED, reason, content, change=change)


def _held(reason: Hold, content: Content = Content.HONEST, change: str = "") -> Case:
    return Case(Verdict.HELD, reason, content, change=change)


# `lapsed` is no message's way in: it ends what is held, in the upkeep.
CASES = (
    ACCEPTED,
    Case(Verdict.DUPLICATE, first=Content.HONEST),
    Case(Verdict.REFUSED, Refusal.POISON, unreadable="the batch that it was in is damaged"),
    _refused(Refusal.OVERSIZE, Content.OVERSIZE),
    _refused(Refusal.MALFORMED, Content.MALFORMED),
    _refused(Refusal.UNKNOWN_DEVICE, Content.UNKNOWN_DEVICE),
    _refused(Refusal.UNKNOWN_KEY, Content.UNKNOWN_KEY),
    _refused(Refusal.WRONG_DEVICE, Content.WRONG_DEVICE),
    _refused(Refusal.ALGORITHM_MISMATCH, Content.ALGORITHM_MISMATCH),
    _refused(Refusal.KEY_REVOKED, change=_REVOKED),
    _refused(Refusal.KEY_NOT_VALID, change=_ENDED),
    _refused(Refusal.BAD_SIGNATURE, Content.FORGED),
    _refused(Refusal.EXPIRED, Content.EXPIRED),
    _refused(Refusal.INVALID_PAYLOAD, Content.INVALID_PAYLOAD),
    _refused(Refusal.OUT_OF_RANGE, Content.OUT_OF_RANGE),
    _refused(Refusal.EPOCH_CLOSED, change=_REPLACED),
    _held(Hold.EPOCH_UNKNOWN, Content.EPOCH_UNKNOWN),
    _held(Hold.QUARANTINED, change=_QUARANTINED),
    _held(Hold.KEY_RETIRED, change=_RETIRED),
    _held(Hold.SCHEMA_UNKNOWN, Content.SCHEMA_UNKNOWN),
    _held(Hold.CLOCK_FUTURE, Content.CLOCK_FUTURE),
    _held(Hold.STALE, Content.STALE),
    _held(Hold.SEQ_JUMP, Content.SEQ_JUMP),
    Case(Verdict.HELD, Hold.EQUIVOCATION, Content.EQUIVOCATION, first=Content.HONEST),
    Case(Verdict.HELD, Hold.COUNTER_ROLLBACK, Content.COUNTER_ROLLBACK, first=Content.HONEST),
    Case(
        Verdict.HELD,
        Hold.RATE_LIMITED,
        change=_SPENT,
        policy=Policy(device_per_s_max=1, device_burst_max=1, device_away_s_max=0),
    ),
)
