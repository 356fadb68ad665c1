"""What do the worker's rooms need of the world? Two things: a log to read and a store to commit to."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from ingest.core.device import Device, KeyRing
from ingest.core.judge import Content, Priors, Suspect
from ingest.core.message import Envelope, RawRecord, Refused, Verified
from ingest.core.outcome import Outcome, Strangers
from ingest.core.rate import Bucket, Shares
from ingest.core.standing import Cohort, Trips


class TroubleError(Exception):
    """The world is bad (broker, database, network): nothing was decided; back off, take over again, recall again."""


class FencedError(TroubleError):
    """Another worker has taken the partition over: what this one was about to commit is not ours to say any more."""


class UnkeepableError(TroubleError):
    """The store refuses rows of this batch for what is in them, and will refuse them again."""


class BrokenLogError(TroubleError):
    """Records are gone that were never judged, or this is another log than was read so far: a person must decide."""


class Mark(msgspec.Struct, frozen=True):
    """What is known of a partition's log at the place where the next batch begins."""

    next_offset: int
    log_id: str | None  # which log it was, as the broker names it; None before the first take-over
    record_hash: bytes | None  # ingest.core.outcome.hash_of the record before next_offset; None when none was judged


class Log(Protocol):
    """The partitions of a topic that are assigned to this worker."""

    def seek(self, partition: int, offset: int) -> None:
        """Read on from this offset. Raises TroubleError when the partition is not (or no longer) ours."""

    async def confirm(self, partition: int, mark: Mark) -> str:
        """Compare the log with what was read of it so far; returns its id.

        Raises BrokenLogError when it is another one, or has lost what was not judged yet; TroubleError if nobody knows.
        """

    async def read(self, partition: int, offset: int) -> Sequence[RawRecord]:
        """Wait for records at or after `offset` and gather a batch within the limits; empty when none came in time.

        Raises TroubleError when the broker fails, BrokenLogError when its log is not the one that we knew.
        """

    def done(self, partition: int, next_offset: int) -> None:
        """Note what was committed, for the tools that watch the group."""

    def waiting(self, partition: int, next_offset: int) -> int:
        """Say how many records wait behind this offset, as far as it is known."""


class Transaction(Protocol):
    """One batch being committed: everything or nothing."""

    async def recall(self, accountable: Iterable[Verified]) -> Mapping[int, Device]:
        """Lock the rows of those who answer for these messages, in device order, and read them. Keyed by device_no."""

    async def priors(self, suspects: Sequence[Suspect]) -> Priors:
        """Find who owns the suspects' numbers, and whether their very content is stored or held already.

        What else was held under a number need not be found: it may be much, and makes no difference.
        """

    async def known(self, blamed: Sequence[Verified]) -> AbstractSet[Content]:
        """Find which of these contents have spoken against their devices before."""

    async def trips(self, cohorts: Collection[Cohort]) -> Mapping[Cohort, Trips]:
        """Read what happened to these cohorts of late, and let nobody else read it until the end of the block."""

    async def shares(self, tenants: AbstractSet[int]) -> Shares | None:
        """Read what these tenants, and all together, may still send into the partition; None: it does not matter."""

    async def commit(self, outcome: Outcome) -> None:
        """Write all that the batch changes and, last, move the lease's offset. Raises FencedError."""


class Lease(Protocol):
    """A partition that this worker owns until somebody takes it over."""

    @property
    def next_offset(self) -> int:
        """Where the next batch begins."""

    @property
    def mark(self) -> Mark:
        """By what the log can be known again."""

    @property
    def attempts(self) -> int:
        """How many owners died since the last commit, this one included: 1 if all is well."""

    @property
    def died_offset(self) -> int | None:
        """Where the batch began on which an owner died, of all such places the last; None: there is none."""

    @property
    def allowance(self) -> Bucket:
        """How many bytes of what is refused may still be kept."""

    @property
    def strangers(self) -> Strangers:
        """Which ids that nobody has were named of late."""

    async def confirmed(self, log_id: str) -> None:
        """Note that the log is the one that it should be."""

    async def halted(self, why: str) -> None:
        """Note that this partition's log is broken, and waits for a person."""

    async def release(self) -> None:
        """Note that this owner has given the partition up alive."""

    async def key_ring(self, messages: Iterable[Envelope | Refused]) -> KeyRing:
        """Read, without locks, the keys of the devices that these messages name."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Begin; commit at the end of the block; after any exception inside it the lease is of no more use."""


class Store(Protocol):
    """Where verdicts are kept."""

    def take_over(self, topic: str, partition: int) -> AbstractAsyncContextManager[Lease]:
        """End the previous owner, fence it, and own the partition. Raises TroubleError."""


class Notice(msgspec.Struct, frozen=True):
    """An alert as the store keeps it, in words for others."""

    number: int  # of what one device signed, in the order of the commits
    id: str
    kind: str
    subject: str
    device_id: str | None  # None: it is about no one device
    tenant: str | None
    raised_at_us: int  # since 1970 UTC, by the broker's clock
    topic: str
    incarnation: int
    partition: int
    offset: int
    evidence: str  # JSON


class Backlog(msgspec.Struct, frozen=True):
    """What is not published."""

    alerts: int = 0  # as far as they are counted
    age_s: float = 0.0  # of the oldest


class Outbox(Protocol):
    """The alerts that were committed. What fails raises TroubleError."""

    async def lead(self) -> bool:
        """Become the one who publishes, unless somebody else is; for as long as the outbox is open."""

    async def backlog(self) -> Backlog:
        """Say how much is not marked as published."""

    async def read(self, most: int) -> Sequence[Notice]:
        """Read the first that are not marked as published, in the order of their numbers."""

    async def mark(self, notices: Sequence[Notice]) -> None:
        """Mark these as published."""


class Channel(Protocol):
    """Where those listen who are to be told."""

    async def publish(self, events: Sequence[tuple[bytes, bytes]]) -> None:
        """Publish keys and values; those of a key in this order. Returns when all are acknowledged.

        Waits as long as the brokers are away. Raises TroubleError.
        """
