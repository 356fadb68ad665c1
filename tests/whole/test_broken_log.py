"""Records vanish unread, a topic is made anew: the partition halts loudly, others go on, and a person lets it go on."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from deploy import embedded
from tests.whole.house import House, Record, Running, as_admin, delete_topics, open_house, wait_for

pytestmark = pytest.mark.real

VALUES = [bytes([number]) * 3 for number in range(10)]  # no envelopes: what each is refused for does not matter here


@pytest.fixture
def house(servers: embedded.Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(servers, tmp_path_factory.mktemp("broken"), partitions=2) as house:
        yield house


def delete_below(house: House, offset: int) -> None:
    """Delete records as retention does."""
    at = TopicPartition(house.topic, 0)
    asyncio.run(as_admin(house.kafka, lambda admin: admin.delete_records({at: RecordsToDelete(offset)})))


def wait_halted(house: House, worker: Running) -> str:
    """Wait until partition 0 is halted, and nothing else; returns why."""
    wait_for(lambda: bool(worker.events("halted")), lambda: "nothing was halted")
    listed = [json.loads(line) for line in house.run("partitions", "list", "--json").stdout.splitlines()]
    assert [row["partition"] for row in listed if row["halted_why"]] == [0]
    return str(listed[0]["halted_why"])


def verdicts(house: House) -> list[tuple[int, int]]:
    rows = house.query("select incarnation, kafka_offset from weighbridge.verdict where partition = 0 order by 1, 2")
    return [(row[0], row[1]) for row in rows]


def test_records_that_vanished_before_they_were_judged_halt_their_partition_and_leave_a_gap(house: House) -> None:
    house.send([Record(value) for value in VALUES[:3]])
    with house.worker():
        house.wait_consumed(3)
    house.send([Record(value) for value in VALUES[3:]])
    delete_below(house, 6)
    with house.worker() as worker:
        assert "begins at offset 6 and was read up to 3" in wait_halted(house, worker)
        house.send([Record(b"other", partition=1)])
        house.wait_consumed(4)
        assert "not halted" in house.refuse("partitions", "resume", "1", "--reason", "a slip of the hand")
        said = house.run("partitions", "resume", "0", "--reason", "retention was too short", "--by", "me").stdout
        assert "passes over 3 lost records" in said
        house.wait_consumed(8)
    assert verdicts(house) == [(1, offset) for offset in (0, 1, 2, 6, 7, 8, 9)]
    house.check_tiles()
    kept = house.query("select next_offset, went_on_at, lost, reason, actor from weighbridge.resumption")
    assert [tuple(row) for row in kept] == [(3, 6, 3, "retention was too short", "me")]


def test_a_topic_made_anew_halts_its_partitions_and_is_read_from_its_beginning_as_another_incarnation(
    house: House,
) -> None:
    house.send([Record(value) for value in VALUES[:3]])
    with house.worker() as worker:
        house.wait_consumed(3)
        asyncio.run(delete_topics(house.kafka, house.topic))
        house.run("prepare", "--partitions", "1")
        house.send([Record(value) for value in VALUES])
        assert "another log" in wait_halted(house, worker)
        assert verdicts(house) == [(1, 0), (1, 1), (1, 2)]
        said = house.run("partitions", "resume", "0", "--reason", "it was deleted by mistake").stdout
        assert "reads its new log from the beginning" in said
        house.wait_consumed(3 + len(VALUES))
    assert verdicts(house) == [(1, 0), (1, 1), (1, 2), *((2, offset) for offset in range(len(VALUES)))]
    kept = house.query("select incarnation, went_on_in, lost from weighbridge.resumption")
    assert [tuple(row) for row in kept] == [(1, 2, None)]
