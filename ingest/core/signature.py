"""Does the signature of an envelope hold under a key of the device that it names? Nothing else makes a Verified.

What is cheap to know is asked first (device, key, algorithm, state of the key); the signatures that are left go to the
engine in one call, because checking many at once is where the speed is. Keys have passed ingest.core.enrolment.
"""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from ingest.core.device import COSE_ALGORITHMS, SIGNATURE_BYTES, Algorithm, Key, KeyRing, KeyState
from ingest.core.message import Envelope, Refused, Verified
from ingest.core.verdict import Refusal

_ACTIVE, _RETIRED = KeyState.ACTIVE, KeyState.RETIRED  # asked of every message: a member of an enum is slow to name


class Job(msgspec.Struct, frozen=True, gc=False):
    """One signature to check."""

    algorithm: Algorithm
    public: bytes  # as in Key
    signed: bytes
    signature: bytes


class Engine(Protocol):
    """What checks signatures. Every engine gives the same answers; none raises, whatever the bytes."""

    @property
    def name(self) -> str:
        """Name and version: part of a message's provenance."""
        ...

    def check(self, jobs: Sequence[Job]) -> list[bool]:
        """Say of each job, in order, whether its signature holds."""
        ...


def verify(envelopes: Sequence[Envelope], ring: KeyRing, engine: Engine) -> list[Verified | Refused]:
    """Say of each envelope, in order, whether it is really from the device that it names."""
    found = [_find(envelope, ring) for envelope in envelopes]
    jobs = [
        Job(key.algorithm, key.public, envelope.signed, envelope.signature)
        for envelope, key in zip(envelopes, found, strict=True)
        if isinstance(key, Key)
    ]
    answers = engine.check(jobs)
    assert len(answers) == len(jobs), f"{engine.name} gave {len(answers)} answers for {len(jobs)} jobs"
    answer = iter(answers)
    return [
        _conclude(envelope, ring, one, holds=next(answer)) if isinstance(one, Key) else one
        for envelope, one in zip(envelopes, found, strict=True)
    ]


def _find(envelope: Envelope, ring: KeyRing) -> Key | Refused:
    """Find the key that an envelope names, if it may be used: all that can be known without arithmetic."""
    sender = ring.senders.get(envelope.device_id)
    if sender is None:
        return Refused(envelope, Refusal.UNKNOWN_DEVICE, f"device {envelope.device_id} is not registered")
    key = sender.keys.get(envelope.kid)
    if key is None:
        return _refuse_kid(envelope, ring)
    if COSE_ALGORITHMS.get(envelope.alg) is not key.algorithm:
        detail = f"alg is {envelope.alg}, but key {key.kid.hex()} is registered for {key.algorithm}"
        return Refused(envelope, Refusal.ALGORITHM_MISMATCH, detail)
    received_at_ms = envelope.record.received_at_ms
    if (
        (key.state is _ACTIVE or key.state is _RETIRED)  # which numbers a retired key may still sign is for the judge
        and key.valid_from_ms <= received_at_ms
        and (key.valid_until_ms is None or received_at_ms < key.valid_until_ms)
        and key.speaks_for(envelope.epoch)
    ):
        return key
    return _refuse_state(envelope, key)


def _refuse_kid(envelope: Envelope, ring: KeyRing) -> Refused:
    kid = envelope.kid.hex()
    if envelope.kid in ring.foreign_kids:
        return Refused(envelope, Refusal.WRONG_DEVICE, f"key {kid} is not a key of {envelope.device_id}")
    return Refused(envelope, Refusal.UNKNOWN_KEY, f"key {kid} is not registered")


def _refuse_state(envelope: Envelope, key: Key) -> Refused:
    """Say why a key may not sign this."""
    if key.state is KeyState.REVOKED:
        return Refused(envelope, Refusal.KEY_REVOKED, f"key {key.kid.hex()} was revoked")
    if key.state is KeyState.PENDING:
        why = "is not yet in force"
    elif not key.speaks_for(envelope.epoch):
        why = f"does not speak for epoch {envelope.epoch}"
    elif envelope.record.received_at_ms < key.valid_from_ms:
        why = f"is valid only from {key.valid_from_ms} ms"
    else:
        why = f"was valid only until {key.valid_until_ms} ms"
    return Refused(envelope, Refusal.KEY_NOT_VALID, f"key {key.kid.hex()} {why}")


def _conclude(envelope: Envelope, ring: KeyRing, key: Key, *, holds: bool) -> Verified | Refused:
    if not holds:
        detail = f"the {key.algorithm} signature does not hold under key {key.kid.hex()} for this content and context"
        return Refused(envelope, Refusal.BAD_SIGNATURE, detail)
    return Verified(envelope, ring.senders[envelope.device_id], key, hashlib.sha256(envelope.signed).digest())


_PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey


class OpenSSL:
    """The reference, which runs everywhere: OpenSSL, through `cryptography`, one signature at a time.

    It keeps the keys that it loaded, at most `keys_max` (0.5 kB each for Ed25519, 2.2 kB for P-256), oldest out first.
    """

    name = "openssl"

    def __init__(self, keys_max: int = 16_384) -> None:
        assert keys_max > 0, "an engine must be able to keep the key that it is using"
        self._keys: dict[tuple[Algorithm, bytes], _PublicKey] = {}
        self._keys_max = keys_max
        self._es256 = ec.ECDSA(SHA256())

    def check(self, jobs: Sequence[Job]) -> list[bool]:
        """Say of each job, in order, whether its signature holds."""
        return [self._holds(job) for job in jobs]

    def _holds(self, job: Job) -> bool:
        signature = job.signature
        if len(signature) != SIGNATURE_BYTES:
            return False
        try:
            key = self._key(job.algorithm, job.public)
            if isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(signature, job.signed)
            else:
                key.verify(_der(signature), job.signed, self._es256)
        except (InvalidSignature, ValueError):  # ValueError: these bytes are no public key
            return False
        return True

    def _key(self, algorithm: Algorithm, public: bytes) -> _PublicKey:
        """Load a key once. What it is kept under is all that it is made of, so a kept key is never out of date."""
        key = self._keys.get((algorithm, public))
        if key is None:
            key = _load(algorithm, public)
            if len(self._keys) >= self._keys_max:
                del self._keys[next(iter(self._keys))]
            self._keys[algorithm, public] = key
        return key


def _load(algorithm: Algorithm, public: bytes) -> _PublicKey:
    if algorithm is Algorithm.ED25519:
        return ed25519.Ed25519PublicKey.from_public_bytes(public)
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + public)  # SEC 1, 2.3.4


def _der(signature: bytes) -> bytes:
    """Re-write r‖s (RFC 9053, 2.1) as OpenSSL wants it; that r and s lie in 1 .. n-1 is for OpenSSL to check."""
    return encode_dss_signature(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
