"""Is each broken variant of the commit caught on real servers? `python -m loadtest.chaos.proof [NAME...]`.

Each variant works under the faults that bring out what is wrong with it; what is not broken goes through all of them.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import click
from rich.console import Console
from rich.table import Table

from deploy.embedded.command import STATE, say
from loadtest.chaos.command import prepare_process
from loadtest.chaos.faults import Fault
from loadtest.chaos.report import Report
from loadtest.chaos.stage import Scene, raised
from loadtest.chaos.trial import Wish, hold

SECONDS = 8.0
SETTLE_S_MAX = 60.0
RATE = 150.0
WHOLE = "nothing"

FAULTS: Mapping[str, tuple[Fault, ...]] = MappingProxyType(
    {
        "no fence": (Fault.RIVAL,),
        "epoch only, and the lease read before the take-over": (Fault.RIVAL,),
        "epoch only, and a failed commit tried again": (Fault.COMMIT_UNANSWERED,),
        "a failed commit taken for done": (Fault.COMMIT_UNSENT,),
        "offset committed before the effects": (Fault.COMMIT_UNSENT,),
        "offset committed after the effects": (Fault.COMMIT_UNANSWERED,),
        "device rows committed after the verdicts": (Fault.COMMIT_UNANSWERED, Fault.CUT),
        "the group's offsets believed": (Fault.TERMINATE,),
        "no row locks": (Fault.DELAY,),
        WHOLE: (Fault.RIVAL, Fault.COMMIT_UNANSWERED, Fault.COMMIT_UNSENT, Fault.CUT, Fault.TERMINATE, Fault.DELAY),
    }
)


async def prove(names: Sequence[str], state: Path) -> dict[str, Report]:
    """Hold a trial of each of these on one pair of servers."""
    reports: dict[str, Report] = {}
    async with raised(state) as servers:
        for number, name in enumerate(names):
            say(f"broken: {name}")
            broken = () if name == WHOLE else (name,)
            wish = Wish(SECONDS, number, RATE, FAULTS[name], SETTLE_S_MAX)
            reports[name] = await hold(wish, Scene(f"proof-{number}", broken), servers)
    return reports


def proven(name: str, report: Report) -> bool:
    """Whether it was caught, if it is broken; whether all was well, if it is not."""
    return report.good if name == WHOLE else all(report.faults.values()) and not report.finding.kept


def show(reports: Mapping[str, Report], console: Console) -> None:
    """Say what each was caught by."""
    table = Table("what is broken", "faults", "caught by")
    for name, report in reports.items():
        found = [f"{kind} {count:,}" for kind, count in report.finding.counts.items() if count]
        faults = [f"{fault} {count}" for fault, count in report.faults.items()]
        style = None if proven(name, report) else "bold red"
        table.add_row(name, ", ".join(faults), ", ".join(found), style=style)
    console.print(table)


@click.command
@click.argument("names", nargs=-1, type=click.Choice(list(FAULTS)))
@click.option("--state", type=click.Path(path_type=Path), default=STATE / "chaos", help="Erased first.")
def main(names: tuple[str, ...], state: Path) -> None:
    """Hold a trial of each broken variant NAME, or of all of them. Exit status 0: each was caught."""
    prepare_process()
    found = asyncio.run(prove(names or list(FAULTS), state.resolve()))
    show(found, Console())
    sys.exit(not all(proven(name, report) for name, report in found.items()))


if __name__ == "__main__":
    main()
