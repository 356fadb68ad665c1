"""Is what is read at once what the strict reader reads, value by value, and nothing more, whatever the bytes?"""

import io
import json
import math
import random
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.core.alike import ALIKE_MIN, ATTEMPTS_MAX, PATTERNS_MAX, Bulk
from ingest.core.message import Reading
from ingest.core.payload import MARKER, load, read_payload
from tests.core.bodies import CATALOGUE, FIELDS, NEWEST, TEXTS, draw, sample_of, verify, wrap, write

# Every type that has a column, at the ends of what it can hold, and one that has none.
PLAIN = """
{"type": "record", "name": "Telemetry", "fields": [
  {"name": "samples", "type": {"type": "array", "items": [{"type": "record", "name": "Plain", "fields": [
    {"name": "recorded_at_us", "type": "long", "minimum": 0, "maximum": 4102444800000000},
    {"name": "any", "type": "long", "minimum": -9223372036854775808, "maximum": 9223372036854775807},
    {"name": "whole", "type": "int", "minimum": -2147483648, "maximum": 2147483647},
    {"name": "few", "type": ["null", "int"], "minimum": -5, "maximum": 5},
    {"name": "single", "type": "float", "minimum": -2.5, "maximum": 1000.0},
    {"name": "real", "type": ["null", "double"], "minimum": 0.1, "maximum": 1e300},
    {"name": "flag", "type": ["null", "boolean"]},
    {"name": "sure", "type": "boolean"},
    {"name": "note", "type": ["null", "string"], "maxLength": 4}
  ]}]}}
]}
"""
PLAIN_FIELDS = json.loads(PLAIN)["fields"][0]["type"]["items"][0]["fields"]
PLAIN_PARSED = fastavro.parse_schema(json.loads(PLAIN))
BOTH = load(TEXTS | {"plain": PLAIN})
(PLAIN_NUMBER,) = [number for number, known in BOTH.known.items() if known.schema.name == "plain"]
VEHICLE = sample_of(
    "VehicleState",
    recorded_at_us=1_763_800_000_000_000, traveled_distance_m=70_000, current_gear=1, altitude=None, humidity=None,
)  # fmt: skip


def compare(payloads: Sequence[bytes], bulk: Bulk | None = None) -> int:
    """Hold all that is read at once to the strict reader; returns how many were."""
    drawn = (bulk or Bulk(BOTH)).read(payloads)
    assert len(drawn) == len(payloads)
    for one, payload in zip(drawn, payloads, strict=True):
        if one is not None:
            strict = read_payload(verify(payload), BOTH, 1)
            assert isinstance(strict, Reading), (strict, payload.hex())
            assert one.lot.schema == strict.schema
            assert len(one) == 1
            assert plain(one) == plain(strict.samples)
    return sum(one is not None for one in drawn)


def plain(samples: Iterable[Any]) -> list[Any]:
    """Samples with the types of their values and the signs of their zeros: True is not 1 here, nor -0.0 0.0."""
    return [(sample.kind, [(type(value), repr(value)) for value in sample.values]) for sample in samples]


def vehicle(**fields: object) -> bytes:
    kind, values = VEHICLE
    return wrap(NEWEST, write(NEWEST, [(kind, values | fields)]))


