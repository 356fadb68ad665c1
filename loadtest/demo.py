"""What does the whole house look like at work? Servers, tables, a fleet, workers, and at the end the proof."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import click
import msgspec
from rich.console import Console

from deploy import embedded, software
from deploy.embedded.command import say, state_option
from device_sim.command import registry_lines
from device_sim.fleet import MIXES, Plan, sends
from device_sim.identity import Fleet
from device_sim.sender import Pace, Sent, Target, drive
from device_sim.truth import Differences, Writer, read
from ingest.adapters.postgres.connection import Connection, connect
from ingest.adapters.postgres.migration import MigrationError, migrate
from ingest.adapters.postgres.readout import Totals, count_owned, read_totals
from ingest.adapters.postgres.registry import import_devices, read_lines
from ingest.adapters.topics import TopicError, prepare_topic
from ingest.config import Settings, SettingsError, read_file
from ingest.ports import TroubleError
from loadtest.check import compare, show, summary
from loadtest.view import Progress, View

RATE_PER_VEHICLE = 0.6  # messages/s: a turn every two seconds or so
RATE_MAX = 2_000.0  # what two cores carry with room to spare, servers and simulator included
READY_S_MAX = 60.0
CATCH_UP_S_MAX = 120.0
DRAIN_S_MAX = 20.0
WATCH_EVERY_S = 0.5
PARTITIONS = 6


class Scene(msgspec.Struct, frozen=True):
    """What a demonstration is made of."""

    settings: Settings
    plan: Plan
    seconds: float
    folder: Path  # of the truth and the worker's journal


@click.command
@click.option("--vehicles", default=2_000, show_default=True, type=click.IntRange(1, 1_000_000))
@click.option("--seconds", default=30.0, show_default=True, type=click.FloatRange(1, 86_400))
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0))
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@state_option
def demo(vehicles: int, seconds: float, seed: int, as_json: bool, state: Path) -> None:  # noqa: FBT001 (options)
    """Send a fleet over the weighbridge, some of it misbehaving, and prove that every message is accounted for."""
    console = Console(stderr=as_json)
    try:
        addresses = embedded.up(state, say)
        servers = {"WEIGHBRIDGE_KAFKA": addresses.kafka, "WEIGHBRIDGE_DATABASE": addresses.database}
        os.environ.update(servers)  # for the worker processes as well
        settings = read_file(None, os.environ)
        rate = min(vehicles * RATE_PER_VEHICLE, RATE_MAX)
        now_s = time.time()
        plan = Plan(Fleet(seed, vehicles, run=int(now_s)), MIXES["everything"], now_s, rate)
        started = time.monotonic()
        found = asyncio.run(_play(Scene(settings, plan, seconds, state), console))
    except (
        software.Missing,
        embedded.Stuck,
        SettingsError,
        TroubleError,
        MigrationError,
        TopicError,
        ValueError,
    ) as error:
        raise click.ClickException(str(error)) from None
    show(found, console)
    say('The servers go on: `weighbridge down` stops them; `eval "$(weighbridge up)"` tells a shell where they are.')
    if as_json:
        click.echo(msgspec.json.encode({**summary(found), "seconds": round(time.monotonic() - started, 1)}).decode())
    sys.exit(0 if found.agrees else 1)


async def _play(scene: Scene, console: Console) -> Differences:
    settings = scene.settings
    topic = await prepare_topic(settings.kafka, settings.topic, PARTITIONS)
    await migrate(settings.database)
    connection = await connect(settings.database, "weighbridge demo")
    try:
        await _enrol(connection, scene.plan.fleet)
        before = await read_totals(connection, settings.topic)
        truth = scene.folder / "demo-truth.jsonl"
        async with _worker(scene.folder / "demo-worker.log") as process:
            await _owned(connection, settings.topic, topic.partitions, process)
            with View(console) as view:
                progress = Progress(view.show)
                watching = asyncio.create_task(_watch(connection, settings.topic, before, progress))
                sent = await _send(scene, truth, progress)
                progress.close(sent.acknowledged)
                await _catch_up(watching, process)
    finally:
        await connection.close()
    return await compare(settings.database, read(truth))


async def _enrol(connection: Connection, fleet: Fleet) -> None:
    say(f"enrolling {fleet.vehicles:,} vehicles")
    await import_devices(connection, read_lines(registry_lines(fleet)))


@contextlib.asynccontextmanager
async def _worker(journal: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a worker process for the length of the block; it drains at the end. Raises ValueError if it fails."""
    with journal.open("wb") as file:
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "ingest", "worker", stderr=file)
    say(f"a worker is running (process {process.pid}, journal {journal})")
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), DRAIN_S_MAX)
        except TimeoutError:
            process.kill()
    if await process.wait():
        raise ValueError(
            f"the worker ended with status {process.returncode}; the end of its journal {journal} says why"
        )


async def _owned(connection: Connection, topic: str, partitions: int, process: asyncio.subprocess.Process) -> None:
    """Wait until the worker has taken over all partitions: a lag before that says nothing of it."""
    for _ in range(int(READY_S_MAX / WATCH_EVERY_S)):
        if await count_owned(connection, topic) >= partitions or process.returncode is not None:
            return
        await asyncio.sleep(WATCH_EVERY_S)


async def _send(scene: Scene, truth: Path, progress: Progress) -> Sent:
    """Let the fleet speak for its time, writing down what each message deserves."""
    pace = Pace(rate=scene.plan.rate, seconds=scene.seconds)
    target = Target(scene.settings.kafka, scene.settings.topic)
    with truth.open("w", encoding="utf-8") as file:
        return await drive(
            sends(scene.plan), pace, target, Writer(file).write, lambda sent: progress.tell(sent=sent.sent)
        )


async def _watch(connection: Connection, topic: str, before: Totals, progress: Progress) -> None:
    """Read the counts until all that was sent is judged."""
    while not progress.complete:
        progress.tell(totals=(await read_totals(connection, topic)).since(before))
        await asyncio.sleep(WATCH_EVERY_S)


async def _catch_up(watching: asyncio.Task[None], process: asyncio.subprocess.Process) -> None:
    """Wait until all is judged; not for ever, and not for a worker that is gone."""
    gone = asyncio.ensure_future(process.wait())
    await asyncio.wait({watching, gone}, timeout=CATCH_UP_S_MAX, return_when=asyncio.FIRST_COMPLETED)
    for task in (watching, gone):
        task.cancel()
    await asyncio.gather(watching, gone, return_exceptions=True)
