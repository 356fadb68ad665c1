"""Is of each payload read what was written, and nothing else, whatever its bytes?"""

import io
import json
import math
import random
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.core.message import Reading, Refused, Sample, Unreadable
from ingest.core.payload import MARKER, load, read_payload
from ingest.core.verdict import Refusal
from tests.core.bodies import (
    ALL_TEXTS,
    CATALOGUE,
    FIELDS,
    FINGERPRINTS,
    NEWEST,
    PARSED,
    TEXTS,
    Samples,
    draw,
    draw_samples,
    read,
    refusal,
    sample_of,
    unwrap,
    verify,
    wrap,
    write,
)

# What is read.


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", sorted(ALL_TEXTS))
def test_what_was_written_is_read(name: str, seed: int) -> None:
    rng = random.Random(seed)
    samples = draw_samples(name, rng, rng.randint(1, 60))
    assert unwrap(read(name, write(name, samples))) == samples


def test_a_reading_says_which_schema_it_was_written_with() -> None:
    answer = read(NEWEST, write(NEWEST, [sample_of("VehicleState")]))
    assert isinstance(answer, Reading)
    assert answer.schema == FINGERPRINTS[NEWEST]


@pytest.mark.parametrize("branch", [0, 1, 63, 64, 69])
def test_one_sample_is_read_as_the_first_of_many_is_however_many_kinds_there_are(branch: int) -> None:
    time = {"name": "recorded_at_us", "type": "long", "minimum": 0, "maximum": 63}
    kinds = [{"type": "record", "name": f"Kind{number}", "fields": [time]} for number in range(70)]
    samples = {"name": "samples", "type": {"type": "array", "items": kinds}}
    catalogue = load({"many": json.dumps({"type": "record", "name": "Telemetry", "fields": [samples]})})
    (fingerprint,) = catalogue.known
    number = bytes((2 * branch,)) if branch < 64 else bytes((2 * branch & 0x7F | 0x80, 1))
    for count in (1, 2):
        body = bytes((2 * count,)) + (number + b"\x0e") * count + b"\x00"
        found = read_payload(verify(MARKER + struct.pack("<Q", fingerprint) + body), catalogue, 2)
        assert isinstance(found, Reading)
        assert found.schema == fingerprint
        assert found.samples == (Sample(f"Kind{branch}", (7,)),) * count


@pytest.mark.parametrize(
    ("cut", "detail"),
    [
        (lambda body: body + b"\x00", "1 bytes follow the end of the body"),
        (lambda body: body[:-1] + b"\x02", "the array of samples does not end after its first block"),
        (lambda body: body[:-1], "the body ends in the middle of a value"),
        (lambda body: body[:-2], "the body ends in the middle of a value"),
        (lambda body: body[:1] + b"\x7e" + body[2:], "sample 0: kind 63 of 4"),
    ],
)
def test_what_is_wrong_with_the_frame_of_one_sample_is_said_as_of_many(
    cut: Callable[[bytes], bytes], detail: str
) -> None:
    refused = read(NEWEST, cut(write(NEWEST, [sample_of("VehicleState")])))
    assert isinstance(refused, Refused)
    assert refused.detail == detail


def test_an_unknown_schema_is_not_an_invalid_payload() -> None:
    answer = read_payload(verify(b"\xc3\x01" + b"\xff" * 8 + b"anything"), CATALOGUE, 1_024)
    assert isinstance(answer, Unreadable)
    assert answer.schema == 2**64 - 1


@pytest.mark.parametrize("payload", [b"", b"\xc3", b"\xc3\x01", b"\xc3\x01" + bytes(7), b"\xc3\x02" + bytes(20)])
def test_what_is_no_single_object_is_refused(payload: bytes) -> None:
    assert refusal(read_payload(verify(payload), CATALOGUE, 1_024))[0] is Refusal.INVALID_PAYLOAD


def test_every_truncation_is_refused() -> None:
    body = write(NEWEST, [sample_of(kind) for kind in FIELDS[NEWEST]])
    for end in range(len(body)):
        assert refusal(read(NEWEST, body[:end]))[0] is Refusal.INVALID_PAYLOAD


