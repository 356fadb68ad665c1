"""What may somebody send as a signature? Sound ones, spoilt ones, and those that only the key's owner can make.

Keys are such as the gate admits, small scalars among them. All of it follows from the seed.
"""

import hashlib
from collections.abc import Callable
from random import Random

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace
from nacl.bindings import crypto_core_ed25519_add, crypto_scalarmult_ed25519_base_noclamp

from ingest.core.device import Algorithm
from ingest.core.signature import Job
from ingest.core.touchstone import ORDERS

L, N = ORDERS[Algorithm.ED25519], ORDERS[Algorithm.P256]
FIELD = 2**255 - 19
KEYS = 32
NEW_KEYS = 0.2  # of all that sign
SMALL = 12  # scalars from 1 on, and as many below the order
MESSAGE_BYTES_MAX = 300
HASHED_BEYOND_N = b"weighbridge 4190594641"  # its SHA-256 is more than n; it took some four billion attempts to find
EDGES = (0, 1, 2**252, 2**255, 2**256 - 1)
SIZES = (0, 1, 32, 63, 65, 72, 128)  # of what is no signature
LOW_ORDER = tuple(  # RFC 8032, 5.1.3: y of the eight points of low order, canonical or not, with either sign
    bytes.fromhex(y)[:31] + bytes([bytes.fromhex(y)[31] | sign])
    for y in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
    for sign in (0, 0x80)
)
TORSION = LOW_ORDER[2:10]


class Attempt(msgspec.Struct, frozen=True):
    """A job, and what was done to it."""

    kind: str
    job: Job


class Pair(msgspec.Struct, frozen=True):
    """A key and its secret scalar."""

    scalar: int
    public: bytes


