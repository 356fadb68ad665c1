"""What does a person type to have a fleet on the road? One command, `simulate`."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
import msgspec
from aiokafka.errors import KafkaError

from device_sim import fleet, trace
from device_sim.fleet import MIXES, Plan
from device_sim.identity import Fleet, Identity
from device_sim.sender import Pace, Sent, Target, drive
from device_sim.trace import COLUMNS, Trip
from device_sim.truth import Writer
from device_sim.vehicle import SAMPLES_MAX, Send

_RATE_PER_VEHICLE = 0.6  # messages/s that a vehicle sends when no rate is asked for
_SECONDS = 30.0
_TRIP_SAMPLES = 10
_TRIP_SAMPLES_MAX = 500  # in one envelope of 65,536 bytes


Enrol = Callable[[Iterable[str]], None]  # of the command line, which knows the registry; takes lines of JSON


class Wish(msgspec.Struct, frozen=True):
    """The options of the command."""

    vehicles: int
    seconds: float | None
    count: int | None
    rate: float | None
    samples: int | None
    seed: int
    run: int | None
    enrol: bool
    mix: str
    truth: Path | None
    registry: Path | None
    trace: Path | None
    map: Mapping[str, str]
    kafka: str | None
    topic: str


def parse_map(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Mapping[str, str]:
    """Read `field=Column,field=Column`."""
    if not text:
        return COLUMNS
    pairs = [pair.strip().partition("=") for pair in text.split(",")]
    if not all(field and column for field, _, column in pairs):
        raise click.BadParameter("write field=Column,field=Column, such as recorded_at=Date+Time,speed=Speed")
    return {field: column for field, _, column in pairs}


@click.command
@click.option("--vehicles", type=click.IntRange(1), default=2_000, show_default=True, help="How many.")
@click.option("--seconds", type=click.FloatRange(0), help="How long.  [default: 30, unless --count is given]")
@click.option("--count", type=click.IntRange(0), help="How many messages.")
@click.option(
    "--rate", type=click.FloatRange(0), help="Messages/s; 0: all it can.  [default: 0.6 a vehicle; 0 if --count]"
)
@click.option("--samples", type=click.IntRange(1, _TRIP_SAMPLES_MAX), help="At most so many samples in a message.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Which fleet.")
@click.option(
    "--run", type=click.IntRange(0), help="Which run of it; each has devices of its own.  [default: a new one]"
)
@click.option("--enrol/--no-enrol", default=True, show_default=True, help="Enrol the devices first.")
@click.option("--mix", type=click.Choice(list(MIXES)), default="everything", show_default=True, help="Who is in it.")
@click.option("--truth", type=click.Path(dir_okay=False, path_type=Path), help="Write what each message deserves.")
@click.option("--registry", type=click.Path(dir_okay=False, path_type=Path), help="Write the devices, send nothing.")
@click.option("--trace", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Replay this CSV instead.")
@click.option("--map", callback=parse_map, help="Columns of the trace: recorded_at=Date+Time,speed=Speed,...")
@click.option("--kafka", envvar="WEIGHBRIDGE_KAFKA", show_envvar=True, help="Bootstrap servers.")
@click.option("--topic", envvar="WEIGHBRIDGE_TOPIC", default="telemetry.raw", show_default=True, help="Where to.")
@click.pass_obj
def simulate(enrol: Enrol | None, /, **options: Any) -> None:  # noqa: ANN401 - as the options above declare
    """Put a fleet of simulated vehicles on the road, that know what verdict each message deserves.

    Its devices are enrolled in the registry that WEIGHBRIDGE_DATABASE names. Where that is out of reach: --registry
    FILE here, `weighbridge devices import FILE` there, then the same again with --no-enrol instead of --registry. The
    counters begin anew with each run, so a store must not see the same --seed and --run twice.
    """
    wish = Wish(**options)
    # Without a broker it repeats itself hundreds of times a second; what is wrong is said once, at the end.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        if wish.registry:
            write_registry(_fleet(wish), wish.registry)
        else:
            if wish.enrol and enrol is not None:
                wish = msgspec.structs.replace(wish, run=int(time.time()) if wish.run is None else wish.run)
                enrol(registry_lines(_fleet(wish)))
            _summarise(asyncio.run(_produce(wish)))
    except (ValueError, OSError) as problem:
        raise click.ClickException(str(problem)) from None
    except KafkaError as problem:
        raise click.ClickException(f"Kafka at {wish.kafka} does not take messages ({problem!r}): is it up?") from None


def write_registry(devices: Fleet, path: Path) -> None:
    """Write the devices of a fleet, as `weighbridge devices import` reads them."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in registry_lines(devices))
    click.echo(f"{devices.vehicles} devices in {path}; next: weighbridge devices import {path}", err=True)


def registry_lines(devices: Fleet) -> Iterator[str]:
    """Give the devices of a fleet as lines of JSON."""
    encode = msgspec.json.Encoder().encode
    return (encode(one).decode() for one in Identity(devices).registrations())


def _fleet(wish: Wish) -> Fleet:
    run = wish.run or 0
    if wish.trace:
        return Fleet(wish.seed, vehicles=1, run=run, kind="trip")
    return Fleet(wish.seed, wish.vehicles, run)


async def _produce(wish: Wish) -> Sent:
    if not wish.kafka:
        raise click.UsageError("where to? give --kafka HOST:PORT or set WEIGHBRIDGE_KAFKA")
    pace = _pace(wish)
    sends = _trip(wish) if wish.trace else _everyone(wish, pace)
    target = Target(wish.kafka, wish.topic)
    with wish.truth.open("w", encoding="utf-8") if wish.truth else nullcontext() as file:
        write = Writer(file).write if file else lambda _: None
        return await drive(sends, pace, target, write, _show)


def _pace(wish: Wish) -> Pace:
    """Fill in what was not said: 30 s of everyday traffic, or as fast as possible when it is counted or recorded."""
    counted = wish.count is not None or wish.trace is not None
    rate = (0 if counted else _RATE_PER_VEHICLE * wish.vehicles) if wish.rate is None else wish.rate
    return Pace(rate, wish.count, _SECONDS if wish.seconds is None and not counted else wish.seconds)


def _everyone(wish: Wish, pace: Pace) -> Iterator[Send]:
    samples_max = min(wish.samples or SAMPLES_MAX, SAMPLES_MAX)
    return fleet.sends(Plan(_fleet(wish), MIXES[wish.mix], time.time(), pace.rate, samples_max))


def _trip(wish: Wish) -> Iterator[Send]:
    assert wish.trace is not None
    trip = Trip(wish.trace, wish.map, wish.samples or _TRIP_SAMPLES)
    found = trace.survey(trip)
    if found.skipped:
        click.echo(f"{wish.trace}: {found.skipped} rows skipped; the first: {found.first_skipped}", err=True)
    click.echo(f"{wish.trace}: {found.taken} rows to send", err=True)
    return trace.sends(trip, found, _fleet(wish), time.time())


def _show(sent: Sent) -> None:
    click.echo(
        f"{sent.seconds:6.0f} s  {sent.acknowledged:9,} sent  {sent.acknowledged / sent.seconds:7,.0f}/s", err=True
    )


def _summarise(sent: Sent) -> None:
    for (verdict, reason), count in sorted(sent.deserved.items()):
        click.echo(f"{count:9,} deserve {verdict}{f' ({reason})' if reason else ''}")
    click.echo(f"{sent.acknowledged:9,} sent in {sent.seconds:.1f} s")
