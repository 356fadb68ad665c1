"""Which verdicts and reasons are there? The closed sets of schemas/envelope.md, and nothing else."""

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
