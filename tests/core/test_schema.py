import copy
import csv
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pytest

import schemas
from ingest.core.payload import load
from ingest.core.schema import DEPTH_MAX, FIELDS_MAX, SchemaError, parse_schema

RELEASED = {
    "telemetry-1.0": 0x26DDD94713FF0CBE,
    "telemetry-1.1": 0x506DF9395426B838,
}
SIGNALS = Path(__file__).parents[3] / "shared" / "data" / "vss_signals.csv"
TEXTS = schemas.read_telemetry()

Edit = Callable[[dict[str, Any]], object]


def plain_schema() -> dict[str, Any]:
    """The smallest schema that shows every type, in a form that the cases below spoil."""
    fields = [
        {"name": "recorded_at_us", "type": "long", "unit": "us", "minimum": 0, "maximum": 4_102_444_800_000_000},
        {"name": "speed", "type": "double", "vss": "Vehicle.Speed", "unit": "km/h", "minimum": 0, "maximum": 400},
        {"name": "gear", "type": ["null", "int"], "default": None, "minimum": -127, "maximum": 126},
        {"name": "note", "type": "string", "maxLength": 8},
        {"name": "codes", "type": {"type": "array", "items": "string"}, "maxItems": 4, "maxLength": 8},
        {"name": "mode", "type": {"type": "enum", "name": "Mode", "symbols": ["ECO", "SPORT"]}},
        {"name": "ready", "type": "boolean"},
    ]
    kinds = [{"type": "record", "name": "State", "fields": fields}]
    samples = {"name": "samples", "type": {"type": "array", "items": kinds}, "minItems": 1}
    return {"type": "record", "name": "Telemetry", "namespace": "test", "fields": [samples]}


def kind_of(schema: dict[str, Any], index: int = 0) -> dict[str, Any]:
    kind: dict[str, Any] = schema["fields"][0]["type"]["items"][index]
    return kind


def field_of(schema: dict[str, Any], name: str) -> dict[str, Any]:
    field: dict[str, Any] = next(field for field in kind_of(schema)["fields"] if field["name"] == name)
    return field


def nest(depth: int) -> dict[str, Any]:
    leaf: dict[str, Any] = {"name": "leaf", "type": "boolean"}
    for level in range(depth):
        leaf = {"name": "inner", "type": {"type": "record", "name": f"Level{level}", "fields": [leaf]}}
    return leaf


def add(field: object) -> Edit:
    return lambda schema: kind_of(schema)["fields"].append(field)


def change(name: str, /, **properties: object) -> Edit:
    return lambda schema: field_of(schema, name).update(properties)


def drop(name: str, key: str) -> Edit:
    return lambda schema: field_of(schema, name).pop(key)


def repeat(number: int) -> Edit:
    return lambda schema: kind_of(schema)["fields"].extend({"name": f"n{i}", "type": "boolean"} for i in range(number))


