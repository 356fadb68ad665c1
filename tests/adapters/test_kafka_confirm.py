"""Whether a log is the one that was read so far, and whole where it was not judged yet, is found out: on real Kafka."""

import pytest

from deploy import embedded
from ingest.adapters.kafka import KafkaLog
from ingest.adapters.watch import VIGILANCE, Watch
from ingest.config import Settings
from ingest.core.outcome import hash_of
from ingest.ports import BrokenLogError, Mark, TroubleError
from tests.adapters.member import delete, forget, joined, read_some, replace, send, settings_for, transact
from tests.conftest import FreshTopic

pytestmark = pytest.mark.real

VALUES = [b"0", b"1", b"2", b"3", b"4"]
NOTHING = Mark(0, None, None)


@pytest.fixture
async def settings(servers: embedded.Addresses, fresh_topic: FreshTopic) -> Settings:
    return settings_for(servers.kafka, await fresh_topic())


def unread(settings: Settings) -> KafkaLog:
    """A log that has no consumer: to confirm, it needs none."""
    return KafkaLog(None, settings, Watch(settings, "nobody", VIGILANCE))


async def read_up_to(log: KafkaLog, next_offset: int) -> Mark:
    """Read, and take down what would be committed."""
    log_id = await log.confirm(0, NOTHING)
    log.seek(0, 0)
    records = {record.offset: record for record in await read_some(log, 0)}
    return Mark(next_offset, log_id, hash_of(records[next_offset - 1]))


@pytest.mark.parametrize("before", [3, 4, 5])
async def test_records_that_went_after_they_were_judged_are_not_missed(settings: Settings, before: int) -> None:
    await send(settings, VALUES)
    async with joined(settings) as log:
        mark = await read_up_to(log, 5)
        await forget(settings, before)
        assert await log.confirm(0, mark) == mark.log_id


async def test_records_that_went_before_they_were_judged_break_the_log(settings: Settings) -> None:
    await send(settings, VALUES)
    async with joined(settings) as log:
        mark = await read_up_to(log, 2)
        await forget(settings, 3)
        with pytest.raises(BrokenLogError, match=r"begins at offset 3 .* up to 2 only.*weighbridge partitions resume"):
            await log.confirm(0, mark)
        assert await log.confirm(0, NOTHING) == mark.log_id  # where nothing was read yet, any beginning is right


async def test_a_log_whose_oldest_records_go_while_it_is_read_is_broken(settings: Settings) -> None:
    await send(settings, VALUES)
    async with joined(settings) as log:
        await forget(settings, 3)
        log.seek(0, 2)
        with pytest.raises(BrokenLogError, match="begins at offset 3"):
            await read_some(log, 2)


async def test_a_log_that_was_cut_off_below_what_is_read_next_is_broken(settings: Settings) -> None:
    await send(settings, VALUES)
    async with joined(settings) as log:
        log.seek(0, 6)
        with pytest.raises(BrokenLogError, match="up to offset 6 and ends at 5"):
            await read_some(log, 6)


@pytest.mark.parametrize("values", [[], VALUES[:1], VALUES * 2])
async def test_a_topic_that_was_made_anew_is_another_log_however_long_it_is(
    settings: Settings, values: list[bytes]
) -> None:
    await send(settings, VALUES)
    async with joined(settings) as log:
        mark = await read_up_to(log, 3)
        await replace(settings)
        await send(settings, values)
        with pytest.raises(BrokenLogError, match=rf"another log.* was {mark.log_id}.*weighbridge partitions resume"):
            await log.confirm(0, mark)


async def test_a_log_that_was_cut_off_is_broken_also_when_it_grew_again(settings: Settings) -> None:
    """Marks stand in for a log that lost its end: brokers of one machine do not lose any."""
    await send(settings, VALUES)
    async with joined(settings) as log:
        mark = await read_up_to(log, 3)
        assert await log.confirm(0, mark) == mark.log_id
        with pytest.raises(BrokenLogError, match="up to offset 6 and ends at 5"):
            await log.confirm(0, Mark(6, mark.log_id, mark.record_hash))
        with pytest.raises(BrokenLogError, match="another record at offset 3"):
            await log.confirm(0, Mark(4, mark.log_id, mark.record_hash))


async def test_a_mark_of_before_logs_were_known_is_compared_as_far_as_it_goes(settings: Settings) -> None:
    await send(settings, VALUES)
    async with joined(settings) as log:
        assert len(await log.confirm(0, Mark(4, None, None))) == 22  # as Kafka's own tools print a topic's id
        with pytest.raises(BrokenLogError):
            await log.confirm(0, Mark(6, None, None))


async def test_a_record_that_is_gone_or_is_no_record_says_nothing(settings: Settings) -> None:
    """The fourth place is a transaction's marker; after compaction it may be as empty."""
    await transact(settings, VALUES[:3])
    async with joined(settings) as log:
        mark = await read_up_to(log, 3)
        assert await log.confirm(0, Mark(4, mark.log_id, mark.record_hash)) == mark.log_id


async def test_a_topic_that_is_not_there_is_trouble_that_says_so(settings: Settings) -> None:
    await delete(settings)
    log = unread(settings)
    with pytest.raises(TroubleError, match=f"there is no topic {settings.topic}") as caught:
        await log.confirm(0, NOTHING)
    assert not isinstance(caught.value, BrokenLogError)


async def test_brokers_that_cannot_be_asked_are_trouble() -> None:
    log = unread(settings_for("127.0.0.1:1", "any"))
    with pytest.raises(TroubleError, match=r"asking Kafka at 127\.0\.0\.1:1") as caught:
        await log.confirm(0, NOTHING)
    assert not isinstance(caught.value, BrokenLogError)
