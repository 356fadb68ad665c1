"""How does an outcome become rows, but for what is accepted? Tuples in the order of the columns named here."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ingest.core.device import Device
from ingest.core.outcome import Alert, Held, Outcome
from ingest.core.rate import Shares
from ingest.core.seal import claims
from ingest.core.sequence import Ledger
from ingest.core.verdict import Verdict

Row = tuple[Any, ...]

_UNUSED = Ledger()
_REFUSED = Verdict.REFUSED
_REPEATED = (Verdict.DUPLICATE, None, None)  # with no reason, and nothing to explain

CALENDAR_S_MAX = 253_402_300_799.0  # 9999-12-31 23:59:59 UTC

HELD = (
    "topic_no", "partition", "kafka_offset", "reason", "received_at", "issued_at_s", "device_no", "key_no", "epoch",
    "seq", "boot", "digest", "traceparent", "judged_by", "envelope_bytes", "envelope",
)  # fmt: skip
EXCEPTION = (
    "topic_no", "partition", "kafka_offset", "verdict", "reason", "detail", "received_at", "reached", "device_id",
    "epoch", "seq", "digest", "judged_by", "envelope_bytes", "envelope",
)  # fmt: skip
ACCUSATION = (
    "device_no", "digest", "evidence", "weight", "before", "after", "spared", "tenant_no", "software", "epoch", "seq",
    "topic_no", "partition", "kafka_offset", "received_at", "judged_by",
)  # fmt: skip


def microseconds(seconds: float) -> int:
    """Round a claimed time to what the store's calendar can tell apart; beyond its ends, to the end.

    A device may claim any finite number: 1e308 seconds is a time, and must not be an overflow.
    """
    if 0.0 <= seconds <= CALENDAR_S_MAX:
        return round(seconds * 1_000_000)
    return 0 if seconds < 0.0 else round(CALENDAR_S_MAX * 1_000_000)


def signed(fingerprint: int) -> int:
    """Show an unsigned 64-bit number as the signed one with the same bits: bigint has no other."""
    return fingerprint - 2**64 if fingerprint >= 2**63 else fingerprint


def held(waiting: Iterable[Held], topic_no: int, judged_by: int) -> list[Row]:
    """Give the rows of `store.held`: whole, so that they can be judged again, as far as their device's share goes."""
    return [
        (
            topic_no, record.partition, record.offset, one.reason, record.received_at_ms * 1000,
            envelope.issued_at_s, verified.sender.device_no, verified.key.key_no, envelope.epoch, envelope.seq,
            envelope.boot, verified.digest, record.traceparent, judged_by, len(record.value),
            record.value if one.whole else None,
        )
        for one in waiting
        for verified in (one.verified,)
        for envelope in (verified.envelope,)
        for record in (envelope.record,)
    ]  # fmt: skip


def exceptions(outcome: Outcome, topic_no: int, judged_by: int) -> list[Row]:
    """Give the rows of `store.exception`: every duplicate and every refusal, with as many bytes as are to be shown."""
    ended: list[Row] = [(one.verified.record, _REPEATED, one.verified) for one in outcome.duplicates]
    ended += [(one.record, (_REFUSED, one.reason, one.detail), one.reached) for one in outcome.refused]
    shown = outcome.shown
    return [
        (
            topic_no, record.partition, record.offset, *said, record.received_at_ms * 1000, *claims(reached), judged_by,
            len(record.value), record.value[: shown[record.offset]] if record.offset in shown else None,
        )
        for record, said, reached in ended
    ]  # fmt: skip


def accusations(outcome: Outcome, topic_no: int, judged_by: int) -> list[Row]:
    """Give the rows of `store.accusation`."""
    return [
        (
            sender.device_no, one.verified.digest, one.evidence, one.weight, one.before, one.after,
            one.spared, sender.tenant_no, envelope.software, envelope.epoch, envelope.seq,
            topic_no, record.partition, record.offset, record.received_at_ms * 1000, judged_by,
        )
        for one in outcome.accusations
        for sender, envelope in ((one.verified.sender, one.verified.envelope),)
        for record in (envelope.record,)
    ]  # fmt: skip


def alerts(raised: Sequence[Alert], owners: Mapping[str, Mapping[str, Any]]) -> list[list[Any]]:
    """Give the columns for RAISE: first what names an alert, then where it was raised, and why.

    `owners` says of an equivocation, by its alert's id, where the message is whose number it used.
    """
    evidence = [{**one.evidence, **({"first": owners[one.id]} if one.id in owners else {})} for one in raised]
    return [
        [one.id for one in raised],
        [one.kind.value for one in raised],
        [one.subject for one in raised],
        [None if one.verified is None else one.verified.sender.tenant_no for one in raised],
        [one.record.received_at_ms * 1000 for one in raised],
        [one.record.partition for one in raised],
        [one.record.offset for one in raised],
        [msgspec.json.encode(facts).decode() for facts in evidence],
    ]


def devices(changed: Sequence[Device]) -> list[Row]:
    """Give what a batch changes of `store.device_state`, as `store.changed_device`: of each one's current epoch."""
    return [
        (
            device.device_no, device.held, device.held_bytes, b"".join(device.boots), multirange(ledger.ranges),
            ledger.floor, ledger.lowest, ledger.highest, ledger.accepted, device.standing, device.suspicion,
            device.suspicion_at_ms * 1000, device.software,
            None if device.clock_off_since_ms is None else device.clock_off_since_ms * 1000,
            device.rate.level_milli, device.rate.at_ms * 1000, device.rolled,
        )
        for device in changed
        for ledger in (device.ledgers.get(device.epoch, _UNUSED),)
    ]  # fmt: skip


def shares(charged: Shares) -> list[str]:
    """Give the columns for CLOSE, by tenant."""
    buckets = [charged[no] for no in sorted(charged)]
    levels, times = [bucket.level_milli for bucket in buckets], [bucket.at_ms for bucket in buckets]
    return [listed(sorted(charged)), listed(levels), listed(times)]


def closed(changed: Sequence[Device]) -> list[list[Any]]:
    """Give the columns for UPDATE_CLOSED: the ledgers of epochs that the registry has closed."""
    old = [
        (device.device_no, epoch, ledger)
        for device in changed
        for epoch, ledger in device.ledgers.items()
        if epoch != device.epoch
    ]
    ledgers = [ledger for _, _, ledger in old]
    return [
        [no for no, _, _ in old],
        [epoch for _, epoch, _ in old],
        [multirange(ledger.ranges) for ledger in ledgers],
        [ledger.floor for ledger in ledgers],
        [ledger.lowest for ledger in ledgers],
        [ledger.highest for ledger in ledgers],
        [ledger.accepted for ledger in ledgers],
    ]


def listed(numbers: Iterable[int]) -> str:
    """Write numbers as PostgreSQL's text form of an array: {1,5,7}."""
    return "{" + ",".join(map(str, numbers)) + "}"


def multirange(ranges: Sequence[int]) -> str:
    """Write half-open ranges as PostgreSQL's text form: {[1,5),[7,9)}."""
    if len(ranges) == 2:  # without a gap, as almost all are
        return f"{{[{ranges[0]},{ranges[1]})}}"
    return "{" + ",".join([f"[{lo},{hi})" for lo, hi in zip(ranges[::2], ranges[1::2], strict=True)]) + "}"


def read_multirange(text: str) -> tuple[int, ...]:
    """Read what `multirange` writes."""
    if text == "{}":
        return ()
    return tuple(map(int, text[2:-2].replace("),[", ",").split(",")))