SPOILED: dict[str, tuple[Edit, str]] = {
    "root is no record": (lambda s: s.update(type="map"), "the root does not hold samples"),
    "root has a second field": (lambda s: s["fields"].append({"name": "x", "type": "int"}), "the root does not hold"),
    "no kind of sample": (lambda s: s["fields"][0]["type"].update(items=[]), "the root does not hold samples"),
    "samples of one bare record": (lambda s: s["fields"][0]["type"].update(items=kind_of(s)), "the root does not hold"),
    "a kind that is no record": (lambda s: s["fields"][0]["type"]["items"].append("null"), "no record"),
    "minItems 0": (lambda s: s["fields"][0].update(minItems=0), "minItems is not 1"),
    "the same kind twice": (lambda s: s["fields"][0]["type"]["items"].append(kind_of(s)), "the same name"),
    "time is not first": (lambda s: kind_of(s)["fields"].reverse(), "`recorded_at_us`"),
    "time may be null": (change("recorded_at_us", type=["null", "long"]), "`recorded_at_us`"),
    "recursion": (add({"name": "again", "type": "State"}), "type 'State' is not in the profile"),
    "recursion through null": (add({"name": "again", "type": ["null", "test.State"]}), "is not in the profile"),
    "an empty record": (add({"name": "x", "type": {"type": "record", "name": "E", "fields": []}}), "no width"),
    "null": (add({"name": "x", "type": "null"}), "'null' is not in the profile"),
    "array of null": (add({"name": "x", "type": {"type": "array", "items": "null"}, "maxItems": 4}), "'null'"),
    "map": (add({"name": "x", "type": {"type": "map", "values": "null"}}), "is not in the profile"),
    "bytes": (add({"name": "x", "type": "bytes"}), "'bytes' is not in the profile"),
    "fixed": (add({"name": "x", "type": {"type": "fixed", "name": "F", "size": 2**31}}), "is not in the profile"),
    "decimal": (add({"name": "x", "type": {"type": "bytes", "logicalType": "decimal"}}), "is not in the profile"),
    "logical type": (change("recorded_at_us", logicalType="timestamp-micros"), "'logicalType' means nothing here"),
    "a union of three": (change("gear", type=["null", "int", "long"]), "a union other than null and one type"),
    "null last": (change("gear", type=["int", "null"]), "a union other than null and one type"),
    "no maximum": (drop("speed", "maximum"), "maximum is missing"),
    "no minimum of an optional field": (drop("gear", "minimum"), "minimum is missing"),
    "a bound in words": (change("speed", minimum="0"), "minimum is '0'"),
    "a bound that is a boolean": (change("gear", minimum=True), "minimum is True"),
    "a fraction bounds an int": (change("gear", maximum=1.5), "maximum is 1.5"),
    "a bound beyond int": (change("gear", maximum=2**31), "beyond the type int"),
    "a bound beyond long": (change("recorded_at_us", maximum=2**63), "beyond the type long"),
    "a bound beyond float": (change("speed", type="float", maximum=1e39), "beyond the type float"),
    "bounds exchanged": (change("speed", minimum=401), "minimum 401 is above maximum 400"),
    "no maxLength": (drop("note", "maxLength"), "maxLength is missing"),
    "endless maxLength": (change("note", maxLength=10**9), "maxLength is 1000000000"),
    "no maxLength of items": (drop("codes", "maxLength"), "maxLength is missing"),
    "no maxItems": (drop("codes", "maxItems"), "maxItems is missing"),
    "maxItems 0": (change("codes", maxItems=0), "maxItems is 0"),
    "array of arrays": (
        change("codes", type={"type": "array", "items": {"type": "array", "items": "int"}}, minimum=0, maximum=1),
        "maxItems is missing",
    ),
    "an empty vss": (change("speed", vss=""), "vss is ''"),
    "an empty unit": (change("speed", unit=" "), "unit is ' '"),
    "a misspelt property": (change("speed", maximun=400), "'maximun' means nothing here"),
    "a bound on a boolean": (change("ready", maximum=1), "'maximum' means nothing here"),
    "no symbols": (change("mode", type={"type": "enum", "name": "M", "symbols": []}), "no list of symbols"),
    "a symbol that is no name": (change("mode", type={"type": "enum", "name": "M", "symbols": ["a b"]}), "'a b'"),
    "a field name with a line feed": (change("note", name="no\nte"), "is not an Avro name"),
    "the same field twice": (add({"name": "ready", "type": "boolean"}), "two fields have the same name"),
    "a field that is no object": (add("ready"), "a field is not an object"),
    "the same enum name twice": (
        add({"name": "other", "type": {"type": "enum", "name": "Mode", "symbols": ["ECO"]}}),
        "is not Avro",
    ),
    "too deep": (add(nest(DEPTH_MAX)), "nested deeper than 8"),
    "too wide": (repeat(FIELDS_MAX), "more than 512 fields"),
}


def test_the_plain_schema_is_fit_for_use() -> None:
    schema = parse_schema("plain", json.dumps(plain_schema()))
    assert [kind.name for kind in schema.kinds] == ["State"]
    assert schema.kinds[0].fields[1].vss == "Vehicle.Speed"


