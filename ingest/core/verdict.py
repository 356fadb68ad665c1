"""Which words are there for what is decided? The closed sets of schemas/envelope.md, of evidence and of alerts."""

from enum import StrEnum


class Verdict(StrEnum):
    """What happens to a message; every record in the topic gets exactly one."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    HELD = "held"
    REFUSED = "refused"


class Refusal(StrEnum):
    """Why a message is refused: it is not authentic, malformed or invalid."""

    OVERSIZE = "oversize"
    MALFORMED = "malformed"
    UNKNOWN_DEVICE = "unknown_device"
    UNKNOWN_KEY = "unknown_key"
    WRONG_DEVICE = "wrong_device"
    ALGORITHM_MISMATCH = "algorithm_mismatch"
    BAD_SIGNATURE = "bad_signature"
    KEY_REVOKED = "key_revoked"
    KEY_NOT_VALID = "key_not_valid"
    EXPIRED = "expired"
    EPOCH_CLOSED = "epoch_closed"
    INVALID_PAYLOAD = "invalid_payload"
    OUT_OF_RANGE = "out_of_range"
    POISON = "poison"
    LAPSED = "lapsed"


class Hold(StrEnum):
    """Why an authentic message waits: its device is quarantined, or the message needs a person."""

    QUARANTINED = "quarantined"
    EQUIVOCATION = "equivocation"
    COUNTER_ROLLBACK = "counter_rollback"
    SEQ_JUMP = "seq_jump"
    EPOCH_UNKNOWN = "epoch_unknown"
    CLOCK_FUTURE = "clock_future"
    STALE = "stale"
    KEY_RETIRED = "key_retired"
    SCHEMA_UNKNOWN = "schema_unknown"
    RATE_LIMITED = "rate_limited"


class TimeQuality(StrEnum):
    """How far the device's clock stood from the broker's when the message was appended."""

    OK = "ok"
    AHEAD = "ahead"
    BEHIND = "behind"


class Limit(StrEnum):
    """Whose bucket was empty when a message was held `rate_limited`."""

    DEVICE = "device"
    TENANT = "tenant"  # its share in a partition
    FLEET = "fleet"  # a partition's share


class Evidence(StrEnum):
    """What speaks against a device. Each counts once for one content: to send it again proves nothing more."""

    EQUIVOCATION = "equivocation"  # two contents under one number
    CLONE = "clone"  # a new number in an older boot: two units take turns
    INVALID_CONTENT = "invalid_content"  # a good signature under a payload that is none
    IMPLAUSIBLE = "implausible"  # or under values that no vehicle has
    RETIRED_KEY = "retired_key"  # a number beyond the last that a retired key may sign
    RATE = "rate"  # more messages than a device may send


class AlertKind(StrEnum):
    """What somebody is told of. What each rests on, and how often it may come, is in decisions/feed.md."""

    QUARANTINE = "quarantine"
    EQUIVOCATION = "equivocation"
    CLONE = "clone"
    RETIRED_KEY_USED = "retired_key_used"
    RATE_ABUSE = "rate_abuse"
    CLOCK_DRIFT = "clock_drift"
    FLEET_GUARD = "fleet_guard"  # devices were spared, because too many of their cohort were quarantined
    SHARE_SPENT = "share_spent"  # a tenant or all together sent more into a partition than they may
    REVOKED_KEY_USED = "revoked_key_used"  # a claim: somebody names it, and nothing was verified
    CROSS_VEHICLE_KEY = "cross_vehicle_key"  # a claim: somebody names one device, and a key of another
    UNKNOWN_DEVICES = "unknown_devices"  # somebody tries ids