def test_the_number_of_samples_has_a_limit() -> None:
    samples = [sample_of("SecurityEvent")] * 5
    assert len(unwrap(read(NEWEST, write(NEWEST, samples), samples_max=5))) == 5
    reason, detail = refusal(read(NEWEST, write(NEWEST, samples), samples_max=4))
    assert reason is Refusal.INVALID_PAYLOAD
    assert "1 to 4" in detail


# One encoding of each value, and no other.

SECURITY = bytes([6])  # the fourth kind of the union
EVENT = SECURITY + b"\x00" + b"\x00" + b"\x00" + b"\x02e" + b"\x00" + b"\x02" + b"\x00"
ONE = b"\x02"
END = b"\x00"

STRICT = {
    "no sample": END,
    "two blocks": ONE + EVENT + ONE + EVENT + END,
    "a block with its size": b"\x01" + bytes([2 * len(EVENT)]) + EVENT + END,
    "a count that is not shortest": b"\x82\x00" + EVENT + END,
    "an integer of 11 bytes": b"\x80" * 10 + b"\x01" + EVENT + END,
    "an integer of 65 bits": b"\x82" + b"\x80" * 8 + b"\x02" + EVENT + END,
    "a trailing byte": ONE + EVENT + END + b"\x00",
    "no end of the array": ONE + EVENT,
    "kind 4 of 4": ONE + b"\x08" + EVENT[1:] + END,
    "kind -1": ONE + b"\x01" + EVENT[1:] + END,
    "kind 3, not shortest": ONE + b"\x86\x00" + EVENT[1:] + END,
    "symbol 8 of 8": ONE + EVENT[:2] + b"\x10" + EVENT[3:] + END,
    "symbol -1": ONE + EVENT[:2] + b"\x01" + EVENT[3:] + END,
    "null or value -1": ONE + EVENT[:-1] + b"\x01" + END,
    "null or value 2": ONE + EVENT[:-1] + b"\x04" + END,
    "null, not shortest": ONE + EVENT[:-1] + b"\x80\x00" + END,
    "a string of -1 bytes": ONE + EVENT[:4] + b"\x01" + EVENT[6:] + END,
    "a string longer than the body": ONE + EVENT[:4] + b"\x40" + EVENT[5:] + END,
    "a string of 2^62 bytes": ONE + EVENT[:4] + b"\x80" * 8 + b"\x80\x01" + EVENT[5:] + END,
    "a string of 65 characters": ONE + EVENT[:4] + b"\x82\x01" + b"x" * 65 + EVENT[6:] + END,
    "a string that is no UTF-8": ONE + EVENT[:4] + b"\x02\xff" + EVENT[6:] + END,
    "a surrogate": ONE + EVENT[:4] + b"\x06\xed\xa0\x80" + EVENT[6:] + END,
    "NUL": ONE + EVENT[:4] + b"\x02\x00" + EVENT[6:] + END,
    "a terminal escape": ONE + EVENT[:4] + b"\x02\x1b" + EVENT[6:] + END,
    "an int over 32 bits": ONE + EVENT[:6] + b"\x80\x80\x80\x80\x20" + EVENT[7:] + END,
    "2^62 samples": b"\x80" * 8 + b"\x80\x01",
    "-2^63 samples": b"\xff" * 9 + b"\x01",
}


def test_the_example_of_the_strict_cases_is_itself_valid() -> None:
    assert len(unwrap(read(NEWEST, ONE + EVENT + END))) == 1


@pytest.mark.parametrize("case", STRICT)
def test_another_encoding_is_refused(case: str) -> None:
    assert refusal(read(NEWEST, STRICT[case]))[0] is Refusal.INVALID_PAYLOAD


def test_a_boolean_is_nothing_but_0_or_1() -> None:
    samples = [sample_of("Diagnostics", is_service_due=True, distance_to_service=None)]
    body = write(NEWEST, samples)
    assert body[-3:] == b"\x01\x00\x00"
    assert refusal(read(NEWEST, body[:-3] + b"\x02\x00\x00"))[0] is Refusal.INVALID_PAYLOAD


@pytest.mark.parametrize("text", ["line\nfeed", "\x7f", "\x85", "\u2028", "right\u202eleft", "\u2066"])
def test_a_string_that_lies_on_a_screen_is_refused(text: str) -> None:
    reason, detail = refusal(read(NEWEST, write(NEWEST, [sample_of("SecurityEvent", detail=text)])))
    assert (reason, text in detail) == (Refusal.INVALID_PAYLOAD, False)
    assert detail == "sample 0: SecurityEvent.detail has a character that cannot be shown"


