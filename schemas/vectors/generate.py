# ruff: noqa: INP001  a script that runs in an environment of its own, in which the project is not installed
"""Which envelopes show every rule of schemas/envelope.md? Makes them with an independent COSE implementation, `cwt`.

    python -m venv VENV && VENV/bin/pip install cwt==3.3.0 fastavro==1.13.1
    VENV/bin/python schemas/vectors/generate.py > schemas/vectors/envelope-1.json

Keys are made afresh at each run and only their public halves are written, so a run replaces every vector: what was
released is not made again, new rules get a file of their own. See README.md beside this file for the format.
"""

import json
import math
import sys
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from workshop import (
    AAD,
    DAY_S,
    ED25519,
    EDDSA,
    ES256,
    ESP256,
    NOW_S,
    PAYLOAD,
    RECEIVED_AT_MS,
    REGISTRY,
    Header,
    battery,
    claims_of,
    encode_body,
    framed,
    intrusion,
    pairs,
    payload,
    signed,
    signer,
    state,
)

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

Case = dict[str, Any]

ALG, KID = b"\x01\x27", b"\x04\x42ed"
CWT = b"\x0f" + cbor2.dumps(claims_of())
GOOD = signed()
GOOD_EC = signed("ec")
PROTECTED = cbor2.loads(GOOD).value[0]


def flip(envelope: bytes, at: int) -> bytes:
    """Change one bit."""
    return envelope[:at] + bytes((envelope[at] ^ 1,)) + envelope[at + 1 :]


def resigned(envelope: bytes, signature: bytes) -> bytes:
    """Put another signature in place of the one that is there."""
    return envelope[:-66] + cbor2.dumps(signature)


def numbers() -> tuple[int, int]:
    """Give r and s of the P-256 envelope."""
    return int.from_bytes(GOOD_EC[-64:-32], "big"), int.from_bytes(GOOD_EC[-32:], "big")


def high_s() -> bytes:
    """Give the P-256 envelope with the larger of its two values of s."""
    r, s = numbers()
    return resigned(GOOD_EC, r.to_bytes(32, "big") + max(s, P256_ORDER - s).to_bytes(32, "big"))


def case(name: str, why: str, envelope: bytes, expected: str = "accepted", policy: Header | None = None) -> Case:
    """Write one vector down; `expected` is a verdict and, where there is one, a reason."""
    verdict, _, reason = expected.partition(" ")
    return {
        "name": name,
        "why": why,
        "envelope": envelope.hex(),
        "received_at_ms": RECEIVED_AT_MS,
        "policy": policy or {},
        "verdict": verdict,
        "reason": reason or None,
    }


def accepted_cases() -> list[Case]:
    """Make what must be taken."""
    minute = NOW_S + 60
    mixed = payload(encode_body([state(), battery(), intrusion(), state(speed=0.0, is_moving=False)]))
    return [
        case("accepted-eddsa", "Ed25519 under its older number, -8", GOOD),
        case("accepted-ed25519", "Ed25519 under its fully specified number, -19", signed(alg=ED25519)),
        case("accepted-es256", "P-256 under its older number, -7", GOOD_EC),
        case("accepted-esp256", "P-256 under its fully specified number, -9", signed("ec", alg=ESP256)),
        case("accepted-high-s", "(r, n-s) holds whenever (r, s) does, and is not refused for it", high_s()),
        case("accepted-iat-float", "iat as a float64", signed(changed={6: NOW_S + 0.25})),
        case("accepted-exp", "exp a minute ahead", signed(changed={4: minute})),
        case("accepted-exp-float", "exp as a float64", signed(changed={4: minute + 0.5})),
        case("accepted-exp-now", "received at exp is not after it", signed(changed={4: NOW_S})),
        case("accepted-claims-reversed", "keys of a map may stand in any order", signed_reversed()),
        case("accepted-software-64", "a software version of 64 characters", signed(changed={-70004: "v" * 64})),
        case("accepted-mixed-samples", "samples of several kinds in one message", signed(content=mixed)),
        case("accepted-seq-at-jump", "seq exactly 2^24 above nothing", signed(changed={-70002: 2**24})),
        case("accepted-late", "29 days late is late, not guilty", signed(changed={6: NOW_S - 29 * DAY_S})),
        case("accepted-ahead", "a clock an hour ahead is flagged, not held", signed(changed={6: NOW_S + 3_600})),
        case("accepted-retired-key", "a retired key up to its cut-off", signed("retired", {-70002: 100})),
        case("accepted-replaced", "the registry's epoch is 2", signed("replaced")),
    ]


