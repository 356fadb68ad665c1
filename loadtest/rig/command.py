"""What does a person type to play a scenario? `loadtest`, its name, and how much of it."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
import uvloop
from rich.console import Console

from deploy import embedded
from deploy.embedded.command import STATE, say
from ingest.config import EngineChoice
from ingest.core.device import Algorithm
from loadtest.chaos.stage import Servers
from loadtest.compare.cpu import CORES
from loadtest.compare.ground import connected, raised
from loadtest.corpus import cache_of
from loadtest.rig.machine import describe, load
from loadtest.rig.page import page
from loadtest.rig.result import Report
from loadtest.rig.scenario import SCENARIOS, Scenario, Wish
from loadtest.rig.summary import show
from loadtest.rig.trial import play_all, settle

SECONDS = 60.0
WARM_S = 10.0
ALGORITHMS = {"ed25519": Algorithm.ED25519, "p256": Algorithm.P256}

Given = dict[str, object]
Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def options(scenario: Scenario) -> list[Decorator]:
    """List what can be chosen."""
    rate, seconds, count = click.FloatRange(10, 1_000_000), click.FloatRange(1, 86_400), click.IntRange(1, 64)
    return [
        click.option("--rate", default=scenario.rate, show_default=True, type=rate,
                     help="Messages a second, of the stream that is watched."),
        click.option("--seconds", default=SECONDS, show_default=True, type=seconds, help="How long they are sent."),
        click.option("--warm", default=WARM_S, show_default=True, type=click.FloatRange(0, 600),
                     help="Seconds before, which do not count."),
        click.option("--devices", default=scenario.devices, show_default=True, type=click.IntRange(6, 10_000_000),
                     help="How many send them; rounded up to a multiple of six, the partitions."),
        click.option("--samples", default=1, show_default=True, type=click.IntRange(1, 200), help="In a message."),
        click.option("--alg", default="ed25519", show_default=True, type=click.Choice(list(ALGORITHMS)),
                     help="Of the signatures."),
        click.option("--engine", default=EngineChoice.AUTO.value, show_default=True,
                     type=click.Choice([one.value for one in EngineChoice]), help="What checks signatures."),
        click.option("--processes", default=CORES, show_default=True, type=count, help="Of workers."),
        click.option("--senders", default=1, show_default=True, type=click.IntRange(1, 6), help="Processes that send."),
        click.option("--seed", default=1, show_default=True, type=click.IntRange(0, 999_999), help="Which fleet."),
        click.option("--kafka", help="Of servers that are given; their processor time is not known."),
        click.option("--database", help="The same: the URL of a database of a role that may create others."),
        click.option("--report", type=click.Path(dir_okay=False, path_type=Path),
                     help="The HTML file; the JSON file stands beside it.  [default: in .weighbridge/reports]"),
    ]  # fmt: skip


def wish_of(given: Given) -> Wish:
    """Take what was given on the command line."""
    names = {**given, "algorithm": ALGORITHMS[str(given["alg"])], "engine": EngineChoice(str(given["engine"]))}
    return Wish(**{name: names[name] for name in Wish.__struct_fields__})  # type: ignore[arg-type]


def lent_of(given: Given) -> embedded.Addresses | None:
    """Take the servers that were given, if they were. Raises ValueError if only one was."""
    kafka, database = given["kafka"], given["database"]
    if (kafka is None) != (database is None):
        raise ValueError("--kafka and --database go together: give both, or none to have servers of its own")
    return embedded.Addresses(str(kafka), str(database)) if kafka else None


@contextlib.asynccontextmanager
async def _servers(state: Path, lent: embedded.Addresses | None) -> AsyncIterator[Servers]:
    """Have servers for the length of the block: those that were given, or a pair of its own."""
    if lent is None:
        async with raised(state) as servers:
            yield servers
    else:
        async with connected(lent.database):
            pass  # before anything is signed for it
        await asyncio.to_thread(state.mkdir, parents=True, exist_ok=True)  # for what workers tell
        yield Servers(state, lent)


async def conduct(name: str, wish: Wish, cache: Path, place: contextlib.AbstractAsyncContextManager[Servers]) -> Report:
    """Play a scenario."""
    load_before, began_at = load(), datetime.now(UTC).isoformat(timespec="seconds")
    scenario = SCENARIOS[name]
    async with place as servers:
        results = await play_all(servers, scenario, wish, cache)
        machine = await describe(servers, load_before)
    wished = msgspec.to_builtins(wish)
    return Report(name, scenario.about, began_at, wished, machine, results, settle(scenario, results))


def write(report: Report, chosen: Path | None) -> Path:
    """Write the two files; returns where the one is that people read."""
    place = chosen or STATE / "reports" / f"{report.scenario}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.html"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(page(report), encoding="utf-8")
    place.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    return place


def scenario_command(name: str, expected: tuple[type[Exception], ...]) -> Callable[..., None]:
    """Make what a scenario's command does; it wants what all commands of the group take, beside its own options."""

    def run(as_json: bool, cache: Path | None, state: Path, report: Path | None, **given: object) -> None:  # noqa: FBT001 (options)
        try:
            found = uvloop.run(
                conduct(name, wish_of(given), cache_of(cache), _servers(state.resolve(), lent_of(given)))
            )
        except expected as error:
            raise click.ClickException(str(error)) from None
        show(found, Console(stderr=as_json))
        say(f"the report: {write(found, report)}")
        if as_json:
            click.echo(msgspec.json.encode(found).decode())
        sys.exit(0 if found.right else 1)

    for option in reversed(options(SCENARIOS[name])):
        option(run)
    about = SCENARIOS[name].about
    run.__doc__ = f"{about} Exit status 1 if a message has not got the verdict that it deserves."
    return run
