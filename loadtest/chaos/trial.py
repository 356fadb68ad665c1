"""How does one trial go? Workers under load, a storm over them, and the oracle's finding when it is over."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec

from deploy.embedded.command import say
from device_sim.identity import Fleet
from device_sim.sender import Target
from loadtest.chaos.faults import Fault
from loadtest.chaos.load import VEHICLES, WAVE_S, Load
from loadtest.chaos.oracle import Books, examine
from loadtest.chaos.reading import judged, log_ends, reached, read_books, read_log
from loadtest.chaos.report import Report
from loadtest.chaos.stage import PARTITIONS, Scene, Servers, Stage, set_up
from loadtest.chaos.storm import WORLD, Storm

READY_S_MAX = 60.0
SETTLE_S_MAX = 600.0
MAKE_UP_S_MAX = 120.0  # for what has not happened in the storm
TELL_EVERY_S = 5.0
LOOK_EVERY_S = 1.0


class Wish(msgspec.Struct, frozen=True):
    """What was asked for."""

    seconds: float
    seed: int
    rate: float
    faults: Sequence[Fault]
    settle_s_max: float = SETTLE_S_MAX


async def hold(wish: Wish, scene: Scene, servers: Servers) -> Report:
    """Hold a trial."""
    run = int(time.time())
    waves = 2 * math.ceil((wish.seconds + MAKE_UP_S_MAX) / WAVE_S)  # as many again, for those that break
    load = Load([Fleet(wish.seed, VEHICLES, run + number) for number in range(waves)], wish.rate)
    async with set_up(scene, servers, load) as stage:
        storm = Storm(stage, wish.seed, wish.seconds)
        await be_owned(stage)
        began = time.monotonic()
        async with _told(stage, storm, load):
            await _storm(stage, storm, load, wish.faults)
            settled_s = await settle(stage, wish.settle_s_max)
        await stage.crew.close()
        if storm.failed:
            raise ExceptionGroup("the storm itself broke", storm.failed)
        happened = {fault.value: storm.happened()[fault] for fault in wish.faults}
        books = await read_books(stage.database, stage.topic, await read_log(servers.kafka, stage.topic, {}))
        return sum_up(stage, load, books, Ending(wish.seed, time.monotonic() - began, happened, settled_s))


class Ending(msgspec.Struct, frozen=True):
    """What came of a trial, apart from the books."""

    seed: int
    seconds: float
    happened: Mapping[str, int]
    settled_s: float | None  # None: it never was


def sum_up(stage: Stage, load: Load, books: Books, ending: Ending) -> Report:
    """Put together what is said of a trial, when all workers have ended."""
    return Report(
        seed=ending.seed,
        seconds=ending.seconds,
        records=len(books.log),
        faults=ending.happened,
        events=stage.crew.events(),
        exits=stage.crew.exits,
        died=stage.crew.died,
        settled_s=ending.settled_s,
        waves_broken=load.broken,
        finding=examine(load.known(), books),
    )


async def be_owned(stage: Stage) -> None:
    """Wait until every worker has partitions: a storm over nobody shows nothing, nor one over who has not begun yet."""
    wanted = min(len(stage.crew.members), PARTITIONS)
    for _ in range(int(READY_S_MAX)):
        found = await stage.ask("select count(distinct worker) from store.partition_lease where owner_epoch > 0")
        if found[0][0] >= wanted:
            return
        await asyncio.sleep(LOOK_EVERY_S)
    raise ValueError("not every worker has taken a partition over; its journal in the state directory says why")


async def _storm(stage: Stage, storm: Storm, load: Load, faults: Sequence[Fault]) -> None:
    """Let it storm, under load from beginning to end."""
    sending = asyncio.create_task(load.send(Target(stage.servers.kafka, stage.topic)))
    try:
        await storm.rage(faults)
    finally:
        load.over.set()
        await sending
    say("the storm is over: waiting until all is judged")


async def settle(stage: Stage, seconds_max: float) -> float | None:
    """Wait until all is judged; not for ever. Gives the time that it took."""
    began = time.monotonic()
    while (waited_s := time.monotonic() - began) < seconds_max:
        await stage.crew.replace_dead()
        with contextlib.suppress(*WORLD):
            if await _all_judged(stage):
                return round(waited_s, 1)
        await asyncio.sleep(LOOK_EVERY_S)
    return None


async def _all_judged(stage: Stage) -> bool:
    """Whether the leases have reached the ends of the log."""
    ends = await log_ends(stage.servers.kafka, stage.topic)
    found = await reached(stage.database, stage.topic)
    return all(
        end == 0 or (partition in found and found[partition].next_offset >= end) for partition, end in ends.items()
    )


@contextlib.asynccontextmanager
async def _told(stage: Stage, storm: Storm, load: Load) -> AsyncIterator[None]:
    """Tell how it goes for the length of the block."""
    telling = asyncio.create_task(_tell(stage, storm, load))
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def _tell(stage: Stage, storm: Storm, load: Load) -> None:
    """Say how it goes, and start again whoever has died of itself."""
    began = time.monotonic()
    while True:
        await asyncio.sleep(TELL_EVERY_S)
        await stage.crew.replace_dead()
        done = "not known: PostgreSQL is away"
        with contextlib.suppress(*WORLD):
            done = f"{await judged(stage.database, stage.topic):,}"
        faults = ", ".join(f"{fault} {count}" for fault, count in sorted(storm.happened().items()))
        say(f"{time.monotonic() - began:5.0f} s: {load.sent:,} sent, judged {done}; {faults or 'no faults'}")
