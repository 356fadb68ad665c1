"""Whom is somebody to be told of, and how often? Alerts, each with an id that follows from what it is about.

Whatever raises an alert again within its window raises the same one, so the store keeps one row however often it comes.
Windows are the broker's, and judged record by record: any cut of the log into batches raises the same alerts, and names
the same records as the first.
"""

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

from ingest.core.freshness import ahead_s
from ingest.core.message import Envelope, RawRecord, Refused, Verified
from ingest.core.outcome import Alert, Outcome, Strangers
from ingest.core.policy import Policy
from ingest.core.standing import Accusation, quarantines
from ingest.core.verdict import AlertKind, Evidence, Hold, Limit, Refusal

SCAN_MS = 600_000
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
CLAIMS_MAX = 64  # alerts of a kind in an hour and a partition that rest on what nobody signed
STRANGER_BITS = 1_024
CLOCK_S_MAX = 1e12  # beyond it nobody cares by how much a clock is wrong

Facts = dict[str, str | int | float]

PROVEN = {
    Evidence.EQUIVOCATION: AlertKind.EQUIVOCATION,
    Evidence.CLONE: AlertKind.CLONE,
    Evidence.RETIRED_KEY: AlertKind.RETIRED_KEY_USED,
    Evidence.RATE: AlertKind.RATE_ABUSE,
}
CLAIMED = {
    Refusal.KEY_REVOKED: AlertKind.REVOKED_KEY_USED,
    Refusal.WRONG_DEVICE: AlertKind.CROSS_VEHICLE_KEY,
}


def alarm(outcome: Outcome, strangers: Strangers, policy: Policy) -> Outcome:
    """Say what a batch raises, given which strangers were seen before it."""
    after, scans = _scans(outcome, strangers, policy)
    raised = [*proven(outcome, policy), *_claims(outcome.refused), *scans]
    return msgspec.structs.replace(outcome, alerts=_firsts(raised), strangers=after)


def proven(outcome: Outcome, policy: Policy) -> list[Alert]:
    """Say what a batch raises by what its devices have signed."""
    told = [a for a in outcome.accusations if a.evidence in PROVEN or a.after is not a.before or a.spared]
    raised = [alert for accusation in told for alert in _accused(accusation, policy)]
    return _firsts([*raised, *_drifts(outcome, policy), *_shortages(outcome)])


def _firsts(raised: Iterable[Alert]) -> list[Alert]:
    """Keep the first of each, in log order."""
    firsts: dict[str, Alert] = {}
    for alert in sorted(raised, key=lambda alert: alert.record.offset):
        firsts.setdefault(alert.id, alert)
    return list(firsts.values())


def _id(kind: AlertKind, *occasion: str | int) -> str:
    """Name an alert: SHA-256 over the JSON array of its kind and its occasion."""
    return hashlib.sha256(msgspec.json.encode([kind, *occasion])).hexdigest()


