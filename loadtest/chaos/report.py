"""What is said at the end? Which faults really happened, how the workers fared, and whether the promise was kept."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

import msgspec
from rich.console import Console
from rich.table import Table

from loadtest.chaos.crew import Exit
from loadtest.chaos.faults import Fault
from loadtest.chaos.oracle import Finding


class Report(msgspec.Struct, frozen=True):
    """A run, summed up."""

    seed: int
    seconds: float
    records: int  # in the log
    faults: Mapping[str, int]  # asked for, with how often each happened
    events: Sequence[Counter[str]]  # of the journal of each worker process
    exits: Sequence[Exit]
    died: Sequence[str]
    settled_s: float | None  # from the end of the storm until all was judged; None: it was not
    waves_broken: int
    finding: Finding

    @property
    def absent(self) -> list[str]:
        """List the faults that were asked for and did not happen; a run without them shows nothing."""
        missing = [fault for fault, count in self.faults.items() if not count]
        return missing + ["fenced"] * (Fault.RIVAL in self.faults and not self.count("fenced"))

    @property
    def rebalances(self) -> int:
        """Assignments beyond the first of each process."""
        return sum(max(0, journal["assigned"] - 1) for journal in self.events)

    def count(self, event: str) -> int:
        """Count an event in all journals."""
        return sum(journal[event] for journal in self.events)

    @property
    def exits_bad(self) -> list[Exit]:
        """List those that were told to stop and did not do so in order."""
        return [one for one in self.exits if one.status]

    @property
    def exits_late(self) -> list[Exit]:
        """List those that did not do so in time."""
        return [one for one in self.exits if one.late]

    @property
    def good(self) -> bool:
        """Whether the run counts, and the promise was kept."""
        whole = self.settled_s is not None and not self.absent
        return whole and not (self.died or self.exits_bad or self.exits_late) and self.finding.kept

    def summary(self) -> dict[str, object]:
        """Say it for scripts."""
        return {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "records": self.records,
            "faults": dict(self.faults),
            "fenced": self.count("fenced"),
            "trouble": self.count("trouble"),
            "ambiguous_commits": self.faults.get(Fault.COMMIT_UNSENT, 0) + self.faults.get(Fault.COMMIT_UNANSWERED, 0),
            "rebalances": self.rebalances,
            "worker_starts": len(self.events),
            "exits": len(self.exits),
            "exits_bad": len(self.exits_bad),
            "exits_late": len(self.exits_late),
            "exit_s_median": round(median(one.seconds for one in self.exits), 2) if self.exits else None,
            "exit_s_max": round(max((one.seconds for one in self.exits), default=0.0), 2),
            "drains_cut_off": self.count("cut off"),
            "journal_lines_strange": self.count("strange"),
            "died": list(self.died),
            "settled_s": self.settled_s,
            "waves_broken": self.waves_broken,
            **self.finding.counts,
            "absent": self.absent,
            "good": self.good,
        }


def show(report: Report, console: Console) -> None:
    """Say it for people."""
    faults = Table("fault", "happened", title="What was done to the house", title_justify="left")
    for fault, count in report.faults.items():
        faults.add_row(fault, f"{count:,}", style=None if count else "bold red")
    console.print(faults)
    for name, value in report.summary().items():
        if name not in ("faults", "died"):
            console.print(f"  {name.replace('_', ' ')}: {value}", highlight=False)
    bad = [f"ended badly: {one}" for one in (*report.exits_bad, *report.exits_late)]
    for line in (*report.finding.examples, *(f"died: {one}" for one in report.died), *bad):
        console.print(f"  {line}", style="red", highlight=False, soft_wrap=True)
    console.print(_sentence(report), style="bold green" if report.good else "bold red", highlight=False)


def _sentence(report: Report) -> str:
    if report.absent:
        return f"The run does not count, these did not happen: {', '.join(report.absent)}."
    if report.settled_s is None:
        return "Not everything was judged in the time after the storm."
    counts = report.finding.counts
    return f"{report.records:,} records: {counts['lost']} lost, {counts['doubled']} doubled, {counts['wrong']} wrong."
