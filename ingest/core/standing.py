"""How far is a device trusted? Evidence under its own signature raises suspicion, time lowers it, thresholds decide.

Nothing else does: no forgery, no replay, no number of duplicates. What a person decides is in adapters/postgres.
"""

from collections.abc import Iterable

import msgspec

from ingest.core.device import Device, Standing
from ingest.core.message import Verified
from ingest.core.policy import Policy
from ingest.core.verdict import Evidence, Refusal

CONTENT = {Refusal.INVALID_PAYLOAD: Evidence.INVALID_CONTENT, Refusal.OUT_OF_RANGE: Evidence.IMPLAUSIBLE}

# Named here, for an enum takes longer to find a member than all else does.
_TRUSTED, _WATCHED = Standing.TRUSTED, Standing.WATCHED
_QUARANTINED, _REVOKED = Standing.QUARANTINED, Standing.REVOKED

SUSPICION_MAX = 10**9  # a row's integer holds it

Cohort = tuple[int, str]  # tenant_no and software version: what an update that went wrong would strike at once


class Accusation(msgspec.Struct, frozen=True, gc=False):
    """One piece of evidence, what it weighed, and what followed."""

    verified: Verified
    evidence: Evidence
    weight: int
    before: Standing
    after: Standing
    spared: bool = False  # the device would be quarantined, had not too much of its cohort been already

    @property
    def cohort(self) -> Cohort:
        """Whom a fault of the same origin would strike as well."""
        return cohort_of(self.verified)


def cohort_of(verified: Verified) -> Cohort:
    """Name the cohort of who sent a message."""
    return verified.sender.tenant_no, verified.envelope.software


class Trips(msgspec.Struct, frozen=True):
    """What happened to a cohort of late."""

    at_ms: tuple[int, ...]  # when devices of it were quarantined, by the broker's clock; those of the window at least
    devices: int  # how many it has

    def overfull(self, now_ms: int, policy: Policy) -> bool:
        """Say whether one more would be too many at once: a fault that they share is likelier than so many thieves."""
        most = max(policy.guard_devices_min, self.devices * policy.guard_share_percent_max // 100)
        return sum(at_ms > now_ms - policy.guard_window_s * 1000 for at_ms in self.at_ms) >= most


def accuse(
    device: Device, verified: Verified, evidence: Evidence, policy: Policy, trips: Trips | None
) -> tuple[Device, Accusation]:
    """Weigh one piece of evidence; where too much of its cohort was quarantined of late, a device is only watched."""
    now_ms, weight = verified.record.received_at_ms, policy.weight_of(evidence)
    suspicion = min(calm(device, now_ms, policy) + weight, SUSPICION_MAX)
    due = _due(device.standing, suspicion, policy)
    falls = due is _QUARANTINED and device.standing is not due
    spared = falls and trips is not None and trips.overfull(now_ms, policy)
    after = _WATCHED if spared else due
    accused = msgspec.structs.replace(device, standing=after, suspicion=suspicion, suspicion_at_ms=now_ms)
    return accused, Accusation(verified, evidence, weight, device.standing, after, spared)


def _due(standing: Standing, suspicion: int, policy: Policy) -> Standing:
    """Say what so much suspicion makes of a device. Only a person lets one out of quarantine."""
    if standing is _QUARANTINED or standing is _REVOKED:
        return standing
    if suspicion >= policy.quarantined_from:
        return _QUARANTINED
    if suspicion >= policy.watched_from:
        return _WATCHED
    return _TRUSTED if standing is _WATCHED else standing


def quarantines(accusations: Iterable[Accusation]) -> list[Accusation]:
    """Pick the accusations that put their device into quarantine."""
    return [a for a in accusations if a.after is _QUARANTINED and a.before is not a.after]


def calm(device: Device, now_ms: int, policy: Policy) -> int:
    """Say what is left of a device's suspicion at a moment of the broker's clock."""
    passed_ms = max(0, now_ms - device.suspicion_at_ms)
    return max(0, device.suspicion - passed_ms * policy.suspicion_less_per_h // 3_600_000)
