"""May this public key be registered? The gate that every key passes once, so that engines cannot differ on it later.

The keys under which implementations are known to disagree, or under which anyone can sign (low order, mixed order,
non-canonical encodings, points off the curve: RFC 8032, 5.1.3 and 5.1.7), do not get in.
"""

import re

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa, x448, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from nacl.bindings import crypto_core_ed25519_is_valid_point

from ingest.core.device import Algorithm

PEM_CHARACTERS_MAX = 2_048  # a P-256 key takes 178

_ONE_KEY = re.compile(r"\s*-----BEGIN PUBLIC KEY-----\s[A-Za-z0-9+/=\s]+-----END PUBLIC KEY-----\s*", re.ASCII)
_WHAT_TO_GIVE = 'give one SubjectPublicKeyInfo PEM block ("-----BEGIN PUBLIC KEY-----")'
_OTHER_TYPES = (
    (rsa.RSAPublicKey, "an RSA key"),
    (x25519.X25519PublicKey, "an X25519 key, which agrees on secrets and cannot sign"),
    (ed448.Ed448PublicKey, "an Ed448 key"),
    (x448.X448PublicKey, "an X448 key, which agrees on secrets and cannot sign"),
    (ed25519.Ed25519PublicKey, "an Ed25519 key"),
)


DEVICE_ID_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-")


class EnrolmentError(Exception):
    """A key that may not be registered. Its text says what is wrong and what to do, and never shows the key."""


class Candidate(msgspec.Struct, frozen=True):
    """A key that passed the gate, and whom it is to speak for."""

    device_id: str
    vehicle_id: str
    epoch: int
    kid: bytes
    algorithm: Algorithm
    public: bytes
    last_seq: int | None = None  # the last number under the key before this one, if the device says so
    valid_from_us: int | None = None  # since 1970 UTC; None: without bounds
    valid_until_us: int | None = None


def check_identity(device_id: str, vehicle_id: str, epoch: int, kid: str) -> bytes:
    """Refuse names that no envelope could carry (schemas/envelope.md, 3 and 4); returns the kid as bytes."""
    if not 1 <= len(device_id) <= 64 or not set(device_id) <= DEVICE_ID_CHARS:
        raise EnrolmentError(f"device_id {device_id[:80]!r}: 1 to 64 characters of A-Z a-z 0-9 . _ : -")
    check_name("vehicle_id", vehicle_id)
    if not 0 <= epoch < 2**32:
        raise EnrolmentError(f"epoch {epoch}: 0 to 4294967295")
    try:
        read = bytes.fromhex(kid)
    except ValueError:
        read = b""
    if not 1 <= len(read) <= 32:
        raise EnrolmentError(f"kid {kid[:80]!r}: 1 to 32 bytes, written as hexadecimal digits")
    return read


def check_name(what: str, text: str) -> None:
    """Refuse a name of a vehicle or tenant that could not be shown in a line."""
    if not (1 <= len(text) <= 64 and text.isascii() and text.isprintable()):
        raise EnrolmentError(f"{what} {text[:80]!r}: 1 to 64 printable ASCII characters")


def admit(alg: str, public_key_pem: str) -> tuple[Algorithm, bytes]:
    """Bind a public key to its algorithm: Ed25519 as 32 raw bytes, P-256 as 64 bytes x‖y, as Key holds them."""
    algorithm = _algorithm(alg)
    key = _load(public_key_pem)
    match algorithm, key:
        case Algorithm.ED25519, ed25519.Ed25519PublicKey():
            return algorithm, _ed25519(key)
        case Algorithm.P256, ec.EllipticCurvePublicKey():
            return algorithm, _p256(key)
        case _:
            raise EnrolmentError(
                f'this is {_describe(key)}, but alg is "{algorithm}": register the key that belongs to it'
            )


def _algorithm(alg: str) -> Algorithm:
    try:
        return Algorithm(alg)
    except ValueError:
        raise EnrolmentError('alg must be "EdDSA" (an Ed25519 key) or "ES256" (a P-256 key)') from None


def _load(pem: str) -> object:
    """Parse the one block that a key must be; what is not a public key is refused by its looks, unparsed."""
    if "PRIVATE KEY" in pem:
        raise EnrolmentError(
            "this is a private key, which must never leave its device: treat it as disclosed, make a new pair, "
            "and register the public half"
        )
    if "-----BEGIN CERTIFICATE" in pem:
        raise EnrolmentError(f"this is a certificate: {_WHAT_TO_GIVE}, such as `openssl x509 -pubkey -noout` prints")
    if pem.count("-----BEGIN") > 1:
        raise EnrolmentError(f"there are several PEM blocks: {_WHAT_TO_GIVE} for each device")
    if len(pem) > PEM_CHARACTERS_MAX or not _ONE_KEY.fullmatch(pem):
        raise EnrolmentError(
            f"this is no public key in PEM: {_WHAT_TO_GIVE} of at most {PEM_CHARACTERS_MAX} characters"
        )
    try:
        return load_pem_public_key(pem.encode("ascii"))
    except (ValueError, UnsupportedAlgorithm):
        raise EnrolmentError(
            "the PEM block holds no key that can be used: its content is damaged, of an unknown type, "
            "or a point that is not on its curve; export the public key again, or make a new pair"
        ) from None


def _ed25519(key: ed25519.Ed25519PublicKey) -> bytes:
    public = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    if not crypto_core_ed25519_is_valid_point(public):
        raise EnrolmentError(
            "this Ed25519 key is not a point of the prime-order group in canonical form: signatures that anyone can "
            "make might hold under it, and no proper key generator gives such a key; make a new pair"
        )
    return public


def _p256(key: ec.EllipticCurvePublicKey) -> bytes:
    if not isinstance(key.curve, ec.SECP256R1):
        raise EnrolmentError(f"this key is on {key.curve.name}; ES256 needs P-256 (secp256r1, prime256v1)")
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]  # without the 04 (SEC 1, 2.3.3)


def _describe(key: object) -> str:
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"an elliptic-curve key on {key.curve.name}"
    return next((words for kind, words in _OTHER_TYPES if isinstance(key, kind)), "a key of another type")