class Forger:
    """Makes one attempt after another."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311 (made again from its seed; no secret)
        small = [*range(1, SMALL + 1), *range(-SMALL, 0)]
        scalars = [*small, *(self.random.getrandbits(400) for _ in range(KEYS))]
        self.ed25519 = [Pair(scalar % L, _times_b(scalar)) for scalar in scalars]
        self.p256 = [Pair(scalar % N, _times_g(scalar)) for scalar in scalars]

    def attempt(self) -> Attempt:
        """Make the next."""
        kind, make = self.random.choice(WAYS)
        return Attempt(kind, make(self))

    def message(self) -> bytes:
        """Make up what is signed."""
        return self.random.randbytes(self.random.randint(0, MESSAGE_BYTES_MAX))

    def scalar(self, order: int) -> int:
        """Draw a nonce; a few are small."""
        return self.random.choice((self.random.randint(1, order - 1),) * 9 + (self.random.randint(1, SMALL),))

    def pair(self, known: list[Pair], multiply: Callable[[int], bytes]) -> Pair:
        """Take a key that was seen before, or a new one now and then."""
        if self.random.random() < NEW_KEYS:
            scalar = self.random.randint(1, min(L, N) - 1)
            return Pair(scalar, multiply(scalar))
        return self.random.choice(known)

    def edge(self) -> int:
        """Draw a scalar for which a multiplication may meet itself: small, nearly n, or nearly a power of two."""
        near = self.random.choice((0, N, 1 << self.random.randrange(256)))
        return (near + self.random.randint(-SMALL * 12, SMALL * 12)) % N or 1

    def eddsa(self) -> Job:
        """Sign as RFC 8032, 5.1.6 says."""
        nonce = self.scalar(L)
        return self.eddsa_with(_times_b(nonce), nonce)

    def eddsa_with(self, r: bytes, nonce: int) -> Job:
        """Sign with another R than belongs to the nonce."""
        pair, message = self.pair(self.ed25519, _times_b), self.message()
        h = int.from_bytes(hashlib.sha512(r + pair.public + message).digest(), "little")
        s = (nonce + h * pair.scalar) % L
        return Job(Algorithm.ED25519, pair.public, message, r + s.to_bytes(32, "little"))

    def es256(self, message: bytes | None = None) -> Job:
        """Sign as FIPS 186-5, 6.4.1 says."""
        pair, nonce = self.pair(self.p256, _times_g), self.scalar(N)
        signed = self.message() if message is None else message
        r = _x(nonce)
        return _es256(pair.public, signed, r, pow(nonce, -1, N) * (_e(signed) + r * pair.scalar) % N)

    def any(self) -> Job:
        """Sign in either way."""
        return self.eddsa() if self.random.random() < 0.5 else self.es256()


def _times_b(scalar: int) -> bytes:
    return crypto_scalarmult_ed25519_base_noclamp((scalar % L).to_bytes(32, "little"))


def _times_g(scalar: int) -> bytes:
    numbers = ec.derive_private_key(scalar % N or 1, ec.SECP256R1()).public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def _x(nonce: int) -> int:
    return int.from_bytes(_times_g(nonce)[:32], "big") % N


def _e(message: bytes) -> int:
    return int.from_bytes(hashlib.sha256(message).digest(), "big")


def _es256(public: bytes, signed: bytes, r: int, s: int) -> Job:
    return Job(Algorithm.P256, public, signed, r.to_bytes(32, "big") + s.to_bytes(32, "big"))


def _flip(random: Random, content: bytes) -> bytes:
    bit = random.randrange(len(content) * 8)
    return (int.from_bytes(content, "big") ^ 1 << bit).to_bytes(len(content), "big")


def _spoil_signature(by: Forger) -> Job:
    job = by.any()
    return replace(job, signature=_flip(by.random, job.signature))


def _spoil_message(by: Forger) -> Job:
    job = by.any()
    return replace(job, signed=_flip(by.random, job.signed or b"\0"))


def _swap_key(by: Forger) -> Job:
    job = by.any()
    pairs = by.ed25519 if job.algorithm is Algorithm.ED25519 else by.p256
    return replace(job, public=by.random.choice(pairs).public)


def _resize(by: Forger) -> Job:
    job, size = by.any(), by.random.choice(SIZES)
    return replace(job, signature=(job.signature * 2)[:size])


def _noise(by: Forger) -> Job:
    return replace(by.any(), signature=by.random.randbytes(64))


def _add_orders(by: Forger) -> Job:
    """Write the same s in another of the forms that fit into 32 bytes."""
    job = by.eddsa()
    s = int.from_bytes(job.signature[32:], "little")
    s += L * by.random.randint(1, (2**256 - 1 - s) // L)
    return replace(job, signature=job.signature[:32] + s.to_bytes(32, "little"))


def _edge_s(by: Forger) -> Job:
    job, s = by.eddsa(), by.random.choice((*EDGES, L - 1, L, L + 1))
    return replace(job, signature=job.signature[:32] + s.to_bytes(32, "little"))


def _low_order_r(by: Forger) -> Job:
    """Take R from those of low order: with the identity, canonically written, it holds; with no other."""
    return by.eddsa_with(by.random.choice(LOW_ORDER), 0)


def _mixed_order_r(by: Forger) -> Job:
    """Add a point of low order to R: with the cofactor it holds, without it does not."""
    nonce = by.scalar(L)
    return by.eddsa_with(crypto_core_ed25519_add(_times_b(nonce), by.random.choice(TORSION)), nonce)


def _beyond_field_r(by: Forger) -> Job:
    y = (FIELD + by.random.randrange(19)) | by.random.randrange(2) << 255
    return by.eddsa_with(y.to_bytes(32, "little"), 0)


def _other_s(by: Forger) -> Job:
    """Take n - s for s: it holds as well."""
    job = by.es256()
    other = N - int.from_bytes(job.signature[32:], "big")
    return replace(job, signature=job.signature[:32] + other.to_bytes(32, "big"))


def _edges(by: Forger) -> Job:
    job, at = by.es256(), by.random.choice((0, 32))
    edge = by.random.choice((*EDGES, N - 1, N, N + 1)).to_bytes(32, "big")
    return replace(job, signature=job.signature[:at] + edge + job.signature[at + 32 :])


def _hash_beyond_n(by: Forger) -> Job:
    return by.es256(HASHED_BEYOND_N)


def _doubling(by: Forger) -> Job:
    """Choose the key to the message so that u1·G and u2·Q are one point: what adds them must know how to double."""
    message, nonce = by.message(), by.scalar(N)
    e, r = _e(message), _x(nonce)
    return _es256(_times_g(e * pow(r, -1, N)), message, r, 2 * e * pow(nonce, -1, N) % N)


def _chosen_u1(by: Forger) -> Job:
    """Choose the key to the message so that u1 is small, or nearly n: what adds up multiples of G meets itself."""
    message, nonce, u1 = by.message(), by.scalar(N), by.edge()
    e, r = _e(message), _x(nonce)
    s = e * pow(u1, -1, N)
    u2 = r * pow(s, -1, N)
    return _es256(_times_g((nonce - u1) * pow(u2, -1, N)), message, r, s % N)


def _chosen_u2(by: Forger) -> Job:
    """Choose the key to the message so that u2 is."""
    return _with_u2(by, by.edge())


def _double_within(by: Forger) -> Job:
    """Choose it so that u2 is -2: a multiplication by windows of four bits ends with -Q and -Q."""
    return _with_u2(by, N - 2)


def _with_u2(by: Forger, u2: int) -> Job:
    message, nonce = by.message(), by.scalar(N)
    e, r = _e(message), _x(nonce)
    s = r * pow(u2, -1, N)
    return _es256(_times_g((nonce - e * pow(s, -1, N)) * pow(u2, -1, N)), message, r, s % N)


def _infinity(by: Forger) -> Job:
    """Choose the key to the message so that u1·G and u2·Q cancel out."""
    message, nonce = by.message(), by.scalar(N)
    e, r = _e(message), _x(nonce)
    return _es256(_times_g(-e * pow(r, -1, N)), message, r, by.scalar(N))


WAYS: tuple[tuple[str, Callable[[Forger], Job]], ...] = (
    ("sound", Forger.any),
    ("a bit of the signature", _spoil_signature),
    ("a bit of the message", _spoil_message),
    ("another key", _swap_key),
    ("another length", _resize),
    ("noise", _noise),
    ("EdDSA: s and some L", _add_orders),
    ("EdDSA: s at an edge", _edge_s),
    ("EdDSA: R of low order", _low_order_r),
    ("EdDSA: R of mixed order", _mixed_order_r),
    ("EdDSA: R beyond the field", _beyond_field_r),
    ("ES256: n - s", _other_s),
    ("ES256: r or s at an edge", _edges),
    ("ES256: hash beyond n", _hash_beyond_n),
    ("ES256: a point and itself", _doubling),
    ("ES256: u1 at an edge", _chosen_u1),
    ("ES256: u2 at an edge", _chosen_u2),
    ("ES256: u2 is -2", _double_within),
    ("ES256: a point and its opposite", _infinity),
)
