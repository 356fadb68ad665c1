"""Does the reader take every envelope that schemas/envelope.md allows, and refuse each that breaks one of its rules?"""

import math
import struct
import unicodedata
from typing import Any

import cbor2
import pytest

from ingest.core.envelope import EXTERNAL_AAD
from ingest.core.message import Envelope, RawRecord, Refused
from ingest.core.verdict import Refusal
from tests.core.wire import (
    BOOT,
    BYTES_MAX,
    CLAIMS,
    CONFIGURATION,
    ENVELOPE,
    HEADER,
    PAYLOAD,
    PROTECTED,
    SIGNATURE,
    accepted,
    envelope,
    framed,
    header_with,
    malformed,
    pairs_of,
    raw_map,
    read_value,
    with_claim,
    with_claims,
)


def test_a_well_formed_envelope_is_read_with_all_that_it_claims() -> None:
    value = envelope(n4=1_790_000_600.5)
    found = accepted(value)
    assert found == Envelope(
        record=RawRecord("telemetry.raw", 0, 0, 1_790_000_000_000, value),
        alg=-8,
        kid=b"key-1",
        device_id="vehicle-1",
        issued_at_s=1_790_000_000.0,
        expires_at_s=1_790_000_600.5,
        epoch=1,
        seq=7,
        boot=BOOT,
        software="tcu 4.2",
        configuration=CONFIGURATION,
        payload=PAYLOAD,
        signature=SIGNATURE,
        signed=found.signed,
    )


@pytest.mark.parametrize("size", [0, 23, 24, 255, 256, 60_000])
def test_what_is_signed_is_the_sig_structure_of_the_bytes_received(size: int) -> None:
    payload = bytes(size)
    protected = cbor2.dumps(HEADER)
    expected = cbor2.dumps(["Signature1", protected, EXTERNAL_AAD, payload])
    assert accepted(framed(protected, payload=payload)).signed == expected


def test_exp_may_be_left_out() -> None:
    assert accepted(envelope()).expires_at_s is None


def test_keys_may_stand_in_any_order() -> None:
    claims = dict(reversed(CLAIMS.items()))
    header = cbor2.dumps({15: claims, 4: b"key-1", 1: -8})
    assert accepted(framed(header)).seq == 7


@pytest.mark.parametrize("alg", [-8, -19, -7, -9])
def test_every_algorithm_number_of_the_contract_is_read(alg: int) -> None:
    assert accepted(envelope({1: alg})).alg == alg


@pytest.mark.parametrize("alg", [0, 1, 5, -35, -65_535, 2**64 - 1, -(2**64)])
@pytest.mark.parametrize("size", [0, 8, 32, 64, 96])
def test_an_algorithm_number_that_is_not_ours_is_left_to_be_compared_with_the_key(alg: int, size: int) -> None:
    header = cbor2.dumps({**HEADER, 1: alg})
    assert accepted(framed(header, signature=bytes(size))).alg == alg


@pytest.mark.parametrize(
    ("encoded", "seconds"),
    [
        (b"\x00", 0.0),
        (b"\x20", -1.0),
        (b"\x1b" + b"\xff" * 8, float(2**64 - 1)),
        (b"\x3b" + b"\xff" * 8, float(-(2**64))),
        (b"\xfb" + struct.pack(">d", 1.0), 1.0),
        (b"\xfb" + struct.pack(">d", -0.0), 0.0),
        (b"\xfb" + struct.pack(">d", 1.7e308), 1.7e308),
        (b"\xfb" + struct.pack(">d", 5e-324), 5e-324),
    ],
)
def test_a_time_is_any_integer_or_any_finite_float64(encoded: bytes, seconds: float) -> None:
    assert accepted(with_claim(6, encoded)).issued_at_s == seconds
    assert accepted(with_claims(*pairs_of(CLAIMS), b"\x04" + encoded)).expires_at_s == seconds


@pytest.mark.parametrize(
    ("claims", "attribute"),
    [
        ({"m70001": 0}, "epoch"),
        ({"m70001": 2**32 - 1}, "epoch"),
        ({"m70002": 1}, "seq"),
        ({"m70002": 2**63 - 2}, "seq"),
        ({"n2": "a"}, "device_id"),
        ({"n2": "AZaz09._:-" * 6 + "abcd"}, "device_id"),
        ({"m70004": " "}, "software"),
        ({"m70004": "~" * 64}, "software"),
    ],
)
def test_a_claim_may_lie_on_its_bounds(claims: dict[str, Any], attribute: str) -> None:
    (value,) = claims.values()
    assert getattr(accepted(envelope(**claims)), attribute) == value