def plain_payload(values: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    fastavro.schemaless_writer(buffer, PLAIN_PARSED, {"samples": [values]})
    return MARKER + struct.pack("<Q", PLAIN_NUMBER) + buffer.getvalue()


def plain_values(rng: random.Random, **fields: object) -> dict[str, Any]:
    drawn = {field["name"]: draw(field, field["type"], rng) for field in PLAIN_FIELDS}
    return drawn | {"recorded_at_us": 7, "any": rng.randint(-(2**62), 2**62 - 1)} | fields


def test_what_is_alike_is_read_at_once() -> None:
    assert compare([vehicle(speed=float(speed)) for speed in range(100)]) == 100


def test_it_takes_so_many_that_are_alike() -> None:
    assert compare([vehicle()] * (ALIKE_MIN - 1)) == 0
    assert compare([vehicle()] * ALIKE_MIN) == ALIKE_MIN


def test_payloads_of_several_lengths_kinds_and_versions_are_each_found_their_own_lot() -> None:
    rng = random.Random(1)
    old = min(TEXTS)
    older = {
        name: value
        for name, value in VEHICLE[1].items()
        if name in {field["name"] for field in FIELDS[old]["VehicleState"]}
    }
    kinds = [
        vehicle(),
        vehicle(traveled_distance_m=7),
        vehicle(altitude=10.0),
        vehicle(humidity=10.0),
        wrap(old, write(old, [("VehicleState", older)])),
        wrap(NEWEST, write(NEWEST, [sample_of("BatteryCharging", evse_id=None)])),
        plain_payload(plain_values(rng, note=None)),
    ]
    assert len({len(kind) for kind in kinds}) < len(kinds), "some differ in more than their length"
    payloads = [kind for kind in kinds for _ in range(3 * ALIKE_MIN)]
    rng.shuffle(payloads)
    assert compare(payloads) == len(payloads)
    assert len({id(one.lot) for one in Bulk(BOTH).read(payloads) if one}) == len(kinds)


@pytest.mark.parametrize("seed", range(10))
def test_values_of_every_type_are_read_as_the_strict_reader_reads_them(seed: int) -> None:
    rng = random.Random(seed)
    fixed: dict[str, object] = {"few": None} if seed % 2 else {"real": None}
    payloads = [plain_payload(plain_values(rng, note=None, **fixed)) for _ in range(2_000)]
    assert compare(payloads) > 1_000


@pytest.mark.parametrize("sample", [sample_of("Diagnostics", dtc_list=["P0A1F"]), sample_of("SecurityEvent")])
def test_what_has_a_length_is_for_the_strict_reader(sample: tuple[str, dict[str, Any]]) -> None:
    assert compare([wrap(NEWEST, write(NEWEST, [sample]))] * 100) == 0


def test_what_might_have_a_length_and_is_empty_is_alike() -> None:
    assert compare([wrap(NEWEST, write(NEWEST, [sample_of("Diagnostics", dtc_list=[])]))] * 100) == 100


def test_a_text_where_there_may_be_none_is_for_the_strict_reader() -> None:
    rng = random.Random(2)
    assert compare([plain_payload(plain_values(rng, note="a"))] * 100) == 0


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"\xc3", MARKER, MARKER + bytes(8), MARKER + bytes(30), vehicle()[:12], vehicle()[:13], vehicle()[:-1],
        vehicle() + b"\0", vehicle()[:-1] + b"\2", wrap(NEWEST, write(NEWEST, [VEHICLE, VEHICLE])),
    ],
)  # fmt: skip
def test_what_is_no_payload_of_one_sample_is_for_the_strict_reader(payload: bytes) -> None:
    assert compare([payload] * 100) == 0
    assert compare([vehicle()] * 100 + [payload] * 100) == 100


@pytest.mark.parametrize("base", [vehicle(), plain_payload(plain_values(random.Random(3), note=None, few=3))])
def test_any_byte_in_any_place_is_judged_as_the_strict_reader_judges_it(base: bytes) -> None:
    bulk, read = Bulk(BOTH), 0
    for at in range(len(base)):
        read += compare([base, *[base[:at] + bytes((octet,)) + base[at + 1 :] for octet in range(256)]], bulk)
    assert len(base) < read < len(base) * 256


