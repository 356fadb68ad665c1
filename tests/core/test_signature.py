"""Is a Verified made of exactly those envelopes that a registered, usable key of the named device signed?"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.core.device import Algorithm, Key, KeyRing, KeyState, Sender
from ingest.core.envelope import EXTERNAL_AAD
from ingest.core.message import Envelope, RawRecord, Refused, Verified
from ingest.core.signature import Job, OpenSSL, verify
from ingest.core.verdict import Refusal
from tests.core import wycheproof

N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # the order of P-256 (SP 800-186, 3.2.1.3)
RECEIVED_AT_MS = 1_790_000_000_000

Sign = Callable[[bytes], bytes]


def ed25519_pair() -> tuple[bytes, Sign]:
    key = ed25519.Ed25519PrivateKey.generate()
    return key.public_key().public_bytes_raw(), key.sign


def p256_pair() -> tuple[bytes, Sign]:
    key = ec.generate_private_key(ec.SECP256R1())
    numbers = key.public_key().public_numbers()

    def sign(signed: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big"), sign


ED_PUBLIC, ED_SIGN = ed25519_pair()
EC_PUBLIC, EC_SIGN = p256_pair()
ED_KEY = Key(1, b"ed", Algorithm.ED25519, ED_PUBLIC, KeyState.ACTIVE, 0, None, None)
EC_KEY = Key(2, b"ec", Algorithm.P256, EC_PUBLIC, KeyState.ACTIVE, 0, None, None)
SENDER = Sender(1, 1, 1, 1, {b"ed": ED_KEY, b"ec": EC_KEY})
RING = KeyRing({"vehicle-1": SENDER}, frozenset((b"of another",)))
SIGNED = b"what was signed"


def envelope(**changes: object) -> Envelope:
    plain = Envelope(
        record=RawRecord("telemetry.raw", 0, 0, RECEIVED_AT_MS, b""),
        alg=-8,
        kid=b"ed",
        device_id="vehicle-1",
        issued_at_s=1_790_000_000.0,
        expires_at_s=None,
        epoch=1,
        seq=1,
        boot=bytes(8),
        software="tcu",
        configuration=bytes(32),
        payload=b"",
        signature=ED_SIGN(SIGNED),
        signed=SIGNED,
    )
    return msgspec.structs.replace(plain, **changes)


def es256(**changes: object) -> Envelope:
    return envelope(**{"alg": -7, "kid": b"ec", "signature": EC_SIGN(SIGNED), **changes})


def verify_one(one: Envelope, ring: KeyRing = RING) -> Verified | Refused:
    (found,) = verify([one], ring, OpenSSL())
    return found


def reason(one: Envelope, ring: KeyRing = RING) -> Refusal:
    found = verify_one(one, ring)
    assert isinstance(found, Refused)
    assert found.reached is one
    assert 0 < len(found.detail) <= 200
    assert found.detail.isprintable()
    return found.reason


def ring_with(key: Key) -> KeyRing:
    return KeyRing({"vehicle-1": Sender(1, 1, 1, 1, {key.kid: key})}, frozenset())


@pytest.mark.parametrize(
    ("one", "key"),
    [(envelope(), ED_KEY), (envelope(alg=-19), ED_KEY), (es256(), EC_KEY), (es256(alg=-9), EC_KEY)],
    ids=["-8", "-19", "-7", "-9"],
)
def test_an_envelope_signed_by_its_device_is_verified_with_its_provenance(one: Envelope, key: Key) -> None:
    assert verify_one(one) == Verified(one, SENDER, key, hashlib.sha256(SIGNED).digest())


def test_an_es256_signature_with_a_high_s_holds_and_has_the_same_digest() -> None:
    one = es256()
    s = int.from_bytes(one.signature[32:], "big")
    other = es256(signature=one.signature[:32] + (N - s).to_bytes(32, "big"))
    found = [verify_one(one), verify_one(other)]
    assert all(isinstance(each, Verified) for each in found)
    assert len({each.digest for each in found if isinstance(each, Verified)}) == 1


def test_a_device_that_is_not_registered_is_unknown() -> None:
    assert reason(envelope(device_id="vehicle-2")) is Refusal.UNKNOWN_DEVICE


def test_a_kid_that_nobody_has_is_unknown() -> None:
    assert reason(envelope(kid=b"nobody's")) is Refusal.UNKNOWN_KEY


def test_a_kid_of_another_device_is_of_the_wrong_device() -> None:
    assert reason(envelope(kid=b"of another")) is Refusal.WRONG_DEVICE


def test_a_kid_that_two_devices_have_is_each_ones_own() -> None:
    ring = KeyRing(RING.senders, frozenset((b"ed",)))
    assert isinstance(verify_one(envelope(), ring), Verified)


def test_a_key_takes_no_algorithm_number_but_its_own() -> None:
    for alg in set(range(-300, 301)) - {-8, -19}:
        assert reason(envelope(alg=alg)) is Refusal.ALGORITHM_MISMATCH
    for alg in set(range(-300, 301)) - {-7, -9}:
        assert reason(es256(alg=alg)) is Refusal.ALGORITHM_MISMATCH


def key_in(state: KeyState, valid_from_ms: int = 0, valid_until_ms: int | None = None) -> KeyRing:
    return ring_with(
        msgspec.structs.replace(ED_KEY, state=state, valid_from_ms=valid_from_ms, valid_until_ms=valid_until_ms)
    )


def test_a_revoked_key_is_refused_even_outside_its_time() -> None:
    assert reason(envelope(), key_in(KeyState.REVOKED)) is Refusal.KEY_REVOKED
    assert reason(envelope(), key_in(KeyState.REVOKED, RECEIVED_AT_MS + 1)) is Refusal.KEY_REVOKED


def test_a_pending_key_is_not_yet_valid() -> None:
    assert reason(envelope(), key_in(KeyState.PENDING)) is Refusal.KEY_NOT_VALID


@pytest.mark.parametrize("state", [KeyState.ACTIVE, KeyState.RETIRED])
def test_a_key_is_valid_from_its_first_millisecond_to_the_one_before_its_last(state: KeyState) -> None:
    at = RECEIVED_AT_MS
    assert isinstance(verify_one(envelope(), key_in(state, at, at + 1)), Verified)
    assert reason(envelope(), key_in(state, at + 1)) is Refusal.KEY_NOT_VALID
    assert reason(envelope(), key_in(state, 0, at)) is Refusal.KEY_NOT_VALID


@pytest.mark.parametrize("state", [KeyState.ACTIVE, KeyState.RETIRED])
def test_a_key_speaks_for_its_epochs_and_for_no_other(state: KeyState) -> None:
    for epoch_until, spoken in ((None, {3, 4, 5, 6}), (5, {3, 4})):
        ring = ring_with(msgspec.structs.replace(ED_KEY, state=state, epoch_from=3, epoch_until=epoch_until))
        found = {epoch: verify_one(envelope(epoch=epoch), ring) for epoch in range(1, 7)}
        assert {epoch for epoch, one in found.items() if isinstance(one, Verified)} == spoken
        assert {one.reason for one in found.values() if isinstance(one, Refused)} == {Refusal.KEY_NOT_VALID}


def test_who_may_not_use_a_key_is_told_why() -> None:
    at, kid = RECEIVED_AT_MS, ED_KEY.kid.hex()
    closed = ring_with(msgspec.structs.replace(ED_KEY, epoch_until=1))
    for ring, why in (
        (key_in(KeyState.REVOKED), "was revoked"),
        (key_in(KeyState.PENDING), "is not yet in force"),
        (closed, "does not speak for epoch 1"),
        (key_in(KeyState.ACTIVE, at + 1), f"is valid only from {at + 1} ms"),
        (key_in(KeyState.ACTIVE, 0, at), f"was valid only until {at} ms"),
    ):
        found = verify_one(envelope(), ring)
        assert isinstance(found, Refused)
        assert found.detail == f"key {kid} {why}"


def test_a_retired_key_verifies_whatever_its_number_since_that_is_for_the_judge() -> None:
    ring = ring_with(msgspec.structs.replace(ED_KEY, state=KeyState.RETIRED, cutoff=(1, 0)))
    assert isinstance(verify_one(envelope(seq=99), ring), Verified)


def test_what_is_cheap_to_know_is_said_first() -> None:
    """Each line breaks one rule more than the one below it; the reason is always that of the first rule broken."""
    revoked = ring_with(msgspec.structs.replace(ED_KEY, state=KeyState.REVOKED))
    noise = bytes(64)
    assert reason(envelope(device_id="x", kid=b"x", alg=0, signature=noise), revoked) is Refusal.UNKNOWN_DEVICE
    assert reason(envelope(kid=b"x", alg=0, signature=noise), revoked) is Refusal.UNKNOWN_KEY
    assert reason(envelope(alg=0, signature=noise), revoked) is Refusal.ALGORITHM_MISMATCH
    assert reason(envelope(signature=noise), revoked) is Refusal.KEY_REVOKED
    assert reason(envelope(signature=noise)) is Refusal.BAD_SIGNATURE


@pytest.mark.parametrize("one", [envelope(), es256()], ids=["Ed25519", "ES256"])
def test_no_bit_of_a_signature_or_of_what_it_covers_may_change(one: Envelope) -> None:
    for bit in range(512):
        changed = (int.from_bytes(one.signature, "big") ^ 1 << bit).to_bytes(64, "big")
        assert reason(msgspec.structs.replace(one, signature=changed)) is Refusal.BAD_SIGNATURE
    for bit in range(len(SIGNED) * 8):
        changed = (int.from_bytes(SIGNED, "big") ^ 1 << bit).to_bytes(len(SIGNED), "big")
        assert reason(msgspec.structs.replace(one, signed=changed)) is Refusal.BAD_SIGNATURE


def test_a_signature_for_another_purpose_does_not_hold() -> None:
    signed = b"\x84\x6aSignature1\x40\x58\x18" + EXTERNAL_AAD + b"\x40"
    plain = b"\x84\x6aSignature1\x40\x40\x40"
    assert isinstance(verify_one(envelope(signed=signed, signature=ED_SIGN(signed))), Verified)
    assert reason(envelope(signed=signed, signature=ED_SIGN(plain))) is Refusal.BAD_SIGNATURE


def test_a_batch_is_answered_in_order_and_one_bad_signature_spoils_nothing() -> None:
    batch = [
        envelope(),
        envelope(device_id="vehicle-2"),
        es256(),
        envelope(signature=bytes(64)),
        es256(kid=b"nobody's"),
        es256(alg=-9),
    ]
    found = verify(batch, RING, OpenSSL())
    assert [each.envelope if isinstance(each, Verified) else each.reached for each in found] == batch
    assert [None if isinstance(each, Verified) else each.reason for each in found] == [
        None,
        Refusal.UNKNOWN_DEVICE,
        None,
        Refusal.BAD_SIGNATURE,
        Refusal.UNKNOWN_KEY,
        None,
    ]
    assert verify([], RING, OpenSSL()) == []


class _Short:
    """An engine that forgets a job."""

    name = "short"

    def check(self, jobs: Sequence[Job]) -> list[bool]:
        return [True] * (len(jobs) - 1)


def test_an_engine_that_loses_count_is_our_own_fault_and_stops_us() -> None:
    with pytest.raises(AssertionError, match="short gave 1 answers for 2 jobs"):
        verify([envelope(), envelope()], RING, _Short())


def test_an_engine_keeps_no_more_keys_than_it_may() -> None:
    engine = OpenSSL(keys_max=2)
    jobs = []
    for pair in (ed25519_pair, p256_pair) * 3:
        public, sign = pair()
        algorithm = Algorithm.ED25519 if len(public) == 32 else Algorithm.P256
        jobs.append(Job(algorithm, public, SIGNED, sign(SIGNED)))
    assert engine.check(jobs * 2) == [True] * 12
    assert len(engine._keys) == 2


def test_a_key_is_not_taken_for_one_of_the_other_algorithm() -> None:
    assert OpenSSL().check([Job(Algorithm.P256, ED_PUBLIC, SIGNED, ED_SIGN(SIGNED))]) == [False]
    assert OpenSSL().check([Job(Algorithm.ED25519, EC_PUBLIC, SIGNED, EC_SIGN(SIGNED))]) == [False]


@settings(deadline=None)  # time is not what is tested
@given(st.sampled_from(Algorithm), st.binary(max_size=66), st.binary(max_size=40), st.binary(max_size=66))
def test_an_engine_never_raises(algorithm: Algorithm, public: bytes, signed: bytes, signature: bytes) -> None:
    own = {Algorithm.ED25519: ED_PUBLIC, Algorithm.P256: EC_PUBLIC}[algorithm]
    jobs = [
        Job(algorithm, public, signed, signature),
        Job(algorithm, own, signed, signature),
        Job(algorithm, own, signed, signature[:1] * 64),
    ]
    assert OpenSSL().check(jobs) == [False] * 3


@pytest.mark.parametrize("r", [0, 1, N - 1, N, N + 1, 2**256 - 1])
@pytest.mark.parametrize("s", [0, 1, N - 1, N, N + 1, 2**256 - 1])
def test_an_es256_signature_at_the_ends_of_its_range_does_not_hold(r: int, s: int) -> None:
    assert reason(es256(signature=r.to_bytes(32, "big") + s.to_bytes(32, "big"))) is Refusal.BAD_SIGNATURE


@pytest.mark.parametrize(("group", "test"), wycheproof.cases("EdDSA"))
def test_the_portable_engine_agrees_with_the_public_ed25519_vectors(
    group: dict[str, Any], test: dict[str, Any]
) -> None:
    if job := wycheproof.job_of("EdDSA", group, test):
        assert OpenSSL().check([job]) == [test["result"] == "valid"], test["comment"]


@pytest.mark.parametrize(("group", "test"), wycheproof.cases("ES256"))
def test_the_portable_engine_agrees_with_the_public_p256_vectors(group: dict[str, Any], test: dict[str, Any]) -> None:
    if job := wycheproof.job_of("ES256", group, test):
        assert OpenSSL().check([job]) == [test["result"] == "valid"], test["comment"]
