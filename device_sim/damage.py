"""How can an envelope or payload be broken, so that no reader who keeps to envelope.md takes it? One function each."""

from collections.abc import Callable
from typing import Any

import cbor2

from device_sim.sampling import BATTERY_CHARGING, DIAGNOSTICS, SECURITY_EVENT, VEHICLE_STATE
from device_sim.vehicle import Draft
from device_sim.wire import (
    CLAIM_BOOT,
    CLAIM_CONFIGURATION,
    CLAIM_DEVICE,
    CLAIM_EPOCH,
    CLAIM_ISSUED,
    CLAIM_SEQ,
    CLAIM_SOFTWARE,
    ENVELOPE_BYTES_MAX,
    LABEL_ALG,
    LABEL_CLAIMS,
    LABEL_KID,
    MAGIC,
    Sample,
    Schema,
    header,
    seal,
    sign,
    wrap,
)

_TAG_18 = 0xD2
_ARRAY_OF_4 = 0x84
_BREAK = b"\xff"  # ends an indefinite length (RFC 8949, 3.2.1)


def _map_of(draft: Draft) -> dict[Any, Any]:
    return header(draft.claims, draft.signer.alg, draft.signer.kid)


def _sealed_with(draft: Draft, protected: bytes) -> bytes:
    """Sign a broken header properly: the shape alone must be enough to refuse it."""
    return wrap(sign(protected, draft.payload, draft.signer))


def _with_claim(draft: Draft, claim: object, value: object) -> bytes:
    changed = _map_of(draft)
    changed[LABEL_CLAIMS][claim] = value
    return _sealed_with(draft, cbor2.dumps(changed))


def _with_label(draft: Draft, label: object, value: object) -> bytes:
    return _sealed_with(draft, cbor2.dumps({**_map_of(draft), label: value}))


def _without_claim(draft: Draft, claim: int) -> bytes:
    changed = _map_of(draft)
    del changed[LABEL_CLAIMS][claim]
    return _sealed_with(draft, cbor2.dumps(changed))


def _with_parts(draft: Draft, **changed: object) -> bytes:
    protected = cbor2.dumps(_map_of(draft))
    parts = dict(
        zip(
            ("protected", "unprotected", "payload", "signature"),
            sign(protected, draft.payload, draft.signer),
            strict=True,
        )
    )
    return wrap(list({**parts, **changed}.values()))


def _prefixed(draft: Draft, entry: bytes) -> bytes:
    """Put one more encoded entry before those of the protected map, whose head is a single byte."""
    plain = cbor2.dumps(_map_of(draft))
    return _sealed_with(draft, bytes([plain[0] + 1]) + entry + plain[1:])


def _retagged(draft: Draft, head: bytes) -> bytes:
    return head + draft.seal()[1:]


def _unended(draft: Draft) -> bytes:
    return bytes([_TAG_18, 0x9F]) + draft.seal()[2:] + _BREAK


def _unended_header(draft: Draft) -> bytes:
    return _sealed_with(draft, b"\xbf" + cbor2.dumps(_map_of(draft))[1:] + _BREAK)


def _long_integer(draft: Draft) -> bytes:
    """Write label 1 in two bytes where one is enough (RFC 8949, 4.2.1)."""
    plain = cbor2.dumps(_map_of(draft))
    assert plain[1] == LABEL_ALG, "the header begins with alg"
    return _sealed_with(draft, plain[:1] + b"\x18\x01" + plain[2:])


def _long_length(draft: Draft) -> bytes:
    """Write the head of the array of four in two bytes where one is enough."""
    return bytes([_TAG_18, 0x98, 0x04]) + draft.seal()[2:]


def _nested(draft: Draft) -> bytes:
    return _with_claim(draft, CLAIM_DEVICE, [[[[[]]]]])


