"""How does a recorded trip become messages? Each row of a CSV file one VehicleState, its numbers unchanged."""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from device_sim.identity import Fleet, Identity
from device_sim.sampling import VEHICLE_STATE
from device_sim.vehicle import Send, Turn, World, build
from device_sim.wire import Sample, Schema, load

TIME = "recorded_at"  # the mapping's name for the columns that tell the time, joined by +
# The columns of the RSK Twizy trips.
COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        TIME: "Date+Time",
        "speed": "Speed",
        "state_of_charge": "Soc",
        "latitude": "LAT",
        "longitude": "LON",
        "altitude": "ALT",
        "air_temperature": "Temperature",
        "humidity": "Humidity",
    }
)

_VERSION = "1.1"
_TRIP_S_MAX = 25 * 86_400  # a message may be 30 days old
_NEUTRAL = MappingProxyType(
    {"speed": 0.0, "traveled_distance_m": 0, "current_gear": 0, "is_moving": False, "state_of_charge": 0.0}
)
_FLAGS = MappingProxyType({"true": True, "1": True, "false": False, "0": False})
_PARSERS: Mapping[str, Callable[[str], Any]] = MappingProxyType(
    {"double": float, "int": int, "long": int, "boolean": lambda text: _FLAGS[text.lower()]}
)


class Trip(msgspec.Struct, frozen=True):
    """A recorded trip: the file, which column feeds which field, and how many rows go into one message."""

    path: Path
    columns: Mapping[str, str]
    samples: int


class Survey(msgspec.Struct, frozen=True):
    """What a first reading of a trip found."""

    taken: int
    skipped: int
    first_skipped: str  # which row, and why; "" if none
    last_s: float  # when the trip ends, by its own clock


class _Field(msgspec.Struct, frozen=True):
    """A field that a column feeds: how its text is read, and what its schema allows."""

    name: str
    column: str
    parse: Callable[[str], Any]
    minimum: float
    maximum: float

    def read(self, row: Mapping[str, str | None]) -> float:
        """Read the field's value; raises ValueError that says what is wrong with it."""
        text = (row[self.column] or "").strip()
        if not text:
            raise ValueError(f"{self.column} is missing")
        try:
            value = self.parse(text)
        except (ValueError, KeyError):
            raise ValueError(f"{self.column} is {text!r}, which is no value for {self.name}") from None
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{self.column} is {text}; {self.name} lies in {self.minimum} .. {self.maximum}")
        return value  # type: ignore[no-any-return]  # what parse gives is what the schema's type asks for


def survey(trip: Trip) -> Survey:
    """Read the trip once: how much of it can be sent, and when it ends."""
    taken, problems, first_s, last_s = 0, 0, float("inf"), float("-inf")
    first_problem = ""
    for found in _rows(trip, load()[_VERSION]):
        if isinstance(found, str):
            problems += 1
            first_problem = first_problem or found
        else:
            taken += 1
            first_s, last_s = min(first_s, found[0]), max(last_s, found[0])
    if not taken:
        raise ValueError(f"{trip.path}: no row can be sent; {first_problem or 'it has none'}")
    if last_s - first_s > _TRIP_S_MAX:
        raise ValueError(f"{trip.path}: the trip lasts more than 25 days, so its first rows would be held as stale")
    return Survey(taken, problems, first_problem, last_s)


def sends(trip: Trip, found: Survey, fleet: Fleet, end_s: float) -> Iterator[Send]:
    """Replay the trip as one vehicle's messages, shifted so that it ends at `end_s`, its spacing kept."""
    world = World(Identity(fleet), load(), end_s, interval_s=1.0, samples_max=trip.samples)
    vehicle = build(world, 0)
    vehicle.updates = 1  # with this update the device writes schema 1.1
    shift_s = end_s - found.last_s
    samples: list[Sample] = []
    taken = (row for row in _rows(trip, world.schemas[_VERSION]) if not isinstance(row, str))
    for count, (at_s, fields) in enumerate(taken, 1):
        at_s += shift_s  # noqa: PLW2901 - from the trip's clock to ours
        samples.append((VEHICLE_STATE, {"recorded_at_us": round(at_s * 1e6), **fields}))
        if len(samples) == trip.samples or count == found.taken:
            turn = Turn(world, vehicle, at_s)
            yield turn.accepted(turn.say(samples, vehicle.seq + 1, at_s).seal())
            turn.spend()
            samples = []


def _rows(trip: Trip, schema: Schema) -> Iterator[tuple[float, dict[str, Any]] | str]:
    """Give each row's time and fields, or what is wrong with it."""
    with trip.path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        _check_columns(trip, reader.fieldnames or ())
        fields = _fields(trip, schema)
        for row in reader:
            try:
                yield _time(trip, row), _state(fields, row)
            except ValueError as problem:
                yield f"line {reader.line_num}: {problem}"


def _state(fields: list[_Field], row: Mapping[str, str | None]) -> dict[str, Any]:
    read = {field.name: field.read(row) for field in fields}
    state = {**_NEUTRAL, **read}
    if "is_moving" not in read:
        state["is_moving"] = state["speed"] > 0
    return state


def _time(trip: Trip, row: Mapping[str, str | None]) -> float:
    """Read a time: seconds, ISO 8601, or month/day/year with hours, minutes and seconds. Only differences matter."""
    text = " ".join((row[column] or "").strip() for column in trip.columns[TIME].split("+"))
    for parse in (float, _iso, _american):
        try:
            return parse(text)
        except ValueError:
            continue
    raise ValueError(f"{text!r} is no time (seconds, ISO 8601 or month/day/year h:m:s)")


def _iso(text: str) -> float:
    return _utc(datetime.fromisoformat(text))


def _american(text: str) -> float:
    return _utc(datetime.strptime(text, "%m/%d/%Y %H:%M:%S").replace(tzinfo=UTC))


def _utc(moment: datetime) -> float:
    """Take a time without a zone for UTC: the machine's own zone would bend the trip where the clocks change."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _check_columns(trip: Trip, present: Sequence[str]) -> None:
    wanted = {part for column in trip.columns.values() for part in column.split("+")}
    if missing := sorted(wanted - set(present)):
        raise ValueError(f"{trip.path} has no column {', '.join(missing)}; its columns are {', '.join(present)}")


def _fields(trip: Trip, schema: Schema) -> list[_Field]:
    kinds = schema.definition["fields"][0]["type"]["items"]
    state = next(kind for kind in kinds if kind["name"] == "VehicleState")
    known = {field["name"]: field for field in state["fields"] if field["name"] != "recorded_at_us"}
    if strange := sorted(set(trip.columns) - set(known) - {TIME}):
        raise ValueError(f"VehicleState has no field {', '.join(strange)}; its fields are {TIME}, {', '.join(known)}")
    if TIME not in trip.columns:
        raise ValueError(f"the mapping must name the columns of the time, such as {TIME}=Date+Time")
    return [_field(known[name], column) for name, column in trip.columns.items() if name != TIME]


def _field(described: dict[str, Any], column: str) -> _Field:
    kind = described["type"]
    plain = kind[1] if isinstance(kind, list) else kind
    return _Field(described["name"], column, _PARSERS[plain], described.get("minimum", 0), described.get("maximum", 1))
