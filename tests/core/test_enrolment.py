"""Does the key gate let proper Ed25519 and P-256 public keys in, and nothing else (pitfall P6)?"""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x448, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ingest.core.device import Algorithm
from ingest.core.enrolment import PEM_CHARACTERS_MAX, EnrolmentError, admit
from tests.core.curve import LOW_ORDER, TORSION, P, Point, add, bad_encodings, decode, encode

ED25519_HEAD = bytes.fromhex("302a300506032b6570032100")  # SubjectPublicKeyInfo up to the key (RFC 8410, 4)
X25519_HEAD = bytes.fromhex("302a300506032b656e032100")
P256_HEAD = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")  # ... up to the point (RFC 5480)
P256_COMPRESSED_HEAD = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")
P256_INFINITY_HEAD = bytes.fromhex("3019301306072a8648ce3d020106082a8648ce3d030107030200")


def pem(der: bytes, label: str = "PUBLIC KEY") -> str:
    return f"-----BEGIN {label}-----\n{base64.encodebytes(der).decode()}-----END {label}-----\n"


def exported(key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def refusal(alg: str, text: str) -> str:
    with pytest.raises(EnrolmentError) as refused:
        admit(alg, text)
    return str(refused.value)


def test_an_ed25519_key_is_admitted_as_its_32_raw_bytes() -> None:
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    assert admit("EdDSA", exported(key)) == (Algorithm.ED25519, key.public_bytes_raw())


def test_a_p256_key_is_admitted_as_x_and_y() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    numbers = key.public_numbers()
    assert admit("ES256", exported(key)) == (
        Algorithm.P256,
        numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big"),
    )


def test_a_compressed_p256_key_is_admitted_as_the_same_x_and_y() -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    compressed = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    assert admit("ES256", pem(P256_COMPRESSED_HEAD + compressed)) == admit("ES256", exported(key))


def test_line_endings_and_space_around_the_block_do_not_matter() -> None:
    text = exported(ed25519.Ed25519PrivateKey.generate().public_key())
    assert (
        admit("EdDSA", text.replace("\n", "\r\n")) == admit("EdDSA", f"\n  {text}\n\n") == admit("EdDSA", text.strip())
    )


def test_the_low_order_points_and_their_bad_encodings_are_fourteen() -> None:
    assert len(LOW_ORDER) == 8
    assert len(bad_encodings()) == 6
    assert not set(LOW_ORDER) & set(bad_encodings())


@pytest.mark.parametrize("public", [*LOW_ORDER, *bad_encodings()], ids=bytes.hex)
def test_an_ed25519_key_of_low_order_is_refused(public: bytes) -> None:
    assert "prime-order group" in refusal("EdDSA", pem(ED25519_HEAD + public))


@pytest.mark.parametrize("translation", TORSION[1:], ids=lambda point: encode(point).hex()[:8])
def test_an_ed25519_key_moved_by_a_low_order_point_is_refused(translation: Point) -> None:
    for _ in range(8):
        public = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        value = int.from_bytes(public, "little")
        point = decode(value & (2**255 - 1))
        assert point is not None
        honest = point if point[0] & 1 == value >> 255 else (P - point[0], point[1])
        assert encode(honest) == public
        assert admit("EdDSA", pem(ED25519_HEAD + encode(honest)))[1] == public
        assert "prime-order group" in refusal("EdDSA", pem(ED25519_HEAD + encode(add(honest, translation))))


def test_ed25519_bytes_that_are_no_point_or_no_canonical_one_are_refused() -> None:
    no_point = [y for y in range(2, 30) if decode(y) is None]
    assert len(no_point) > 5
    not_canonical = range(P, 2**255)
    for y in [*no_point, *not_canonical]:
        refusal("EdDSA", pem(ED25519_HEAD + y.to_bytes(32, "little")))
        refusal("EdDSA", pem(ED25519_HEAD + (y | 1 << 255).to_bytes(32, "little")))


def off_curve() -> dict[str, bytes]:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    point = bytearray(key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))
    point[-1] ^= 1
    return {
        "off the curve": P256_HEAD + bytes(point),
        "infinity": P256_INFINITY_HEAD + b"\x00",
        "zero": P256_HEAD + b"\x04" + bytes(64),
        "x beyond the field": P256_HEAD + b"\x04" + b"\xff" * 32 + bytes(point[33:]),
        "an unknown form": P256_HEAD + b"\x05" + bytes(point[1:]),
        "a compressed x of no point": P256_COMPRESSED_HEAD + b"\x02" + b"\xff" * 32,
        "a byte too few": P256_HEAD + bytes(point[:-1]),
    }


