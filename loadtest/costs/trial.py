"""Does a refusal cost more than an acceptance? Each way is measured beside one, some times in turn.

The machine may be half as fast a minute later, so a ratio is made of two neighbours; what counts is the median of it.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from deploy.embedded.command import say
from ingest.core.signature import Engine
from ingest.core.verdict import Hold, Refusal, Verdict
from ingest.process import seek_garbage_seldom
from loadtest.chaos.stage import Servers
from loadtest.compare.ground import enrol, sign
from loadtest.corpus import Content, Order
from loadtest.costs.bench import Bench, Cost
from loadtest.costs.case import ACCEPTED, CASES, Case

TEMPLATE = "costs"

Pair = tuple[Cost, Cost]  # of one way, and of the acceptance beside it


class Wish(msgspec.Struct, frozen=True):
    """What is asked for."""

    messages: int  # of each way; the first batch of them is not counted
    batch: int
    rounds: int
    reasons: tuple[str, ...] = ()  # only these; none: all


class Row(msgspec.Struct, frozen=True):
    """What one way costs, in microseconds of processor for each message."""

    verdict: Verdict
    reason: Refusal | Hold | None
    worker_us: float
    server_us: float
    worker_ratio: float = 1.0  # to the acceptance that was measured beside it
    server_ratio: float = 1.0


class Report(msgspec.Struct, frozen=True):
    """All that was measured; the first row is that of acceptance, whose ratios tell how far two of a kind differ."""

    engine: str
    rows: list[Row]

    @property
    def dear(self) -> list[Row]:
        """List the refusals that cost more than an acceptance, of the worker or of the database."""
        refused = [row for row in self.rows if row.verdict is Verdict.REFUSED]
        return [row for row in refused if row.worker_ratio > 1.0 or row.server_ratio > 1.0]


async def measure(servers: Servers, wish: Wish, engine: Engine, cache: Path) -> Report:
    """Measure on this server, on which nothing else is going on."""
    cases = [one for one in CASES if one is ACCEPTED or not wish.reasons or (one.reason or one.verdict) in wish.reasons]
    contents = {content for case in cases for content in (case.content, case.first) if content}
    corpora = {content: await sign(_order(wish, content), cache) for content in sorted(contents)}
    say("enrolling the devices")
    await enrol(servers, corpora[ACCEPTED.content], TEMPLATE)
    bench = Bench(servers, TEMPLATE, corpora, engine, wish.batch)
    seek_garbage_seldom()  # as a worker does: what is looked through every 700 objects is this program, not its work
    found: dict[Case, list[Pair]] = {case: [] for case in cases}
    for number in range(wish.rounds):
        for case in cases:
            found[case].append((await bench.measure(case), await bench.measure(ACCEPTED)))
        say(f"round {number + 1} of {wish.rounds}")
    return Report(engine.name, [_row(case, pairs) for case, pairs in found.items()])


def _order(wish: Wish, content: Content) -> Order:
    return Order(wish.messages, wish.messages, content=content)


def _row(case: Case, pairs: Sequence[Pair]) -> Row:
    return Row(
        case.verdict,
        case.reason,
        statistics.median(cost.worker for cost, _ in pairs),
        statistics.median(cost.server for cost, _ in pairs),
        statistics.median(cost.worker / beside.worker for cost, beside in pairs),
        statistics.median(cost.server / beside.server for cost, beside in pairs),
    )


def show(report: Report, console: Console) -> None:
    """Print what each way costs, and how much of an acceptance that is."""
    table = Table(title=f"microseconds of processor for each message, engine {report.engine}")
    for name in ("verdict", "reason"):
        table.add_column(name)
    for name in ("worker", "PostgreSQL", "of an acceptance's", ""):
        table.add_column(name, justify="right")
    for row in report.rows:
        shares = f"{row.worker_ratio:.0%}", f"{row.server_ratio:.0%}"
        table.add_row(row.verdict, row.reason or "", f"{row.worker_us:.1f}", f"{row.server_us:.1f}", *shares)
    console.print(table)
    for row in report.dear:
        console.print(f"a refusal as {row.reason} costs more than an acceptance")
