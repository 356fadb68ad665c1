"""How do messages come when they are due? A process that keeps to its schedule, whatever becomes of what it sent.

It speaks on stdout, a line now and then: how many were sent, what was appended where and when, and how late it was with
handing each message over. It is told on its command line what to send, and on stdin when time begins.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import RecordMetadata

from device_sim.identity import Identity
from loadtest.compare.ground import BATCH_BYTES, PARTITIONS
from loadtest.compare.product import WrongError
from loadtest.corpus import provide
from loadtest.rig.arrival import merged
from loadtest.rig.histogram import Histogram
from loadtest.rig.scenario import Stream

TICK_S = 0.05  # what is due within one goes out together
TELL_EVERY_S = 0.2


class Task(msgspec.Struct, frozen=True):
    """What one process sends: all that belongs into some of the partitions."""

    kafka: str
    topic: str
    streams: tuple[Stream, ...]
    cache: str  # a folder
    partitions: tuple[int, ...]


class Span(msgspec.Struct, frozen=True, array_like=True):
    """What was appended together."""

    partition: int
    offset: int
    count: int
    appended_at_ms: int  # by the broker


class Told(msgspec.Struct, frozen=True):
    """A line on stdout."""

    sent: int
    spans: list[Span] = []
    late_us: list[tuple[int, int]] = []  # of all, with the last line
    done: bool = False


class _Lane:
    """What is to come in one partition."""

    def __init__(self, streams: tuple[Stream, ...], partition: int) -> None:
        self.partition = partition
        self.offset = 0
        self._coming = merged([stream.flow for stream in streams], partition, PARTITIONS)
        self.next = next(self._coming, None)

    def step(self) -> None:
        """Go on to the next."""
        self.offset += 1
        self.next = next(self._coming, None)


class Sender:
    """One process's work."""

    def __init__(self, task: Task, producer: AIOKafkaProducer) -> None:
        self._task = task
        self._producer = producer
        self._corpora = [provide(one.order, Path(task.cache), lambda _done, _of: None) for one in task.streams]
        self._identities = [Identity(one.order.fleet) for one in task.streams]
        self._late = Histogram()
        self._spans: list[Span] = []
        self._sent = 0

    async def run(self, begin_at_s: float) -> None:
        """Send it all."""
        telling = asyncio.create_task(self._tell())
        try:
            await self._feed([_Lane(self._task.streams, partition) for partition in self._task.partitions], begin_at_s)
        finally:
            telling.cancel()
        say(Told(self._sent, self._spans, self._late.pairs(), done=True))

    async def _feed(self, lanes: Sequence[_Lane], begin_at_s: float) -> None:
        """Send what belongs into each partition when it is due, all of that in one request; see that it lands."""
        landing: list[asyncio.Task[None]] = []
        now_s = -1.0  # stands still until all that was due is handed over: else each few would go out by themselves
        while coming := [lane.next[0] for lane in lanes if lane.next is not None]:
            if min(coming) > now_s:
                await asyncio.sleep(max(TICK_S, min(coming) + begin_at_s - time.time()))
                now_s = time.time() - begin_at_s
                continue
            due = [lane for lane in lanes if lane.next is not None and lane.next[0] <= now_s]
            landing += [asyncio.create_task(await self._send(lane, now_s, begin_at_s)) for lane in due]
        await asyncio.gather(*landing)

    async def _send(self, lane: _Lane, now_s: float, begin_at_s: float) -> Coroutine[Any, Any, None]:
        """Hand over what is due in a partition, and what of it fits; gives what waits for it to land."""
        batch, offset = self._producer.create_batch(), lane.offset
        due = self._fill(batch, lane, now_s)
        future = await self._producer.send_batch(batch, self._task.topic, partition=lane.partition)
        handed_s = time.time() - begin_at_s
        for at_s in due:
            self._late.add(int((handed_s - at_s) * 1e6))
        return self._land(future, Span(lane.partition, offset, len(due), 0))

    def _fill(self, batch: BatchBuilder, lane: _Lane, now_s: float) -> list[float]:
        """Put into a batch what is due and fits; gives when each was due."""
        due: list[float] = []
        while lane.next is not None and lane.next[0] <= now_s:
            at_s, which, number = lane.next
            index = self._task.streams[which].index(number)
            corpus = self._corpora[which]
            key = self._identities[which].device_id(corpus.number(index)).encode()
            if batch.append(key=key, value=corpus[index], timestamp=None) is None:
                break
            due.append(at_s)
            lane.step()
        return due

    async def _land(self, future: asyncio.Future[RecordMetadata], span: Span) -> None:
        landed = await future
        if landed.offset != span.offset:
            raise WrongError(
                f"what belongs at {span.offset} of partition {span.partition} stands at {landed.offset}: "
                "somebody else writes there"
            )
        self._sent += span.count
        self._spans.append(msgspec.structs.replace(span, appended_at_ms=landed.timestamp))

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            say(Told(self._sent, self._spans))
            self._spans = []


def say(told: Told) -> None:
    """Write a line for whoever started this."""
    sys.stdout.write(msgspec.json.encode(told).decode() + "\n")
    sys.stdout.flush()


async def _main(task: Task) -> None:
    producer = AIOKafkaProducer(
        bootstrap_servers=task.kafka, enable_idempotence=True, acks="all", max_batch_size=BATCH_BYTES, linger_ms=0
    )
    await producer.start()
    try:
        sender = Sender(task, producer)
        say(Told(0))
        begin_at_s = float(await asyncio.to_thread(sys.stdin.readline))
        await sender.run(begin_at_s)
    finally:
        await producer.stop()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_main(msgspec.json.decode(sys.argv[1], type=Task)))
