"""Is a fleet the same for the same seed, honest where it says so, complete in its misbehaviour, and small?"""

import io
import tracemalloc
from collections import Counter
from itertools import islice
from typing import Any

import cbor2
import fastavro
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from device_sim.damage import ENVELOPES, PAYLOADS
from device_sim.fault import ACTS, Fault
from device_sim.fleet import MIXES, Mix, Plan, sends
from device_sim.identity import Fleet, Identity
from device_sim.trouble import Trouble
from device_sim.vehicle import Send, Turn, World, build
from device_sim.wire import CLAIM_ISSUED, CLAIM_SEQ, ENVELOPE_BYTES_MAX, LABEL_CLAIMS, VERSIONS, load
from ingest.core.verdict import Hold, Refusal, Verdict

START_S = 1_795_000_000.0
SCHEMAS = {schema.fingerprint: schema for schema in load().values()}


def some(count: int, mix: str = "everything", seed: int = 3, vehicles: int = 300, samples_max: int = 60) -> list[Send]:
    plan = Plan(Fleet(seed, vehicles), MIXES[mix], START_S, rate=200, samples_max=samples_max)
    return list(islice(sends(plan), count))


@pytest.fixture(scope="module")
def honest() -> list[Send]:
    return some(3_000, mix="honest", vehicles=120)


@pytest.fixture(scope="module")
def mixed() -> list[Send]:
    return some(6_000, samples_max=2)


def opened(send: Send) -> tuple[dict[int, Any], dict[str, Any]]:
    tagged = cbor2.loads(send.value or b"")
    assert tagged.tag == 18
    protected, unprotected, payload, _ = tagged.value
    assert unprotected == {}
    assert payload[:2] == b"\xc3\x01"
    schema = SCHEMAS[payload[2:10]]
    body = io.BytesIO(payload[10:])
    message: Any = fastavro.schemaless_reader(body, schema.parsed, None, return_record_name=True)
    assert body.read() == b""
    return cbor2.loads(protected)[LABEL_CLAIMS], {"schema": schema, "samples": message["samples"]}


def bounds() -> dict[tuple[str, str, str], tuple[float, float]]:
    found = {}
    for schema in SCHEMAS.values():
        for kind in schema.definition["fields"][0]["type"]["items"]:
            for field in kind["fields"]:
                if "minimum" in field:
                    where = schema.version, f"weighbridge.telemetry.{kind['name']}", field["name"]
                    found[where] = field["minimum"], field["maximum"]
    return found


def test_the_same_plan_gives_the_same_bytes() -> None:
    assert some(2_000, samples_max=5) == some(2_000, samples_max=5)


def test_another_seed_or_run_gives_other_devices_with_other_keys() -> None:
    first, other, later = (Identity(fleet) for fleet in (Fleet(1, 10), Fleet(2, 10), Fleet(1, 10, run=1)))
    lines = [one for identity in (first, other, later) for one in identity.registrations()]
    for name in ("device_id", "vehicle_id", "kid", "public_key"):
        assert len({getattr(line, name) for line in lines}) == 30, name


def test_honest_messages_decode_and_lie_within_bounds(honest: list[Send]) -> None:
    limits, kinds, versions, sizes = bounds(), Counter[str](), set(), set()
    for send in honest:
        _, message = opened(send)
        versions.add(message["schema"].version)
        sizes.add(len(message["samples"]))
        for kind, fields in message["samples"]:
            kinds[kind] += 1
            for name, value in fields.items():
                low, high = limits.get((message["schema"].version, kind, name), (0, 0))
                if (message["schema"].version, kind, name) in limits and value is not None:
                    assert low <= value <= high, (kind, name, value)
    assert versions == set(VERSIONS)
    assert len(kinds) == 4
    assert min(sizes) == 1
    assert 40 < max(sizes) <= 60


def test_the_honest_mix_deserves_nothing_but_accepted_and_duplicate(honest: list[Send]) -> None:
    assert {send.verdict for send in honest} == {Verdict.ACCEPTED, Verdict.DUPLICATE}
    assert {send.cause for send in honest} == {*Trouble, "honest"}


def test_late_and_drifting_messages_stay_within_the_policy(honest: list[Send]) -> None:
    for send in honest:
        claims, _ = opened(send)
        assert -30 * 86_400 + 3_600 < claims[CLAIM_ISSUED] - START_S < 86_400 - 3_600


def test_an_offline_vehicle_uploads_in_order_backwards_or_shuffled() -> None:
    plan = Plan(Fleet(3, 30), Mix({Trouble.OFFLINE: 1.0}), START_S, samples_max=1)
    uploads: dict[str, list[int]] = {}
    for send in islice(sends(plan), 400):
        uploads.setdefault(send.device_id, []).append(opened(send)[0][CLAIM_SEQ])
    orders = Counter[str]()
    for numbers in uploads.values():
        first = numbers[:4]  # the shortest backlog
        orders["in order" if first == sorted(first) else "back" if first == sorted(first)[::-1] else "shuffled"] += 1
    assert set(orders) == {"in order", "back", "shuffled"}