def _accused(accusation: Accusation, policy: Policy) -> Iterator[Alert]:
    """Tell of the evidence once an hour and device, of what followed from it each time."""
    verified, record = accusation.verified, accusation.verified.record
    device_id, kind = verified.envelope.device_id, PROVEN.get(accusation.evidence)
    if kind is not None:
        alert_id = _id(kind, device_id, record.received_at_ms // HOUR_MS)
        yield Alert(alert_id, kind, device_id, record, _facts(accusation), verified)
    if quarantines([accusation]):
        alert_id = _id(AlertKind.QUARANTINE, device_id, verified.digest.hex())
        yield Alert(alert_id, AlertKind.QUARANTINE, device_id, record, _facts(accusation), verified)
    if accusation.spared:
        cohort = f"cohort {accusation.cohort[0]} {accusation.cohort[1]}"
        alert_id = _id(AlertKind.FLEET_GUARD, cohort, record.received_at_ms // (policy.guard_window_s * 1000))
        yield Alert(alert_id, AlertKind.FLEET_GUARD, cohort, record, _facts(accusation), verified)


def _facts(accusation: Accusation) -> Facts:
    verified = accusation.verified
    return {
        "evidence": accusation.evidence.value,
        "weight": accusation.weight,
        "before": accusation.before.value,
        "after": accusation.after.value,
        **_signed(verified),
    }


def _signed(verified: Verified) -> Facts:
    """Say by what a message can be found again."""
    envelope = verified.envelope
    return {
        "device": envelope.device_id,
        "epoch": envelope.epoch,
        "seq": envelope.seq,
        "boot": envelope.boot.hex(),
        "kid": envelope.kid.hex(),
        "software": envelope.software,
        "digest": verified.digest.hex(),
    }


def _drifts(outcome: Outcome, policy: Policy) -> Iterator[Alert]:
    """Tell once a day of a clock that is off for long, or so far ahead that its message waits."""
    for accepted in outcome.accepted:
        if accepted.clock_off_s >= policy.clock_off_s_max:
            yield _drift(accepted.verified, accepted.clock_off_s)
    for held in outcome.held:
        if held.reason is Hold.CLOCK_FUTURE:
            yield _drift(held.verified, 0.0)


def _shortages(outcome: Outcome) -> Iterator[Alert]:
    """Tell once an hour and partition that a tenant, or all together, sent more than their share."""
    for held in outcome.held:
        if held.limit in (Limit.TENANT, Limit.FLEET):
            verified, record = held.verified, held.verified.record
            whose = f"tenant {verified.sender.tenant_no}" if held.limit is Limit.TENANT else "fleet"
            subject = f"{whose} in {record.topic}/{record.partition}"
            alert_id = _id(AlertKind.SHARE_SPENT, subject, record.received_at_ms // HOUR_MS)
            signed = verified if held.limit is Limit.TENANT else None  # what all have sent is no one tenant's
            yield Alert(alert_id, AlertKind.SHARE_SPENT, subject, record, _signed(verified), signed)


def _drift(verified: Verified, off_s: float) -> Alert:
    envelope, record = verified.envelope, verified.record
    ahead = round(max(-CLOCK_S_MAX, min(ahead_s(envelope), CLOCK_S_MAX)), 3)
    alert_id = _id(AlertKind.CLOCK_DRIFT, envelope.device_id, record.received_at_ms // DAY_MS)
    facts = {"ahead_s": ahead, "off_for_s": off_s, **_signed(verified)}
    return Alert(alert_id, AlertKind.CLOCK_DRIFT, envelope.device_id, record, facts, verified)


def _claims(refused: Iterable[Refused]) -> Iterator[Alert]:
    """Tell that somebody uses such a key: nothing is known of who. Of devices that share a slot, only of the first."""
    for one in refused:
        kind, claim = CLAIMED.get(one.reason), one.reached
        if kind is not None and isinstance(claim, Envelope):
            record = one.record
            slot = _hash(claim.device_id) % CLAIMS_MAX
            alert_id = _id(kind, record.topic, record.partition, record.received_at_ms // HOUR_MS, slot)
            facts: Facts = {"claimed_device": claim.device_id, "claimed_kid": claim.kid.hex(), "detail": one.detail}
            yield Alert(alert_id, kind, claim.device_id, record, facts)


def _scans(outcome: Outcome, strangers: Strangers, policy: Policy) -> tuple[Strangers, list[Alert]]:
    """Count ids that nobody has, and tell once a window and partition that they are many."""
    scans = []
    for one in outcome.refused:
        if one.reason is Refusal.UNKNOWN_DEVICE and isinstance(one.reached, Envelope):
            before, strangers = strangers, _seen(strangers, one.reached)
            if before.seen.bit_count() < policy.strangers_max == strangers.seen.bit_count():
                scans.append(_scan(one.record, strangers, policy))
    return strangers, scans


def _seen(strangers: Strangers, claim: Envelope) -> Strangers:
    window, bit = claim.record.received_at_ms // SCAN_MS, 1 << _hash(claim.device_id) % STRANGER_BITS
    if window > strangers.window:
        return Strangers(window, bit)
    return Strangers(strangers.window, strangers.seen | bit)


def _scan(record: RawRecord, strangers: Strangers, policy: Policy) -> Alert:
    where = f"{record.topic}/{record.partition}"
    facts: Facts = {"ids_at_least": policy.strangers_max, "within_s": SCAN_MS // 1000}
    alert_id = _id(AlertKind.UNKNOWN_DEVICES, record.topic, record.partition, strangers.window)
    return Alert(alert_id, AlertKind.UNKNOWN_DEVICES, where, record, facts)


def _hash(device_id: str) -> int:
    return int.from_bytes(hashlib.sha256(device_id.encode()).digest()[:4], "big")
