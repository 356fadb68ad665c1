"""Which messages are wanted? An order; the same one always gives the same messages, but for the time of day."""

import hashlib
from enum import StrEnum

import msgspec

from device_sim.identity import Fleet
from ingest.core.device import Algorithm

FORMAT = 1  # of the files, and of what is written into the messages: a change of either makes cached ones unfit


class Content(StrEnum):
    """What is said, and what it deserves. How each is written stands in `content`."""

    HONEST = "honest"
    FORGED = "forged"
    MALFORMED = "malformed"
    OVERSIZE = "oversize"
    UNKNOWN_DEVICE = "unknown_device"
    UNKNOWN_KEY = "unknown_key"
    WRONG_DEVICE = "wrong_device"
    ALGORITHM_MISMATCH = "algorithm_mismatch"
    EXPIRED = "expired"
    EPOCH_UNKNOWN = "epoch_unknown"
    INVALID_PAYLOAD = "invalid_payload"
    OUT_OF_RANGE = "out_of_range"
    SCHEMA_UNKNOWN = "schema_unknown"
    CLOCK_FUTURE = "clock_future"
    STALE = "stale"
    SEQ_JUMP = "seq_jump"
    EQUIVOCATION = "equivocation"  # after the honest ones
    COUNTER_ROLLBACK = "counter_rollback"  # the same


class Order(msgspec.Struct, frozen=True):
    """A corpus that is wanted: message number i is of device number i modulo `devices`."""

    devices: int
    messages: int
    samples: int = 1  # in each message
    algorithm: Algorithm = Algorithm.ED25519
    content: Content = Content.HONEST
    seed: int = 1

    @property
    def fleet(self) -> Fleet:
        """Who sends. Orders that differ in nothing else have the same fleet, so one enrolment serves them."""
        share = 1.0 if self.algorithm is Algorithm.P256 else 0.0
        return Fleet(self.seed, self.devices, kind="load", p256_share=share)

    def digest(self) -> str:
        """Name the corpus: by all that makes it what it is."""
        return hashlib.sha256(msgspec.json.encode((FORMAT, self), order="sorted")).hexdigest()[:24]

    def __str__(self) -> str:
        return (
            f"{self.messages:,} {self.content} messages of {self.devices:,} devices, "
            f"{self.samples} samples each, {self.algorithm}"
        )