def test_a_string_ends_within_the_body() -> None:
    _, detail = refusal(read(NEWEST, STRICT["a string longer than the body"]))
    assert detail == "sample 0: SecurityEvent.source is longer than the body"


@pytest.mark.parametrize("last", [b"\x02", b"\x7f"])
@pytest.mark.parametrize("first", [b"\x80", b"\x81"])
def test_a_long_over_64_bits_is_refused(first: bytes, last: bytes) -> None:
    body = write("all-types", draw_samples("all-types", random.Random(1), 1))
    # After the count and the kind comes recorded_at_us, which its schema allows all of 64 bits.
    end = next(at for at in range(2, len(body)) if body[at] < 0x80) + 1
    for size, why in ((10, "which is no long"), (11, "or is longer than ten bytes")):
        reason, detail = refusal(read("all-types", body[:2] + first + b"\x80" * (size - 2) + last + body[end:]))
        assert reason is Refusal.INVALID_PAYLOAD
        assert detail.endswith(why)


def test_length_is_counted_in_characters() -> None:
    fits, longer = sample_of("SecurityEvent", source="漢" * 64), sample_of("SecurityEvent", source="漢" * 65)
    assert unwrap(read(NEWEST, write(NEWEST, [fits]))) == [fits]
    _, detail = refusal(read(NEWEST, write(NEWEST, [fits, longer])))
    assert detail == "sample 1: SecurityEvent.source is 65 characters long; its schema allows 64"


def test_an_array_has_at_most_its_items() -> None:
    most = sample_of("Diagnostics", dtc_list=["P0A80"] * 32)
    assert unwrap(read(NEWEST, write(NEWEST, [most]))) == [most]
    more = sample_of("Diagnostics", dtc_list=["P0A80"] * 33)
    assert refusal(read(NEWEST, write(NEWEST, [more])))[0] is Refusal.INVALID_PAYLOAD


# Bounds.

BOUNDED = [
    (name, kind, field["name"])
    for name in sorted(TEXTS)
    for kind, fields in FIELDS[name].items()
    for field in fields
    if "minimum" in field
]


@pytest.mark.parametrize(("name", "kind", "field"), BOUNDED)
def test_every_number_is_held_to_its_bounds(name: str, kind: str, field: str) -> None:
    declared = next(f for f in FIELDS[name][kind] if f["name"] == field)
    whole = declared["type"] in ("int", "long", ["null", "int"], ["null", "long"])
    rng = random.Random(field)
    fields = {f["name"]: draw(f, f["type"], rng) for f in FIELDS[name][kind]}
    low, high = (declared[key] if whole else float(declared[key]) for key in ("minimum", "maximum"))
    for value in (low, high):
        assert unwrap(read(name, write(name, [(kind, fields | {field: value})])))[0][1][field] == value
    reals = [math.nextafter(low, -math.inf), math.nextafter(high, math.inf), math.nan, math.inf, -math.inf]
    for value in [low - 1, high + 1] if whole else reals:
        reason, detail = refusal(read(name, write(name, [(kind, fields | {field: value})])))
        assert reason is Refusal.OUT_OF_RANGE
        assert f"{kind}.{field} is {value!r}; its schema allows {declared['minimum']} to " in detail


def test_a_refusal_says_which_sample_which_field_and_what_is_allowed() -> None:
    fast = sample_of("VehicleState", speed=412.5)
    _, detail = refusal(read(NEWEST, write(NEWEST, [sample_of("VehicleState"), fast])))
    assert detail == "sample 1: VehicleState.speed is 412.5; its schema allows 0 to 400 km/h"


def test_a_refused_payload_names_its_sender() -> None:
    verified = verify(wrap(NEWEST, b"\xff"))
    answer = read_payload(verified, CATALOGUE, 1_024)
    assert isinstance(answer, Refused)
    assert answer.reached is verified


# Whatever the bytes.

LYING = {*range(32), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)}


