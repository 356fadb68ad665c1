"""What if the log itself breaks? `python -m loadtest.chaos.breakage [KIND...]` breaks it, and decides as a person may.

Each breakage is a trial of its own: workers under load, the breakage, more load, and the operator's command for each
partition that has halted. What was lost by the log is known here, because nothing is sent while it breaks.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from enum import StrEnum
from pathlib import Path
from signal import SIGKILL
from types import MappingProxyType

import click
import msgspec
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete
from rich.console import Console

from deploy.embedded.command import STATE, say
from device_sim.identity import Fleet
from device_sim.sender import Target
from ingest.adapters.topics import prepare_topic
from loadtest.chaos.command import prepare_process
from loadtest.chaos.load import VEHICLES, Load
from loadtest.chaos.oracle import Position
from loadtest.chaos.reading import log_ends, reached, read_books, read_log
from loadtest.chaos.report import Report, show
from loadtest.chaos.stage import PARTITIONS, WORKERS, Scene, Servers, Stage, raised, set_up
from loadtest.chaos.storm import BROKER
from loadtest.chaos.trial import SETTLE_S_MAX, Ending, be_owned, settle, sum_up

SECONDS = 6.0  # of load, before and after
RATE = 150.0
WAVES = 12
LOOKS_MAX, LOOK_EVERY_S = 120, 0.5
REASON = "chaos broke it"


class Breakage(StrEnum):
    """What is done to the log."""

    RETENTION = "retention"  # what was judged is deleted: nothing follows from it
    UNREAD = "unread"  # what was not judged is deleted, too
    RECREATED = "recreated"  # the topic is deleted, and made anew
    CUT_OFF = "cut-off"  # the broker loses the end of a partition, which it had acknowledged


class Broken(msgspec.Struct, frozen=True):
    """What a breakage did."""

    partitions: Collection[int]
    halting: bool  # they must halt
    gone: Collection[Position] = frozenset()  # and were never judged
    log: Mapping[Position, bytes] = MappingProxyType({})  # what it was before, where that is not known yet


async def hold(kind: Breakage, scene: Scene, servers: Servers) -> Report:
    """Hold a trial of this breakage."""
    run = int(time.time())
    load = Load([Fleet(1, VEHICLES, run + number) for number in range(WAVES)], RATE)
    async with set_up(scene, servers, load) as stage:
        await be_owned(stage)
        began = time.monotonic()
        await send(stage, load)
        await settle(stage, SETTLE_S_MAX)
        before = await read_log(servers.kafka, stage.topic, {})
        broken = await ACTS[kind](stage, load)
        await send(stage, load)
        halted = await resume(stage, broken)
        settled_s = await settle(stage, SETTLE_S_MAX)
        await stage.crew.close()
        now = await read_log(servers.kafka, stage.topic, load.incarnations)
        books = await read_books(stage.database, stage.topic, {**before, **broken.log, **now})
        books = msgspec.structs.replace(books, gone=broken.gone)
        expected = set(broken.partitions) if broken.halting else set()
        happened = {kind.value: len(broken.partitions) if halted == expected else 0}
        return sum_up(stage, load, books, Ending(1, time.monotonic() - began, happened, settled_s))


async def send(stage: Stage, load: Load) -> None:
    """Send for some seconds."""
    load.over.clear()
    sending = asyncio.create_task(load.send(Target(stage.servers.kafka, stage.topic)))
    await asyncio.sleep(SECONDS)
    load.over.set()
    await sending


async def resume(stage: Stage, broken: Broken) -> set[int]:
    """Let partitions go on as they halt, until all have that must; returns which did."""
    resumed: set[int] = set()
    for _ in range(LOOKS_MAX):
        halted = [number for number, at in (await reached(stage.database, stage.topic)).items() if at.halted_why]
        for number in halted:
            command = [sys.executable, "-m", "ingest", "partitions", "resume", str(number), "--reason", REASON]
            process = await asyncio.create_subprocess_exec(*command, env=stage.crew.environ)
            if await process.wait() == 0:
                resumed.add(number)
        if not halted and (not broken.halting or resumed >= set(broken.partitions)):
            break
        await asyncio.sleep(LOOK_EVERY_S)
    return resumed


async def delete_judged(stage: Stage, _load: Load) -> Broken:
    """Delete what was judged, as retention does."""
    ends = await log_ends(stage.servers.kafka, stage.topic)
    return Broken(await _delete(stage, ends), halting=False)


async def delete_unread(stage: Stage, load: Load) -> Broken:
    """Delete, in half of the partitions, what was sent while nobody worked."""
    for member in list(stage.crew.members):
        await stage.crew.kill(member)
    judged = await reached(stage.database, stage.topic)
    await send(stage, load)
    log = await read_log(stage.servers.kafka, stage.topic, {})
    ends = await log_ends(stage.servers.kafka, stage.topic)
    chosen = {number: end for number, end in ends.items() if number < PARTITIONS / 2}
    deleted = await _delete(stage, chosen)
    gone = {at for at in log if at[1] in deleted and at[2] >= judged[at[1]].next_offset}
    for _ in range(WORKERS):
        await stage.crew.start()
    return Broken(deleted, halting=True, gone=gone, log=log)


async def _delete(stage: Stage, ends: Mapping[int, int]) -> list[int]:
    wanted = {TopicPartition(stage.topic, number): RecordsToDelete(end) for number, end in ends.items() if end}
    async with stage.servers.administered() as client:
        await client.delete_records(wanted)
    return [at.partition for at in wanted]


async def recreate(stage: Stage, load: Load) -> Broken:
    """Delete the topic, and make it anew."""
    halting = [number for number, at in (await reached(stage.database, stage.topic)).items() if at.next_offset]
    async with stage.servers.administered() as client:
        await client.delete_topics([stage.topic])
    for _ in range(LOOKS_MAX):  # its deletion is not over when it is acknowledged
        if (await prepare_topic(stage.servers.kafka, stage.topic, PARTITIONS)).made:
            break
        await asyncio.sleep(LOOK_EVERY_S)
    load.incarnations.update(dict.fromkeys(range(PARTITIONS), 2))
    return Broken(halting, halting=True)


async def cut_off(stage: Stage, load: Load) -> Broken:
    """End the broker, take away the second half of a partition, and start it again."""
    servers = stage.servers
    ends = await log_ends(servers.kafka, stage.topic)
    number = max(ends, key=lambda one: ends[one])
    async with servers.busy:
        broker = servers.pids()[BROKER]
        assert broker is not None, "nobody else ends it"
        await servers.end(broker, SIGKILL)
        _halve(next(servers.state.rglob(f"{stage.topic}-{number}")))
        await servers.up()
    load.incarnations[number] = 2
    return Broken([number], halting=True)


def _halve(partition: Path) -> None:
    """Cut the only segment in the middle; what the broker remembers of its second half goes, too."""
    (segment,) = partition.glob("*.log")
    with segment.open("r+b") as file:
        file.truncate(segment.stat().st_size // 2)
    for memory in [*partition.glob("*.*index"), *partition.glob("*.snapshot")]:
        memory.unlink()
    (partition.parent / "recovery-point-offset-checkpoint").unlink(missing_ok=True)


ACTS: Mapping[Breakage, Callable[[Stage, Load], Awaitable[Broken]]] = MappingProxyType(
    {
        Breakage.RETENTION: delete_judged,
        Breakage.UNREAD: delete_unread,
        Breakage.RECREATED: recreate,
        Breakage.CUT_OFF: cut_off,
    }
)


@click.command
@click.argument("kinds", nargs=-1, type=click.Choice([kind.value for kind in Breakage]))
@click.option(
    "--state", type=click.Path(file_okay=False, path_type=Path), default=STATE / "chaos", help="Erased first."
)
def main(kinds: tuple[str, ...], state: Path) -> None:
    """Hold a trial of each KIND of breakage, or of all. Exit status 0: the promise was kept."""
    prepare_process()
    good = asyncio.run(_hold_all([Breakage(kind) for kind in kinds] or list(Breakage), state.resolve()))
    sys.exit(not good)


async def _hold_all(kinds: list[Breakage], state: Path) -> bool:
    good = True
    async with raised(state) as servers:
        for kind in kinds:
            say(f"the log breaks: {kind}")
            report = await hold(kind, Scene(kind.value), servers)
            show(report, Console())
            good &= report.good
    return good


if __name__ == "__main__":
    main()
