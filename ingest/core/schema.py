"""May this schema be trusted with hostile bytes, and what does it say of each field? Lint and description in one walk.

A schema passes only when every value that it admits has a size and a range: then no body can cost more than it is
long. The rules, and what was left out of Avro on purpose, are in decisions/avro-profile.md.
"""

import math
import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import fastavro
import fastavro.schema
import msgspec

DEPTH_MAX = 8  # types inside one another, from the root record down
FIELDS_MAX = 512  # of one schema, at any depth
ITEMS_MAX = 1_024  # what maxItems may say at most
LENGTH_MAX = 4_096  # what maxLength may say at most, in characters

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")  # Avro 1.12, "Names", with a length
_FIELD_KEYS = frozenset({"name", "type", "doc", "default", "vss"})


class SchemaError(ValueError):
    """A schema that is not fit for use: which one, where in it, what is wrong and what to do."""


class Width(StrEnum):
    """The four number types of Avro."""

    INT = "int"
    LONG = "long"
    FLOAT = "float"
    DOUBLE = "double"


LIMITS: dict[Width, tuple[float, float]] = {
    Width.INT: (-(2**31), 2**31 - 1),
    Width.LONG: (-(2**63), 2**63 - 1),
    Width.FLOAT: (-(2 - 2**-23) * 2.0**127, (2 - 2**-23) * 2.0**127),
    Width.DOUBLE: (-(2 - 2**-52) * 2.0**1023, (2 - 2**-52) * 2.0**1023),
}


class Flag(msgspec.Struct, frozen=True):
    """A boolean."""


class Number(msgspec.Struct, frozen=True):
    """A number and its bounds, both included."""

    width: Width
    minimum: float
    maximum: float
    unit: str | None


class Text(msgspec.Struct, frozen=True):
    """A string of at most so many characters."""

    length_max: int


class Choice(msgspec.Struct, frozen=True):
    """An enum."""

    symbols: tuple[str, ...]


class Array(msgspec.Struct, frozen=True):
    """An array of at most so many items, none of them of zero width."""

    items: "Type"
    items_max: int


class Record(msgspec.Struct, frozen=True):
    """A record of at least one field."""

    name: str
    fields: "tuple[Field, ...]"


Type = Flag | Number | Text | Choice | Array | Record


class Field(msgspec.Struct, frozen=True):
    """One field of a record; `vss` is the COVESA path of the signal that it carries."""

    name: str
    type: Type
    nullable: bool
    vss: str | None


class Schema(msgspec.Struct, frozen=True):
    """A schema that passed: the kinds of sample that a message may carry, in the order of the union."""

    name: str
    fingerprint: int  # CRC-64-AVRO of the parsing canonical form, unsigned
    kinds: tuple[Record, ...]
    text: str  # as released


def parse_schema(name: str, text: str) -> Schema:
    """Lint one schema and describe it, or raise a SchemaError."""
    try:
        root = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise _fault(name, f"is not JSON ({error})", "correct the file") from None
    kinds = tuple(_read_kind(name, kind) for kind in _find_kinds(name, root))
    if len({kind.name for kind in kinds}) < len(kinds):
        raise _fault(name, "two kinds of sample have the same name", "rename one of them")
    if sum(_count_fields(kind) for kind in kinds) > FIELDS_MAX:
        raise _fault(name, f"it has more than {FIELDS_MAX} fields", "split it into several schemas")
    return Schema(name, _read_fingerprint(name, root), kinds, text)


def _fault(path: str, wrong: str, remedy: str) -> SchemaError:
    return SchemaError(f"schema {path}: {wrong}; {remedy}")


