"""What does a person type to see the promise kept in a storm? One command, `chaos`."""

import asyncio
import logging
import os
import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console

from deploy import embedded, software
from deploy.embedded.command import STATE, say
from ingest.adapters.topics import TopicError
from ingest.ports import TroubleError
from loadtest.chaos.faults import Fault
from loadtest.chaos.report import Report, show
from loadtest.chaos.stage import Scene, raised
from loadtest.chaos.trial import Wish, hold

FAULTS = [fault.value for fault in Fault]
SCENE = Scene("chaos")


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
    wish = Wish(numbers["seconds"], int(numbers["seed"]), numbers["rate"], tuple(Fault(name) for name in only))
    console = Console(stderr=as_json)
    prepare_process()
    try:
        report = asyncio.run(_play(wish, state.resolve()))
    except (software.Missing, embedded.Stuck, TroubleError, TopicError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    show(report, console)
    if as_json:
        click.echo(msgspec.json.encode(report.summary()).decode())
    sys.exit(0 if report.good else 1)


def prepare_process() -> None:
    """Forget servers that the environment names, which are somebody's; and that the broker is away is no news here."""
    for name in ("WEIGHBRIDGE_KAFKA", "WEIGHBRIDGE_DATABASE"):
        os.environ.pop(name, None)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


async def _play(wish: Wish, state: Path) -> Report:
    async with raised(state) as servers:
        possible = [fault for fault in Fault if fault is not Fault.DISK_FULL or servers.disk]
        if not set(wish.faults) <= set(possible):
            raise ValueError("disk-full: the small file system that it fills cannot be mounted; it takes root")
        if not wish.faults and Fault.DISK_FULL not in possible:
            say("without disk-full: the small file system that it fills cannot be mounted; it takes root")
        return await hold(msgspec.structs.replace(wish, faults=wish.faults or possible), SCENE, servers)
