"""What does a person type to put the house under load? `loadtest`, and what is to be known."""

import logging
import os
import sys
from pathlib import Path

import click
import msgspec
import uvloop
from rich.console import Console

from deploy import embedded, software
from deploy.embedded.command import STATE
from ingest.adapters.multibuffer import UnavailableError
from ingest.adapters.topics import TopicError
from ingest.config import EngineChoice, LogLevel
from ingest.core.device import Algorithm
from ingest.core.signature import Engine
from ingest.engines import open_engine
from ingest.journal import open_journal
from ingest.ports import TroubleError
from loadtest.compare.cpu import CORES
from loadtest.compare.ground import raised
from loadtest.compare.product import WrongError
from loadtest.compare.report import show
from loadtest.compare.trial import Course, Row
from loadtest.compare.trial import compare as compare_
from loadtest.corpus import Order, cache_of
from loadtest.costs.case import CASES
from loadtest.costs.trial import Report, Wish, measure
from loadtest.costs.trial import show as show_costs
from loadtest.rig.command import scenario_command
from loadtest.rig.scenario import SCENARIOS

ROUNDS = 5
MESSAGES = {1: 100_000, 10: 20_000, 50: 6_000}  # by samples in each: some seconds of the fastest
FEW = {1: 10_000, 10: 3_000, 50: 1_000}  # some seconds of the slowest
QUICK_MESSAGES = {Algorithm.ED25519: 280_000, Algorithm.P256: MESSAGES[1]}  # of the fast engine, some seconds, too
QUICK_FEW, QUICK_TRIED, QUICK_FEWER = 4_000, 10_000, {EngineChoice.PORTABLE: 20_000}
FLEETS = (5_000, 100_000)  # of the second, each message that is compared comes from another device

REASONS = [str(case.reason or case.verdict) for case in CASES]

EXPECTED = (software.Missing, embedded.Stuck, TroubleError, TopicError, WrongError, UnavailableError, ValueError)

cache_option = click.option("--cache", type=click.Path(file_okay=False, path_type=Path),
                            help="Where signed messages are kept.  [default: in the user's cache]")  # fmt: skip
state_option = click.option("--state", type=click.Path(file_okay=False, path_type=Path), default=STATE / "loadtest",
                            show_default=".weighbridge/loadtest of the checkout",
                            help="Of servers of its own; erased at the end.")  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")


@click.group
def loadtest() -> None:
    """Measure, on servers of its own. Figures move with the machine; the ratios are those of one run."""
    for name in ("WEIGHBRIDGE_KAFKA", "WEIGHBRIDGE_DATABASE"):
        os.environ.pop(name, None)  # the servers that it names are somebody's
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


@loadtest.command
@click.option("--quick", is_flag=True, help="One sample a message and the small fleet only: under two minutes.")
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1, 100), help="Of each.")
@json_option
@cache_option
@state_option
def compare(quick: bool, rounds: int, as_json: bool, cache: Path | None, state: Path) -> None:  # noqa: FBT001 (options)
    """Compare the product with what most people would write, and with what cannot be avoided."""
    courses = _quick(rounds) if quick else _full(rounds)
    try:
        rows = uvloop.run(_compare(courses, cache_of(cache), state.resolve()))
    except EXPECTED as error:
        raise click.ClickException(str(error)) from None
    show(rows, Console(stderr=as_json))
    if as_json:
        click.echo(_json(rows))


@loadtest.command
@click.option("--messages", default=6_000, show_default=True, type=click.IntRange(2, 1_000_000), help="Of each reason.")
@click.option("--batch", default=2_000, show_default=True, type=click.IntRange(1, 100_000), help="Messages at once.")
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1, 100), help="Of each.")
@click.option("--reason", "reasons", multiple=True, type=click.Choice(REASONS),
              help="This one; may be repeated.  [default: all]")  # fmt: skip
@click.option("--engine", default=EngineChoice.AUTO.value, show_default=True, help="What checks signatures.",
              type=click.Choice([choice.value for choice in EngineChoice]))  # fmt: skip
@json_option
@cache_option
@state_option
def costs(engine: str, as_json: bool, cache: Path | None, state: Path, **wish: object) -> None:  # noqa: FBT001 (options)
    """Measure what each verdict costs. Exit status 1 if a refusal costs more than an acceptance."""
    open_journal(LogLevel.WARNING)
    try:
        asked = msgspec.convert(wish, Wish)
        chosen = open_engine(EngineChoice(engine))
        report = uvloop.run(_measure(asked, chosen, cache_of(cache), state.resolve()))
    except EXPECTED as error:
        raise click.ClickException(str(error)) from None
    show_costs(report, Console(stderr=as_json))
    if as_json:
        click.echo(msgspec.json.encode(report).decode())
    sys.exit(1 if report.dear else 0)


for _name in SCENARIOS:
    loadtest.command(_name)(json_option(cache_option(state_option(scenario_command(_name, EXPECTED)))))


async def _compare(courses: list[Course], cache: Path, state: Path) -> list[Row]:
    async with raised(state) as servers:
        return await compare_(servers, courses, cache)


async def _measure(wish: Wish, engine: Engine, cache: Path, state: Path) -> Report:
    async with raised(state) as servers:
        return await measure(servers, wish, engine, cache)


def _quick(rounds: int) -> list[Course]:
    orders = [Order(FLEETS[0], many, algorithm=one) for one, many in QUICK_MESSAGES.items()]
    return [Course(order, QUICK_FEW, rounds, QUICK_FEWER, tried=QUICK_TRIED) for order in orders]


def _full(rounds: int) -> list[Course]:
    return [
        Course(Order(devices, MESSAGES[samples], samples, algorithm), FEW[samples], rounds, processes=(CORES, 1))
        for devices in FLEETS
        for samples in MESSAGES
        for algorithm in Algorithm
    ]


def _json(rows: list[Row]) -> str:
    return msgspec.json.encode({"rows": rows}).decode()