@pytest.mark.parametrize("case", SPOILED)
def test_a_schema_that_could_hurt_is_refused_with_its_name_and_the_fault(case: str) -> None:
    edit, expected = SPOILED[case]
    schema = plain_schema()
    edit(schema)
    with pytest.raises(SchemaError) as caught:
        parse_schema("plain-9.9", json.dumps(schema))
    assert str(caught.value).startswith("schema plain-9.9")
    assert expected in str(caught.value)


def test_a_refusal_names_the_field_and_the_remedy() -> None:
    schema = plain_schema()
    del field_of(schema, "speed")["maximum"]
    with pytest.raises(SchemaError) as caught:
        parse_schema("plain", json.dumps(schema))
    expected = "schema plain: State.speed: maximum is missing; give it a maximum that the type double can hold"
    assert str(caught.value) == expected


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"int"', "{}", '{"type": "record", "fields": null}', "NaN"])
def test_a_text_that_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(SchemaError, match=r"^schema broken"):
        parse_schema("broken", text)


def test_types_may_nest_down_to_the_limit() -> None:
    schema = plain_schema()
    add(nest(DEPTH_MAX - 4))(schema)  # root, array, kind, then these, then the leaf
    assert parse_schema("deep", json.dumps(schema)).kinds


def test_two_schemas_that_avro_cannot_tell_apart_are_refused_together() -> None:
    wider = plain_schema()
    field_of(wider, "speed")["maximum"] = 500
    with pytest.raises(SchemaError, match="schema b: it has the fingerprint of a"):
        load({"a": json.dumps(plain_schema()), "b": json.dumps(wider)})


def test_fields_of_nested_records_count_too() -> None:
    schema = plain_schema()
    inner = [{"name": f"n{i}", "type": "boolean"} for i in range(FIELDS_MAX)]
    record = {"type": "record", "name": "Wide", "fields": inner}
    add({"name": "wide", "type": {"type": "array", "items": record}, "maxItems": 2})(schema)
    with pytest.raises(SchemaError, match="more than 512 fields"):
        parse_schema("wide", json.dumps(schema))


# Released schemas.


def crc_64_avro(data: bytes) -> int:
    """Avro 1.12, "Schema fingerprints", bit by bit."""
    empty = 0xC15D213AA4D7A795
    crc = empty
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (empty if crc & 1 else 0)
    return crc


def test_released_schemas_keep_their_fingerprints() -> None:
    """A new version adds a line to RELEASED; a line that is there stays as it is. test_released.py pins the files."""
    assert {name: parse_schema(name, text).fingerprint for name, text in TEXTS.items()} == RELEASED


@pytest.mark.parametrize("name", RELEASED)
def test_fingerprints_are_those_of_the_standard(name: str) -> None:
    assert crc_64_avro(b'"int"') == 0x7275D51A3F395C8F  # the standard's own test vector
    canonical = fastavro.schema.to_parsing_canonical_form(json.loads(TEXTS[name]))
    assert crc_64_avro(canonical.encode()) == RELEASED[name]