def test_100_000_mutations_are_judged_as_the_strict_reader_judges_them() -> None:
    rng = random.Random(4)
    bases = [vehicle(), vehicle(is_moving=True, altitude=1.0), plain_payload(plain_values(rng, note=None))]
    bases.append(wrap(NEWEST, write(NEWEST, [sample_of("BatteryCharging", evse_id=None)])))
    bulk, read = Bulk(BOTH), 0
    for _ in range(100):
        payloads = []
        for _ in range(1_000):
            spoilt = bytearray(rng.choice(bases))
            for _ in range(rng.choice((0, 1, 1, 2, 4))):
                spoilt[rng.randrange(len(spoilt))] = rng.choice((0, 1, 2, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            payloads.append(bytes(spoilt))
        read += compare(payloads, bulk)
    assert 20_000 < read < 100_000


EDGES = [0.0, -0.0, math.nan, math.inf, -math.inf, 5e-324, -5e-324, 0.1, math.nextafter(0.1, 0), 1e300]


@pytest.mark.parametrize("value", [*EDGES, math.nextafter(1e300, math.inf)])
def test_reals_at_the_ends_of_what_they_may_be(value: float) -> None:
    payload = plain_payload(plain_values(random.Random(5), note=None, real=0.5))
    spot = payload.index(struct.pack("<d", 0.5))
    other = payload[:spot] + struct.pack("<d", value) + payload[spot + 8 :]
    assert compare([payload] * 50 + [other] * 50) == (100 if 0.1 <= value <= 1e300 else 50)


@pytest.mark.parametrize("value", [-5, 5, -6, 6, 63, -64])
def test_whole_numbers_at_the_ends_of_what_they_may_be(value: int) -> None:
    payload = plain_payload(plain_values(random.Random(6), note=None, few=1, any=0, whole=0, recorded_at_us=40))
    spot = payload.index(b"\x50\x00\x00\x02\x02") + 4  # time, any, whole; few: there is one, which is 1
    other = payload[:spot] + bytes(((value << 1) ^ (value >> 63),)) + payload[spot + 1 :]
    assert compare([payload] * 50 + [other] * 50) == (100 if -5 <= value <= 5 else 50)


def test_a_number_of_ten_bytes_is_for_the_strict_reader() -> None:
    for value in (2**62, -(2**62) - 1, 2**63 - 1, -(2**63)):
        assert compare([plain_payload(plain_values(random.Random(9), note=None, any=value))] * 50) == 0


def test_a_longer_form_of_a_number_is_for_the_strict_reader() -> None:
    payload = plain_payload(plain_values(random.Random(7), note=None, any=64))
    longer = payload.replace(b"\x80\x01", b"\x80\x81\x00", 1)
    assert compare([longer] * 50) == 0


def test_the_first_of_its_length_may_be_broken() -> None:
    broken = vehicle()[:-1] + b"\1"
    assert compare([broken, *[vehicle()] * 100]) == 100
    assert compare([broken] * (ATTEMPTS_MAX - 1) + [vehicle()] * 200) == 200
    assert compare([broken] * ATTEMPTS_MAX + [vehicle()] * 200) == 0, "it is not tried for ever"


def test_few_pay_for_few_attempts() -> None:
    """Who sends what is never alike must not be dearer for it than a few payloads are."""
    broken = vehicle()[:-1] + b"\1"
    assert compare([broken] + [vehicle()] * (ALIKE_MIN - 1)) == 0


def test_no_more_patterns_are_kept_than_a_few() -> None:
    rng = random.Random(8)
    bulk = Bulk(BOTH)
    for _ in range(2 * PATTERNS_MAX):
        payload = plain_payload(plain_values(rng, note=None, any=rng.randint(-(2 ** rng.randint(1, 62)), 2**60)))
        compare([payload] * ALIKE_MIN, bulk)
    assert bulk._pattern.cache_info().currsize <= PATTERNS_MAX


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=5), st.integers(ALIKE_MIN, 3 * ALIKE_MIN))
def test_whatever_the_bytes_there_is_an_answer(payloads: list[bytes], times: int) -> None:
    compare([payload for payload in payloads for _ in range(times)])
    compare([vehicle()[:12] + payload for payload in payloads for _ in range(times)])


def test_the_catalogue_of_the_tests_has_the_same_openings() -> None:
    """What is drawn says its schema by the catalogue that it was read with."""
    (one, *_) = Bulk(CATALOGUE).read([vehicle()] * ALIKE_MIN)
    assert one is not None
    assert CATALOGUE.known[one.lot.schema].schema.name == NEWEST