@pytest.mark.parametrize("size", [1, 23, 24, 32])
def test_a_kid_has_1_to_32_bytes(size: int) -> None:
    assert accepted(envelope({4: bytes(size)})).kid == bytes(size)


def test_the_size_is_judged_before_anything_is_parsed() -> None:
    exact = framed(cbor2.dumps(HEADER), payload=bytes(BYTES_MAX - len(framed(cbor2.dumps(HEADER), payload=b"")) - 2))
    assert len(exact) == BYTES_MAX
    accepted(exact)
    for value in (exact + b"\x00", bytes(BYTES_MAX + 1)):
        found = read_value(value)
        assert isinstance(found, Refused)
        assert found.reason is Refusal.OVERSIZE
        assert found.detail == "65537 bytes; at most 65536 are allowed"


FRAMES = {
    "no value": (b"", "no value"),
    "the first byte only": (b"\xd2", "84"),
    "not CBOR": (b"\xff\x00", "tag 18"),
    "JSON": (b'{"speed": 1}', "tag 18"),
    "untagged": (ENVELOPE[1:], "tag 18"),
    "another tag, COSE_Mac0": (b"\xd1" + ENVELOPE[1:], "tag 18"),
    "tag 18 in two bytes": (b"\xd8\x12" + ENVELOPE[1:], "tag 18"),
    "a tag around the tag": (b"\xd9\xd9\xf7" + ENVELOPE, "tag 18"),
    "tag 998 around the tag": (b"\xd9\x03\xe6" + ENVELOPE, "tag 18"),
    "tag 18 twice": (b"\xd2" + ENVELOPE, "84"),
    "an array of three": (b"\xd2\x83" + ENVELOPE[2:], "84"),
    "an array of five": (b"\xd2\x85" + ENVELOPE[2:] + b"\x00", "84"),
    "an indefinite array": (b"\xd2\x9f" + ENVELOPE[2:] + b"\xff", "84"),
    "an array length in two bytes": (b"\xd2\x98\x04" + ENVELOPE[2:], "84"),
    "a map instead of the array": (b"\xd2\xa4" + ENVELOPE[2:], "84"),
    "a trailing byte": (ENVELOPE + b"\x00", "1 bytes follow the signature"),
    "two envelopes": (ENVELOPE * 2, "follow the signature"),
    "a protected header that is a map": (b"\xd2\x84" + PROTECTED + ENVELOPE[-80:], "protected header is a map"),
    "a protected header that is text": (b"\xd2\x84\x61a" + ENVELOPE[-80:], "protected header is a text string"),
    "an empty protected header": (framed(b""), "end before the protected header"),
    "a protected header that is an integer": (framed(b"\x01"), "protected header is an unsigned integer"),
    "a protected header that is an array": (framed(b"\x83\x01\x02\x03"), "protected header is an array"),
    "an empty map as protected header": (framed(b"\xa0"), "label 1 (alg), label 4 (kid), label 15 (claims)"),
    "bytes after the protected map": (framed(PROTECTED + b"\x00"), "1 bytes follow the map in the protected header"),
    "an indefinite protected string": (b"\xd2\x84\x5f" + cbor2.dumps(PROTECTED) + b"\xff\xa0", "indefinite"),
    "a protected length that is not shortest": (
        b"\xd2\x84\x59" + len(PROTECTED).to_bytes(2, "big") + PROTECTED + ENVELOPE[-80:],
        "shortest form",
    ),
    "an entry in the unprotected header": (framed(PROTECTED, b"\xa1\x04\x41k"), "1 entries"),
    "alg in the unprotected header only": (
        framed(cbor2.dumps({4: b"key-1", 15: CLAIMS}), b"\xa1\x01\x27"),
        "1 entries",
    ),
    "an indefinite unprotected header": (framed(PROTECTED, b"\xbf\xff"), "indefinite"),
    "an unprotected header that is no map": (framed(PROTECTED, b"\x80"), "unprotected header is an array"),
    "an unprotected length that is not shortest": (framed(PROTECTED, b"\xb8\x00"), "shortest form"),
    "a detached payload": (framed(PROTECTED, payload=None), "the payload is a short float or a simple value"),
    "a payload that is text": (ENVELOPE.replace(b"\x49\xc3\x01pay", b"\x69\xc3\x01pay"), "the payload is a text"),
    "an indefinite payload": (ENVELOPE.replace(b"\x49\xc3\x01pay", b"\x5f\x49\xc3\x01pay"), "indefinite"),
    "a payload length that is not shortest": (ENVELOPE.replace(b"\x49\xc3\x01", b"\x58\x09\xc3\x01"), "shortest"),
    "a signature that is an array (COSE_Sign)": (ENVELOPE[:-66] + b"\x80", "the signature is an array"),
    "no signature": (ENVELOPE[:-66], "end before the signature"),
    "a signature cut off": (ENVELOPE[:-1], "end before the signature"),
    "an unassigned length": (b"\xd2\x84\x5c", "unassigned"),
    "a length that the bytes end in": (b"\xd2\x84\x5b\x00", "end before the protected header"),
    "a length of 2^64-1": (b"\xd2\x84\x5b" + b"\xff" * 8, "end before the protected header"),
}


