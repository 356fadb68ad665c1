"""How are bodies of telemetry drawn, written and read in these tests? By fastavro and by chance, from a seed."""

import io
import json
import random
import struct
from collections.abc import Iterable
from typing import Any

import fastavro

import schemas
from ingest.core.device import Algorithm, Key, KeyState, Sender
from ingest.core.message import Envelope, RawRecord, Reading, Refused, Sample, Unreadable, Verified
from ingest.core.payload import load, read_payload
from ingest.core.schema import Field
from ingest.core.verdict import Refusal

TEXTS = schemas.read_telemetry()
NEWEST = max(TEXTS)

# Every type of the profile, and every reader: the released schemas do not use them all.
ALL_TYPES = """
{"type": "record", "name": "Telemetry", "namespace": "test", "fields": [
  {"name": "samples", "type": {"type": "array", "items": [{"type": "record", "name": "All", "fields": [
    {"name": "recorded_at_us", "type": "long", "minimum": -9223372036854775808, "maximum": 9223372036854775807},
    {"name": "whole", "type": "int", "minimum": -2147483648, "maximum": 2147483647},
    {"name": "few", "type": ["null", "int"], "minimum": -5, "maximum": 5},
    {"name": "single", "type": "float", "minimum": -2.5, "maximum": 1000.0},
    {"name": "real", "type": ["null", "double"], "minimum": 0.1, "maximum": 1e300},
    {"name": "note", "type": "string", "maxLength": 4},
    {"name": "flag", "type": ["null", "boolean"]},
    {"name": "parts", "maxItems": 3, "type": {"type": "array", "items": {"type": "record", "name": "Part", "fields": [
      {"name": "state", "type": ["null", {"type": "enum", "name": "E", "symbols": ["A", "B"]}]},
      {"name": "levels", "type": {"type": "array", "items": "double"}, "maxItems": 2, "minimum": 0, "maximum": 1}
    ]}}}
  ]}]}}
]}
"""
ALL_TEXTS = TEXTS | {"all-types": ALL_TYPES}
CATALOGUE = load(ALL_TEXTS)
FINGERPRINTS = {known.schema.name: fingerprint for fingerprint, known in CATALOGUE.known.items()}
PARSED = {name: fastavro.parse_schema(json.loads(text)) for name, text in ALL_TEXTS.items()}
FIELDS = {
    name: {kind["name"]: kind["fields"] for kind in json.loads(text)["fields"][0]["type"]["items"]}
    for name, text in ALL_TEXTS.items()
}

Samples = list[tuple[str, dict[str, Any]]]


def verify(payload: bytes) -> Verified:
    """A message that got as far as its payload."""
    record = RawRecord("telemetry.raw", 0, 7, 1_763_800_000_000, b"")
    claims = ("device-1", 1_763_800_000.0, None, 1, 1, bytes(8), "1.0", bytes(32))
    envelope = Envelope(record, -8, b"k", *claims, payload=payload, signature=bytes(64), signed=b"")
    key = Key(1, b"k", Algorithm.ED25519, bytes(32), KeyState.ACTIVE, 0, None, None)
    return Verified(envelope, Sender(1, 1, 1, 1, {b"k": key}), key, bytes(32))


def wrap(name: str, body: bytes) -> bytes:
    return b"\xc3\x01" + struct.pack("<Q", FINGERPRINTS[name]) + body


def read(name: str, body: bytes, samples_max: int = 1_024) -> Reading | Unreadable | Refused:
    return read_payload(verify(wrap(name, body)), CATALOGUE, samples_max)


def write(name: str, samples: Samples) -> bytes:
    namespace = json.loads(ALL_TEXTS[name])["namespace"]
    buffer = io.BytesIO()
    whole = {"samples": [(f"{namespace}.{kind}", fields) for kind, fields in samples]}
    fastavro.schemaless_writer(buffer, PARSED[name], whole)
    return buffer.getvalue()


def draw(field: dict[str, Any], declared: Any, rng: random.Random) -> Any:  # noqa: ANN401 — an Avro type, an Avro value
    """A value that the field allows, often at the edge of it."""
    if isinstance(declared, list):
        return None if rng.random() < 0.3 else draw(field, declared[1], rng)
    if isinstance(declared, dict):
        return draw_complex(field, declared, rng)
    if declared == "boolean":
        return rng.random() < 0.5
    if declared == "string":
        return "".join(rng.choices("aZ0 é漢🚗", k=rng.randint(0, field["maxLength"])))
    low, high = field["minimum"], field["maximum"]
    if declared in ("int", "long"):
        return rng.choice([low, high, rng.randint(low, high)])
    value = float(rng.choice([low, high, rng.uniform(low, high)]))
    return value if declared == "double" else struct.unpack("<f", struct.pack("<f", value))[0]


def draw_complex(field: dict[str, Any], declared: dict[str, Any], rng: random.Random) -> Any:  # noqa: ANN401 — as above
    if declared["type"] == "enum":
        return rng.choice(declared["symbols"])
    if declared["type"] == "array":
        return [draw(field, declared["items"], rng) for _ in range(rng.randint(0, field["maxItems"]))]
    return {inner["name"]: draw(inner, inner["type"], rng) for inner in declared["fields"]}


def draw_samples(name: str, rng: random.Random, count: int) -> Samples:
    kinds = sorted(FIELDS[name])
    chosen = [rng.choice(kinds) for _ in range(count)]
    return [(kind, {f["name"]: draw(f, f["type"], rng) for f in FIELDS[name][kind]}) for kind in chosen]


def sample_of(kind: str, **fields: object) -> tuple[str, dict[str, Any]]:
    rng = random.Random(1)
    drawn = {f["name"]: draw(f, f["type"], rng) for f in FIELDS[NEWEST][kind]}
    return kind, drawn | fields


def unwrap(reading: object) -> Samples:
    assert isinstance(reading, Reading), reading
    kinds = {kind.name: kind.fields for kind in CATALOGUE.known[reading.schema].schema.kinds}
    return [(sample.kind, name(sample, kinds[sample.kind])) for sample in reading.samples]


def name(sample: Sample, fields: Iterable[Field]) -> dict[str, Any]:
    """The values by name; what the schema does not have must be None."""
    said = dict(zip(CATALOGUE.fields[sample.kind], sample.values, strict=True))
    own = {field.name: said.pop(field.name) for field in fields}
    assert set(said.values()) <= {None}
    return own


def refusal(answer: object) -> tuple[Refusal, str]:
    assert isinstance(answer, Refused), answer
    assert len(answer.detail) < 300
    assert answer.detail.isprintable()
    return answer.reason, answer.detail
