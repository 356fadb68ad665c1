# ruff: noqa: INP001  part of generate.py, which runs in an environment of its own
"""How does someone else make an envelope? Keys, samples and signatures, by `cwt` and fastavro alone."""

import io
import json
from pathlib import Path
from typing import Any

import cbor2
import fastavro
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cwt import COSE, COSEKey
from cwt.cose_key_interface import COSEKeyInterface

AAD = b"weighbridge/telemetry/v1"
RECEIVED_AT_MS = 1_790_000_000_000
NOW_S = RECEIVED_AT_MS // 1_000
DAY_S = 86_400
EDDSA, ED25519, ES256, ESP256 = -8, -19, -7, -9
OWN_ALGS = {"EdDSA": (EDDSA, ED25519), "ES256": (ES256, ESP256)}
SCHEMA = fastavro.parse_schema(json.loads((Path(__file__).parent.parent / "telemetry/telemetry-1.0.avsc").read_text()))

Header = dict[Any, Any]


def make_registry() -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Make every key that the vectors need: what the registry says of each, and its private half."""
    plain = {"epoch": 1, "state": "active", "valid_from_ms": 0, "valid_until_ms": None, "seq_cutoff": None}
    wanted: list[dict[str, Any]] = [
        {"device_id": "vehicle-ed", "kid": "ed", "alg": "EdDSA"},
        {"device_id": "vehicle-ec", "kid": "ec", "alg": "ES256"},
        {"device_id": "vehicle-rotated", "kid": "pending", "alg": "EdDSA", "state": "pending"},
        {"device_id": "vehicle-rotated", "kid": "retired", "alg": "EdDSA", "state": "retired", "seq_cutoff": 100},
        {"device_id": "vehicle-rotated", "kid": "revoked", "alg": "EdDSA", "state": "revoked"},
        {"device_id": "vehicle-rotated", "kid": "early", "alg": "ES256", "valid_from_ms": RECEIVED_AT_MS + 1},
        {"device_id": "vehicle-rotated", "kid": "late", "alg": "ES256", "valid_until_ms": RECEIVED_AT_MS},
        {"device_id": "vehicle-replaced", "kid": "replaced", "alg": "EdDSA", "epoch": 2},
    ]
    registry, pems = [], {}
    for entry in wanted:
        private = (
            ed25519.Ed25519PrivateKey.generate() if entry["alg"] == "EdDSA" else ec.generate_private_key(ec.SECP256R1())
        )
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        pems[entry["kid"]] = pem
        registry.append({**plain, **entry, "kid": entry["kid"].encode().hex(), "public_key": public})
    return registry, pems


REGISTRY, _PEMS = make_registry()


def encode_body(samples: list[tuple[str, dict[str, Any]]]) -> bytes:
    """Encode samples after the array's head: a block count and the samples, for `payload` to frame."""
    out = io.BytesIO()
    named = [(f"weighbridge.telemetry.{kind}", fields) for kind, fields in samples]
    fastavro.schemaless_writer(out, SCHEMA, {"samples": named}, strict_allow_default=True)
    return out.getvalue()


def payload(body: bytes) -> bytes:
    """Frame a body as an Avro single object of telemetry-1.0."""
    canonical = fastavro.schema.to_parsing_canonical_form(SCHEMA)
    return b"\xc3\x01" + bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO")) + body


def state(**changed: object) -> tuple[str, dict[str, Any]]:
    """Make a sample of how a vehicle moves."""
    moving = {
        "recorded_at_us": NOW_S * 1_000_000,
        "speed": 88.5,
        "traveled_distance_m": 52_340_100,
        "current_gear": 1,
        "is_moving": True,
        "latitude": 52.5163,
        "longitude": 13.3777,
        "state_of_charge": 71.25,
    }
    return "VehicleState", moving | changed


def battery(**changed: object) -> tuple[str, dict[str, Any]]:
    """Make a sample of a battery that charges."""
    charging = {
        "recorded_at_us": NOW_S * 1_000_000,
        "state_of_charge": 71.25,
        "current": 120.0,
        "voltage": 396.5,
        "temperature_average": 27.5,
        "is_charging": True,
        "is_charging_cable_connected": True,
    }
    return "BatteryCharging", charging | changed


def intrusion(**changed: object) -> tuple[str, dict[str, Any]]:
    """Make a sample of what the vehicle's own intrusion detection reports."""
    seen = {
        "recorded_at_us": NOW_S * 1_000_000,
        "event": "UNEXPECTED_MESSAGE",
        "severity": "HIGH",
        "source": "gateway",
        "event_id": 513,
        "count": 3,
    }
    return "SecurityEvent", seen | changed


PAYLOAD = payload(encode_body([state()]))


def claims_of(kid: str = "ed", changed: Header | None = None) -> Header:
    """Make the claims of the device that a key belongs to; a claim changed to `...` is left out."""
    entry = entry_of(kid)
    plain = {
        2: entry["device_id"],
        6: NOW_S,
        -70001: entry["epoch"],
        -70002: 1,
        -70003: bytes.fromhex("0123456789abcdef"),
        -70004: "tcu 4.2.1",
        -70005: bytes(range(32)),
    }
    return {claim: value for claim, value in (plain | (changed or {})).items() if value is not ...}


def signed(kid: str = "ed", changed: Header | None = None, content: bytes = PAYLOAD, **header: Any) -> bytes:  # noqa: ANN401
    """Have `cwt` make an envelope. `header` may change alg, aad and the kid that is named."""
    own = OWN_ALGS[entry_of(kid)["alg"]]
    alg = header.get("alg", own[0])
    protected = {1: alg, 4: header.get("named", kid.encode()), 15: claims_of(kid, changed)}
    if alg not in own:  # what `cwt` rightly refuses to make
        return framed(cbor2.dumps(protected), kid)
    cose = COSE.new(alg_auto_inclusion=False, kid_auto_inclusion=False)
    return cose.encode_and_sign(content, signer(kid, alg), protected, {}, external_aad=header.get("aad", AAD))


def signer(kid: str, alg: int | None = None) -> COSEKeyInterface:
    """Load a key as `cwt` wants it: for one algorithm number."""
    return COSEKey.from_pem(_PEMS[kid], alg=alg or OWN_ALGS[entry_of(kid)["alg"]][0])


def entry_of(kid: str) -> dict[str, Any]:
    """Find what the registry says of a key."""
    return next(entry for entry in REGISTRY if entry["kid"] == kid.encode().hex())


def framed(protected: bytes, kid: str = "ed") -> bytes:
    """Have `cwt` sign a protected header that it would not make itself; its bytes go as they are."""
    signature = signer(kid).sign(cbor2.dumps(["Signature1", protected, AAD, PAYLOAD]))
    return cbor2.dumps(cbor2.CBORTag(18, [protected, {}, PAYLOAD, signature]))


def pairs(mapping: Header) -> bytes:
    """Encode pairs without the head of their map."""
    return b"".join(cbor2.dumps(key) + cbor2.dumps(value) for key, value in mapping.items())
