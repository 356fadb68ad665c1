"""How much memory do workers take while a backlog is consumed? A full topic first, then a look at each every second.

On servers of its own. Exit status 1 if a worker process takes more than it may, or ends, or nothing is consumed.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path

import click
import msgspec

from deploy import embedded
from deploy.embedded.command import STATE, say
from device_sim.command import registry_lines
from device_sim.fleet import MIXES, Plan, sends
from device_sim.identity import Fleet, Identity
from device_sim.sender import Pace, Sent, Target, drive
from device_sim.vehicle import SAMPLES_MAX, Draft, Send, Turn, World, build
from device_sim.wire import load
from ingest.adapters.postgres.connection import Connection, connect
from ingest.adapters.postgres.migration import migrate
from ingest.adapters.postgres.readout import read_totals
from ingest.adapters.postgres.registry import import_devices, read_lines
from ingest.adapters.topics import prepare_topic
from loadtest.compare.cpu import family

VEHICLES = 2_000
SAMPLES_USUAL_MAX = 8
COPIES_OF = 4_000  # so many messages are repeated, once enough were new
LARGE_SAMPLES_MAX = 1_000
LARGE_PAYLOAD_BYTES = 64_000  # on average: an envelope around it may have 65,536
SHOW_EVERY_S = 10
DRAIN_S_MAX = 15.0


class Wish(msgspec.Struct, frozen=True):
    """What was asked for."""

    messages: int
    distinct: int
    partitions: int
    processes: int
    seconds: float
    rss_mb_max: int
    large: bool
    state: Path


class Look(msgspec.Struct, frozen=True):
    """What was seen at one moment: how many records have a verdict, and the resident bytes of each worker process."""

    at_s: float
    consumed: int
    rss: dict[int, int]


@click.command
@click.option("--messages", default=1_000_000, show_default=True, type=click.IntRange(1), help="How many wait.")
@click.option(
    "--distinct", default=200_000, show_default=True, type=click.IntRange(1), help="The first so many are new."
)
@click.option("--partitions", default=6, show_default=True, type=click.IntRange(1, 1_000), help="Of the topic.")
@click.option("--processes", default=2, show_default=True, type=click.IntRange(2, 64), help="Of workers.")
@click.option("--seconds", default=300.0, show_default=True, type=click.FloatRange(1), help="To look on, at most.")
@click.option("--rss-mb-max", default=400, show_default=True, type=click.IntRange(1), help="Of one worker process.")
@click.option("--large", is_flag=True, help="Messages of 64 KiB with as many samples as fit, all of them new.")
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), default=STATE / "backlog",
              show_default=".weighbridge/backlog of the checkout", help="Of servers; erased at the end.")  # fmt: skip
def backlog(**options: object) -> None:
    """Measure the memory of worker processes that meet a backlog."""
    wish = msgspec.convert(options, Wish)
    for name in ("WEIGHBRIDGE_KAFKA", "WEIGHBRIDGE_DATABASE"):
        os.environ.pop(name, None)  # the servers that it names are somebody's
    try:
        addresses = embedded.up(wish.state, say)
        os.environ.update(WEIGHBRIDGE_KAFKA=addresses.kafka, WEIGHBRIDGE_DATABASE=addresses.database)
        sys.exit(asyncio.run(_measure(wish, addresses)))
    finally:
        embedded.erase(wish.state, say)


async def _measure(wish: Wish, addresses: embedded.Addresses) -> int:
    target = Target(addresses.kafka, f"backlog.{int(time.time())}")
    await prepare_topic(target.kafka, target.topic, wish.partitions)
    await migrate(addresses.database)
    connection = await connect(addresses.database, "weighbridge backlog")
    try:
        await _fill(wish, target, connection)
        looks = [look async for look in _watch(wish, target.topic, connection)]
    finally:
        await connection.close()
    return _judge(wish, looks)


async def _fill(wish: Wish, target: Target, connection: Connection) -> None:
    fleet = Fleet(1, VEHICLES, run=int(time.time()))
    await import_devices(connection, read_lines(registry_lines(fleet)))
    plan = Plan(fleet, MIXES["honest"], time.time(), samples_max=SAMPLES_USUAL_MAX)
    waiting = _large(plan) if wish.large else _copied(sends(plan), wish.distinct)
    sent = await drive(waiting, Pace(count=wish.messages), target, lambda _: None, _tell)
    say(f"{sent.acknowledged:,} messages wait in {target.topic}")


def _tell(sent: Sent) -> None:
    if int(sent.seconds) % SHOW_EVERY_S == 0:
        say(f"{sent.acknowledged:,} messages sent in {sent.seconds:.0f} s")


def _copied(every: Iterator[Send], distinct: int) -> Iterator[Send]:
    """Give so many new ones, and then some of them again and again."""
    some = list(itertools.islice(every, min(distinct, COPIES_OF)))
    yield from some
    yield from itertools.islice(every, distinct - len(some))
    yield from itertools.cycle(some)


def _large(plan: Plan) -> Iterator[Send]:
    """Give messages that are as large as they may be: of many vehicles, with the same samples."""
    world = World(Identity(plan.fleet), load(), plan.start_s, 1.0, SAMPLES_MAX)
    vehicles = [build(world, number) for number in range(plan.fleet.vehicles)]
    payload = _full(Turn(world, vehicles[0], plan.start_s))
    for vehicle in itertools.cycle(vehicles):
        turn = Turn(world, vehicle, plan.start_s)
        signer = world.identity.signer(vehicle.number)
        yield turn.accepted(Draft(turn.claims(vehicle.seq + 1, plan.start_s), payload, signer).seal())
        turn.spend()


def _full(turn: Turn) -> bytes:
    """Fill a payload with samples."""
    samples = [sample for _ in range(LARGE_SAMPLES_MAX) for sample in turn.samples(turn.now_s)][:LARGE_SAMPLES_MAX]
    whole = len(turn.schema().encode(samples))
    return turn.schema().encode(samples[: LARGE_SAMPLES_MAX * LARGE_PAYLOAD_BYTES // whole])


async def _watch(wish: Wish, topic: str, connection: Connection) -> AsyncIterator[Look]:
    """Look at the workers until all is consumed, or time is up."""
    async with _workers(wish, topic) as supervisor:
        began_s = time.monotonic()
        for second in itertools.count(1):
            await asyncio.sleep(max(0.0, began_s + second - time.monotonic()))
            totals = await read_totals(connection, topic)
            look = Look(time.monotonic() - began_s, totals.consumed, resident(_supervised(supervisor), "VmRSS"))
            if second % SHOW_EVERY_S == 0:
                say(_line(look))
            yield look
            if look.consumed >= wish.messages or look.at_s > wish.seconds:
                yield Look(look.at_s, look.consumed, resident(_supervised(supervisor), "VmHWM"))
                return


@contextlib.asynccontextmanager
async def _workers(wish: Wish, topic: str) -> AsyncIterator[int]:
    """Run worker processes for the length of the block; gives the number of the one that supervises them."""
    environ = {**os.environ, "WEIGHBRIDGE_TOPIC": topic, "WEIGHBRIDGE_GROUP": topic}
    command = [sys.executable, "-m", "ingest", "worker", "--processes", str(wish.processes)]
    with (wish.state / "backlog-worker.log").open("wb") as file:
        process = await asyncio.create_subprocess_exec(*command, env=environ, stderr=file)
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), DRAIN_S_MAX)


def _supervised(supervisor: int) -> list[int]:
    return family(supervisor)[1:] or [supervisor]  # a worker alone supervises nobody


def resident(workers: Iterable[int], what: str) -> dict[int, int]:
    """Read from /proc how many bytes each process has in memory (VmRSS), or had at most (VmHWM)."""
    found: dict[int, int] = {}
    for pid in workers:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            found[pid] = next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{what}:")), 0)
    return found


def _judge(wish: Wish, looks: list[Look]) -> int:
    *seen, last = looks
    middle = len(seen) // 2
    say(f"{last.consumed:,} of {wish.messages:,} messages consumed in {last.at_s:.0f} s")
    for pid, peak in last.rss.items():
        early, late = _most(seen[:middle], pid), _most(seen[middle:], pid)
        say(
            f"process {pid}: {early} MB in the first half of the time, {late} MB in the second, {peak >> 20} MB at most"
        )
    well = last.consumed > 0 and last.rss.keys() == seen[middle].rss.keys()
    return 0 if well and max(last.rss.values()) < wish.rss_mb_max << 20 else 1


def _most(looks: list[Look], pid: int) -> int:
    return max((look.rss.get(pid, 0) for look in looks), default=0) >> 20


def _line(look: Look) -> str:
    return f"{look.at_s:6.0f} s  {look.consumed:9,} consumed  " + "  ".join(f"{b >> 20} MB" for b in look.rss.values())


if __name__ == "__main__":
    backlog()
