"""Is this the log that was read so far, and is all of it there that was not judged yet? The brokers are asked."""

import msgspec
from aiokafka import TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from ingest.adapters.batches import read
from ingest.adapters.brokers import Brokers, End, ask
from ingest.adapters.metadata import Topic
from ingest.core.outcome import hash_of
from ingest.ports import BrokenLogError, Mark, TroubleError

ONE_BATCH = 1  # byte: the broker gives the first batch whole, however large it is
DECIDE = "a person must decide where to go on, and `weighbridge partitions resume` does so"


class Bounds(msgspec.Struct, frozen=True):
    """The offset of the first record that a log holds, and the one behind the last."""

    first: int
    end: int


class Found(msgspec.Struct, frozen=True):
    """What a partition's log was found to be."""

    log_id: str
    epoch: int
    bounds: Bounds


async def compare(kafka: str, at: TopicPartition, mark: Mark) -> Found:
    """Compare a log with what is known of it. Raises BrokenLogError, or TroubleError when the brokers do not tell."""
    async with ask(kafka) as brokers:
        topic = await brokers.topic(at.topic)
        if mark.log_id not in (None, topic.log_id):
            raise BrokenLogError(
                f"{_name(at)} is another log than was read so far: its topic's id is {topic.log_id} and was "
                f"{mark.log_id}, so the topic was deleted and made anew; {DECIDE}"
            )
        bounds = await _bounds(brokers, topic, at)
        check(at, mark.next_offset, bounds)
        if mark.record_hash is not None and mark.next_offset > bounds.first:
            await _compare_record(brokers, topic, at, mark)
    return Found(topic.log_id, topic.leaders[at.partition].epoch, bounds)


async def bounds_of(kafka: str, at: TopicPartition) -> Bounds:
    """Ask where a partition's log begins and ends. Raises TroubleError."""
    async with ask(kafka) as brokers:
        return await _bounds(brokers, await brokers.topic(at.topic), at)


def check(at: TopicPartition, offset: int, bounds: Bounds) -> None:
    """Raise BrokenLogError when we cannot go on from here. Where nothing was read yet, any beginning is right."""
    if offset > bounds.end:
        raise BrokenLogError(
            f"{_name(at)} was cut off: it was read up to offset {offset} and ends at {bounds.end} now, "
            f"so what is written from here on would be passed over; {DECIDE}"
        )
    if 0 < offset < bounds.first:
        raise BrokenLogError(
            f"{_name(at)} begins at offset {bounds.first} and was read up to {offset} only: "
            f"what lay between is gone, and was never judged; {DECIDE}"
        )


async def _bounds(brokers: Brokers, topic: Topic, at: TopicPartition) -> Bounds:
    first = await brokers.offsets(topic, [at.partition], End.FIRST)
    end = await brokers.offsets(topic, [at.partition], End.LAST)
    if not first or not end:
        raise TroubleError(f"nobody says where {_name(at)} begins and ends: it has no leader now")
    return Bounds(first[at.partition], end[at.partition])


async def _compare_record(brokers: Brokers, topic: Topic, at: TopicPartition, mark: Mark) -> None:
    """Compare the last record that was judged. One that compaction took away, or that cannot be read, says nothing."""
    last = mark.next_offset - 1
    try:
        data = await brokers.fetch(topic, at.partition, last, ONE_BATCH)
    except OffsetOutOfRangeError as error:
        raise TroubleError(f"{_name(at)} moved while it was looked at") from error
    for record in read(data, at, last, 1).records:
        if record.offset == last and record.unreadable is None and hash_of(record) != mark.record_hash:
            raise BrokenLogError(
                f"{_name(at)} holds another record at offset {last} than was judged: "
                f"the log was cut off and written anew; {DECIDE}"
            )


def _name(at: TopicPartition) -> str:
    return f"partition {at.partition} of {at.topic}"
