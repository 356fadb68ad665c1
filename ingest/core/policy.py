"""What are the limits that change verdicts? Every one has a name, a unit and a default, and the whole has a digest."""

import hashlib

import msgspec


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The limits of schemas/envelope.md. What does not change a verdict is a setting, and lives in ingest.config."""

    envelope_bytes_max: int = 65_536
    clock_ok_s_max: int = 300
    clock_ahead_s_max: int = 86_400
    age_s_max: int = 30 * 86_400
    seq_jump_max: int = 2**24
    ledger_ranges_max: int = 64
    samples_max: int = 1_024
    refused_bytes_max: int = 1_024  # of a refused or duplicate envelope, how much is kept; of poison, all
    refused_bytes_per_s_max: int = 65_536  # of all of them in a partition, by the broker's clock
    refused_burst_bytes_max: int = 16 * 2**20  # what may be kept at once after a calm time
    held_bytes_max: int = 64 * 2**20  # of the envelopes that wait for one device

    def digest(self) -> bytes:
        """SHA-256 of the policy's canonical JSON: what each verdict records of the rules that it was given under."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).digest()
