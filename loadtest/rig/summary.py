"""What does the terminal show at the end? A table of courses, and what was claimed."""

from rich.console import Console
from rich.table import Table

from loadtest.rig.result import Report, Result


def show(report: Report, console: Console) -> None:
    """Print it."""
    table = Table(title=f"loadtest {report.scenario}", title_justify="left")
    table.add_column("course")
    for name in ("messages", "per second", "lag at most", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "MB", "wrong"):
        table.add_column(name, justify="right")
    for result in report.results:
        table.add_row(*_row(result))
    console.print(table)
    for ratio in report.ratios:
        bound = f"at least {ratio.least:.0%}" if ratio.least is not None else f"at most {ratio.most:.0%}"
        console.print(f"{ratio.what}: {ratio.value:.1%} (wanted: {bound})", highlight=False,
                      style="green" if ratio.holds else "bold red")  # fmt: skip


def _row(result: Result) -> list[str]:
    waited = result.waited
    times = [f"{one:,.1f}" for one in (waited.p50, waited.p99, waited.p999, waited.max)]
    return [
        result.name,
        f"{result.messages:,}",
        f"{result.rate:,.0f}",
        f"{result.lag_max:,}",
        *(["", "", "", ""] if result.backlog else times),
        f"{result.rss_mb_max:,.0f}",
        f"{result.wrong + result.unaccounted:,}",
    ]
