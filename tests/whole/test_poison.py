"""A message that kills the process that examines it costs a few processes, and nobody but its sender anything."""

import signal
from collections.abc import Iterator

import pytest

from deploy import embedded
from tests.whole.device import Stranger, ed25519_key
from tests.whole.house import House, Record, open_house, wait_for

pytestmark = pytest.mark.real

BATCH = 40
PARTITIONS = 2
ROUNDS = 120
PILLS = {(0, 0), (0, 7), (0, 8), (0, 100), (1, 20)}  # partition and round: first of all, close together, batches apart
DEATHS_PER_PILL_MAX = 3
STORM_S_MAX = 240.0  # each death is known to the group only when its session has timed out, after 10 s


@pytest.fixture
def house(servers: embedded.Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(servers, tmp_path_factory.mktemp("poison"), PARTITIONS, batch_records_max=BATCH) as house:
        yield house


def test_pills_are_refused_their_neighbours_are_stored_and_nobody_dies_more_often_than_three_times_for_each(
    house: House,
) -> None:
    senders = [Stranger(f"sender-{partition}", ed25519_key()) for partition in range(PARTITIONS)]
    house.enrol([sender.registration() for sender in senders])
    places = [(partition, at) for at in range(ROUNDS) for partition in range(PARTITIONS)]
    software = {place: "pill: crash" if place in PILLS else "unit 1.0" for place in places}
    house.send([Record(senders[place[0]].say(place[1] + 1, m70004=software[place]), place[0]) for place in places])

    with house.running("tests.whole.frail") as supervisor:
        wait_for(lambda: house.consumed() == len(places), lambda: f"{house.consumed()} consumed", STORM_S_MAX)

    given = house.query("select partition, kafka_offset, verdict, coalesce(reason, '') from weighbridge.verdict")
    assert {(row[0], row[1]): (row[2], row[3]) for row in given} == {
        place: ("refused", "poison") if place in PILLS else ("accepted", "") for place in places
    }
    left = house.query("select partition, next_offset from store.partition_lease order by 1")
    assert [tuple(row) for row in left] == [(partition, ROUNDS) for partition in range(PARTITIONS)]
    house.check_tiles()
    died = [event["status"] for event in supervisor.events("worker_died")]
    assert set(died) == {-signal.SIGSEGV}
    assert len(died) <= DEATHS_PER_PILL_MAX * len(PILLS)
