"""What does a person type to see the promise kept in a storm? One command, `chaos`."""

import asyncio
import contextlib
import logging
import math
import os
import random
import sys
import time
from pathlib import Path

import click
import msgspec
from rich.console import Console

from deploy import embedded, software
from deploy.embedded.command import STATE, say
from device_sim.identity import Fleet
from device_sim.sender import Target
from ingest.adapters.topics import TopicError
from ingest.ports import TroubleError
from loadtest.chaos.faults import Fault
from loadtest.chaos.load import VEHICLES, WAVE_S, Load
from loadtest.chaos.oracle import examine
from loadtest.chaos.reading import judged, log_size, read_books
from loadtest.chaos.report import Report, show
from loadtest.chaos.stage import TOPIC, Stage, built
from loadtest.chaos.storm import WORLD, Storm

READY_S_MAX = 60.0
SETTLE_S_MAX = 300.0  # a half-open connection alone holds its partition for a minute
TELL_EVERY_S = 5.0
LOOK_EVERY_S = 1.0
FAULTS = [fault.value for fault in Fault]


class Wish(msgspec.Struct, frozen=True):
    """What was asked for."""

    seconds: float
    seed: int
    rate: float
    faults: tuple[Fault, ...]
    state: Path


@click.command
@click.option("--seconds", default=600.0, show_default=True, type=click.FloatRange(5, 86_400), help="Of the storm.")
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Deals the faults.")
@click.option("--rate", default=400.0, show_default=True, type=click.FloatRange(10, 5_000), help="Messages/s.")
@click.option("--only", multiple=True, type=click.Choice(FAULTS), help="This fault; may be repeated.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), default=STATE / "chaos",
              show_default=".weighbridge/chaos of the checkout", help="Erased first; never that of `up`.")  # fmt: skip
def chaos(only: tuple[str, ...], state: Path, as_json: bool, **numbers: float) -> None:  # noqa: FBT001 (options)
    """Ill-treat workers, Kafka and PostgreSQL under load, and prove that nothing is lost, doubled or wrong.

    On servers of its own. Exit status 0: the promise was kept, and every fault asked for really happened.
    """
    faults = tuple(Fault(name) for name in only) or tuple(Fault)
    seed = int(numbers["seed"])
    wish = Wish(numbers["seconds"], seed, numbers["rate"], faults, state.resolve())
    console = Console(stderr=as_json)
    for name in ("WEIGHBRIDGE_KAFKA", "WEIGHBRIDGE_DATABASE"):
        os.environ.pop(name, None)  # the servers that it names are somebody's
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that the broker is away is no news here
    try:
        report = asyncio.run(_play(wish))
    except (software.Missing, embedded.Stuck, TroubleError, TopicError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    show(report, console)
    if as_json:
        click.echo(msgspec.json.encode(report.summary()).decode())
    sys.exit(0 if report.good else 1)


async def _play(wish: Wish) -> Report:
    run = int(time.time())
    waves = 2 * math.ceil(wish.seconds / WAVE_S) + 1  # as many again, for those that break
    load = Load([Fleet(wish.seed, VEHICLES, run + number) for number in range(waves)], wish.rate)
    async with built(wish.state, load) as stage:
        storm = Storm(stage, random.Random(wish.seed))  # noqa: S311 (reproducible chance)
        await _owned(stage)
        began = time.monotonic()
        telling = asyncio.create_task(_tell(stage, storm, load))
        try:
            target = Target(stage.servers.kafka, TOPIC)
            await asyncio.gather(load.send(target, wish.seconds), storm.rage(wish.seconds, wish.faults))
            say("the storm is over: waiting until all is judged")
            settled_s = await _settle(stage)
        finally:
            telling.cancel()
        await stage.crew.close()
        if storm.failed:
            raise ExceptionGroup("the storm itself broke", storm.failed)
        books = await read_books(stage.servers.kafka, stage.servers.database, TOPIC)
        return Report(
            seed=wish.seed,
            seconds=time.monotonic() - began,
            records=len(books.log),
            faults={fault: storm.happened()[fault] for fault in wish.faults},
            events=stage.crew.events(),
            exits=stage.crew.exits,
            died=stage.crew.died,
            settled_s=settled_s,
            waves_broken=load.broken,
            finding=examine(load.known(), books),
        )


async def _owned(stage: Stage) -> None:
    """Wait until the partitions have owners: a storm over nobody shows nothing."""
    for _ in range(int(READY_S_MAX)):
        found = await stage.ask("select count(*) from store.partition_lease where owner_epoch > 0")
        if found[0][0]:
            return
        await asyncio.sleep(LOOK_EVERY_S)
    raise ValueError("no worker has taken a partition over; its journal in the state directory says why")


async def _settle(stage: Stage) -> float | None:
    """Wait until all is judged; not for ever. Gives the time that it took."""
    began = time.monotonic()
    while (waited_s := time.monotonic() - began) < SETTLE_S_MAX:
        await stage.crew.replace_dead()
        with contextlib.suppress(*WORLD):
            size = await log_size(stage.servers.kafka, TOPIC)
            if await judged(stage.servers.database, TOPIC) >= size:
                return round(waited_s, 1)
        await asyncio.sleep(LOOK_EVERY_S)
    return None


async def _tell(stage: Stage, storm: Storm, load: Load) -> None:
    """Say how it goes, and start again whoever has died of itself."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(TELL_EVERY_S)
        await stage.crew.replace_dead()
        done = "not known: PostgreSQL is away"
        with contextlib.suppress(*WORLD):
            done = f"{await judged(stage.servers.database, TOPIC):,}"
        faults = ", ".join(f"{fault} {count}" for fault, count in sorted(storm.happened().items()))
        say(f"{time.monotonic() - began:5.0f} s: {load.sent:,} sent, judged {done}; {faults or 'no faults'}")
