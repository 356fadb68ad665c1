"""What does a person type to have the weighbridge attacked? `attack`, and with what."""

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from deploy import embedded, software
from deploy.embedded.command import say, state_option
from ingest.adapters.postgres.audit import UnfitActError
from ingest.adapters.postgres.migration import MigrationError
from ingest.adapters.topics import TopicError
from ingest.ports import TroubleError
from loadtest.attack import clones as clones_
from loadtest.attack import forged as forged_
from loadtest.attack import release as release_
from loadtest.attack.report import Report, show
from loadtest.chaos.stage import Servers

FAILURES = (
    software.Missing, embedded.Stuck, TroubleError, TopicError, MigrationError, UnfitActError, ValueError
)  # fmt: skip
Attack = Callable[[Servers, Path, Console], Coroutine[Any, Any, Report]]

seed_option = click.option("--seed", default=1, show_default=True, type=click.IntRange(0), help="Which fleet.")
rate_option = click.option("--rate", default=1_000.0, show_default=True, type=click.FloatRange(10, 20_000),
                           help="Messages/s that are sent.")  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")


@click.group
def attack() -> None:
    """Attack workers of its own, on a topic and a database of its own, and show what becomes of it.

    On the servers that the environment names, or else on those of `weighbridge up`. Exit status 1 if a claim fails.
    """


@attack.command
@click.option("--vehicles", default=50, show_default=True, type=click.IntRange(8, 10_000), help="That are named.")
@click.option("--honest", default=5_000, show_default=True, type=click.IntRange(1), help="Messages of theirs.")
@click.option("--forged", default=100_000, show_default=True, type=click.IntRange(0), help="Messages in their names.")
@click.option("--replays", default=20_000, show_default=True, type=click.IntRange(0), help="Messages sent once more.")
@rate_option
@seed_option
@json_option
@state_option
def forged(state: Path, as_json: bool, **numbers: float) -> None:  # noqa: FBT001 (options)
    """Name vehicles in forged messages, among their real ones: nothing of it may cost them anything."""
    wish = msgspec.convert(numbers, forged_.Wish)
    conduct(state, lambda *scene: forged_.attack(wish, *scene), as_json=as_json)


@attack.command
@click.option("--vehicles", default=50_000, show_default=True, type=click.IntRange(200, 1_000_000))
@click.option("--clones", default=500, show_default=True, type=click.IntRange(1), help="Vehicles that are cloned.")
@click.option("--turns", default=6, show_default=True, type=click.IntRange(4, 1_000), help="Of each vehicle.")
@rate_option
@seed_option
@json_option
@state_option
def clones(state: Path, as_json: bool, **numbers: float) -> None:  # noqa: FBT001 (options)
    """Copy the credentials of some vehicles: all of those are quarantined, and no other."""
    wish = msgspec.convert(numbers, clones_.Wish)
    conduct(state, lambda *scene: clones_.attack(wish, *scene), as_json=as_json)


@attack.command
@click.option("--devices", default=100, show_default=True, type=click.IntRange(2, 10_000), help="That are quarantined.")
@click.option("--messages", default=100_000, show_default=True, type=click.IntRange(4), help="Held of all of them.")
@click.option("--kills", default=10, show_default=True, type=click.IntRange(0), help="Releases that are killed.")
@rate_option
@seed_option
@json_option
@state_option
def release(state: Path, as_json: bool, **numbers: float) -> None:  # noqa: FBT001 (options)
    """Release half of what is held, kill -9 in the middle of it, and finish: each message is judged once."""
    wish = msgspec.convert(numbers, release_.Wish)
    conduct(state, lambda *scene: release_.attack(wish, *scene), as_json=as_json)


def conduct(state: Path, attack: Attack, *, as_json: bool) -> None:
    """Let it happen on the servers there are, show what came of it, and end the process."""
    console = Console(stderr=as_json)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        report = asyncio.run(_play(state.resolve(), attack, console))
    except FAILURES as error:
        raise click.ClickException(str(error)) from None
    show(report, console)
    if as_json:
        click.echo(msgspec.json.encode(report.summary()).decode())
    sys.exit(0 if report.good else 1)


async def _play(state: Path, attack: Attack, console: Console) -> Report:
    servers = Servers(state)
    await servers.up()
    journals = state / "attacks"
    say(f"journals of the workers: {journals}")
    return await attack(servers, journals, console)