def signed_reversed() -> bytes:
    """Sign a header and claims written last to first."""
    claims = dict(reversed(claims_of().items()))
    return framed(cbor2.dumps({15: claims, 4: b"ed", 1: EDDSA}))


def frame_cases() -> list[Case]:
    """Make envelopes whose outermost bytes deviate; the signature still holds over what is left."""
    rest, tail = GOOD[2:], GOOD[4 + len(PROTECTED) :]  # tail: from the unprotected header on
    detached = cbor2.dumps(cbor2.CBORTag(18, [PROTECTED, {}, None, GOOD[-64:]]))
    r, s = numbers()
    made = {
        "no-value": ("a record without a value", b""),
        "not-cbor": ("a JSON text is no envelope", b'{"device": "vehicle-ed"}'),
        "truncated": ("the last byte is missing", GOOD[:-1]),
        "trailing-byte": ("a byte after the signature", GOOD + b"\x00"),
        "untagged": ("tag 18 is required", GOOD[1:]),
        "tag-17": ("COSE_Mac0 is another message", b"\xd1" + GOOD[1:]),
        "tag-long": ("tag 18 in two bytes", b"\xd8\x12" + GOOD[1:]),
        "tag-nested": ("no tag but the outer 18", b"\xd9\xd9\xf7" + GOOD),
        "array-of-five": ("an array of four", b"\xd2\x85" + rest + b"\x00"),
        "array-indefinite": ("lengths are definite", b"\xd2\x9f" + rest + b"\xff"),
        "array-length-long": ("lengths are in their shortest form", b"\xd2\x98\x04" + rest),
        "protected-length-long": (
            "lengths are in their shortest form",
            b"\xd2\x84\x59" + len(PROTECTED).to_bytes(2, "big") + PROTECTED + tail,
        ),
        "protected-empty": ("a header is required", b"\xd2\x84\x40" + tail),
        "protected-map": ("the protected header is a byte string", b"\xd2\x84" + PROTECTED + tail),
        "unprotected-kid": (
            "the unprotected header is empty",
            b"\xd2\x84" + rest[: -len(tail)] + b"\xa1\x04\x42ed" + tail[1:],
        ),
        "payload-detached": ("the payload is in the envelope", detached),
        "payload-text": ("the payload is a byte string", GOOD[: -len(tail)] + b"\xa0\x61a" + GOOD[-66:]),
        "signature-der": (
            "r and s are 64 raw bytes, not DER",
            resigned(GOOD_EC, encode_dss_signature(r, s)),
        ),
        "signature-short": ("a signature has 64 bytes", resigned(GOOD, GOOD[-64:-1])),
        "signature-empty": ("a signature has 64 bytes", resigned(GOOD, b"")),
    }
    return [case(f"malformed-{name}", why, bad, "refused malformed") for name, (why, bad) in made.items()]


def header_cases() -> list[Case]:
    """Make envelopes whose protected header deviates, signed as it is."""
    made = {
        "header-trailing-byte": ("nothing follows the map", PROTECTED + b"\x00"),
        "header-indefinite": ("lengths are definite", b"\xbf" + PROTECTED[1:] + b"\xff"),
        "header-too-few": ("the map claims a pair that is not there", b"\xa4" + PROTECTED[1:]),
        "header-length-long": ("lengths are in their shortest form", b"\xb8\x03" + PROTECTED[1:]),
        "alg-missing": ("alg is required", b"\xa2" + KID + CWT),
        "kid-missing": ("kid is required", b"\xa2" + ALG + CWT),
        "claims-missing": ("claims are required", b"\xa2" + ALG + KID),
        "alg-twice": ("a key stands once: two readers might take two values", b"\xa4" + ALG + b"\x01\x26" + KID + CWT),
        "alg-key-true": ("true is not 1", b"\xa4" + ALG + b"\xf5\x26" + KID + CWT),
        "alg-key-float": ("1.0 is not 1", b"\xa4" + ALG + b"\xf9\x3c\x00\x26" + KID + CWT),
        "alg-key-long": ("integers are in their shortest form", b"\xa3\x18\x01\x27" + KID + CWT),
        "alg-long": ("integers are in their shortest form", b"\xa3\x01\x38\x07" + KID + CWT),
        "alg-text": ("alg is a number", b"\xa3\x01\x65EdDSA" + KID + CWT),
        "crit": ("no other label is known, crit included", b"\xa4" + ALG + b"\x02\x81\x0f" + KID + CWT),
        "content-type": ("no other label is known", b"\xa4" + ALG + b"\x03\x18\x2a" + KID + CWT),
        "kid-empty": ("kid has 1 to 32 bytes", b"\xa3" + ALG + b"\x04\x40" + CWT),
        "kid-33": ("kid has 1 to 32 bytes", b"\xa3" + ALG + b"\x04\x58\x21" + b"k" * 33 + CWT),
        "kid-text": ("kid is a byte string", b"\xa3" + ALG + b"\x04\x62ed" + CWT),
        "claims-array": ("claims are a map", b"\xa3" + ALG + KID + b"\x0f\x80"),
        "claims-indefinite": ("lengths are definite", b"\xa3" + ALG + KID + b"\x0f\xbf" + CWT[2:] + b"\xff"),
        "nested-deep": ("no depth makes a reader fail", b"\xa3" + ALG + KID + b"\x0f" + b"\x81" * 200 + b"\x00"),
        "claim-twice": ("a claim stands once", b"\xa3" + ALG + KID + b"\x0f\xa8" + CWT[2:] + pairs({6: NOW_S})),
    }
    return [case(f"malformed-{name}", why, framed(bad), "refused malformed") for name, (why, bad) in made.items()]


