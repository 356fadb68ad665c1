"""What do the golden vectors say? Loads schemas/vectors/, which an independent COSE implementation made."""

from pathlib import Path
from typing import Any

import msgspec

from ingest.core.device import Key, KeyRing, KeyState, Sender
from ingest.core.enrolment import admit
from ingest.core.message import RawRecord
from ingest.core.policy import Policy
from ingest.core.verdict import Verdict

FOLDER = Path(__file__).parents[2] / "schemas" / "vectors"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the registry says of one key and its device."""

    device_id: str
    epoch: int
    kid: str  # hexadecimal
    alg: str
    public_key: str  # SubjectPublicKeyInfo, PEM
    state: KeyState
    valid_from_ms: int
    valid_until_ms: int | None
    seq_cutoff: int | None


class Vector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One envelope, as the first ever received of its device, and the verdict that it deserves."""

    name: str
    why: str
    envelope: str  # hexadecimal
    received_at_ms: int
    policy: dict[str, Any]  # what differs from the defaults
    verdict: Verdict
    reason: str | None  # of Refusal or Hold

    def record(self, offset: int = 0) -> RawRecord:
        """Put the envelope into a Kafka record."""
        return RawRecord("telemetry.raw", 0, offset, self.received_at_ms, bytes.fromhex(self.envelope))

    def rules(self) -> Policy:
        """Give the policy that the verdict is given under."""
        return msgspec.convert(self.policy, Policy)


class Vectors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of vectors."""

    format: int
    external_aad: str
    registry: list[Entry]
    vectors: list[Vector]

    def ring(self, device_id: str | None) -> KeyRing:
        """Give the key ring that a message of this device is verified against."""
        senders: dict[str, Sender] = {}
        for number, entry in enumerate(self.registry, 1):
            algorithm, public = admit(entry.alg, entry.public_key)
            cutoff = None if entry.seq_cutoff is None else (entry.epoch, entry.seq_cutoff)
            times = (entry.valid_from_ms, entry.valid_until_ms)
            key = Key(number, bytes.fromhex(entry.kid), algorithm, public, entry.state, *times, cutoff)
            sender = senders.setdefault(entry.device_id, Sender(len(senders) + 1, len(senders) + 1, 1, 1, {}))
            sender.keys[key.kid] = key
        foreign = (kid for name, sender in senders.items() if name != device_id for kid in sender.keys)
        return KeyRing(senders, frozenset(foreign))

    def epochs(self) -> dict[str, int]:
        """Give the epoch that the registry has given out, by device."""
        return {entry.device_id: entry.epoch for entry in self.registry}


def load_vectors(name: str = "envelope-1.json") -> Vectors:
    """Read one file of vectors."""
    return msgspec.json.decode((FOLDER / name).read_bytes(), type=Vectors)