@pytest.mark.parametrize(("der"), off_curve().values(), ids=off_curve())
def test_a_p256_point_that_is_not_on_its_curve_is_refused(der: bytes) -> None:
    assert "not on its curve" in refusal("ES256", pem(der))


OTHERS = {
    "X25519": (x25519.X25519PrivateKey.generate().public_key(), "X25519"),
    "X448": (x448.X448PrivateKey.generate().public_key(), "X448"),
    "Ed448": (ed448.Ed448PrivateKey.generate().public_key(), "Ed448"),
    "RSA": (rsa.generate_private_key(65_537, 2_048).public_key(), "RSA"),
    "DSA": (dsa.generate_private_key(1_024).public_key(), "another type"),  # noqa: S505  short, because quick to make
    "P-384": (ec.generate_private_key(ec.SECP384R1()).public_key(), "secp384r1"),
    "P-521": (ec.generate_private_key(ec.SECP521R1()).public_key(), "secp521r1"),
    "secp256k1": (ec.generate_private_key(ec.SECP256K1()).public_key(), "secp256k1"),
}


@pytest.mark.parametrize("alg", ["EdDSA", "ES256"])
@pytest.mark.parametrize(("key", "because"), OTHERS.values(), ids=OTHERS)
def test_a_key_of_another_type_is_refused_by_name(alg: str, key: ed25519.Ed25519PublicKey, because: str) -> None:
    assert because in refusal(alg, exported(key))


def test_a_key_must_be_of_the_algorithm_that_it_is_registered_for() -> None:
    assert "this is an Ed25519 key" in refusal("ES256", exported(ed25519.Ed25519PrivateKey.generate().public_key()))
    assert "on secp256r1" in refusal("EdDSA", exported(ec.generate_private_key(ec.SECP256R1()).public_key()))


@pytest.mark.parametrize("alg", ["", "eddsa", "Ed25519", "ES384", "HS256", "none", "EdDSA "])
def test_an_algorithm_that_we_do_not_know_is_refused(alg: str) -> None:
    assert '"EdDSA"' in refusal(alg, exported(ed25519.Ed25519PrivateKey.generate().public_key()))


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_a_private_key_is_refused_as_disclosed_and_not_shown(form: PrivateFormat) -> None:
    text = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, form, NoEncryption()).decode()
    because = refusal("ES256", text)
    assert "private key" in because
    assert text.splitlines()[1] not in because


def test_a_private_key_beside_a_public_one_is_refused_as_disclosed() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    assert "private key" in refusal("EdDSA", exported(key.public_key()) + private)


GOOD = exported(ed25519.Ed25519PrivateKey.generate().public_key())
GARBAGE = {
    "nothing": "",
    "words": "the public key of vehicle 7",
    "base64 alone": GOOD.splitlines()[1],
    "another label": pem(ED25519_HEAD + bytes(32), "RSA PUBLIC KEY"),
    "a certificate": pem(b"0", "CERTIFICATE"),
    "a key twice": GOOD * 2,
    "text before it": f"vehicle-1: {GOOD}",
    "text after it": f"{GOOD} # vehicle-1",
    "an empty block": pem(b""),
    "a block of noise": pem(bytes(range(44))),
    "a byte too many": pem(ED25519_HEAD + bytes(33)),
    "no end": GOOD[:60],
    "NUL": GOOD.replace("\n", "\n\x00", 1),
    "full-width letters": GOOD.replace("A", "\N{FULLWIDTH LATIN CAPITAL LETTER A}"),
    "a surrogate": GOOD + "\udcff",
    "too long": GOOD + " " * PEM_CHARACTERS_MAX,
}


@pytest.mark.parametrize("text", GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_single_public_key_is_refused_with_what_to_give(text: str) -> None:
    because = refusal("EdDSA", text)
    assert "BEGIN PUBLIC KEY" in because or "export the public key again" in because


def test_several_keys_in_one_text_are_told_from_noise() -> None:
    assert "several PEM blocks" in refusal("EdDSA", GOOD * 2)