def claim_cases() -> list[Case]:
    """Make envelopes in which one claim breaks its rule."""
    made: dict[str, tuple[str, Header]] = {
        "claim-unknown": ("no other claim is known", {1: "issuer"}),
        "claim-key-text": ("claims are named by numbers", {"sub": "vehicle-ed"}),
        "sub-missing": ("sub is required", {2: ...}),
        "sub-empty": ("a device id has 1 to 64 characters", {2: ""}),
        "sub-65": ("a device id has 1 to 64 characters", {2: "v" * 65}),
        "sub-space": ("a space is not of the alphabet", {2: "vehicle ed"}),
        "sub-wide": ("full-width letters are not of the alphabet", {2: "\N{FULLWIDTH LATIN CAPITAL LETTER V}1"}),
        "sub-bytes": ("a device id is text", {2: b"vehicle-ed"}),
        "iat-missing": ("iat is required", {6: ...}),
        "iat-nan": ("a time is finite", {6: math.nan}),
        "iat-infinite": ("a time is finite", {6: math.inf}),
        "iat-bignum": ("a big number is a tag", {6: 2**64}),
        "iat-text": ("a time is a number", {6: "2026-09-21T14:13:20Z"}),
        "exp-nil": ("exp is a number or is left out", {4: None}),
        "epoch-missing": ("epoch is required", {-70001: ...}),
        "epoch-2-32": ("epoch is below 2^32", {-70001: 2**32}),
        "epoch-negative": ("epoch is unsigned", {-70001: -1}),
        "seq-missing": ("seq is required", {-70002: ...}),
        "seq-0": ("seq begins at 1", {-70002: 0}),
        "seq-2-63-1": ("seq ends at 2^63-2", {-70002: 2**63 - 1}),
        "seq-2-64-1": ("seq ends at 2^63-2", {-70002: 2**64 - 1}),
        "seq-float": ("seq is an integer", {-70002: 1.0}),
        "seq-true": ("true is not 1", {-70002: True}),
        "boot-missing": ("boot is required", {-70003: ...}),
        "boot-7": ("boot has 8 bytes", {-70003: bytes(7)}),
        "software-missing": ("the software version is required", {-70004: ...}),
        "software-65": ("a software version has 1 to 64 characters", {-70004: "v" * 65}),
        "software-control": ("a software version is printable", {-70004: "tcu\x1b[2J"}),
        "configuration-missing": ("the configuration digest is required", {-70005: ...}),
        "configuration-hex": ("the configuration digest is 32 bytes, not their hexadecimal", {-70005: "00" * 32}),
    }
    cases = [
        case(f"malformed-{name}", why, signed(changed=changed), "refused malformed")
        for name, (why, changed) in made.items()
    ]
    short = b"\x0f\xa7" + pairs(claims_of(changed={6: ...})) + b"\x06\xfa\x4e\xd5\x62\x35"
    return [
        *cases,
        case("malformed-iat-float32", "a float is a float64", framed(b"\xa3" + ALG + KID + short), "refused malformed"),
    ]


