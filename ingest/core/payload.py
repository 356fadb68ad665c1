"""What does a verified message say? Avro single-object encoding in, samples within their bounds or a refusal out.

The reader admits one encoding of each value and no other, and looks at every byte once: it cannot be made to work
harder than the body is long. How it compares with fastavro, and why both exist, is in decisions/avro-profile.md.
"""

import re
import struct
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ingest.core.message import Reading, Refused, Sample, Unreadable, Verified
from ingest.core.schema import (
    LIMITS,
    Array,
    Choice,
    Field,
    Flag,
    Number,
    Record,
    Schema,
    SchemaError,
    Text,
    Type,
    Width,
    parse_schema,
)
from ingest.core.verdict import Refusal

MARKER = b"\xc3\x01"  # Avro 1.12, "Single-object encoding"
HEADER_BYTES = 10  # the marker and the fingerprint

# Control characters, line and paragraph separators, and what turns the direction of writing: all of it can lie to
# whoever reads a log or a screen. A fixed list: `str.isprintable` changes with the Unicode version of the interpreter.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

# From the bytes and a position in them to a value and the position after it.
Read = Callable[[bytes, int], tuple[Any, int]]


class BodyError(Exception):
    """Why a body is refused; it never leaves this module."""

    def __init__(self, reason: Refusal, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Known(msgspec.Struct, frozen=True):
    """A schema with the readers of its kinds of sample, in the order of the union."""

    schema: Schema
    readers: tuple[tuple[str, Read], ...]


class Catalogue(msgspec.Struct, frozen=True):
    """The schemas that this installation reads, by fingerprint."""

    known: dict[int, Known]

    @property
    def schemas(self) -> tuple[Schema, ...]:
        """What the schemas say, in the order in which they were loaded."""
        return tuple(known.schema for known in self.known.values())


def load(texts: Mapping[str, str]) -> Catalogue:
    """Lint every schema, given by name, and make their readers; raises SchemaError."""
    known: dict[int, Known] = {}
    for name, text in texts.items():
        schema = parse_schema(name, text)
        if schema.fingerprint in known:
            twin = known[schema.fingerprint].schema.name
            raise SchemaError(
                f"schema {name}: it has the fingerprint of {twin}, for Avro leaves properties out of it; "
                "a new version needs a field of its own"
            )
        known[schema.fingerprint] = Known(schema, tuple((kind.name, _make_record(kind)) for kind in schema.kinds))
    return Catalogue(known)


def read_payload(verified: Verified, catalogue: Catalogue, samples_max: int) -> Reading | Unreadable | Refused:
    """Decode the payload of a message. Never raises, whatever the bytes."""
    payload = verified.envelope.payload
    if len(payload) < HEADER_BYTES or not payload.startswith(MARKER):
        return Refused(
            verified, Refusal.INVALID_PAYLOAD, "the payload is not an Avro single object (C3 01, fingerprint)"
        )
    fingerprint = int.from_bytes(payload[2:HEADER_BYTES], "little")
    known = catalogue.known.get(fingerprint)
    if known is None:
        return Unreadable(verified, fingerprint)
    try:
        samples = _read_samples(payload, known, samples_max)
    except BodyError as error:
        return Refused(verified, error.reason, error.detail)
    except (IndexError, struct.error):  # the readers look no further than the last byte
        return Refused(verified, Refusal.INVALID_PAYLOAD, "the body ends in the middle of a value")
    return Reading(verified, fingerprint, samples)


def reread(payload: bytes, catalogue: Catalogue) -> tuple[Sample, ...] | None:
    """Decode what was accepted once; None where this catalogue cannot."""
    known = catalogue.known.get(int.from_bytes(payload[2:HEADER_BYTES], "little"))
    try:
        return None if known is None else _read_samples(payload, known, len(payload))
    except (BodyError, IndexError, struct.error):
        return None


def _read_samples(payload: bytes, known: Known, samples_max: int) -> tuple[Sample, ...]:
    count, at = _read_varint(payload, HEADER_BYTES)
    if not 1 <= count <= samples_max:
        raise _invalid(
            f"the array of samples opens with a block of {count}; allowed is one block of 1 to {samples_max}"
        )
    samples = []
    for index in range(count):
        try:
            sample, at = _read_sample(payload, at, known.readers)
        except BodyError as error:
            raise BodyError(error.reason, f"sample {index}: {error.detail}") from None
        samples.append(sample)
    if payload[at] != 0:
        raise _invalid("the array of samples does not end after its first block")
    if at + 1 != len(payload):
        raise _invalid(f"{len(payload) - at - 1} bytes follow the end of the body")
    return tuple(samples)


def _read_sample(body: bytes, at: int, readers: tuple[tuple[str, Read], ...]) -> tuple[Sample, int]:
    branch, at = _read_varint(body, at)
    if not 0 <= branch < len(readers):
        raise _invalid(f"kind {branch} of {len(readers)}")
    kind, read = readers[branch]
    fields, at = read(body, at)
    return Sample(kind, fields), at


def _invalid(detail: str) -> BodyError:
    return BodyError(Refusal.INVALID_PAYLOAD, detail)


def _read_varint(body: bytes, at: int) -> tuple[int, int]:
    """Read an Avro int or long: zig-zag, seven bits a byte, the lowest first.

    Ten bytes may hold more than 64 bits: such a number is beyond every bound, index and count that it could be.
    """
    byte = body[at]
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), at + 1
    value, shift = byte & 0x7F, 7
    for end in range(at + 1, at + 10):
        byte = body[end]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0:
                break
            return (value >> 1) ^ -(value & 1), end + 1
        shift += 7
    raise _invalid("an integer is not in its shortest form, or is longer than ten bytes")