ENVELOPES: tuple[Callable[[Draft], bytes | None], ...] = (
    lambda _: None,  # a tombstone
    lambda _: b"",
    lambda _: b"\x00",
    lambda draft: draft.payload,
    lambda draft: draft.seal()[::-1],
    lambda draft: draft.seal() + b"\x00",
    lambda draft: draft.seal()[:-1],
    lambda draft: draft.seal()[: len(draft.seal()) // 2],
    lambda draft: draft.seal()[1:],  # untagged
    lambda draft: _retagged(draft, b"\xd1"),  # COSE_Mac0
    lambda draft: bytes([_TAG_18]) + draft.seal(),
    lambda draft: b"\xd8\x3d" + draft.seal(),  # inside a CWT tag
    lambda draft: _retagged(draft, b"\xd8\x12"),  # tag 18 in two bytes
    _unended,
    _unended_header,
    _long_integer,
    _long_length,
    _nested,
    lambda draft: wrap([*sign(cbor2.dumps(_map_of(draft)), draft.payload, draft.signer), b""]),
    lambda draft: wrap(sign(cbor2.dumps(_map_of(draft)), draft.payload, draft.signer)[:3]),
    lambda draft: _with_parts(draft, unprotected={LABEL_KID: draft.signer.kid}),
    lambda draft: _with_parts(draft, unprotected={"note": "x"}),
    lambda draft: _with_parts(draft, unprotected=[]),
    lambda draft: _with_parts(draft, payload=None),  # detached
    lambda draft: _with_parts(draft, payload=draft.payload.hex()),
    lambda draft: _with_parts(draft, signature=None),
    lambda draft: _with_parts(draft, protected=_map_of(draft)),  # a map, not a byte string of one
    lambda draft: _sealed_with(draft, b""),
    lambda draft: _sealed_with(draft, cbor2.dumps(_map_of(draft)) + b"\x00"),
    lambda draft: _sealed_with(draft, cbor2.dumps(list(_map_of(draft).items()))),
    lambda draft: _prefixed(draft, cbor2.dumps(LABEL_ALG) + cbor2.dumps(draft.signer.alg)),  # twice
    lambda draft: _prefixed(draft, b"\xf5" + cbor2.dumps(draft.signer.alg)),  # true is not 1
    lambda draft: _prefixed(draft, cbor2.dumps(1.0) + cbor2.dumps(draft.signer.alg)),  # nor is 1.0
    lambda draft: _with_label(draft, 2, [LABEL_ALG]),  # crit
    lambda draft: _with_label(draft, "alg", draft.signer.alg),
    lambda draft: _with_label(draft, LABEL_KID, b""),
    lambda draft: _with_label(draft, LABEL_KID, bytes(33)),
    lambda draft: _with_label(draft, LABEL_KID, draft.signer.kid.hex()),
    lambda draft: _with_label(draft, LABEL_ALG, "ES256"),
    lambda draft: _with_label(draft, LABEL_CLAIMS, [1]),
    lambda draft: _with_claim(draft, -70_099, 1),
    lambda draft: _with_claim(draft, 1, "an issuer"),
    lambda draft: _with_claim(draft, CLAIM_DEVICE, ""),
    lambda draft: _with_claim(draft, CLAIM_DEVICE, "x" * 65),
    lambda draft: _with_claim(draft, CLAIM_DEVICE, draft.claims.device_id + " "),
    lambda draft: _with_claim(draft, CLAIM_DEVICE, draft.claims.device_id + "\x00"),
    lambda draft: _with_claim(draft, CLAIM_DEVICE, draft.claims.device_id + "\u0130"),  # a dotted capital I
    lambda draft: _with_claim(draft, CLAIM_DEVICE, draft.claims.device_id.encode()),
    lambda draft: _with_claim(draft, CLAIM_ISSUED, float("nan")),
    lambda draft: _with_claim(draft, CLAIM_ISSUED, float("inf")),
    lambda draft: _with_claim(draft, CLAIM_ISSUED, "2026-11-22"),
    lambda draft: _with_claim(draft, CLAIM_EPOCH, 2**32),
    lambda draft: _with_claim(draft, CLAIM_EPOCH, -1),
    lambda draft: _with_claim(draft, CLAIM_SEQ, 0),
    lambda draft: _with_claim(draft, CLAIM_SEQ, -1),
    lambda draft: _with_claim(draft, CLAIM_SEQ, 2**63 - 1),
    lambda draft: _with_claim(draft, CLAIM_SEQ, 2**64 - 1),
    lambda draft: _with_claim(draft, CLAIM_SEQ, 2**64),  # a bignum: another tag
    lambda draft: _with_claim(draft, CLAIM_SEQ, True),  # noqa: FBT003 - true is not a number, that is the point
    lambda draft: _with_claim(draft, CLAIM_SEQ, float(draft.claims.seq)),
    lambda draft: _with_claim(draft, CLAIM_BOOT, bytes(7)),
    lambda draft: _with_claim(draft, CLAIM_CONFIGURATION, bytes(33)),
    lambda draft: _with_claim(draft, CLAIM_SOFTWARE, ""),
    lambda draft: _with_claim(draft, CLAIM_SOFTWARE, "4.2\n"),
    lambda draft: _with_claim(draft, CLAIM_SOFTWARE, "x" * 65),
    *(
        lambda draft, claim=claim: _without_claim(draft, claim)
        for claim in (
            CLAIM_DEVICE,
            CLAIM_ISSUED,
            CLAIM_EPOCH,
            CLAIM_SEQ,
            CLAIM_BOOT,
            CLAIM_SOFTWARE,
            CLAIM_CONFIGURATION,
        )
    ),
)


def _body(payload: bytes) -> bytes:
    return payload[len(MAGIC) + 8 :]


def _rebodied(payload: bytes, body: bytes) -> bytes:
    return payload[: len(MAGIC) + 8] + body


# The body begins with the number of samples (zigzag), then the kind of the first: two varints.
PAYLOADS: tuple[Callable[[bytes], bytes], ...] = (
    lambda payload: payload + b"\x00",
    lambda payload: payload[:-1],
    lambda payload: _rebodied(payload, b"\x00"),  # no samples
    lambda payload: _rebodied(payload, b""),
    lambda payload: b"\xc3\x02" + payload[2:],
    lambda payload: b"\x00" + payload[1:],
    lambda payload: payload[:6],
    lambda payload: _rebodied(payload, bytes([_body(payload)[0] | 0x80, 0x00]) + _body(payload)[1:]),  # overlong varint
    lambda payload: _rebodied(payload, b"\x80" * 20 + b"\x00" + _body(payload)[1:]),
    lambda payload: _rebodied(
        payload, b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01" + _body(payload)[1:]
    ),  # 2^63-1 samples
    lambda payload: _rebodied(payload, _body(payload)[:1] + b"\x08" + _body(payload)[2:]),  # kind 4 of 0..3
    lambda payload: _rebodied(payload, _body(payload)[:1] + b"\x01" + _body(payload)[2:]),  # kind -1
)


def overfill(schema: Schema, at_us: int) -> bytes:
    """Put one sample more into a payload than a message may have (1,024); still small enough for the envelope."""
    event = {
        "recorded_at_us": at_us,
        "event": "BUS_OVERLOAD",
        "severity": "LOW",
        "source": "x",
        "event_id": 1,
        "count": 1,
    }
    return schema.encode([(SECURITY_EVENT, event)] * 1_025)


# Per kind: a field that every schema version has, and values that its bounds do not allow.
_BEYOND: dict[str, tuple[tuple[str, object], ...]] = {
    VEHICLE_STATE: (
        ("speed", 400.001),
        ("speed", -0.001),
        ("speed", float("nan")),
        ("speed", float("inf")),
        ("latitude", 90.000001),
        ("longitude", float("-inf")),
        ("altitude", float("nan")),
        ("current_gear", -128),
        ("traveled_distance_m", 2**32),
        ("state_of_charge", 100.0000001),
        ("recorded_at_us", -1),
    ),
    BATTERY_CHARGING: (
        ("voltage", 2_000.5),
        ("current", float("-inf")),
        ("charge_limit", 101),
        ("time_to_complete_s", -1),
        ("temperature_max", 1e300),
    ),
    DIAGNOSTICS: (
        ("dtc_count", 256),
        ("tire_pressure_1_left", 65_536),
        ("low_voltage_battery_voltage", float("nan")),
    ),
    SECURITY_EVENT: (("count", 0), ("event_id", 65_536), ("recorded_at_us", 2**62)),
}


def exceed(sample: Sample, dice: int) -> Sample:
    """Put one value of a sample beyond its bounds."""
    kind, fields = sample
    beyond = _BEYOND[kind]
    name, value = beyond[dice % len(beyond)]
    return kind, {**fields, name: value}


def oversize(draft: Draft) -> bytes:
    """Make an authentic envelope one byte longer than is read at all."""
    filler = bytes(ENVELOPE_BYTES_MAX - 1_024)
    short = len(seal(draft.claims, filler, draft.signer))
    return seal(draft.claims, filler + bytes(ENVELOPE_BYTES_MAX + 1 - short), draft.signer)
