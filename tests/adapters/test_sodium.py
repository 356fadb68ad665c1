"""Does the engine of libsodium say what OpenSSL says where libsodium does not, and ask it nowhere else?"""

import hashlib
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from ingest.adapters.sodium import SMALL_ORDER, Sodium
from ingest.core.device import Algorithm
from ingest.core.signature import Job, OpenSSL
from ingest.core.touchstone import ORDERS, SOUND, find_fault
from loadtest.duel import fight
from loadtest.forgery import Forger
from tests.core.curve import LOW_ORDER, TORSION, B, L, P, Point, add, bad_encodings, encode, times

SCALAR = 0x5EC2E7 << 200 | 0x1234567
KEY = encode(times(SCALAR, B))
NONCE = 0xA17 << 230 | 0x89ABCDEF


class Noting:
    """The reference, which remembers what it was asked."""

    name = "noting"

    def __init__(self) -> None:
        self.asked: list[Job] = []
        self._engine = OpenSSL()

    def check(self, jobs: Sequence[Job]) -> list[bool]:
        self.asked += jobs
        return self._engine.check(jobs)


def hashed(r: bytes, public: bytes, signed: bytes) -> int:
    """RFC 8032, 5.1.7, step 2, reduced as libraries do before they multiply."""
    return int.from_bytes(hashlib.sha512(r + public + signed).digest(), "little") % L


def own(r: bytes, nonce: int, signed: bytes, public: bytes = KEY) -> Job:
    """Sign as the key's owner who takes an R of his choice."""
    s = (nonce + hashed(r, public, signed) * SCALAR) % L
    return Job(Algorithm.ED25519, public, signed, r + s.to_bytes(32, "little"))


def test_the_points_of_small_order_are_the_eight_that_there_are() -> None:
    assert frozenset(LOW_ORDER) == SMALL_ORDER


@pytest.mark.parametrize("length", [0, 1, 300])
def test_an_r_that_is_the_identity_holds_for_who_has_the_key_and_for_nobody_else(length: int) -> None:
    sodium, noting = Sodium(), Noting()
    for at in range(8):
        job = own(encode((0, 1)), 0, bytes([at]) * length)
        bad = replace(job, signed=job.signed + b"!"), replace(job, signature=job.signature[:32] + bytes(32))
        assert sodium.check([job, *bad]) == OpenSSL().check([job, *bad]) == [True, False, False]
        assert Sodium(noting).check([job, *bad]) == [True, False, False]
    assert len(noting.asked) == 24, "each once"


@pytest.mark.parametrize("order", range(8))
def test_with_each_r_of_small_order_that_fulfils_the_equation_both_say_yes(order: int) -> None:
    """Only a key of mixed order, which the gate refuses, has the seven others."""
    public, r = encode(add(times(SCALAR, B), TORSION[1])), TORSION[order]
    met = [m for m in (bytes([n]) for n in range(256)) if -hashed(encode(r), public, m) % 8 == order]
    jobs = [own(encode(r), 0, signed, public) for signed in met]
    assert len(jobs) > 5
    assert Sodium().check(jobs) == OpenSSL().check(jobs) == [True] * len(jobs)
    others = [own(encode(r), 0, bytes([n]), public) for n in range(256) if bytes([n]) not in met]
    assert Sodium().check(others) == OpenSSL().check(others) == [False] * len(others)


@pytest.mark.parametrize("order", range(8))
def test_an_r_to_which_a_point_of_small_order_is_added_does_not_hold(order: int) -> None:
    """Where both sides are multiplied by the cofactor, all would."""
    moved: Point = add(times(NONCE, B), TORSION[order])
    jobs, noting = [own(encode(moved), NONCE, bytes([n])) for n in range(16)], Noting()
    assert Sodium(noting).check(jobs) == OpenSSL().check(jobs) == [order == 0] * 16
    assert not noting.asked


def test_an_r_that_is_not_canonical_does_not_hold_and_is_not_asked_again() -> None:
    beyond = [(y | sign << 255).to_bytes(32, "little") for y in range(P, 2**255) for sign in (0, 1)]
    jobs, noting = [own(r, 0, b"m") for r in [*bad_encodings(), *beyond]], Noting()
    assert Sodium(noting).check(jobs) == OpenSSL().check(jobs) == [False] * len(jobs)
    assert not noting.asked


def test_an_s_of_the_order_and_more_does_not_hold() -> None:
    sound, noting = own(encode(times(NONCE, B)), NONCE, b"m"), Noting()
    r, s = sound.signature[:32], int.from_bytes(sound.signature[32:], "little")
    forms = [s + n * ORDERS[Algorithm.ED25519] for n in range((2**256 - 1 - s) // L + 1)]
    jobs = [replace(sound, signature=r + form.to_bytes(32, "little")) for form in forms]
    assert len(jobs) > 14
    assert Sodium(noting).check(jobs) == OpenSSL().check(jobs) == [True] + [False] * (len(jobs) - 1)
    assert not noting.asked


def test_what_is_forged_is_checked_once() -> None:
    forger, noting = Forger(seed=3), Noting()
    sound = [forger.eddsa() for _ in range(100)]
    forged = [
        bad
        for job in sound
        for bad in (
            replace(job, signed=job.signed + b"!"),
            replace(job, public=KEY),
            replace(job, signature=forger.random.randbytes(64)),
            replace(job, signature=job.signature[:63]),
            replace(job, signature=job.signature[:32] + bytes(32)),
        )
    ]
    assert Sodium(noting).check([*sound, *forged]) == [True] * 100 + [False] * 500
    assert not noting.asked


def test_what_is_p256_is_for_the_reference() -> None:
    forger, noting = Forger(seed=4), Noting()
    jobs = [forger.any() for _ in range(40)]
    assert Sodium(noting).check(jobs) == [True] * 40
    assert noting.asked == [job for job in jobs if job.algorithm is Algorithm.P256]


def test_a_key_of_another_length_is_none_though_libsodium_would_read_32_bytes_of_it() -> None:
    publics = [SOUND[0].public + b"\0", SOUND[0].public[:31], SOUND[0].public * 2, b""]
    jobs = [replace(SOUND[0], public=public) for public in publics]
    assert Sodium().check(jobs) == OpenSSL().check(jobs) == [False] * 4


@pytest.mark.parametrize("length", [0, 1, 64, 2**16, 2**23])
def test_a_message_may_be_of_any_length(length: int) -> None:
    sound = own(encode(times(NONCE, B)), NONCE, bytes(length))
    jobs = [sound, replace(sound, signed=sound.signed + b"\0")]
    assert Sodium().check(jobs) == OpenSSL().check(jobs) == [True, False]


def test_without_its_fence_the_self_test_and_the_duel_find_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingest.adapters.sodium.SMALL_ORDER", frozenset[bytes]())
    assert find_fault(Sodium()) == "it refuses a sound EdDSA signature"
    _, found = fight(Sodium(), OpenSSL(), 4_000, seed=5)
    assert found is not None
    assert found.attempt.kind == "EdDSA: R of low order"
