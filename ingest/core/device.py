"""What is known of a device? What the registry says of it, and what it has done so far."""

from enum import StrEnum

import msgspec

from ingest.core.rate import Bucket
from ingest.core.sequence import Ledger


class Algorithm(StrEnum):
    """A signature algorithm that a key is bound to at enrolment."""

    ED25519 = "EdDSA"
    P256 = "ES256"


COSE_ALGORITHMS = {  # by number: the polymorphic ones of RFC 9053, 2 and the fully specified ones of RFC 9864, 2
    -8: Algorithm.ED25519,
    -19: Algorithm.ED25519,
    -7: Algorithm.P256,
    -9: Algorithm.P256,
}
SIGNATURE_BYTES = 64  # of each of them: R‖S of Ed25519 (RFC 8032, 5.1.6) and r‖s of ES256 (RFC 9053, 2.1)


class KeyState(StrEnum):
    """Where a key stands in its life."""

    PENDING = "pending"  # enrolled, not yet in force
    ACTIVE = "active"
    RETIRED = "retired"  # good up to its cut-off, for late data
    REVOKED = "revoked"


class Standing(StrEnum):
    """Where a device stands with us."""

    TRUSTED = "trusted"
    WATCHED = "watched"  # some evidence, not enough
    QUARANTINED = "quarantined"  # what it says is held, until a person decides
    RELEASED = "released"  # trusted again, by a person
    REVOKED = "revoked"  # never again, by a person


class Key(msgspec.Struct, frozen=True, gc=False):
    """One registered public key: Ed25519 as 32 raw bytes, P-256 as 64 bytes x‖y big-endian."""

    key_no: int
    kid: bytes
    algorithm: Algorithm
    public: bytes
    state: KeyState
    valid_from_ms: int
    valid_until_ms: int | None
    cutoff: tuple[int, int] | None  # of a retired key: epoch and number of the last message that it may sign
    epoch_from: int = 0  # the first epoch that it speaks for
    epoch_until: int | None = None  # the first after that which it does not speak for; None: open

    def speaks_for(self, epoch: int) -> bool:
        """Say whether the device had this key in that epoch, as far as the registry has given it out."""
        return self.epoch_from <= epoch and (self.epoch_until is None or epoch < self.epoch_until)


class Sender(msgspec.Struct, frozen=True, gc=False):
    """A registered device as the key ring knows it."""

    device_no: int
    vehicle_no: int
    tenant_no: int  # whose the vehicle is now
    key_version: int  # rises with every change of the device's keys or standing
    keys: dict[bytes, Key]


class KeyRing(msgspec.Struct, frozen=True):
    """The senders that a batch names, and the kids that it names wrongly. Read without locks, checked under them."""

    senders: dict[str, Sender]
    foreign_kids: frozenset[bytes]  # registered, but to a device other than the one that used it


class Device(msgspec.Struct, frozen=True, gc=False):
    """The device row that a batch locks: the authority on what its device may still say."""

    device_no: int
    standing: Standing
    key_version: int
    epoch: int  # the incarnation that the registry has given out
    held: int  # messages of this device that wait in the held lane
    boots: tuple[bytes, ...]  # boots that had a message accepted, newest last, at most BOOTS_MAX
    ledgers: dict[int, Ledger]  # by epoch: the numbers accepted
    held_bytes: int = 0  # of the messages that wait, as many as are kept
    suspicion: int = 0  # as of suspicion_at_ms, by the broker's clock
    suspicion_at_ms: int = 0  # when it was last accused; 0: never
    software: str = ""  # of its highest accepted message
    clock_off_since_ms: int | None = None  # by the broker's clock; None: its highest accepted message was well timed
    rolled: bytes = (
        b""  # a boot that came since the newest of `boots`, with used numbers only: lost its counter, or a copy
    )
    rate: Bucket = Bucket()  # how many messages of it may be accepted now


BOOTS_MAX = 8