@pytest.mark.parametrize(("value", "because"), FRAMES.values(), ids=FRAMES)
def test_a_frame_that_deviates_is_malformed(value: bytes, because: str) -> None:
    assert because in malformed(value)


@pytest.mark.parametrize("size", [0, 63, 65, 70, 71, 72, 128])
@pytest.mark.parametrize("alg", [-8, -19, -7, -9])
def test_a_signature_that_cannot_be_one_of_64_bytes_is_malformed(alg: int, size: int) -> None:
    because = malformed(framed(cbor2.dumps({**HEADER, 1: alg}), signature=bytes(size)))
    assert because.startswith(f"the signature has {size} bytes")


ALG, KID, CWT = pairs_of(HEADER)

HEADERS = {
    "no alg": (header_with(KID, CWT), "must be: label 1 (alg)"),
    "no kid": (header_with(ALG, CWT), "must be: label 4 (kid)"),
    "no claims": (header_with(ALG, KID), "must be: label 15 (claims)"),
    "alg twice": (header_with(ALG, KID, CWT, b"\x01\x26"), "label 1 (alg) stands twice"),
    "alg twice, the same": (header_with(ALG, ALG, KID, CWT), "label 1 (alg) stands twice"),
    "kid twice": (header_with(ALG, KID, KID, CWT), "label 4 (kid) stands twice"),
    "claims twice": (header_with(ALG, KID, CWT, CWT), "label 15 (claims) stands twice"),
    "true for 1": (header_with(b"\xf5\x27", ALG, KID, CWT), "a key of the protected header is a short float"),
    "1.0 for 1": (header_with(b"\xf9\x3c\x00\x27", KID, CWT), "a key of the protected header is a short float"),
    "float64 1.0 for 1": (
        header_with(b"\xfb\x3f\xf0\x00\x00\x00\x00\x00\x00\x27", KID, CWT),
        "a key of the protected header is a float64",
    ),
    "a bignum for 1": (header_with(b"\xc2\x41\x01\x27", KID, CWT), "a key of the protected header is a tag"),
    "text for a label": (header_with(b"\x63alg\x27", KID, CWT), "a key of the protected header is a text string"),
    "1 in two bytes": (header_with(b"\x18\x01\x27", KID, CWT), "shortest form"),
    "1 in nine bytes": (header_with(b"\x1b" + bytes(7) + b"\x01\x27", KID, CWT), "shortest form"),
    "a critical header": (header_with(b"\x02\x81\x01", ALG, KID, CWT), "2 is no key of the protected header"),
    "a content type": (header_with(ALG, b"\x03\x00", KID, CWT), "3 is no key of the protected header"),
    "an iv": (header_with(ALG, KID, CWT, b"\x05\x41a"), "5 is no key of the protected header"),
    "a label far away": (header_with(ALG, KID, b"\x3b" + b"\xff" * 8 + b"\x00"), "-18446744073709551616 is no key"),
    "a pair too few": (framed(raw_map(ALG, KID, CWT, count=4)), "end before a key of the protected header"),
    "a pair too many": (framed(raw_map(ALG, KID, CWT, count=2)), "must be: label 15 (claims)"),
    "a billion pairs": (framed(b"\xba\x3b\x9a\xca\x00" + ALG + KID + CWT), "end before a key of the protected header"),
    "2^64-1 pairs": (framed(b"\xbb" + b"\xff" * 8 + ALG + KID + CWT), "end before a key of the protected header"),
    "an indefinite map": (framed(b"\xbf" + ALG + KID + CWT + b"\xff"), "indefinite"),
    "a map length that is not shortest": (framed(b"\xb8\x03" + ALG + KID + CWT), "shortest form"),
    "alg as text": (header_with(b"\x01\x65ES256", KID, CWT), "label 1 (alg) is a text string"),
    "alg as a float": (header_with(b"\x01\xfb\xc0\x20" + bytes(6), KID, CWT), "label 1 (alg) is a float64"),
    "alg in two bytes": (header_with(b"\x01\x38\x07", KID, CWT), "shortest form"),
    "alg true": (header_with(b"\x01\xf5", KID, CWT), "label 1 (alg) is a short float or a simple value"),
    "a kid of no bytes": (header_with(ALG, b"\x04\x40", CWT), "label 4 (kid) has 0 bytes"),
    "a kid of 33 bytes": (header_with(ALG, b"\x04\x58\x21" + bytes(33), CWT), "label 4 (kid) has 33 bytes"),
    "a kid of 60 kB": (header_with(ALG, b"\x04\x59\xea\x60" + bytes(60_000), CWT), "label 4 (kid) has 60000 bytes"),
    "a kid of text": (header_with(ALG, b"\x04\x61k", CWT), "label 4 (kid) is a text string"),
    "an indefinite kid": (header_with(ALG, b"\x04\x5f\x41k\xff", CWT), "indefinite"),
    "a kid that the bytes end in": (header_with(ALG, b"\x04\x58\x20k"), "end before label 4 (kid)"),
    "claims that are a byte string": (header_with(ALG, KID, b"\x0f\x41\xa0"), "label 15 (claims) is a byte string"),
    "claims that are an array": (header_with(ALG, KID, b"\x0f\x80"), "label 15 (claims) is an array"),
    "claims without end": (header_with(ALG, KID, b"\x0f\xbf" + CWT[2:] + b"\xff"), "indefinite"),
    "arrays 10,000 deep": (
        header_with(ALG, KID, b"\x0f" + b"\x81" * 10_000 + b"\x00"),
        "label 15 (claims) is an array",
    ),
    "maps 10,000 deep": (header_with(ALG, KID, b"\x0f" + b"\xa1\x00" * 10_000), "0 is no key of label 15 (claims)"),
    "maps 10,000 deep, claims of claims": (
        header_with(ALG, KID, b"\x0f\xa1" * 10_000),
        "15 is no key of label 15 (claims)",
    ),
}


