"""How are payloads that are alike read at once? Column by column, and only what the strict reader would read as well.

Payloads of one sample are alike if they have the same length, kind and fields, and each value in as many bytes: what
stands where in one of them stands there in all. So a column is checked in one go: marks, shortest forms, bounds. What
does not pass is not refused here, for the strict reader judges and explains it. Why, and how much: decisions/alike.md.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingest.core.message import Drawn, Lot
from ingest.core.payload import ALONE_BYTES, END, Catalogue
from ingest.core.schema import Array, Field, Flag, Number, Record, Width

ALIKE_MIN = 32  # of fewer, the strict reader has read each before there is a column
ATTEMPTS_MAX = 4  # with payloads of one length; what is left of them is read one by one
PATTERNS_MAX = 256  # kept, some 3 kB each
VARINT_BYTES_MAX = 9  # 63 bits, so their zig-zag is what a column can hold
MARKS = (0, 2)  # of a union, zig-zag: null, and the value

_WHOLE = (Width.INT, Width.LONG)
_SIZES = {Width.FLOAT: 4, Width.DOUBLE: 8}

Octets: TypeAlias = NDArray[np.uint8]
Indices: TypeAlias = NDArray[np.intp]
Fits: TypeAlias = NDArray[np.bool_]
Values: TypeAlias = NDArray[Any]


class _Kind(msgspec.Struct, frozen=True):
    """A kind of sample, by how a payload with one of it opens."""

    schema: int
    record: Record
    names: tuple[str, ...]  # in the order in which a sample has its values


# Where the values of a payload stand (field, place, bytes), which bytes are as they are in all that are alike, and
# which fields are empty arrays.
_Layout = tuple[tuple[tuple[int, int, int], ...], tuple[tuple[int, int], ...], tuple[int, ...]]


class _Group(msgspec.Struct, frozen=True):
    """Fields of the same encoding: where their values stand, and what these may be."""

    width: Width | None  # None: a boolean
    fields: tuple[int, ...]
    at: Indices  # fields x bytes
    least: Values
    most: Values

    def read(self, bodies: Octets) -> tuple[Fits, Values]:
        """Say which bodies have values that they may have, and give all values, bodies x fields."""
        octets = bodies.take(self.at, axis=1)
        fits = np.ones(len(bodies), np.bool_)
        values: Values
        match self.width:
            case None:
                values = octets[..., 0]
            case Width.FLOAT:
                with np.errstate(invalid="ignore"):  # there are NaNs that complain of being copied
                    values = octets.view("<f4")[..., 0].astype(np.float64)
            case Width.DOUBLE:
                values = octets.view("<f8")[..., 0]
            case _:
                fits, values = _whole(octets)
        fits &= ((self.least <= values) & (values <= self.most)).all(axis=1)  # NaN is neither below nor above
        return fits, values == 1 if self.width is None else values


class _Pattern(msgspec.Struct, frozen=True):
    """What stands where in payloads that are alike."""

    kind: _Kind
    fixed_at: Indices
    fixed: Octets  # what they open with, the marks of what may be null, and the end
    groups: tuple[_Group, ...]
    empty: dict[str, tuple[()]]

    def read(self, bodies: Octets) -> tuple[Fits, Lot]:
        """Say which bodies are so, and give what these say, in their order."""
        fits = (bodies.take(self.fixed_at, axis=1) == self.fixed).all(axis=1)
        read = [group.read(bodies) for group in self.groups]
        for fit, _ in read:
            fits &= fit
        kept = slice(None) if fits.all() else fits
        columns: dict[str, Any] = self.empty | {
            self.kind.record.fields[number].name: column
            for group, (_, values) in zip(self.groups, read, strict=True)
            for number, column in zip(group.fields, values[kept].T, strict=True)
        }
        return fits, Lot(self.kind.schema, self.kind.record.name, tuple([columns.get(n) for n in self.kind.names]))


class Bulk:
    """Reads what is alike. It remembers patterns, which are quicker found than made, and change no answer."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._kinds = dict(_kinds(catalogue))
        self._pattern = lru_cache(PATTERNS_MAX)(self._make)

    def read(self, payloads: Sequence[bytes]) -> list[Drawn | None]:
        """Give what each payload says, if it is like others and all is as it should be; None: ask the strict reader."""
        found: list[Drawn | None] = [None] * len(payloads)
        counts = Counter(lengths := [len(payload) for payload in payloads])
        by_length = np.array(lengths)
        for length, count in counts.items():
            if count >= ALIKE_MIN:
                numbers = np.flatnonzero(by_length == length)
                joined = b"".join([payloads[number] for number in numbers.tolist()])
                self._draw(found, numbers, np.frombuffer(joined, np.uint8).reshape(count, length))
        return found

    def _draw(self, found: list[Drawn | None], numbers: Indices, bodies: Octets) -> None:
        """Read what is like the first of these bodies of one length; and so on with what is left."""
        tried: set[_Layout | None] = {None}
        for _ in range(min(ATTEMPTS_MAX, len(numbers) // ALIKE_MIN)):  # so many pay for each, whatever comes of it
            if len(numbers) < ALIKE_MIN:
                return
            first = bodies[0].tobytes()
            layout = self._lay_out(first)
            left = np.arange(len(numbers)) > 0  # the first has been tried, whatever it is
            if layout not in tried:  # else its values do not fit, as those of all that are left and laid out so
                tried.add(layout)
                fits, lot = self._pattern(first[:ALONE_BYTES], layout).read(bodies)
                for place, number in enumerate(numbers[fits].tolist()):
                    found[number] = Drawn(lot, place)
                left &= ~fits
            numbers, bodies = numbers[left], bodies[left]

    def _lay_out(self, payload: bytes) -> _Layout | None:
        """Find what stands where in a payload, whatever it is; None if columns cannot hold it, or it is broken."""
        kind = self._kinds.get(payload[:ALONE_BYTES])
        if kind is None:
            return None
        values, empty, fixed, at = [], [], list(enumerate(payload[:ALONE_BYTES])), ALONE_BYTES
        try:
            for number, field in enumerate(kind.record.fields):
                if field.nullable:
                    fixed.append((at, payload[at]))
                    at += 1
                    if payload[at - 1] == MARKS[0]:
                        continue
                if isinstance(field.type, Array) and payload[at] == 0:
                    fixed.append((at, 0))
                    empty.append(number)
                    at += 1
                    continue
                size = _size(payload, at, field)
                values.append((number, at, size))
                at += size
            if payload[at:] == END and all(mark in MARKS for _, mark in fixed[ALONE_BYTES:]):
                return tuple(values), (*fixed, (at, END[0])), tuple(empty)
        except (IndexError, _UnlikeError):
            pass
        return None

    def _make(self, opening: bytes, layout: _Layout) -> _Pattern:
        kind, (values, fixed, empty) = self._kinds[opening], layout
        alike: dict[tuple[Width | None, int], list[tuple[int, int]]] = defaultdict(list)
        for number, at, size in values:
            described = kind.record.fields[number].type
            alike[described.width if isinstance(described, Number) else None, size].append((number, at))
        groups = [_group(kind.record, width, size, standing) for (width, size), standing in alike.items()]
        places, octets = zip(*fixed, strict=True)
        none: dict[str, tuple[()]] = {kind.record.fields[number].name: () for number in empty}
        return _Pattern(kind, np.array(places, np.intp), np.array(octets, np.uint8), tuple(groups), none)


class _UnlikeError(Exception):
    """A value for which there is no column; it does not leave this file."""


def _kinds(catalogue: Catalogue) -> Iterator[tuple[bytes, _Kind]]:
    """Give the kinds of which a sample may be all columns, by their openings."""
    for opening, alone in catalogue.alone.items():
        (record,) = [kind for kind in catalogue.known[alone.fingerprint].schema.kinds if kind.name == alone.kind]
        if all(field.nullable or isinstance(field.type, Array) or _is_plain(field) for field in record.fields):
            yield opening, _Kind(alone.fingerprint, record, catalogue.fields[alone.kind])


def _is_plain(field: Field) -> bool:
    """Say whether a column can hold such values, and compare them with their bounds as exactly as the reader does."""
    kind = field.type
    if isinstance(kind, Number):
        return kind.width in _WHOLE or all(float(bound) == bound for bound in (kind.minimum, kind.maximum))
    return isinstance(kind, Flag)


def _size(payload: bytes, at: int, field: Field) -> int:
    """Say how many bytes a value takes. Raises _UnlikeError, and IndexError at the end."""
    if not _is_plain(field):
        raise _UnlikeError
    kind = field.type
    if not isinstance(kind, Number):
        return 1
    if kind.width in _SIZES:
        return _SIZES[kind.width]
    for size in range(1, VARINT_BYTES_MAX + 1):
        if payload[at + size - 1] < 0x80:
            return size
    raise _UnlikeError


def _group(record: Record, width: Width | None, size: int, standing: Sequence[tuple[int, int]]) -> _Group:
    """Group fields, each with the place where its value begins."""
    types = [record.fields[number].type for number, _ in standing]
    bounds = [(kind.minimum, kind.maximum) if isinstance(kind, Number) else (0, 1) for kind in types]
    held = np.float64 if width in _SIZES else np.int64
    return _Group(
        width,
        tuple([number for number, _ in standing]),
        np.array([range(at, at + size) for _, at in standing], np.intp),
        np.array([least for least, _ in bounds], held),
        np.array([most for _, most in bounds], held),
    )


def _whole(octets: Octets) -> tuple[Fits, Values]:
    """Read ints and longs, bodies x fields x bytes: zig-zag, seven bits a byte, the lowest first, shortest form."""
    size = octets.shape[2]
    last = octets[..., -1]
    fits = ((last < 0x80) & (last >= (size > 1))).all(axis=1) & (octets[..., :-1] >= 0x80).all(axis=(1, 2))
    shifts = np.arange(0, 7 * size, 7, dtype=np.uint64)
    raw = ((octets & 0x7F).astype(np.uint64) << shifts).sum(axis=2, dtype=np.uint64)
    return fits, (raw >> np.uint64(1)).view(np.int64) ^ -(raw & np.uint64(1)).view(np.int64)