def identity_cases() -> list[Case]:
    """Make what is well formed and not authentic."""
    r, s = numbers()
    swapped = s.to_bytes(32, "big") + r.to_bytes(32, "big")
    unsigned = cbor2.dumps(["Signature1", PROTECTED, AAD, PAYLOAD])
    bad = "refused bad_signature"
    alg = "refused algorithm_mismatch"
    not_valid = "refused key_not_valid"
    revoked_noise = resigned(signed("revoked"), bytes(64))
    return [
        case("oversize", "size is judged first", GOOD, "refused oversize", {"envelope_bytes_max": len(GOOD) - 1}),
        case(
            "oversize-noise",
            "before anything is parsed",
            bytes(65_537)[:300],
            "refused oversize",
            {"envelope_bytes_max": 299},
        ),
        case("unknown-device", "never registered", signed(changed={2: "vehicle-x"}), "refused unknown_device"),
        case(
            "unknown-device-case",
            "ids are compared byte by byte",
            signed(changed={2: "Vehicle-ed"}),
            "refused unknown_device",
        ),
        case("unknown-key", "a kid that nobody has", signed(named=b"nobody"), "refused unknown_key"),
        case(
            "unknown-key-sql", "a kid is bytes, whatever they spell", signed(named=b"';--\x00"), "refused unknown_key"
        ),
        case(
            "wrong-device",
            "a kid of another device, with its own good signature",
            signed("ed", {2: "vehicle-ec"}),
            "refused wrong_device",
        ),
        case("algorithm-relabelled", "an ES256 signature under -8", signed("ec", alg=EDDSA), alg),
        case("algorithm-eddsa-key", "an Ed25519 signature under -7", signed(alg=ES256), alg),
        case("algorithm-unknown", "a number that is not ours is the key's matter", signed(alg=-35), alg),
        case("algorithm-hmac", "the number of a MAC, with which a public key would prove nothing", signed(alg=5), alg),
        case("algorithm-before-state", "the algorithm comes before the key's state", signed("revoked", alg=ES256), alg),
        case("revoked", "revoked, whatever the message says", signed("revoked"), "refused key_revoked"),
        case("revoked-noise", "a revoked key's signature is not even checked", revoked_noise, "refused key_revoked"),
        case("pending", "not yet in force", signed("pending"), not_valid),
        case("early", "received a millisecond before the key's time", signed("early"), not_valid),
        case("late", "received in the millisecond in which the key's time ended", signed("late"), not_valid),
        case("signature-flipped", "a bit of the signature", flip(GOOD, len(GOOD) - 9), bad),
        case("signature-zero", "sixty-four zeros", resigned(GOOD, bytes(64)), bad),
        case("signature-zero-es256", "r = s = 0", resigned(GOOD_EC, bytes(64)), bad),
        case("signature-r-n", "r = n", resigned(GOOD_EC, P256_ORDER.to_bytes(32, "big") + GOOD_EC[-32:]), bad),
        case("signature-swapped", "s before r", resigned(GOOD_EC, swapped), bad),
        case("payload-flipped", "a bit of the payload", flip(GOOD, len(GOOD) - 70), bad),
        case(
            "claims-swapped",
            "claims of one message, signature of another",
            resigned(signed(changed={-70002: 2}), GOOD[-64:]),
            bad,
        ),
        case(
            "other-device-key",
            "signed by another device in this one's name",
            resigned(GOOD, signer("replaced").sign(unsigned)),
            bad,
        ),
        case("no-domain", "signed without external_aad", signed(aad=b""), bad),
        case("other-domain", "signed for another purpose", signed(aad=b"weighbridge/telemetry/v2"), bad),
    ]


