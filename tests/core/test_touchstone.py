"""Are the answers that an engine is tested with known, and not just recorded?"""

import hashlib

from ingest.core.signature import OpenSSL
from ingest.core.touchstone import IDENTITY_R, MIXED_R, SOUND
from tests.core.curve import LOW_ORDER, TORSION, B, L, Point, add, encode, times

SECRET = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")  # RFC 8032, 7.1, test 1
HASHED = hashlib.sha512(SECRET).digest()
SCALAR = int.from_bytes(HASHED[:32], "little") & (2**254 - 8) | 2**254
NONCE = int.from_bytes(hashlib.sha512(HASHED[32:]).digest(), "little") % L


def sign(nonce: int, r: Point) -> bytes:
    """Sign the empty message with this R, whether or not it belongs to the nonce."""
    h = int.from_bytes(hashlib.sha512(encode(r) + SOUND[0].public).digest(), "little")
    return encode(r) + ((nonce + h * SCALAR) % L).to_bytes(32, "little")


def test_those_of_the_owner_of_the_published_key_follow_from_it() -> None:
    published = times(NONCE, B)
    assert encode(times(SCALAR, B)) == SOUND[0].public
    assert sign(NONCE, published) == SOUND[0].signature
    assert sign(0, (0, 1)) == IDENTITY_R.signature
    assert MIXED_R.signature in {sign(NONCE, add(published, TORSION[n])) for n in (1, 3, 5, 7)}, "of order 8"


def test_without_the_cofactor_the_one_holds_and_the_other_does_not() -> None:
    assert OpenSSL().check([IDENTITY_R, MIXED_R]) == [True, False]
    assert IDENTITY_R.signature[:32] in LOW_ORDER
    assert MIXED_R.signature[:32] not in LOW_ORDER