def _read_fingerprint(name: str, root: dict[str, Any]) -> int:
    try:
        canonical = fastavro.schema.to_parsing_canonical_form(fastavro.parse_schema(root))
    except (fastavro.schema.SchemaParseException, fastavro.schema.UnknownType) as error:
        raise _fault(name, f"is not Avro ({error})", "correct the file") from None
    # fastavro writes the eight bytes as they stand on the wire, in hexadecimal.
    return int.from_bytes(bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO")), "little")


def _find_kinds(name: str, root: dict[str, Any]) -> list[Any]:
    match root:
        case {
            "type": "record",
            "fields": [{"name": "samples", "type": {"type": "array", "items": [_, *_]}} as samples],
        }:
            array: dict[str, Any] = samples["type"]
        case _:
            remedy = "give the root record one field `samples`: an array of a union of at least one record"
            raise _fault(name, "the root does not hold samples", remedy)
    _refuse_others(name, root, {"type", "name", "namespace", "doc", "fields"})
    _refuse_others(f"{name}: samples", samples, {"name", "type", "doc", "minItems"})
    _refuse_others(f"{name}: samples", array, {"type", "items"})
    if samples.get("minItems", 1) != 1:
        raise _fault(f"{name}: samples", "minItems is not 1", "every message carries at least one sample: say 1")
    kinds: list[Any] = array["items"]
    return kinds


def _read_kind(name: str, declared: object) -> Record:
    if not isinstance(declared, dict) or declared.get("type") != "record":
        raise _fault(f"{name}: samples", "a member of the union is no record", "define each kind of sample in place")
    kind = _read_record(f"{name}: ", declared, depth=3)  # inside the root and its array
    first = kind.fields[0]
    if first.name != "recorded_at_us" or first.nullable or not _is_long(first.type):
        remedy = "put the time of the sample first, in microseconds since 1970 UTC"
        raise _fault(f"{name}: {kind.name}", "its first field is not `recorded_at_us`, a long", remedy)
    return kind


def _is_long(declared: Type) -> bool:
    return isinstance(declared, Number) and declared.width is Width.LONG


def _read_record(prefix: str, declared: dict[str, Any], depth: int) -> Record:
    name = _read_name(prefix, declared)
    path = prefix + name
    _refuse_others(path, declared, {"type", "name", "namespace", "doc", "fields"})
    specs = declared.get("fields")
    if not isinstance(specs, list) or not specs:
        raise _fault(path, "a record without fields has no width", "give it a field, or leave it out")
    fields = tuple(_read_field(f"{path}.", spec, depth) for spec in specs)
    if len({field.name for field in fields}) < len(fields):
        raise _fault(path, "two fields have the same name", "rename one of them")
    return Record(name, fields)


def _read_field(prefix: str, spec: object, depth: int) -> Field:
    if not isinstance(spec, dict):
        raise _fault(prefix, "a field is not an object", "give it a name and a type")
    name = _read_name(prefix, spec)
    path = prefix + name
    declared, nullable = spec.get("type"), False
    if isinstance(declared, list):
        declared, nullable = _read_nullable(path, declared), True
    properties = {key: value for key, value in spec.items() if key not in _FIELD_KEYS}
    described = _read_type(path, declared, properties, depth + 1)
    _refuse_others(path, properties, set())
    return Field(name, described, nullable, _read_word(path, spec, "vss"))


def _read_nullable(path: str, union: list[object]) -> object:
    if len(union) != 2 or union[0] != "null":
        raise _fault(path, "a union other than null and one type", 'write it as ["null", type]')
    return union[1]


def _read_type(path: str, declared: object, properties: dict[str, Any], depth: int) -> Type:
    """Describe a type; of the field's properties, take out those that mean something to it."""
    if depth > DEPTH_MAX:
        raise _fault(path, f"types are nested deeper than {DEPTH_MAX}", "flatten the record")
    if isinstance(declared, dict):
        return _read_complex(path, declared, properties, depth)
    match declared:
        case "boolean":
            return Flag()
        case "int" | "long" | "float" | "double":
            return _read_number(path, Width(declared), properties)
        case "string":
            return Text(_read_limit(path, properties, "maxLength", LENGTH_MAX))
    raise _outside(path, declared)


def _read_complex(path: str, declared: dict[str, Any], properties: dict[str, Any], depth: int) -> Type:
    match declared.get("type"):
        case "enum":
            return _read_choice(path, declared)
        case "array":
            return _read_array(path, declared, properties, depth)
        case "record":
            return _read_record(f"{path}.", declared, depth)
    raise _outside(path, declared)


def _outside(path: str, declared: object) -> SchemaError:
    remedy = "use boolean, int, long, float, double or string, or define an enum, array or record in place"
    return _fault(path, f"the type {_quote(declared)} is not in the profile", remedy)


def _read_number(path: str, width: Width, properties: dict[str, Any]) -> Number:
    minimum, maximum = (_read_bound(path, width, properties, key) for key in ("minimum", "maximum"))
    if minimum > maximum:
        raise _fault(path, f"minimum {minimum} is above maximum {maximum}", "exchange them")
    unit = _read_word(path, properties, "unit")
    properties.pop("unit", None)
    return Number(width, minimum, maximum, unit)


def _read_bound(path: str, width: Width, properties: dict[str, Any], key: str) -> float:
    value = properties.pop(key, None)
    whole = width in (Width.INT, Width.LONG)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise _fault(path, f"{key} is {_quote(value)}", f"give it a {key} that the type {width} can hold")
    lowest, highest = LIMITS[width]
    if not math.isfinite(value) or not lowest <= value <= highest:
        raise _fault(path, f"{key} {value} is beyond the type {width}", f"keep it within {lowest} to {highest}")
    return value


def _read_limit(path: str, properties: dict[str, Any], key: str, limit_max: int) -> int:
    value = properties.pop(key, None)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit_max:
        raise _fault(path, f"{key} is {_quote(value)}", f"give it a {key} of 1 to {limit_max}")
    return value


def _read_choice(path: str, declared: dict[str, Any]) -> Choice:
    _read_name(f"{path}.", declared)
    _refuse_others(path, declared, {"type", "name", "namespace", "doc", "symbols"})
    symbols = declared.get("symbols")
    if not isinstance(symbols, list) or not symbols or len(symbols) > ITEMS_MAX:
        raise _fault(path, "an enum has no list of symbols", f"give it 1 to {ITEMS_MAX} symbols")
    for symbol in symbols:
        _read_name(f"{path}.", {"name": symbol})
    return Choice(tuple(symbols))


def _read_array(path: str, declared: dict[str, Any], properties: dict[str, Any], depth: int) -> Array:
    _refuse_others(path, declared, {"type", "items"})
    # An array of arrays finds its maxItems taken: one number cannot bound both.
    items_max = _read_limit(path, properties, "maxItems", ITEMS_MAX)
    return Array(_read_type(path, declared.get("items"), properties, depth + 1), items_max)


def _read_name(prefix: str, declared: dict[str, Any]) -> str:
    name = declared.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        remedy = "use up to 64 letters, digits and underscores, no digit first"
        raise _fault(prefix, f"the name {_quote(name)} is not an Avro name", remedy)
    return name


def _read_word(path: str, spec: dict[str, Any], key: str) -> str | None:
    if key not in spec:
        return None
    word = spec[key]
    if not isinstance(word, str) or not word.strip():
        raise _fault(path, f"{key} is {_quote(word)}", f"name the {key}, or leave the property out")
    return word


def _refuse_others(path: str, declared: dict[str, Any], known: set[str]) -> None:
    others = sorted(declared.keys() - known)
    if others:
        raise _fault(path, f"the property {_quote(others[0])} means nothing here", "correct its name, or leave it out")


def _quote(value: object) -> str:
    return "missing" if value is None else repr(value)[:80]


def fields_of(schemas: Iterable[Schema]) -> dict[str, tuple[str, ...]]:
    """List the fields of each kind of sample: those of all versions, in the order of their appearance."""
    fields: dict[str, dict[str, None]] = {}
    for kind in (kind for schema in schemas for kind in schema.kinds):
        fields.setdefault(kind.name, {}).update(dict.fromkeys(field.name for field in kind.fields))
    return {kind: tuple(names) for kind, names in fields.items()}


def _count_fields(described: Type) -> int:
    match described:
        case Record(fields=fields):
            return sum(1 + _count_fields(field.type) for field in fields)
        case Array(items=items):
            return _count_fields(items)
        case _:
            return 0
