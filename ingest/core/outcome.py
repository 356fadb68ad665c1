"""What does a batch change, all told? Verdicts, device rows and the next offset, to be committed together."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import assert_never

import msgspec

from ingest.core.device import Device
from ingest.core.message import RawRecord, Reading, Refused, Unreadable, Verified
from ingest.core.rate import Bucket, Shares
from ingest.core.standing import Accusation
from ingest.core.verdict import AlertKind, Hold, Limit, TimeQuality, Verdict


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """Authentic, fresh, new and valid: to be stored."""

    reading: Reading
    quality: TimeQuality
    clock_off_s: float = 0.0  # for how long its device's clock has been off, by the broker's

    @property
    def verified(self) -> Verified:
        """Who sent it."""
        return self.reading.verified


class Duplicate(msgspec.Struct, frozen=True, gc=False):
    """The same number with the same content was already accepted or held."""

    verified: Verified


class Held(msgspec.Struct, frozen=True, gc=False):
    """Authentic, but waits for a person or a schema."""

    message: Reading | Unreadable
    reason: Hold
    whole: bool = True  # its bytes are kept; not so when its device has too many waiting already
    limit: Limit | None = None  # whose bucket was empty, if it is held for that

    @property
    def verified(self) -> Verified:
        """Who sent it."""
        return self.message.verified


Judged = Accepted | Duplicate | Held | Refused


class Span(msgspec.Struct, frozen=True, gc=False):
    """The part of a partition that a batch covers: from_offset <= offset < to_offset, less what the log skipped."""

    topic: str
    partition: int
    from_offset: int
    to_offset: int
    skipped: tuple[tuple[int, int], ...] = ()  # half-open ranges without a record (transaction markers, compaction)
    record_hash: bytes = b""  # of its last record, by which the log is known again
    received_at_ms: int = 0  # of its last record: the broker's clock


class Strangers(msgspec.Struct, frozen=True, gc=False):
    """Which ids that nobody has were named in a partition of late: as a bitmap, whose ones are never more than ids."""

    window: int = 0  # its number, counted from 1970 UTC
    seen: int = 0  # bit n: an id with hash n


class Alert(msgspec.Struct, frozen=True, gc=False):
    """What somebody is to be told of. Who raises it again raises the same, by its id."""

    id: str
    kind: AlertKind
    subject: str  # whom it is about: a device id, or else what the kind says
    record: RawRecord  # the first one that raised it
    evidence: Mapping[str, str | int | float]
    verified: Verified | None = None  # what it rests on; None: on what nobody signed


class Outcome(msgspec.Struct, frozen=True):
    """All that a batch changes. Consumed = accepted + duplicates + held + refused, always."""

    span: Span
    accepted: list[Accepted]
    duplicates: list[Duplicate]
    held: list[Held]
    refused: list[Refused]
    devices: list[Device]  # the rows that change, by device_no
    accusations: list[Accusation]  # what speaks against devices, in log order
    counts: Mapping[tuple[Verdict, str], int]  # by verdict and reason ("" where there is none)
    shares: Shares = {}  # those that were charged
    allowance: Bucket = Bucket()  # how many bytes of what is refused the next batch may keep
    shown: Mapping[int, int] = {}  # by offset: how many bytes of a refused message or a duplicate are kept
    alerts: Sequence[Alert] = ()  # in log order; some may have been raised before
    strangers: Strangers = Strangers()  # for the next batch to go on with

    @property
    def consumed(self) -> int:
        """How many records the batch held."""
        return len(self.accepted) + len(self.duplicates) + len(self.held) + len(self.refused)

    def total(self, verdict: Verdict) -> int:
        """How many records got this verdict."""
        return sum(n for (given, _), n in self.counts.items() if given is verdict)


def account(judged: Sequence[Judged], devices: list[Device], accusations: list[Accusation], span: Span) -> Outcome:
    """Sort a batch's verdicts; a record without exactly one verdict is our own fault, and fatal."""
    accepted: list[Accepted] = []
    duplicates: list[Duplicate] = []
    held: list[Held] = []
    refused: list[Refused] = []
    for one in judged:  # by its very type: isinstance takes five times as long to say no
        if type(one) is Accepted:
            accepted.append(one)
        elif type(one) is Refused:
            refused.append(one)
        elif type(one) is Duplicate:
            duplicates.append(one)
        elif type(one) is Held:
            held.append(one)
    counts = {
        (Verdict.ACCEPTED, ""): len(accepted),
        (Verdict.DUPLICATE, ""): len(duplicates),
        **_by_reason(Verdict.HELD, held),
        **_by_reason(Verdict.REFUSED, refused),
    }
    given = {verdict: number for verdict, number in counts.items() if number}
    outcome = Outcome(span, accepted, duplicates, held, refused, devices, accusations, given)
    positions = span.to_offset - span.from_offset - sum(end - start for start, end in span.skipped)
    assert outcome.consumed == len(judged) == positions, f"{positions} positions, {outcome.consumed} verdicts"
    return outcome


def _by_reason(verdict: Verdict, given: Sequence[Held | Refused]) -> dict[tuple[Verdict, str], int]:
    return {(verdict, reason): number for reason, number in Counter([one.reason for one in given]).items()}


def span_of(records: Sequence[RawRecord], next_offset: int) -> Span:
    """Measure a batch against the offset where the last one ended, and note what the log skipped in between."""
    skipped, expected = [], next_offset
    for record in records:
        assert record.offset >= expected, f"offset {record.offset} again; {expected} was next"
        if record.offset > expected:
            skipped.append((expected, record.offset))
        expected = record.offset + 1
    last = records[-1]
    return Span(last.topic, last.partition, next_offset, expected, tuple(skipped), hash_of(last), last.received_at_ms)


def hash_of(record: RawRecord) -> bytes:
    """SHA-256 of what the broker keeps of a record: by it a log is known again that was cut off or replaced."""
    return hashlib.sha256(record.received_at_ms.to_bytes(8, "big", signed=True) + record.value).digest()


def verdict_of(judged: Judged) -> tuple[Verdict, str]:
    """Name the verdict and its reason, "" where there is none."""
    match judged:
        case Accepted():
            return Verdict.ACCEPTED, ""
        case Duplicate():
            return Verdict.DUPLICATE, ""
        case Held(reason=hold):
            return Verdict.HELD, hold
        case Refused(reason=refusal):
            return Verdict.REFUSED, refusal
        case _:
            assert_never(judged)