@pytest.mark.parametrize(("value", "because"), HEADERS.values(), ids=HEADERS)
def test_a_protected_header_that_deviates_is_malformed(value: bytes, because: str) -> None:
    assert because in malformed(value)


VALUES = {
    "an empty sub": (2, b"\x60"),
    "a sub of 65": (2, b"\x78\x41" + b"a" * 65),
    "a sub of bytes": (2, b"\x41a"),
    "a sub with a space": (2, b"\x63a b"),
    "a sub with a trailing newline": (2, b"\x62a\n"),
    "a sub with NUL": (2, b"\x62a\x00"),
    "a sub with a slash": (2, b"\x63a/b"),
    "a sub with a quote": (2, b"\x64a';-"),
    "a sub with full-width letters": (2, cbor2.dumps("\N{FULLWIDTH LATIN CAPITAL LETTER A}")),
    "a sub with a dotted I": (2, cbor2.dumps("\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}")),
    "a sub with an e and its accent": (
        2,
        cbor2.dumps(unicodedata.normalize("NFD", "\N{LATIN SMALL LETTER E WITH ACUTE}")),
    ),
    "a sub that is not UTF-8": (2, b"\x62\xff\xfe"),
    "a sub with a surrogate": (2, b"\x63\xed\xa0\x80"),
    "an indefinite sub": (2, b"\x7f\x61a\xff"),
    "a sub length that is not shortest": (2, b"\x78\x01a"),
    "iat as a float16": (6, b"\xf9\x3c\x00"),
    "iat as a float32": (6, b"\xfa\x3f\x80\x00\x00"),
    "iat not a number": (6, b"\xfb" + struct.pack(">d", math.nan)),
    "iat infinite": (6, b"\xfb" + struct.pack(">d", math.inf)),
    "iat minus infinite": (6, b"\xfb" + struct.pack(">d", -math.inf)),
    "iat as a big number": (6, b"\xc2\x49\x01" + bytes(8)),
    "iat as a tagged time": (6, b"\xc1\x00"),
    "iat as text": (6, b"\x6a1790000000"),
    "iat nil": (6, b"\xf6"),
    "iat true": (6, b"\xf5"),
    "iat that is not shortest": (6, b"\x1b\x00\x00\x00\x00\x6a\xb1\x3b\x80"),
    "exp not a number": (4, b"\xfb" + struct.pack(">d", math.nan)),
    "exp nil": (4, b"\xf6"),
    "exp as a float32": (4, b"\xfa\x3f\x80\x00\x00"),
    "a negative epoch": (-70001, b"\x20"),
    "epoch 2^32": (-70001, b"\x1b\x00\x00\x00\x01\x00\x00\x00\x00"),
    "epoch as a float": (-70001, b"\xfb\x3f\xf0" + bytes(6)),
    "epoch true": (-70001, b"\xf5"),
    "epoch 1 in two bytes": (-70001, b"\x18\x01"),
    "seq 0": (-70002, b"\x00"),
    "a negative seq": (-70002, b"\x20"),
    "seq 2^63-1": (-70002, b"\x1b\x7f" + b"\xff" * 7),
    "seq 2^63": (-70002, b"\x1b\x80" + bytes(7)),
    "seq 2^64-1": (-70002, b"\x1b" + b"\xff" * 8),
    "seq as a big number": (-70002, b"\xc2\x41\x07"),
    "seq as a float": (-70002, b"\xfb\x40\x1c" + bytes(6)),
    "seq true": (-70002, b"\xf5"),
    "seq as text": (-70002, b"\x617"),
    "boot of 7 bytes": (-70003, b"\x47" + bytes(7)),
    "boot of 9 bytes": (-70003, b"\x49" + bytes(9)),
    "boot of text": (-70003, b"\x6801234567"),
    "boot as an integer": (-70003, b"\x08"),
    "an empty software version": (-70004, b"\x60"),
    "a software version of 65": (-70004, b"\x78\x41" + b"a" * 65),
    "a software version with a control character": (-70004, b"\x62a\x1b"),
    "a software version with DEL": (-70004, b"\x62a\x7f"),
    "a software version beyond ASCII": (-70004, cbor2.dumps("\N{LATIN SMALL LETTER E WITH ACUTE}")),
    "a software version of bytes": (-70004, b"\x41a"),
    "a digest of 31 bytes": (-70005, b"\x58\x1f" + bytes(31)),
    "a digest of 33 bytes": (-70005, b"\x58\x21" + bytes(33)),
    "a digest in hex": (-70005, b"\x78\x40" + b"0" * 64),
    "a digest cut off": (-70005, b"\x58\x20" + bytes(31)),
}


