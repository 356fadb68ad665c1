"""What does the terminal show at the end? A table with a column for each course, and what was claimed."""

from rich.console import Console
from rich.table import Table

from loadtest.rig.result import Report, Result, late

NAMES = (
    "messages",
    "per second",
    "lag at most",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "max ms",
    "worker MB",
    "wrong verdicts",
)


def show(report: Report, console: Console) -> None:
    """Print it."""
    table = Table(title=f"loadtest {report.scenario}", title_justify="left")
    table.add_column("")
    for result in report.results:
        table.add_column(result.name, justify="right")
    columns = [_column(result) for result in report.results]
    for name, *values in zip(NAMES, *columns, strict=True):
        table.add_row(name, *values)
    console.print(table)
    for ratio in report.ratios:
        console.print(str(ratio), highlight=False, style="green" if ratio.holds else "bold red")
    for result in report.results:
        if late(result):
            console.print(late(result), highlight=False, style="bold red")


def _column(result: Result) -> list[str]:
    waited = result.waited
    times = [f"{one:,.1f}" for one in (waited.p50, waited.p99, waited.p999, waited.max)]
    return [
        f"{result.messages:,}",
        f"{result.rate:,.0f}",
        f"{result.lag_max:,}",
        *(["", "", "", ""] if result.backlog else times),
        f"{result.rss_mb_max:,.0f}",
        f"{result.wrong + result.unaccounted:,}",
    ]
