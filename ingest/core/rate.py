"""How much may come at once? Buckets that fill by the broker's clock, one for each device, tenant and partition.

A bucket is charged for what is accepted, and for nothing else: who forges or repeats costs nobody else a message.
"""

from collections.abc import Mapping

import msgspec

from ingest.core.policy import Policy
from ingest.core.verdict import Limit

FLEET = 0  # stands for all tenants together, where shares are kept by tenant_no; those begin with 1
MILLI = 1_000


class Bucket(msgspec.Struct, frozen=True, gc=False):
    """What is left to spend, as of a moment of the broker's clock."""

    level_milli: int = 0  # thousandths of a message, or of a byte
    at_ms: int = 0  # since 1970 UTC: long ago, so a new one is full


_FULL = Bucket()


class Rate(msgspec.Struct, frozen=True, gc=False):
    """How fast a bucket fills, and how far."""

    per_s: int
    burst: int
    away_s_max: int = 0  # one that nobody has charged for so long may hold what that time has earned, above the burst


Shares = Mapping[int, Bucket]  # of one partition, by tenant_no


def take(bucket: Bucket, amount: int, now_ms: int, rate: Rate) -> Bucket | None:
    """Charge a bucket; None if it does not hold so much."""
    level_milli, at_ms = bucket.level_milli, bucket.at_ms
    if now_ms > at_ms:
        level_milli, at_ms = _fill(level_milli, now_ms - at_ms, rate), now_ms
    level_milli -= amount * MILLI
    return Bucket(level_milli, at_ms) if level_milli >= 0 else None


def _fill(level_milli: int, passed_ms: int, rate: Rate) -> int:
    """Say what a bucket has come to; what it had above its burst it keeps."""
    earned_milli, most_milli = passed_ms * rate.per_s, rate.burst * MILLI
    if earned_milli > most_milli:
        most_milli = max(most_milli, min(earned_milli, rate.away_s_max * 1000 * rate.per_s))
    room_milli = most_milli - level_milli
    if room_milli <= 0:
        return level_milli
    return level_milli + earned_milli if earned_milli < room_milli else most_milli


class Purse(msgspec.Struct, gc=False):
    """A bucket while a batch is judged: charged in place, for every message charges three."""

    level_milli: int
    at_ms: int
    charged: bool = False  # known of tenants and the fleet only

    def bucket(self) -> Bucket:
        """Give it as it is to be kept."""
        return Bucket(self.level_milli, self.at_ms)


def purse(bucket: Bucket) -> Purse:
    """Begin to charge what was kept."""
    return Purse(bucket.level_milli, bucket.at_ms)


class Meter:
    """What may still be accepted in a partition while a batch of it is judged."""

    def __init__(self, shares: Shares, policy: Policy) -> None:
        self._device = Rate(policy.device_per_s_max, policy.device_burst_max, policy.device_away_s_max)
        self._tenant = Rate(policy.tenant_per_s_max, policy.tenant_burst_max)
        self._fleet = Rate(policy.fleet_per_s_max, policy.fleet_burst_max)
        self._before = shares
        self._purses: dict[int, Purse] = {}
        self._of_fleet = self._open(FLEET)

    def charge(self, device: Purse, tenant_no: int, now_ms: int) -> Limit | None:
        """Charge one message to its device, its tenant and the fleet; or to none of them, and say whose is empty.

        A device that has nothing left is told so first: nobody else is to blame.
        """
        tenant, fleet = self._purses.get(tenant_no) or self._open(tenant_no), self._of_fleet
        own_milli, own_at_ms = device.level_milli, device.at_ms
        if now_ms > own_at_ms:
            own_milli, own_at_ms = _fill(own_milli, now_ms - own_at_ms, self._device), now_ms
        if own_milli < MILLI:
            return Limit.DEVICE
        tenant_milli, tenant_at_ms = tenant.level_milli, tenant.at_ms
        if now_ms > tenant_at_ms:
            tenant_milli, tenant_at_ms = _fill(tenant_milli, now_ms - tenant_at_ms, self._tenant), now_ms
        if tenant_milli < MILLI:
            return Limit.TENANT
        fleet_milli, fleet_at_ms = fleet.level_milli, fleet.at_ms
        if now_ms > fleet_at_ms:
            fleet_milli, fleet_at_ms = _fill(fleet_milli, now_ms - fleet_at_ms, self._fleet), now_ms
        if fleet_milli < MILLI:
            return Limit.FLEET
        device.level_milli, device.at_ms = own_milli - MILLI, own_at_ms
        tenant.level_milli, tenant.at_ms = tenant_milli - MILLI, tenant_at_ms
        fleet.level_milli, fleet.at_ms = fleet_milli - MILLI, fleet_at_ms
        tenant.charged = fleet.charged = True
        return None

    def _open(self, tenant_no: int) -> Purse:
        share = self._purses[tenant_no] = purse(self._before.get(tenant_no, _FULL))
        return share

    def changed(self) -> Shares:
        """Give the shares that were charged."""
        return {no: share.bucket() for no, share in self._purses.items() if share.charged}