@pytest.mark.parametrize(("number", "encoded"), VALUES.values(), ids=VALUES)
def test_a_claim_that_breaks_its_rule_is_malformed_and_named(number: int, encoded: bytes) -> None:
    assert f"claim {number} (" in malformed(with_claim(number, encoded))


@pytest.mark.parametrize("number", CLAIMS)
def test_a_claim_that_is_missing_is_named(number: int) -> None:
    others = {key: value for key, value in CLAIMS.items() if key != number}
    assert f"must be: claim {number} (" in malformed(with_claims(*pairs_of(others)))


@pytest.mark.parametrize("number", [*CLAIMS, 4])
def test_a_claim_that_stands_twice_is_malformed(number: int) -> None:
    twice = cbor2.dumps(number) + cbor2.dumps({**CLAIMS, 4: 5}[number])
    others = {key: value for key, value in CLAIMS.items() if key != number}
    assert "stands twice" in malformed(with_claims(*pairs_of(others), twice, twice))


UNKNOWN_CLAIMS = {
    "an issuer": b"\x01\x61a",
    "an audience": b"\x03\x61a",
    "not before": b"\x05\x00",
    "a claim beside ours": b"\x3a\x00\x01\x11\x75\x00",
    "ours, positive": b"\x1a\x00\x01\x11\x70\x00",
    "a name": b"\x63sub\x61a",
    "a boolean": b"\xf5\x00",
    "a float": b"\xfb\x40\x18" + bytes(6) + b"\x00",
    "6 in two bytes": b"\x18\x06\x00",
    "-70002 in nine bytes": b"\x3b\x00\x00\x00\x00\x00\x01\x11\x71\x07",
    "an indefinite string": b"\x7f\x61a\xff\x00",
    "a nested map": b"\xa0\x00",
    "the break code": b"\xff\x00",
}


@pytest.mark.parametrize("pair", UNKNOWN_CLAIMS.values(), ids=UNKNOWN_CLAIMS)
def test_a_claim_that_is_not_in_the_contract_is_malformed(pair: bytes) -> None:
    malformed(with_claims(*pairs_of(CLAIMS), pair))
    malformed(with_claims(pair, *pairs_of(CLAIMS)))


def test_a_detail_never_shows_what_the_sender_wrote() -> None:
    marked = b"\x78\x1bSECRET\x1b[31m" + b"x" * 16
    for number in CLAIMS:
        assert "SECRET" not in malformed(with_claim(number, marked))
    assert "SECRET" not in malformed(with_claims(marked + b"\x00"))
    assert "SECRET" not in malformed(header_with(marked + b"\x00"))