def payload_cases() -> list[Case]:
    """Make authentic messages that mean nothing, or nothing possible."""
    one = encode_body([state()])
    sample = one[1:-1]
    invalid = {
        "empty": ("no payload at all", b""),
        "marker": ("C3 01 opens a single object", b"\xc3\x02" + PAYLOAD[2:]),
        "header-short": ("the fingerprint has eight bytes", PAYLOAD[:9]),
        "no-body": ("a body follows the fingerprint", PAYLOAD[:10]),
        "truncated": ("the body ends in a value", PAYLOAD[:-3]),
        "trailing-byte": ("nothing follows the body", PAYLOAD + b"\x00"),
        "no-samples": ("at least one sample", payload(b"\x00")),
        "two-blocks": ("all samples in one block", payload(b"\x02" + sample + b"\x02" + sample + b"\x00")),
        "negative-block": (
            "no block with a byte size",
            payload(b"\x01" + varint(len(sample)) + sample + b"\x00"),
        ),
        "varint-long": ("integers are in their shortest form", payload(b"\x82\x00" + one[1:])),
        "varint-endless": ("integers have ten bytes at most", payload(b"\xff" * 21)),
        "kind-unknown": ("the union has four kinds", payload(b"\x02\x08" + one[2:])),
        "kind-negative": ("the union has no kind below 0", payload(b"\x02\x01" + one[2:])),
        "text-control": ("text can be shown", payload(encode_body([intrusion(source="gate\x1b[2J")]))),
        "text-long": ("text has its schema's length", payload(encode_body([intrusion(source="g" * 65)]))),
        "text-not-utf-8": (
            "text is UTF-8",
            payload(encode_body([intrusion(source="gate?")]).replace(b"gate?", b"gate\xff")),
        ),
        "boolean-2": ("a boolean is 0 or 1", payload(boolean_of_two())),
    }
    out_of_range = {
        "speed": ("above its bound", state(speed=400.5)),
        "speed-negative": ("below its bound", state(speed=-0.5)),
        "speed-nan": ("not a number", state(speed=math.nan)),
        "speed-infinite": ("not finite", state(speed=math.inf)),
        "gear": ("an integer above its bound", state(current_gear=127)),
        "latitude": ("an optional value is bounded too", state(latitude=90.5)),
    }
    unknown = b"\xc3\x01" + bytes(8) + one
    crowd = signed(content=payload(encode_body([state(), state(), state()])))
    return [
        *(case(f"payload-{n}", w, signed(content=c), "refused invalid_payload") for n, (w, c) in invalid.items()),
        case("payload-too-many", "samples_max of the policy", crowd, "refused invalid_payload", {"samples_max": 2}),
        *(
            case(f"range-{n}", w, signed(content=payload(encode_body([c]))), "refused out_of_range")
            for n, (w, c) in out_of_range.items()
        ),
        case("schema-unknown", "a schema may arrive later", signed(content=unknown), "held schema_unknown"),
    ]


def varint(number: int) -> bytes:
    """Encode an Avro long."""
    zigzag = number << 1
    out = bytearray()
    while zigzag > 0x7F:
        out.append(zigzag & 0x7F | 0x80)
        zigzag >>= 7
    return bytes((*out, zigzag))


def boolean_of_two() -> bytes:
    """Encode a sample whose is_moving is 2: the one byte in which moving and standing differ."""
    moving, standing = encode_body([state()]), encode_body([state(is_moving=False)])
    (at,) = (n for n in range(len(moving)) if moving[n] != standing[n])
    return moving[:at] + b"\x02" + moving[at + 1 :]


def history_cases() -> list[Case]:
    """Make what a device without a past may not say, though it is authentic and means something."""
    expired = "refused expired"
    return [
        case("expired", "received after exp", signed(changed={4: NOW_S - 1}), expired),
        case("expired-fraction", "half a second after exp", signed(changed={4: NOW_S - 0.5}), expired),
        case("expired-negative", "exp before 1970", signed(changed={4: -1}), expired),
        case("expired-first", "exp comes before the payload", signed(changed={4: NOW_S - 1}, content=b""), expired),
        case("epoch-unknown", "an epoch that was not given out", signed(changed={-70001: 2}), "held epoch_unknown"),
        case("epoch-0", "below the epoch in force", signed(changed={-70001: 0}), "refused epoch_closed"),
        case("epoch-closed", "new numbers of an old epoch", signed("replaced", {-70001: 1}), "refused epoch_closed"),
        case("retired-key", "past the cut-off of a retired key", signed("retired", {-70002: 101}), "held key_retired"),
        case("clock-future", "two days ahead", signed(changed={6: NOW_S + 2 * DAY_S}), "held clock_future"),
        case("clock-future-far", "2^64-1 is a time", signed(changed={6: 2**64 - 1}), "held clock_future"),
        case("clock-future-float", "so is 1e308", signed(changed={6: 1e308}), "held clock_future"),
        case("stale", "31 days late", signed(changed={6: NOW_S - 31 * DAY_S}), "held stale"),
        case("stale-1970", "a clock that was never set", signed(changed={6: 0}), "held stale"),
        case("seq-jump", "2^24 + 1 above nothing", signed(changed={-70002: 2**24 + 1}), "held seq_jump"),
        case("seq-jump-last", "the last number of all", signed(changed={-70002: 2**63 - 2}), "held seq_jump"),
    ]


def write() -> None:
    """Print the whole file."""
    makers = (accepted_cases, frame_cases, header_cases, claim_cases, identity_cases, payload_cases, history_cases)
    vectors = [vector for maker in makers for vector in maker()]
    json.dump(
        {"format": 1, "external_aad": AAD.decode(), "registry": REGISTRY, "vectors": vectors}, sys.stdout, indent=1
    )
    sys.stdout.write("\n")


if __name__ == "__main__":
    write()