def find_breaks(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Say in what a later version of the same major version breaks with an earlier one."""
    kinds = {kind["name"]: kind for kind in new["fields"][0]["type"]["items"]}
    breaks = []
    for kind in old["fields"][0]["type"]["items"]:
        later = kinds.get(kind["name"], {"fields": []})["fields"]
        pairs = itertools.zip_longest(kind["fields"], later)
        breaks += [f"{kind['name']}: {fault}" for before, after in pairs if (fault := find_break(before, after))]
    return breaks


def find_break(before: dict[str, Any] | None, after: dict[str, Any] | None) -> str | None:
    if after is None or (before and before["name"] != after["name"]):
        return f"{before and before['name']} was removed, renamed or moved"
    if before is None:
        new_is_optional = isinstance(after["type"], list) and after.get("default", "") is None
        return None if new_is_optional else f"{after['name']} is new, but not null by default"
    if any(before.get(key) != after.get(key) for key in ("vss", "unit", "default")):
        return f"{after['name']} means something else"
    widens = {"minimum": -1, "maximum": 1, "maxLength": 1, "maxItems": 1}
    if any((after.get(key, 0) - before.get(key, 0)) * sign < 0 for key, sign in widens.items()):
        return f"{after['name']} has narrower bounds"
    return None if admits(after["type"], before["type"]) else f"{after['name']} has another type"


def admits(after: Any, before: Any) -> bool:  # noqa: ANN401 — a type in Avro is a string, a list or an object
    if isinstance(before, dict) and isinstance(after, dict) and before.get("type") == "enum":
        known = len(before["symbols"])
        return {**after, "symbols": after["symbols"][:known]} == before
    return bool(after == before)


VERSIONS = sorted(RELEASED, key=lambda name: [int(part) for part in name.removeprefix("telemetry-").split(".")])
PAIRS = [(a, b) for a, b in itertools.combinations(VERSIONS, 2) if a.split(".")[0] == b.split(".")[0]]


@pytest.mark.parametrize(("earlier", "later"), PAIRS)
def test_a_later_version_only_adds(earlier: str, later: str) -> None:
    assert find_breaks(json.loads(TEXTS[earlier]), json.loads(TEXTS[later])) == []


@pytest.mark.parametrize(("earlier", "later"), PAIRS)
def test_a_later_version_reads_what_an_earlier_one_wrote(earlier: str, later: str) -> None:
    old, new = (fastavro.parse_schema(json.loads(TEXTS[name])) for name in (earlier, later))
    for kind in json.loads(TEXTS[earlier])["fields"][0]["type"]["items"]:
        values = {field["name"]: least(field) for field in kind["fields"]}
        sample = (f"weighbridge.telemetry.{kind['name']}", values)
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, old, {"samples": [sample]})
        buffer.seek(0)
        read: Any = fastavro.schemaless_reader(buffer, old, new)
        added = read["samples"][0].keys() - values.keys()
        assert read["samples"] == [values | dict.fromkeys(added)]


def least(field: dict[str, Any]) -> object:
    if isinstance(field["type"], list):
        return None
    if isinstance(field["type"], dict):
        return field["type"].get("symbols", [[]])[0]
    return {"boolean": False, "string": ""}.get(field["type"], field.get("minimum"))


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda s: kind_of(s)["fields"].pop(), "was removed"),
        (lambda s: s["fields"][0]["type"]["items"].pop(0), "was removed"),
        (change("speed", name="velocity"), "was removed, renamed or moved"),
        (change("speed", maximum=300), "narrower"),
        (change("speed", minimum=1), "narrower"),
        (change("speed", unit="mph"), "means something else"),
        (change("speed", vss="Vehicle.AverageSpeed"), "means something else"),
        (change("speed", type="float"), "another type"),
        (add({"name": "x", "type": "boolean"}), "is new, but not null by default"),
        (add({"name": "x", "type": ["null", "boolean"]}), "is new, but not null by default"),
    ],
)
def test_a_break_between_versions_is_noticed(edit: Edit, expected: str) -> None:
    released = json.loads(TEXTS[VERSIONS[-1]])
    changed = copy.deepcopy(released)
    edit(changed)
    assert expected in "; ".join(find_breaks(released, changed))


@pytest.mark.skipif(not SIGNALS.exists(), reason="the list of VSS signals is not at hand")
@pytest.mark.parametrize("name", RELEASED)
def test_every_signal_is_in_the_vehicle_signal_specification(name: str) -> None:
    with SIGNALS.open(encoding="utf-8") as lines:
        signals = {row["path"]: row for row in csv.DictReader(lines)}
    for kind in json.loads(TEXTS[name])["fields"][0]["type"]["items"]:
        for field in kind["fields"]:
            if "vss" in field:
                signal = signals[field["vss"]]
                assert field.get("unit", "") == signal["unit"], field["name"]
                assert not signal["min"] or field["minimum"] == float(signal["min"]), field["name"]
                assert not signal["max"] or field["maximum"] == float(signal["max"]), field["name"]
