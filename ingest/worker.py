"""How does a batch go through the house? Read, examine, recall, judge, commit: one loop for each partition of ours.

The loop holds no state between batches: nothing to flush on a rebalance, nothing to invalidate after a crash.
Trouble of the world is never a verdict: nothing was committed, so the partition is taken over and recalled again.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import Protocol

import msgspec
import structlog

from ingest.core.alert import alarm
from ingest.core.device import KeyRing
from ingest.core.evidence import allot
from ingest.core.examine import Examiner
from ingest.core.judge import KeysMovedError
from ingest.core.message import Envelope, Examined, RawRecord, Reading, Refused
from ingest.core.outcome import Outcome, span_of
from ingest.core.verdict import Refusal, Verdict
from ingest.decision import decide
from ingest.pace import Pace
from ingest.ports import BrokenLogError, FencedError, Lease, Log, Store, TroubleError

STEP_MESSAGES_MAX = 6_400  # examined between two turns of the event loop: 60 ms at the pace of the fast engine,
STEP_BYTES_MAX = 2**16  # unless they are large: one more message may be as dear as its bytes allow
USUAL_BYTES = 512  # of a message, which do not count as large
BATCHES_AT_ONCE = 3  # of all partitions: while one commits another is examined; what else was read waits as bytes
TRIALS_AT_ONCE = 3  # each has a child of 50 MB: where memory was short before, it would be again
ROUNDS_MAX = 10  # of one batch whose senders' keys move while it is examined

Trial = Callable[[Examiner, Sequence[Envelope | Refused], KeyRing], Awaitable[Collection[int]]]


class Observer(Protocol):
    """Who is told what happened: the metrics."""

    def begun(self, partition: int) -> None:
        """Take note of a partition that is ours from now on, whatever comes of it."""

    def taken(self, partition: int) -> None:
        """Take note of a partition taken over, its log confirmed: at first, and again after each trouble."""

    def idle(self, partition: int, waiting: int) -> None:
        """Take note of a read that found nothing, though so many records may be waiting."""

    def batch(self, outcome: Outcome, seconds: float, waiting: int) -> None:
        """Take note of a committed batch, the time it took, and how many records wait behind it."""

    def trouble(self, partition: int, error: TroubleError) -> None:
        """Take note of an attempt that came to nothing."""

    def left(self, partition: int) -> None:
        """Take note of a partition that is not ours any more."""


class Limits(msgspec.Struct, frozen=True):
    """How much one batch may hold; that it holds no more bytes than it may is the log's affair."""

    records_max: int = 12_500
    samples_max: int = 25_000  # neither records nor bytes bound these: 8 KiB may hold a thousand


