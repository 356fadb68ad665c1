"""By what is a changed record found? A link for each record, in log order, and a seal that all of them lead to.

A link is made of what a record's row says and no lawful act changes. A seal is made of the one before it and the next
link: so it is the same for any cut of the log into batches, and whoever has kept the seal at an offset can tell whether
anything before it is not what it was.
"""

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec

from ingest.core.message import Envelope, RawRecord, Refused, Verified
from ingest.core.outcome import Accepted, Duplicate, Held, Outcome
from ingest.core.verdict import Verdict

BEGINNING = bytes(32)  # stands for the seal before the first link
DAY_US = 86_400_000_000

_LINK = struct.Struct(">BH32s")  # verdict, day, SHA-256 of the fact
LINK_BYTES = _LINK.size
_VERDICTS = tuple(Verdict)
# A name of the module is found ten times as fast as one of an enum.
_ACCEPTED, _DUPLICATE, _REFUSED = Verdict.ACCEPTED, Verdict.DUPLICATE, Verdict.REFUSED
_NUMBERS = {verdict: number for number, verdict in enumerate(_VERDICTS)}
_DAY_MAX = 2**16 - 1
_TIME_S_MAX = 1e10  # beyond all days


class Fact(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What the row of a record says of it for good."""

    partition: int
    offset: int
    verdict: Verdict
    reason: str | None  # of what is accepted, its time quality
    received_at_ms: int
    day: int  # since 1970 UTC: its row is kept with those of that day, and goes with them; 0: it stays
    said: tuple[Any, ...]  # what else the row says, with as many of the record's bytes as it keeps


Linked = tuple[int, bytes]  # a record's offset, and its link


def links_of(outcome: Outcome, accepted: Sequence[Linked] | None = None) -> bytes:
    """Give the links of a batch's records, one after the other, in the order of their offsets.

    `accepted` are those of what is accepted, where they were made already.
    """
    facts = _not_accepted(outcome) if accepted is not None else facts_of(outcome)
    linked = [*(accepted or ()), *[(fact.offset, link(fact)) for fact in facts]]
    return b"".join([one for _, one in sorted(linked)])


def facts_of(outcome: Outcome) -> list[Fact]:
    """List what the rows of a batch's records say for good, in the order of their offsets."""
    return sorted([*map(fact_of, outcome.accepted), *_not_accepted(outcome)], key=attrgetter("offset"))


def fact_of(one: Accepted) -> Fact:
    """Say what the row of an accepted message says for good: all else in its rows follows from its bytes."""
    envelope = one.reading.verified.envelope
    record, issued_at_s = envelope.record, envelope.issued_at_s
    if not 0.0 <= issued_at_s <= _TIME_S_MAX:
        issued_at_s = 0.0 if issued_at_s < 0.0 else _TIME_S_MAX
    day, said = day_of(round(issued_at_s * 1_000_000)), (record.traceparent, record.value)
    return Fact(record.partition, record.offset, _ACCEPTED, one.quality, record.received_at_ms, day, said)


def _not_accepted(outcome: Outcome) -> list[Fact]:
    facts = [_held(one) for one in outcome.held]
    facts += [_ended(one, outcome.shown) for one in outcome.duplicates]
    facts += [_ended(one, outcome.shown) for one in outcome.refused]
    return facts


def link(fact: Fact) -> bytes:
    """Make the link of one record: SHA-256 over its fact as a MessagePack array, behind what says where the row is."""
    digest = hashlib.sha256(msgspec.msgpack.encode(fact)).digest()
    return _LINK.pack(_NUMBERS[fact.verdict], fact.day, digest)


def seal(before: bytes, links: bytes) -> bytes:
    """Lead from one seal to the next, link by link."""
    for one in split(links):
        before = hashlib.sha256(before + one).digest()
    return before


def split(links: bytes) -> Iterator[bytes]:
    """Take links one by one again."""
    for at in range(0, len(links), LINK_BYTES):
        yield links[at : at + LINK_BYTES]


def verdict_in(one: bytes) -> Verdict:
    """Say which verdict a link is of."""
    return _VERDICTS[one[0]]


def day_in(one: bytes) -> int:
    """Say with which day's rows that of a link is kept."""
    return int.from_bytes(one[1:3], "big")


def claims(reached: RawRecord | Envelope | Verified) -> tuple[str, str | None, int | None, int | None, bytes | None]:
    """Say how far a record came, and what it says of itself: (reached, device_id, epoch, seq, digest)."""
    if isinstance(reached, Verified):
        envelope = reached.envelope
        return "verified", envelope.device_id, envelope.epoch, envelope.seq, reached.digest
    if isinstance(reached, Envelope):
        return "envelope", reached.device_id, reached.epoch, reached.seq, None
    return "record", None, None, None, None


def _held(one: Held) -> Fact:
    verified = one.verified
    envelope, record = verified.envelope, verified.record
    value = record.value if one.whole else None
    said = (
        verified.sender.device_no, verified.key.key_no, float(envelope.issued_at_s), envelope.epoch, envelope.seq,
        envelope.boot, verified.digest, record.traceparent, len(record.value), value,
    )  # fmt: skip
    return Fact(record.partition, record.offset, Verdict.HELD, one.reason, record.received_at_ms, 0, said)


def _ended(one: Duplicate | Refused, shown: Mapping[int, int]) -> Fact:
    if isinstance(one, Refused):
        record, verdict, reason, detail, reached = one.record, _REFUSED, one.reason, one.detail, claims(one.reached)
    else:
        record, verdict, reason, detail, reached = one.verified.record, _DUPLICATE, None, None, claims(one.verified)
    beginning = record.value[: shown[record.offset]] if record.offset in shown else None
    day, said = day_of(record.received_at_ms * 1000), (detail, *reached, len(record.value), beginning)
    return Fact(record.partition, record.offset, verdict, reason, record.received_at_ms, day, said)


def day_of(microseconds: int) -> int:
    """Name the day of an instant, both since 1970 UTC."""
    day = microseconds // DAY_US
    return day if 0 <= day <= _DAY_MAX else 0 if day < 0 else _DAY_MAX