def agrees(name: str, body: bytes) -> bool:
    """Whether the body is read exactly when the reference does: fastavro, its encoding again, and the bounds."""
    answer = read(name, body)
    reference = read_by_fastavro(name, body)
    if isinstance(answer, Reading):
        return unwrap(answer) == reference
    return reference is None


def read_by_fastavro(name: str, body: bytes) -> Samples | None:
    stream = io.BytesIO(body)
    try:
        whole: Any = fastavro.schemaless_reader(stream, PARSED[name], None, return_record_name=True)
        again = io.BytesIO()
        fastavro.schemaless_writer(again, PARSED[name], whole)
    except Exception:  # noqa: BLE001 — whatever it raises, the body was not read
        return None
    samples = [(kind.rpartition(".")[2], fields) for kind, fields in whole["samples"]]
    if again.getvalue() != body or not 1 <= len(samples) <= 1_024:
        return None
    fits = all(allows(f, f["type"], fields[f["name"]]) for kind, fields in samples for f in FIELDS[name][kind])
    return samples if fits else None


def allows(field: dict[str, Any], declared: Any, value: Any) -> bool:  # noqa: ANN401 — an Avro type, an Avro value
    match declared:
        case ["null", inner]:
            return value is None or allows(field, inner, value)
        case {"type": "array", "items": items}:
            return len(value) <= int(field["maxItems"]) and all(allows(field, items, item) for item in value)
        case {"type": "record", "fields": fields}:
            return all(allows(inner, inner["type"], value[inner["name"]]) for inner in fields)
        case "string":
            return len(value) <= int(field["maxLength"]) and LYING.isdisjoint(map(ord, value))
    return "minimum" not in field or bool(field["minimum"] <= value <= field["maximum"])


def mutate(body: bytes, rng: random.Random) -> bytes:
    spoiled = bytearray(body)
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(spoiled))
        match rng.randrange(6):
            case 0:
                spoiled[at:at] = rng.randbytes(rng.randint(1, 9))
            case 1:
                del spoiled[at : at + rng.randint(1, 9)]
            case 2:
                spoiled[at : at + 1] = rng.choice([b"\x00", b"\x01", b"\x02", b"\x80", b"\xff", b"\x80\x00"])
            case 3:
                spoiled[at : at + 8] = struct.pack("<d", rng.choice([math.nan, math.inf, -0.0, 1e308, 5e-324]))
            case 4:
                spoiled[at : at + 10] = b"\xff" * 9 + b"\x01"
            case _:
                spoiled[at] ^= 1 << rng.randrange(8)
        if not spoiled:
            return b""
    return bytes(spoiled)


@pytest.mark.parametrize("name", sorted(ALL_TEXTS))
def test_mutated_bodies_are_read_exactly_when_the_reference_reads_them(name: str) -> None:
    rng = random.Random(name)
    for _ in range(3_000):
        body = mutate(write(name, draw_samples(name, rng, rng.randint(1, 3))), rng)
        assert agrees(name, body), body.hex()


@given(st.sampled_from(sorted(ALL_TEXTS)), st.binary(max_size=200))
@settings(max_examples=1_000, deadline=None)
def test_any_bytes_are_answered(name: str, body: bytes) -> None:
    assert agrees(name, body)


@given(st.binary(max_size=64))
@settings(max_examples=500, deadline=None)
def test_any_payload_is_answered(payload: bytes) -> None:
    assert isinstance(read_payload(verify(payload), CATALOGUE, 1_024), Unreadable | Refused)


DEAR = {
    "arrays of empty strings": b"\x80\x10" + (b"\x04\x00\x00\x40" + bytes(48)) * 1_024 + END,
    "a count of 2^62": b"\x80" * 8 + b"\x80\x01" + bytes(65_000),
    "a string of 2^62": ONE + EVENT[:4] + b"\x80" * 8 + b"\x80\x01" + b"x" * 65_000,
    "as many samples as allowed": b"\x80\x10" + EVENT * 1_024 + END,
}


@pytest.mark.parametrize("case", DEAR)
def test_a_body_takes_memory_in_proportion_to_its_length(case: str) -> None:
    verified = verify(wrap(NEWEST, DEAR[case]))
    tracemalloc.start()
    answer = read_payload(verified, CATALOGUE, 1_024)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(answer, Reading | Refused)
    assert peak < 100 * len(DEAR[case])
