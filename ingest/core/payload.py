"""What does a verified message say? Avro single-object encoding in, samples within their bounds or a refusal out.

The reader admits one encoding of each value and no other, and looks at every byte once: it cannot be made to work
harder than the body is long. How it compares with fastavro, and why both exist, is in decisions/avro-profile.md.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

import msgspec

from ingest.core.decoder import BodyError, Read, invalid, make_sample, read_varint
from ingest.core.message import Reading, Refused, Sample, Unreadable, Verified
from ingest.core.schema import Schema, SchemaError, fields_of, parse_schema
from ingest.core.verdict import Refusal

MARKER = b"\xc3\x01"  # Avro 1.12, "Single-object encoding"
HEADER_BYTES = 10  # the marker and the fingerprint
ALONE_BYTES = 12  # and that there is one sample, of this kind
ONE_BYTE_KINDS = 64  # so many numbers of kinds have one byte
END = b"\0"  # of the array of samples, and with it of the body


class Known(msgspec.Struct, frozen=True):
    """A schema with the readers of its kinds of sample, in the order of the union."""

    schema: Schema
    readers: tuple[tuple[str, Read], ...]


class Alone(msgspec.Struct, frozen=True):
    """How a message of one sample is read behind its opening, which says all this."""

    fingerprint: int
    kind: str
    read: Read


class Catalogue(msgspec.Struct, frozen=True):
    """The schemas that this installation reads, by fingerprint, and the fields of each kind in all of them."""

    known: dict[int, Known]
    fields: dict[str, tuple[str, ...]]  # in the order in which a sample has its values
    alone: dict[bytes, Alone]  # by opening, so that what most messages begin with is one look-up

    @property
    def schemas(self) -> tuple[Schema, ...]:
        """What the schemas say, in the order in which they were loaded."""
        return tuple(known.schema for known in self.known.values())


def load(texts: Mapping[str, str]) -> Catalogue:
    """Lint every schema, given by name, and make their readers; raises SchemaError."""
    schemas: dict[int, Schema] = {}
    for name, text in texts.items():
        schema = parse_schema(name, text)
        if schema.fingerprint in schemas:
            twin = schemas[schema.fingerprint].name
            raise SchemaError(
                f"schema {name}: it has the fingerprint of {twin}, for Avro leaves properties out of it; "
                "a new version needs a field of its own"
            )
        schemas[schema.fingerprint] = schema
    fields = fields_of(schemas.values())
    known = {number: _know(schema, fields) for number, schema in schemas.items()}
    alone = {opening: one for each in known.values() for opening, one in _openings(each)}
    return Catalogue(known, fields, alone)


def _know(schema: Schema, fields: Mapping[str, Sequence[str]]) -> Known:
    return Known(schema, tuple((kind.name, make_sample(kind, fields[kind.name])) for kind in schema.kinds))


def _openings(known: Known) -> Iterator[tuple[bytes, Alone]]:
    fingerprint = known.schema.fingerprint
    header = MARKER + fingerprint.to_bytes(8, "little")
    for branch, (kind, read) in enumerate(known.readers[:ONE_BYTE_KINDS]):
        yield header + bytes((2, 2 * branch)), Alone(fingerprint, kind, read)


def read_payload(verified: Verified, catalogue: Catalogue, samples_max: int) -> Reading | Unreadable | Refused:
    """Decode the payload of a message. Never raises, whatever the bytes."""
    payload = verified.envelope.payload
    alone = catalogue.alone.get(payload[:ALONE_BYTES])  # one sample is always allowed
    try:
        if alone is not None:
            return Reading(verified, alone.fingerprint, _read_alone(payload, alone))
        return _read_any(verified, catalogue, samples_max)
    except BodyError as error:
        return Refused(verified, error.reason, error.detail)
    except (IndexError, struct.error):  # the readers look no further than the last byte
        return Refused(verified, Refusal.INVALID_PAYLOAD, "the body ends in the middle of a value")


def _read_any(verified: Verified, catalogue: Catalogue, samples_max: int) -> Reading | Unreadable:
    payload = verified.envelope.payload
    if len(payload) < HEADER_BYTES or not payload.startswith(MARKER):
        raise invalid("the payload is not an Avro single object (C3 01, fingerprint)")
    fingerprint = int.from_bytes(payload[2:HEADER_BYTES], "little")
    known = catalogue.known.get(fingerprint)
    if known is None:
        return Unreadable(verified, fingerprint)
    return Reading(verified, fingerprint, _read_samples(payload, known, samples_max))


def _read_alone(payload: bytes, alone: Alone) -> tuple[Sample]:
    try:
        values, at = alone.read(payload, ALONE_BYTES)
    except BodyError as error:
        error.locate(0)
        raise
    if payload[at:] != END:
        _explain_end(payload, at)
    return (Sample(alone.kind, values),)


def reread(payload: bytes, catalogue: Catalogue) -> tuple[Sample, ...] | None:
    """Decode what was accepted once; None where this catalogue cannot."""
    known = catalogue.known.get(int.from_bytes(payload[2:HEADER_BYTES], "little"))
    try:
        return None if known is None else _read_samples(payload, known, len(payload))
    except (BodyError, IndexError, struct.error):
        return None


def _read_samples(payload: bytes, known: Known, samples_max: int) -> tuple[Sample, ...]:
    count, at = read_varint(payload, HEADER_BYTES)
    if not 1 <= count <= samples_max:
        raise invalid(f"the array of samples opens with a block of {count}; allowed is one block of 1 to {samples_max}")
    readers = known.readers
    samples: list[Sample] = []
    try:
        for _ in range(count):
            branch, at = read_varint(payload, at)
            if not 0 <= branch < len(readers):
                raise invalid(f"kind {branch} of {len(readers)}")
            kind, read = readers[branch]
            values, at = read(payload, at)
            samples.append(Sample(kind, values))
    except BodyError as error:
        error.locate(len(samples))
        raise
    if payload[at:] != END:
        _explain_end(payload, at)
    return tuple(samples)


def _explain_end(payload: bytes, at: int) -> NoReturn:
    if payload[at] != 0:
        raise invalid("the array of samples does not end after its first block")
    raise invalid(f"{len(payload) - at - 1} bytes follow the end of the body")