def test_a_default_demo_has_every_misbehaviour_in_single_digit_percent() -> None:
    sent = some(30_000, vehicles=2_000, samples_max=1)
    assert {send.cause for send in sent} == {*Fault, *Trouble, "honest"}
    guilty = Counter(send.cause for send in sent)
    assert 0.01 < sum(guilty[fault] for fault in Fault) / len(sent) < 0.10


def test_every_deserved_reason_occurs(mixed: list[Send]) -> None:
    never_yet = {  # need what the registry or the operator does, not what a vehicle does
        Refusal.KEY_REVOKED,
        Refusal.KEY_NOT_VALID,
        Refusal.EPOCH_CLOSED,
        Refusal.LAPSED,
        Refusal.POISON,
        Hold.KEY_RETIRED,
        Hold.RATE_LIMITED,
    }
    assert {send.reason for send in mixed} == {*Refusal, *Hold, ""} - never_yet


def test_every_trouble_and_fault_is_played_even_once_through_the_fleet() -> None:
    assert set(ACTS) == set(Fault)
    assert {send.cause for send in some(700, samples_max=1)} >= {*Fault, *Trouble}


def test_each_damaged_envelope_and_payload_differs_from_the_sound_one() -> None:
    world = World(Identity(Fleet(1, 2)), load(), START_S, 1.0, 3)
    draft = Turn(world, build(world, 1), START_S).draft()
    envelopes = [damage(draft) for damage in ENVELOPES]
    assert len(set(envelopes)) == len(ENVELOPES)
    assert draft.seal() not in envelopes
    payloads = [damage(draft.payload) for damage in PAYLOADS]
    assert len(set(payloads)) == len(PAYLOADS)
    assert draft.payload not in payloads


def test_what_is_refused_as_oversize_is_one_byte_too_long(mixed: list[Send]) -> None:
    sizes = {len(send.value or b"") for send in mixed if send.reason == Refusal.OVERSIZE}
    assert sizes == {ENVELOPE_BYTES_MAX + 1}
    fitting = {len(send.value or b"") for send in mixed if send.reason != Refusal.OVERSIZE}
    assert max(fitting) <= ENVELOPE_BYTES_MAX


def test_copies_for_other_partitions_are_a_group_with_one_accepted(mixed: list[Send]) -> None:
    groups: dict[int, list[Send]] = {}
    for send in mixed:
        if send.group is not None:
            groups.setdefault(send.group, []).append(send)
    assert len(groups) > 1
    for copies in groups.values():
        assert len({send.value for send in copies}) == 1
        assert [send.verdict for send in copies] == [Verdict.ACCEPTED] + [Verdict.DUPLICATE] * (len(copies) - 1)
        assert [send.partition_shift for send in copies] == list(range(len(copies)))


def test_registrations_are_unique_and_their_vins_have_valid_check_digits() -> None:
    lines = list(Identity(Fleet(5, 500)).registrations())
    assert len({line.kid for line in lines}) == len({line.vehicle_id for line in lines}) == 500
    assert {line.alg for line in lines} == {"EdDSA", "ES256"}
    assert {len(bytes.fromhex(line.kid)) for line in lines} == set(range(8, 33))
    for line in lines:
        assert valid_vin(line.vehicle_id)
        load_pem_public_key(line.public_key.encode())


def valid_vin(vin: str) -> bool:
    """49 CFR 565.15(c), by its table."""
    values = {str(digit): digit for digit in range(10)}
    values |= dict(zip("ABCDEFGH", range(1, 9), strict=True)) | dict(zip("JKLMN", range(1, 6), strict=True))
    values |= {"P": 7, "R": 9} | dict(zip("STUVWXYZ", range(2, 10), strict=True))
    total = sum(
        values[c] * weight for c, weight in zip(vin, (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2), strict=True)
    )
    return len(vin) == 17 and vin[8] == "0123456789X"[total % 11]


def test_a_fleet_too_small_for_its_mix_is_told_so() -> None:
    plan = Plan(Fleet(1, 20), MIXES["everything"], START_S)
    with pytest.raises(ValueError, match="take at least 28"):
        next(sends(plan))


def test_a_mix_of_nothing_is_a_calm_fleet() -> None:
    plan = Plan(Fleet(1, 3), Mix({}), START_S)
    assert {send.cause for send in islice(sends(plan), 50)} == {"honest"}


def test_a_vehicle_takes_less_than_a_kilobyte() -> None:
    world = World(Identity(Fleet(1, 100_000)), load(), START_S, 1.0, 1)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        vehicles = [build(world, number) for number in range(2_000)]
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / len(vehicles) < 1_000
