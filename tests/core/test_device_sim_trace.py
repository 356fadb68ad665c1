"""Do a recorded trip's numbers reach the wire unchanged?"""

import csv
import io
from pathlib import Path
from typing import Any

import cbor2
import fastavro
import pytest

from device_sim.identity import Fleet
from device_sim.trace import COLUMNS, Trip, sends, survey
from device_sim.wire import CLAIM_ISSUED, CLAIM_SEQ, LABEL_CLAIMS, load
from ingest.core.verdict import Verdict

TRIPS = Path(__file__).parents[3] / "shared" / "data" / "ev_trips"
END_S = 1_795_000_000.25
FLEET = Fleet(1, vehicles=1, kind="trip")
HEAD = "Date,Time,Soc,Speed,LAT,LON,ALT,Temperature,Humidity\n"
ROWS = (
    "03/29/2021,11:13:45,87.54,0.0,33.986225,-6.725523,140.0,20.0,60.0\n"
    "03/29/2021,11:13:46,87.5,12.25,33.986226,-6.725524,140.0,20.0,60.0\n"
    "03/29/2021,11:13:48,87.4,20.5,33.986227,-6.725525,139.0,20.0,60.0\n"
)


def written(path: Path, text: str, **columns: str) -> Trip:
    path.write_text(text)
    return Trip(path, columns or COLUMNS, samples=2)


def arrived(trip: Trip) -> list[tuple[dict[int, Any], list[dict[str, Any]]]]:
    schema = load()["1.1"]
    messages = []
    for send in sends(trip, survey(trip), FLEET, END_S):
        assert send.verdict is Verdict.ACCEPTED
        protected, _, payload, _ = cbor2.loads(send.value or b"").value
        assert payload[2:10] == schema.fingerprint
        body: Any = fastavro.schemaless_reader(io.BytesIO(payload[10:]), schema.parsed, None)
        messages.append((cbor2.loads(protected)[LABEL_CLAIMS], body["samples"]))
    return messages


def test_numbers_are_unchanged_and_times_keep_their_spacing(tmp_path: Path) -> None:
    messages = arrived(written(tmp_path / "trip.csv", HEAD + ROWS))
    samples = [sample for _, several in messages for sample in several]
    assert [len(several) for _, several in messages] == [2, 1]
    assert [sample["speed"] for sample in samples] == [0.0, 12.25, 20.5]
    assert [sample["longitude"] for sample in samples] == [-6.725523, -6.725524, -6.725525]
    ends_us = round(END_S * 1e6)
    assert [sample["recorded_at_us"] - ends_us for sample in samples] == [-3_000_000, -2_000_000, 0]
    assert [sample["is_moving"] for sample in samples] == [False, True, True]
    assert samples[0]["motor_speed"] is None
    assert samples[0]["traveled_distance_m"] == 0
    assert [claims[CLAIM_ISSUED] for claims, _ in messages] == [END_S - 2, END_S]
    assert messages[1][0][CLAIM_SEQ] == messages[0][0][CLAIM_SEQ] + 1


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("90/02/2032,11:13:47,87,1,33,-6,1,20,60\n", "is no time"),
        ("03/29/2021,11:13:47,,1,33,-6,1,20,60\n", "Soc is missing"),
        ("03/29/2021,11:13:47,87,fast,33,-6,1,20,60\n", "Speed is 'fast'"),
        ("03/29/2021,11:13:47,87,401,33,-6,1,20,60\n", "Speed is 401"),
        ("03/29/2021,11:13:47,87,nan,33,-6,1,20,60\n", "Speed is nan"),
        ("03/29/2021,11:13:47,87\n", "Speed is missing"),
    ],
)
def test_a_row_that_cannot_be_sent_is_counted_named_and_skipped(tmp_path: Path, row: str, problem: str) -> None:
    trip = written(tmp_path / "trip.csv", HEAD + row + ROWS)
    found = survey(trip)
    assert (found.taken, found.skipped) == (3, 1)
    assert found.first_skipped.startswith("line 2: ")
    assert problem in found.first_skipped
    assert sum(len(samples) for _, samples in arrived(trip)) == 3


def test_a_trip_without_a_row_that_can_be_sent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no row can be sent"):
        survey(written(tmp_path / "trip.csv", HEAD))


def test_a_mapping_to_what_is_not_there_is_refused_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no column Velocity; its columns are Date, Time, Soc"):
        survey(written(tmp_path / "trip.csv", HEAD + ROWS, recorded_at="Date+Time", speed="Velocity"))
    with pytest.raises(ValueError, match="no field velocity; its fields are recorded_at, speed"):
        survey(written(tmp_path / "trip.csv", HEAD + ROWS, recorded_at="Date+Time", velocity="Speed"))
    with pytest.raises(ValueError, match="must name the columns of the time"):
        survey(written(tmp_path / "trip.csv", HEAD + ROWS, speed="Speed"))


def test_seconds_and_iso_times_are_times_too(tmp_path: Path) -> None:
    text = "t,v\n2026-11-22T10:00:00+01:00,1\n2026-11-22T09:00:01Z,2\n"
    trip = written(tmp_path / "trip.csv", text, recorded_at="t", speed="v")
    times = [sample["recorded_at_us"] for _, samples in arrived(trip) for sample in samples]
    assert times[1] - times[0] == 1_000_000
    trip = written(tmp_path / "trip.csv", "t,v\n0,1\n0.5,2\n", recorded_at="t", speed="v")
    times = [sample["recorded_at_us"] for _, samples in arrived(trip) for sample in samples]
    assert times[1] - times[0] == 500_000


def test_a_trip_of_more_than_25_days_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than 25 days"):
        survey(written(tmp_path / "trip.csv", "t,v\n0,1\n2200000,1\n", recorded_at="t", speed="v"))


@pytest.mark.parametrize("path", sorted(TRIPS.glob("*.csv")), ids=lambda path: path.stem)
def test_a_real_trip_arrives_whole(path: Path) -> None:
    trip = Trip(path, COLUMNS, samples=50)
    found = survey(trip)
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["Date"].startswith("90/")]
    samples = [sample for _, several in arrived(trip) for sample in several]
    assert found.taken == len(rows) == len(samples)
    for row, sample in zip(rows, samples, strict=True):
        for name, column in COLUMNS.items():
            if name != "recorded_at":
                assert sample[name] == float(row[column])