class Worker(msgspec.Struct, frozen=True):
    """What the loops share: the log, the store, the examiner, the means to try what kills, and who is told."""

    topic: str
    log: Log
    store: Store
    examiner: Examiner
    find_killers: Trial
    observer: Observer
    limits: Limits = Limits()
    benches: asyncio.Semaphore = msgspec.field(default_factory=lambda: asyncio.Semaphore(BATCHES_AT_ONCE))
    trials: asyncio.Semaphore = msgspec.field(default_factory=lambda: asyncio.Semaphore(TRIALS_AT_ONCE))
    examining: asyncio.Lock = msgspec.field(default_factory=asyncio.Lock)  # one by one; side by side all would end late

    async def tend(self, partition: int, stopping: asyncio.Event) -> None:
        """Own one partition until told to stop; through any trouble, with a bounded back-off and jitter."""
        self.observer.begun(partition)
        try:
            await self._tend(Pace(partition, self.limits.records_max), stopping)
        finally:
            self.observer.left(partition)

    async def _tend(self, pace: Pace, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                async with self.store.take_over(self.topic, pace.partition) as lease:
                    await self._own(lease, pace, stopping)
            except TroubleError as error:
                self.observer.trouble(pace.partition, error)
                backoff_s = pace.failed(error)
                _report(pace.partition, error, backoff_s)
                await _pause(stopping, backoff_s * random.uniform(0.5, 1.5))  # noqa: S311 (spreads the retries; no secret)

    async def _own(self, lease: Lease, pace: Pace, stopping: asyncio.Event) -> None:
        """Take batch after batch, as long as the log is the one that it was."""
        try:
            await lease.confirmed(await self.log.confirm(pace.partition, lease.mark))
            self.log.seek(pace.partition, lease.next_offset)
            self.observer.taken(pace.partition)
            pace.begin(lease)
            while not stopping.is_set():
                await self._turn(lease, pace, stopping)
        except BrokenLogError as error:
            await lease.halted(str(error))
            raise
        await lease.release()

    async def _turn(self, lease: Lease, pace: Pace, stopping: asyncio.Event) -> None:
        """Take through what the log gives, once a bench is free."""
        records = await self.log.read(pace.partition, lease.next_offset)
        if records:
            # Where a message has ended processes it is looked for first, which is slow and in nobody else's way.
            async with self.trials if pace.careful else self.benches:
                await self._take_through(lease, pace, records, stopping)
        else:
            self.observer.idle(pace.partition, self.log.waiting(pace.partition, lease.next_offset))
            pace.idle()

    async def _take_through(
        self, lease: Lease, pace: Pace, records: Sequence[RawRecord], stopping: asyncio.Event
    ) -> None:
        """Take records through, in as many parts as their samples and the pace need."""
        messages = self.examiner.read(records)
        at = 0
        while at < len(messages) and not stopping.is_set():
            started = time.monotonic()
            outcome = await self._weigh(lease, pace, pace.take(messages[at:]))
            at += outcome.consumed
            pace.committed(outcome.consumed)
            self.log.done(pace.partition, outcome.span.to_offset)
            waiting = self.log.waiting(pace.partition, outcome.span.to_offset)
            self.observer.batch(outcome, time.monotonic() - started, waiting)
            _report_batch(outcome, time.monotonic() - started, waiting)

    async def _weigh(self, lease: Lease, pace: Pace, messages: Sequence[Envelope | Refused]) -> Outcome:
        """Walk the corridor once; a key that changes between the reading and the lock sends the batch round again."""
        policy = self.examiner.policy
        for _ in range(ROUNDS_MAX):
            ring = await lease.key_ring(messages)
            if pace.careful:
                messages = _without(messages, await self.find_killers(self.examiner, messages, ring))
            async with self.examining:
                examined = await self._examine(messages, ring)
            span = span_of([message.record for message in messages[: len(examined)]], lease.next_offset)
            try:
                async with lease.transaction() as transaction:
                    outcome = await decide(transaction, examined, policy, span)
                    outcome = alarm(allot(outcome, lease.allowance, policy), lease.strangers, policy)
                    await transaction.commit(outcome)
            except KeysMovedError:
                continue
            return outcome
        raise TroubleError(f"keys moved between reading and lock {ROUNDS_MAX} times in a row")

    async def _examine(self, messages: Sequence[Envelope | Refused], ring: KeyRing) -> list[Examined]:
        """Examine in steps, so that heartbeats and the other partitions get their turn; no further than to the bound.

        Any cut of the log into batches gives the same verdicts, so what is left may be the next batch.
        """
        examined: list[Examined] = []
        samples = 0
        for step in _steps(messages):
            examined += (done := self.examiner.examine(step, ring))
            samples += sum([len(message.samples) for message in done if type(message) is Reading])
            await asyncio.sleep(0)
            if samples >= self.limits.samples_max:
                break
        return examined


def _without(messages: Sequence[Envelope | Refused], killers: Collection[int]) -> list[Envelope | Refused]:
    """Refuse those messages, by their index, that ended a process which examined them."""
    return [
        Refused(message.record, Refusal.POISON, "it ended the process that examined it")
        if index in killers
        else message
        for index, message in enumerate(messages)
    ]


def _steps(messages: Sequence[Envelope | Refused]) -> Iterator[Sequence[Envelope | Refused]]:
    """Cut where a step has messages or bytes enough."""
    sizes = [len(message.record.value) for message in messages]
    start = size = 0
    for end, one in enumerate(sizes, 1):
        if one > USUAL_BYTES:
            size += one - USUAL_BYTES
        if end - start == STEP_MESSAGES_MAX or size >= STEP_BYTES_MAX or end == len(sizes):
            yield messages[start:end]
            start, size = end, 0


def _report_batch(outcome: Outcome, seconds: float, waiting: int) -> None:
    span = outcome.span
    totals = {verdict.value: outcome.total(verdict) for verdict in Verdict}
    where = {"partition": span.partition, "from_offset": span.from_offset, "to_offset": span.to_offset}
    skipped = sum(end - start for start, end in span.skipped)
    structlog.get_logger().info("batch", **where, **totals, skipped=skipped, seconds=round(seconds, 3), waiting=waiting)


def _report(partition: int, error: TroubleError, backoff_s: float) -> None:
    log = structlog.get_logger()
    tell, event = log.warning, "trouble"
    if isinstance(error, BrokenLogError):
        tell, event = log.error, "halted"
    elif isinstance(error, FencedError):
        event = "fenced"
    tell(event, partition=partition, error=str(error), retry_in_s=round(backoff_s, 2))


async def _pause(stopping: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stopping.wait()
