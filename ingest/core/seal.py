"""By what is a changed record found? A link for each record, in log order, and a seal that all of them lead to.

A link is made of what a record's row says and no lawful act changes. A seal is made of the one before it and the next
link: so it is the same for any cut of the log into batches, and whoever has kept the seal at an offset can tell whether
anything before it is not what it was.
"""

import hashlib
import struct
from collections.abc import Iterator, Mapping
from typing import Any, assert_never

import msgspec

from ingest.core.message import Envelope, RawRecord, Refused, Verified
from ingest.core.outcome import Accepted, Duplicate, Held, Outcome
from ingest.core.verdict import Verdict

BEGINNING = bytes(32)  # stands for the seal before the first link
DAY_S = 86_400

_LINK = struct.Struct(">BH32s")  # verdict, day, SHA-256 of the fact
LINK_BYTES = _LINK.size
_VERDICTS = tuple(Verdict)
_DAY_MAX = 2**16 - 1


class Fact(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What the row of a record says of it for good."""

    partition: int
    offset: int
    verdict: Verdict
    reason: str | None  # of what is accepted, its time quality
    received_at_ms: int
    day: int  # since 1970 UTC: its row is kept with those of that day, and goes with them; 0: it stays
    said: tuple[Any, ...]  # what else the row says, with as many of the record's bytes as it keeps


class Link(msgspec.Struct, frozen=True, gc=False):
    """A link, taken apart."""

    verdict: Verdict
    day: int
    digest: bytes


def links_of(outcome: Outcome) -> bytes:
    """Give the links of a batch's records, one after the other, in the order of their offsets."""
    facts = [_accepted(one) for one in outcome.accepted]
    facts += [_held(one) for one in outcome.held]
    facts += [_ended(one, outcome.shown) for one in outcome.duplicates]
    facts += [_ended(one, outcome.shown) for one in outcome.refused]
    facts.sort(key=_offset)
    return b"".join([link(fact) for fact in facts])


def link(fact: Fact) -> bytes:
    """Make the link of one record: SHA-256 over its fact as a MessagePack array, behind what says where the row is."""
    digest = hashlib.sha256(msgspec.msgpack.encode(fact)).digest()
    return _LINK.pack(_VERDICTS.index(fact.verdict), fact.day, digest)


def seal(before: bytes, links: bytes) -> bytes:
    """Lead from one seal to the next, link by link."""
    for at in range(0, len(links), LINK_BYTES):
        before = hashlib.sha256(before + links[at : at + LINK_BYTES]).digest()
    return before


def take_apart(links: bytes) -> Iterator[Link]:
    """Read links again."""
    for verdict, day, digest in _LINK.iter_unpack(links):
        yield Link(_VERDICTS[verdict], day, digest)


def claims(reached: RawRecord | Envelope | Verified) -> tuple[str, str | None, int | None, int | None, bytes | None]:
    """Say how far a record came, and what it says of itself: (reached, device_id, epoch, seq, digest)."""
    match reached:
        case Verified(envelope=envelope, digest=digest):
            return "verified", envelope.device_id, envelope.epoch, envelope.seq, digest
        case Envelope():
            return "envelope", reached.device_id, reached.epoch, reached.seq, None
        case RawRecord():
            return "record", None, None, None, None
        case _:
            assert_never(reached)


def _accepted(one: Accepted) -> Fact:
    """Of what is accepted: all else in its rows follows from its bytes."""
    envelope = one.verified.envelope
    record, day = envelope.record, _day(envelope.issued_at_s)
    said = record.traceparent, record.value
    return Fact(
        record.partition, record.offset, Verdict.ACCEPTED, one.quality, record.received_at_ms, day, said,
    )  # fmt: skip


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
    if isinstance(one, Duplicate):
        verdict, reason, detail, reached = Verdict.DUPLICATE, None, None, claims(one.verified)
    else:
        verdict, reason, detail, reached = Verdict.REFUSED, one.reason.value, one.detail, claims(one.reached)
    record = one.verified.record if isinstance(one, Duplicate) else one.record
    beginning = record.value[: shown[record.offset]] if record.offset in shown else None
    day, said = _day(record.received_at_ms / 1000), (detail, *reached, len(record.value), beginning)
    return Fact(record.partition, record.offset, verdict, reason, record.received_at_ms, day, said)


def _day(seconds: float) -> int:
    return int(min(max(seconds // DAY_S, 0), _DAY_MAX))


def _offset(fact: Fact) -> int:
    return fact.offset