def _make_reader(path: str, described: Type) -> Read:
    match described:
        case Flag():
            read = _make_flag(path)
        case Number(width=Width.INT | Width.LONG):
            read = _make_integer(path, described)
        case Number():
            read = _make_real(path, described)
        case Text():
            read = _make_text(path, described.length_max)
        case Choice():
            read = _make_choice(path, described.symbols)
        case Array():
            read = _make_array(path, described)
        case Record():
            read = _make_record(described, f"{path}.")
    return read


def _make_record(record: Record, prefix: str = "") -> Read:
    path = prefix + record.name
    fields = tuple((field.name, _make_field(f"{path}.{field.name}", field)) for field in record.fields)

    def read_record(body: bytes, at: int) -> tuple[dict[str, Any], int]:
        values = {}
        for name, read in fields:
            values[name], at = read(body, at)
        return values, at

    return read_record


def _make_field(path: str, field: Field) -> Read:
    read = _make_reader(path, field.type)
    if not field.nullable:
        return read

    def read_nullable(body: bytes, at: int) -> tuple[Any, int]:
        branch = body[at]  # the union's index, zig-zag: 0 is null, 2 the value
        if branch == 2:
            return read(body, at + 1)
        if branch == 0:
            return None, at + 1
        raise _invalid(f"{path} is neither null nor a value")

    return read_nullable


def _make_flag(path: str) -> Read:
    def read_flag(body: bytes, at: int) -> tuple[bool, int]:
        byte = body[at]
        if byte > 1:
            raise _invalid(f"{path} is a boolean of {byte}")
        return byte == 1, at + 1

    return read_flag


def _make_integer(path: str, number: Number) -> Read:
    minimum, maximum = number.minimum, number.maximum
    lowest, highest = LIMITS[number.width]

    def read_integer(body: bytes, at: int) -> tuple[int, int]:
        value, at = _read_varint(body, at)
        if not minimum <= value <= maximum:
            if not lowest <= value <= highest:
                raise _invalid(f"{path} is {value}, which is no {number.width}")
            raise _out_of_range(path, value, number)
        return value, at

    return read_integer


def _make_real(path: str, number: Number) -> Read:
    minimum, maximum = number.minimum, number.maximum
    layout = struct.Struct("<f" if number.width is Width.FLOAT else "<d")
    unpack, octets = layout.unpack_from, layout.size

    def read_real(body: bytes, at: int) -> tuple[float, int]:
        (value,) = unpack(body, at)
        if not minimum <= value <= maximum:  # false for NaN too
            raise _out_of_range(path, value, number)
        return value, at + octets

    return read_real


def _out_of_range(path: str, value: float, number: Number) -> BodyError:
    unit = f" {number.unit}" if number.unit else ""
    detail = f"{path} is {value!r}; its schema allows {number.minimum} to {number.maximum}{unit}"
    return BodyError(Refusal.OUT_OF_RANGE, detail)


def _make_text(path: str, length_max: int) -> Read:
    octets_max = 4 * length_max  # UTF-8 takes at most four bytes a character

    def read_text(body: bytes, at: int) -> tuple[str, int]:
        size, start = _read_varint(body, at)
        if not 0 <= size <= octets_max:
            raise _invalid(f"{path} is {size} bytes long; its schema allows {length_max} characters")
        end = start + size
        if end > len(body):
            raise _invalid(f"{path} is longer than the body")
        try:
            text = str(body[start:end], "utf-8")
        except UnicodeDecodeError:
            raise _invalid(f"{path} is not UTF-8") from None
        if len(text) > length_max:
            raise _invalid(f"{path} is {len(text)} characters long; its schema allows {length_max}")
        if _UNPRINTABLE.search(text):
            raise _invalid(f"{path} has a character that cannot be shown")
        return text, end

    return read_text


def _make_choice(path: str, symbols: tuple[str, ...]) -> Read:
    def read_choice(body: bytes, at: int) -> tuple[str, int]:
        index, at = _read_varint(body, at)
        if not 0 <= index < len(symbols):
            raise _invalid(f"{path} is symbol {index} of {len(symbols)}")
        return symbols[index], at

    return read_choice


def _make_array(path: str, array: Array) -> Read:
    read, items_max = _make_reader(path, array.items), array.items_max

    def read_array(body: bytes, at: int) -> tuple[list[Any], int]:
        count, at = _read_varint(body, at)
        if not 0 <= count <= items_max:
            raise _invalid(f"{path} opens with a block of {count}; allowed is one block of up to {items_max}")
        items = []
        for _ in range(count):
            item, at = read(body, at)
            items.append(item)
        if count == 0:
            return items, at
        if body[at] != 0:
            raise _invalid(f"{path} does not end after its first block")
        return items, at + 1

    return read_array
