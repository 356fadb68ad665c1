"""How is a sample read from bytes? By a function of its own for each kind, whose text is made from the schema.

The reader admits one encoding of each value and no other, and looks at every byte once: it cannot be made to work
harder than the body is long. Why the text is made, and what it looks like, is in decisions/avro-profile.md.
"""

import math
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from ingest.core.schema import LIMITS, Array, Choice, Field, Flag, Number, Record, Text, Type, Width
from ingest.core.verdict import Refusal

# Control characters, line and paragraph separators, and what turns the direction of writing: all of it can lie to
# whoever reads a log or a screen. A fixed list: `str.isprintable` changes with the Unicode version of the interpreter.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

_WIDE_MIN = 2**48  # as microseconds since 1970: the end of 1978. Up to the year 3111, such a time has eight bytes
_ZIGZAG = tuple((byte >> 1) ^ -(byte & 1) for byte in range(0x80))  # what a single byte says
_WEIGHTS = tuple(2**shift for shift in range(7, 70, 7))  # of the bytes behind the first

# From the bytes and a position in them to a value and the position after it.
Read = Callable[[bytes, int], tuple[Any, int]]
Numbered = tuple[int, Field]


class BodyError(Exception):
    """Why a body is refused; it does not leave the reading of a payload."""

    def __init__(self, reason: Refusal, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail

    def locate(self, number: int) -> None:
        """Add to the detail in which sample it is."""
        self.detail = f"sample {number}: {self.detail}"


def invalid(detail: str) -> BodyError:
    """Say that the bytes are no value of the schema."""
    return BodyError(Refusal.INVALID_PAYLOAD, detail)


def read_varint(body: bytes, at: int) -> tuple[int, int]:
    """Read an Avro int or long: zig-zag, seven bits a byte, the lowest first.

    Ten bytes may hold more than 64 bits: such a number is beyond every bound, index and count that it could be.
    """
    value = body[at]
    if value < 0x80:
        return _ZIGZAG[value], at + 1
    value -= 0x80
    for weight in _WEIGHTS:
        at += 1
        byte = body[at]
        if byte < 0x80:
            if byte == 0:
                break
            value += byte * weight
            return (value >> 1) ^ -(value & 1), at + 1
        value += (byte - 0x80) * weight
    raise invalid("an integer is not in its shortest form, or is longer than ten bytes")


def make_sample(kind: Record, names: Sequence[str]) -> Read:
    """Make the reader of a kind of sample: it gives the values of these fields, None for those that the kind lacks."""
    numbers = {field.name: number for number, field in enumerate(kind.fields)}
    values = [f"v{numbers[name]}" if name in numbers else "None" for name in names]
    return _make([f"{kind.name}.{field.name}" for field in kind.fields], kind.fields, f"({', '.join(values)},)")


def _make_record(path: str, record: Record) -> Read:
    # The lint lets no name pass that is more than letters, digits and underscores.
    named = ", ".join(f"{field.name!r}: v{number}" for number, field in enumerate(record.fields))
    return _make([f"{path}.{field.name}" for field in record.fields], record.fields, f"{{{named}}}")


def _make_reader(path: str, described: Type) -> Read:
    match described:
        case Text():
            read = _make_text(path, described.length_max)
        case Choice():
            read = _make_choice(path, described.symbols)
        case Array():
            read = _make_array(path, described)
        case Record():
            read = _make_record(f"{path}.{described.name}", described)
        case _:
            read = _make([path], [Field("", described, nullable=False, vss=None)], "v0")
    return read


def _make(paths: Sequence[str], fields: Sequence[Field], result: str) -> Read:
    """Make a function that reads fields, v0 and v1 and so on, one behind the other."""
    refusals = [_make_refusal(path, field.type) for path, field in zip(paths, fields, strict=True)]
    scope: dict[str, Any] = {
        "Struct": struct.Struct,
        "short": struct.error,
        "zigzag": _ZIGZAG,
        "read_varint": read_varint,
        "read_float": struct.Struct("<f").unpack_from,
        "read_double": struct.Struct("<d").unpack_from,
        "stray": lambda number: invalid(f"{paths[number]} is neither null nor a value"),
        "refusal": lambda number, value: refusals[number](value),
    }
    for number, field in enumerate(fields):
        if not isinstance(field.type, Flag | Number):
            scope[f"read_{number}"] = _make_reader(paths[number], field.type)
    exec(write(fields, result), scope)  # noqa: S102 (the text is ours: of a schema it has numbers, and names that it let pass)
    read: Read = scope["read"]
    return read


# The text of a reader. Of its fields it knows the numbers; what it calls is in the scope that it is run in.


def write(fields: Sequence[Field], result: str) -> str:
    """Write the text of a function that reads these fields."""
    preface, lines = [], []
    for fixed, stretch in groupby(enumerate(fields), lambda numbered: _letter(numbered[1]) is not None):
        numbered = list(stretch)
        if fixed and (len(numbered) > 1 or _is_wide(numbered[0][1])):
            first, layout = numbered[0][0], _layout(numbered)
            preface.append(f"unpack_{first} = Struct({layout!r}).unpack_from")
            lines += _write_stretch(numbered, struct.calcsize(layout))
        else:
            lines += [line for one in numbered for line in _write_field(*one)]
    return "\n".join((*preface, "def read(body, at):", *_indent(lines), f"    return {result}, at"))


def _indent(lines: Iterable[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def _is_wide(field: Field) -> bool:
    return isinstance(field.type, Number) and field.type.width is Width.LONG and field.type.maximum >= _WIDE_MIN


def _letter(field: Field) -> str | None:
    """How `struct` calls a value of fixed width, and one that almost always has eight bytes."""
    if _is_wide(field):
        return "Q"
    match field.type:
        case Flag():
            return "B"
        case Number(width=Width.FLOAT):
            return "f"
        case Number(width=Width.DOUBLE):
            return "d"
    return None


def _layout(stretch: Sequence[Numbered]) -> str:
    return "<" + "".join(f"{'B' * field.nullable}{_letter(field)}" for _, field in stretch)


def _write_stretch(stretch: Sequence[Numbered], octets: int) -> list[str]:
    """Read fields of fixed width in one go if they are all there; otherwise one by one."""
    first = stretch[0][0]
    targets = ", ".join(f"m{number}, v{number}" if field.nullable else f"v{number}" for number, field in stretch)
    return [
        "try:",
        f"    [{targets}] = unpack_{first}(body, at)",
        "    whole = True",
        "except short:",
        "    whole = False",
        f"if {' and '.join(['whole', *(line for one in stretch for line in _write_usual(*one))])}:",
        f"    at += {octets}",
        *_indent(line for one in stretch for line in (*_write_narrowing(*one), *_write_check(*one))),
        "else:",
        *_indent(line for one in stretch for line in _write_field(*one)),
    ]


def _write_usual(number: int, field: Field) -> list[str]:
    """Write on what it depends that a value is there, in its usual width."""
    mark = [f"m{number} == 2"] if field.nullable else []
    # Seven bytes are followed by another, the eighth is not and not 0; an even number is not negative.
    wide = [f"v{number} & 0x8080808080808081 == 0x80808080808080", f"v{number} > 0xffffffffffffff"]
    return [*mark, *(wide if _is_wide(field) else [])]


def _write_narrowing(number: int, field: Field) -> list[str]:
    """Bring the eight times seven bits of a wide value together: two by two, four by four, and all."""
    if not _is_wide(field):
        return []
    name = f"v{number}"
    return [
        f"{name} -= 0x80808080808080",
        f"{name} -= ({name} & 0x7f007f007f007f00) >> 1",
        f"{name} -= (({name} & 0x3fff00003fff0000) >> 2) * 3",
        f"{name} = (({name} & 0xfffffff) + ({name} >> 32 << 28)) >> 1",
    ]


def _write_field(number: int, field: Field) -> list[str]:
    value = _write_value(number, field)
    if not field.nullable:
        return value
    return [  # the union's index, zig-zag: 0 is null, 2 the value
        f"m{number} = body[at]",
        "at += 1",
        f"if m{number} == 2:",
        *_indent(value),
        f"elif m{number} == 0:",
        f"    v{number} = None",
        "else:",
        f"    raise stray({number})",
    ]


def _write_value(number: int, field: Field) -> list[str]:
    name, check = f"v{number}", _write_check(number, field)
    match field.type:
        case Flag():
            return [f"{name} = body[at]", "at += 1", *check]
        case Number(width=Width.FLOAT):
            return [f"({name},) = read_float(body, at)", "at += 4", *check]
        case Number(width=Width.DOUBLE):
            return [f"({name},) = read_double(body, at)", "at += 8", *check]
        case Number():
            return [
                f"{name} = body[at]",
                f"if {name} < 0x80:",
                f"    {name} = zigzag[{name}]",
                "    at += 1",
                "else:",
                f"    {name}, at = read_varint(body, at)",
                *check,
            ]
    return [f"{name}, at = read_{number}(body, at)"]


def _write_check(number: int, field: Field) -> list[str]:
    name = f"v{number}"
    match field.type:
        case Flag():
            return [f"if {name} > 1: raise refusal({number}, {name})", f"{name} = {name} == 1"]
        case Number(minimum=minimum, maximum=maximum):  # not `or`: NaN is neither below nor above
            inside = f"{_literal(field, minimum)} <= {name} <= {_literal(field, maximum)}"
            return [f"if not {inside}: raise refusal({number}, {name})"]
    return []


def _literal(field: Field, bound: float) -> str:
    """Write a bound; that of a real as a float, which compares faster, where that is the same number."""
    real = isinstance(field.type, Number) and field.type.width in (Width.FLOAT, Width.DOUBLE)
    return repr(float(bound)) if real and float(bound) == bound else repr(bound)


def _make_refusal(path: str, described: Type) -> Callable[[float], BodyError]:
    """Make what says of a value why it is none of this field's; nearly all of it is known beforehand."""
    if not isinstance(described, Number):
        return lambda value: invalid(f"{path} is a boolean of {value}")
    width = described.width
    lowest, highest = LIMITS[width] if width in (Width.INT, Width.LONG) else (-math.inf, math.inf)
    unit = f" {described.unit}" if described.unit else ""
    allowed = f"its schema allows {described.minimum} to {described.maximum}{unit}"

    def refuse(value: float) -> BodyError:
        if value < lowest or value > highest:
            return invalid(f"{path} is {value}, which is no {width}")
        return BodyError(Refusal.OUT_OF_RANGE, f"{path} is {value!r}; {allowed}")

    return refuse


# What is not written out: whatever has a length, and enums.


def _make_text(path: str, length_max: int) -> Read:
    octets_max = 4 * length_max  # UTF-8 takes at most four bytes a character

    def read_text(body: bytes, at: int) -> tuple[str, int]:
        size, start = read_varint(body, at)
        if not 0 <= size <= octets_max:
            raise invalid(f"{path} is {size} bytes long; its schema allows {length_max} characters")
        end = start + size
        if end > len(body):
            raise invalid(f"{path} is longer than the body")
        try:
            text = str(body[start:end], "utf-8")
        except UnicodeDecodeError:
            raise invalid(f"{path} is not UTF-8") from None
        if len(text) > length_max:
            raise invalid(f"{path} is {len(text)} characters long; its schema allows {length_max}")
        if not (text.isascii() and text.isprintable()) and _UNPRINTABLE.search(text):
            raise invalid(f"{path} has a character that cannot be shown")
        return text, end

    return read_text


def _make_choice(path: str, symbols: tuple[str, ...]) -> Read:
    def read_choice(body: bytes, at: int) -> tuple[str, int]:
        index, at = read_varint(body, at)
        if not 0 <= index < len(symbols):
            raise invalid(f"{path} is symbol {index} of {len(symbols)}")
        return symbols[index], at

    return read_choice


def _make_array(path: str, array: Array) -> Read:
    read, items_max = _make_reader(path, array.items), array.items_max

    def read_array(body: bytes, at: int) -> tuple[list[Any], int]:
        count, at = read_varint(body, at)
        if not 0 <= count <= items_max:
            raise invalid(f"{path} opens with a block of {count}; allowed is one block of up to {items_max}")
        items = []
        for _ in range(count):
            item, at = read(body, at)
            items.append(item)
        if count == 0:
            return items, at
        if body[at] != 0:
            raise invalid(f"{path} does not end after its first block")
        return items, at + 1

    return read_array
