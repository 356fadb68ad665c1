"""A recorded trip goes over the weighbridge, and the numbers in the store are the numbers of the file: exactly."""

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from deploy import embedded
from tests.whole.house import House, open_house

pytestmark = pytest.mark.real

RECORDED = Path(__file__).parents[3] / "shared" / "data" / "ev_trips"  # beside the repository, where there are any
COLUMNS = {
    "speed": "Speed",
    "state_of_charge": "Soc",
    "latitude": "LAT",
    "longitude": "LON",
    "altitude": "ALT",
    "air_temperature": "Temperature",
    "humidity": "Humidity",
}
ROWS = 75
MADE = "a trip that was made up"


class Trip(msgspec.Struct, frozen=True):
    """A trip that was replayed: the rows of its file, and those of the store."""

    house: House
    path: Path
    given: list[dict[str, str]]


def recorded() -> list[str]:
    """Name the shortest of the recorded trips; none where there are none, so that nothing is skipped."""
    return [path.name for path in sorted(RECORDED.glob("*.csv"), key=lambda path: path.stat().st_size)[:1]]


def make_up(path: Path) -> None:
    """Write a trip whose numbers are not easily written: of many digits, negative, at their bounds."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Date", "Time", *COLUMNS.values()])
        for n in range(ROWS):
            at = datetime.fromtimestamp(1_600_000_000 + n, UTC)
            numbers = [n / 7, 100 - n / 9, -90 + n / 1_000_003, 180 - n / 3_000_017, -500 + n / 11, -7.1 * n / 13, n]
            writer.writerow([at.strftime("%m/%d/%Y"), at.strftime("%H:%M:%S"), *map(repr, numbers)])


@pytest.fixture(scope="module", params=[*recorded(), MADE])
def trip(
    request: pytest.FixtureRequest, servers: embedded.Addresses, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Trip]:
    folder = tmp_path_factory.mktemp("trip")
    path = RECORDED / request.param
    if request.param == MADE:
        path = folder / "made.csv"
        make_up(path)
    with open_house(servers, folder) as house, house.worker():
        truth = folder / "truth.jsonl"
        house.run("simulate", "--trace", path, "--truth", truth)
        house.wait_consumed(len(truth.read_text().splitlines()))
        house.check(truth)
        with path.open(newline="") as file:
            yield Trip(house, path, list(csv.DictReader(file)))


def test_every_number_of_the_trip_is_in_the_store(trip: Trip) -> None:
    rows = trip.house.query("select * from weighbridge.vehicle_state order by recorded_at, seq, sample_no")
    stored = [tuple(row[name] for name in COLUMNS) for row in rows]
    assert len(stored) == len(trip.given) >= ROWS
    assert stored == [tuple(float(row[column]) for column in COLUMNS.values()) for row in trip.given]


def test_the_time_between_the_rows_is_kept(trip: Trip) -> None:
    rows = trip.house.query("select recorded_at from weighbridge.vehicle_state order by recorded_at, seq, sample_no")
    stored = [row[0] for row in rows]
    given = [datetime.strptime(f"{r['Date']} {r['Time']} +0000", "%m/%d/%Y %H:%M:%S %z") for r in trip.given]
    assert [at - stored[0] for at in stored] == [at - given[0] for at in given]
