"""Is each broken variant of the commit caught on real servers? `python -m loadtest.chaos.proof [NAME...]`.

Each variant works under the faults that bring out what is wrong with it; the whole product goes through all of them.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from rich.console import Console
from rich.table import Table

from deploy.embedded.command import STATE, say
from loadtest.chaos.command import prepare_process
from loadtest.chaos.faults import Fault
from loadtest.chaos.report import Report
from loadtest.chaos.stage import Scene, raised
from loadtest.chaos.trial import Wish, hold

SECONDS = 8.0
SETTLE_S_MAX = 15.0  # what is lost will never be judged
RATE = 150.0
WHOLE = "none"

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
    }
)


async def prove(names: Sequence[str], state: Path) -> dict[str, Report]:
    """Hold a trial of each of these variants, and of the whole product, on one pair of servers."""
    reports: dict[str, Report] = {}
    async with raised(state) as servers:
        for number, name in enumerate([*names, WHOLE]):
            say(f"broken: {name}")
            asked = {fault for one in names for fault in FAULTS[one]} if name == WHOLE else FAULTS[name]
            settle_s_max = 4 * SETTLE_S_MAX if name == WHOLE else SETTLE_S_MAX
            wish = Wish(SECONDS, number, RATE, tuple(asked), settle_s_max)
            scene = Scene(f"proof-{number}", () if name == WHOLE else (name,))
            reports[name] = await hold(wish, scene, servers)
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


if __name__ == "__main__":
    prepare_process()
    found = asyncio.run(prove(sys.argv[1:] or list(FAULTS), STATE / "chaos"))
    show(found, Console())
    sys.exit(not all(proven(name, report) for name, report in found.items()))
