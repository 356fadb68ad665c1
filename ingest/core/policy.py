"""What are the limits that change verdicts? Every one has a name, a unit and a default, and the whole has a digest."""

import hashlib

import msgspec

from ingest.core.verdict import Evidence

_WEIGHTS = {evidence: f"weight_{evidence}" for evidence in Evidence}


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
    held_bytes_max: int = 256 * 2**20  # of the envelopes that wait for one device
    held_s_max: int = 90 * 86_400  # after its arrival, by the broker's clock, a message that still waits lapses
    release_approvals: int = 1  # people who must want what is decided of a device, or of what is held
    device_per_s_max: int = 10  # messages accepted of one device, by the broker's clock
    device_burst_max: int = 600  # at once
    device_away_s_max: int = 7 * 86_400  # who was silent so long may send at once what that time would have brought
    tenant_per_s_max: int = 20_000  # of one tenant in one partition
    tenant_burst_max: int = 1_200_000
    fleet_per_s_max: int = 50_000  # of all together in one partition
    fleet_burst_max: int = 3_000_000
    weight_equivocation: int = 100
    weight_clone: int = 100
    weight_invalid_content: int = 10
    weight_implausible: int = 10
    weight_retired_key: int = 10
    weight_rate: int = 1
    watched_from: int = 20  # suspicion
    quarantined_from: int = 100
    suspicion_less_per_h: int = 10
    guard_devices_min: int = 20  # of a cohort: so many may be quarantined within the window, or
    guard_share_percent_max: int = 5  # this share of it, whichever is more
    guard_window_s: int = 600
    clock_off_s_max: int = 6 * 3_600  # a clock that has been off for so long raises an alert
    strangers_max: int = 50  # so many ids that nobody has, in a partition within ten minutes, raise one

    def weight_of(self, evidence: Evidence) -> int:
        """Say how much suspicion one piece of evidence raises."""
        weight: int = getattr(self, _WEIGHTS[evidence])
        return weight

    def digest(self) -> bytes:
        """SHA-256 of the policy's canonical JSON: what each verdict records of the rules that it was given under."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).digest()
