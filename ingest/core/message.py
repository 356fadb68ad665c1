"""What is a message, at each degree of trust? Each type wraps the one before it, so provenance is its shape.

RawRecord (exists) -> Envelope (well formed, claims only) -> Verified (really from that device) -> Reading (means
something).
A message that stopped on the way is a Refused around the last thing that it was: only a Verified names a culprit.
"""

from collections.abc import Iterator, Sequence
from typing import Any, final

import msgspec

from ingest.core.device import Key, Sender
from ingest.core.verdict import Refusal


@final  # as Refused
class RawRecord(msgspec.Struct, frozen=True, gc=False):
    """One Kafka record, as the broker gave it. Nothing in it is trusted but its position and append time."""

    topic: str
    partition: int
    offset: int
    received_at_ms: int  # the broker's append time, ms since 1970 UTC
    value: bytes
    traceparent: str | None = None  # W3C trace context: untrusted text, at most 64 characters
    unreadable: str | None = None  # why its value could not be had; else None


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """A well-formed COSE_Sign1 (RFC 9052) of the profile in schemas/envelope.md. What it says are claims."""

    record: RawRecord
    alg: int  # COSE algorithm number, from the protected header
    kid: bytes  # 1..32 bytes
    device_id: str
    issued_at_s: float  # device clock, seconds since 1970 UTC, finite
    expires_at_s: float | None
    epoch: int  # < 2^32
    seq: int  # 1 .. 2^63-2
    boot: bytes  # 8 bytes
    software: str
    configuration: bytes  # 32 bytes, SHA-256
    payload: bytes
    signature: bytes
    signed: bytes  # Sig_structure (RFC 9052, 4.4), made of the bytes received


class Verified(msgspec.Struct, frozen=True, gc=False):
    """An envelope whose signature holds under a key of the device that it names. Made by `signature` only."""

    envelope: Envelope
    sender: Sender
    key: Key
    digest: bytes  # SHA-256(Sig_structure): the identity of the content

    @property
    def record(self) -> RawRecord:
        """The Kafka record that it came in."""
        return self.envelope.record


class Sample(msgspec.Struct, frozen=True, gc=False):
    """One sample of a message: its kind, which is a record's name, and its values in the order of the catalogue."""

    kind: str
    values: tuple[Any, ...]  # the first is recorded_at_us; None for a field that its schema does not have


class Lot(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Samples of one kind that were read at once, each the only one of its message. Made by `alike` only."""

    schema: int  # as in Reading
    kind: str
    columns: tuple[
        Any, ...
    ]  # by fields in the order of the catalogue: numpy's array; None where all are null, () empty


class Drawn(msgspec.Struct, frozen=True, gc=False):
    """The only sample of a message, as a place in a lot."""

    lot: Lot
    place: int

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Sample]:
        yield Sample(self.lot.kind, tuple([self._value(column) for column in self.lot.columns]))

    def _value(self, column: Any) -> Any:  # noqa: ANN401 (as in Lot)
        return None if column is None else [] if len(column) == 0 else column[self.place].item()


class Reading(msgspec.Struct, frozen=True, gc=False):
    """A verified message whose payload was decoded and lies within its schema's bounds."""

    verified: Verified
    schema: int  # CRC-64-AVRO fingerprint of the writer schema, unsigned
    samples: tuple[Sample, ...] | Drawn

    def kinds(self) -> Sequence[str]:
        """Name the kinds of its samples."""
        samples = self.samples
        return (samples.lot.kind,) if isinstance(samples, Drawn) else [sample.kind for sample in samples]


class Unreadable(msgspec.Struct, frozen=True, gc=False):
    """A verified message whose writer schema is not known here (yet): to be held, never refused."""

    verified: Verified
    schema: int


@final  # so `type(message) is Refused` is enough: isinstance takes five times as long to say no
class Refused(msgspec.Struct, frozen=True, gc=False):
    """A message that ends here, with its reason; `reached` is the last degree of trust that it had."""

    reached: RawRecord | Envelope | Verified
    reason: Refusal
    detail: str  # one short line for people: what was wrong; of the payload at most a number that is out of its bounds

    @property
    def record(self) -> RawRecord:
        """The Kafka record that it came in."""
        reached = self.reached
        return reached if type(reached) is RawRecord else reached.record


Examined = Reading | Unreadable | Refused
