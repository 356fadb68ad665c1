"""What does a person see while it runs? A live table on a terminal; elsewhere a line now and then."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ingest.adapters.postgres.readout import Totals
from ingest.core.verdict import Verdict

LINE_EVERY_S = 5.0
RATE_OVER_S = 3.0
BAR_CELLS = 40


class Progress:
    """How far sending and judging are."""

    def __init__(self, show: Callable[["Progress"], None]) -> None:
        self._show = show
        self._started = time.monotonic()
        self._history: list[tuple[float, int]] = []
        self.sent = 0
        self.totals = Totals()
        self._all_sent = False

    def tell(self, sent: int | None = None, totals: Totals | None = None) -> None:
        """Take the newest numbers."""
        self.sent = self.sent if sent is None else sent
        if totals is not None:
            now = time.monotonic()
            self.totals = totals
            self._history = [(at, n) for at, n in self._history if now - at < RATE_OVER_S] + [(now, totals.consumed)]
        self._show(self)

    def close(self, sent: int) -> None:
        """Take note that nothing more will be sent."""
        self._all_sent = True
        self.tell(sent=sent)

    @property
    def complete(self) -> bool:
        """Whether all that was sent is judged."""
        return self._all_sent and self.totals.consumed >= self.sent

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._started

    @property
    def rate(self) -> float:
        """Messages judged per second, over the last few seconds."""
        (first_at, first), (last_at, last) = self._history[0], self._history[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else 0.0

    @property
    def lag(self) -> int:
        """Messages sent and not yet judged."""
        return max(0, self.sent - self.totals.consumed)


class View:
    """Shows progress for the length of a block."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._line_at = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """Draw the newest numbers."""
        if self._live is not None:
            self._live.update(_table(progress), refresh=True)
        elif progress.seconds >= self._line_at:
            self._line_at = progress.seconds + LINE_EVERY_S
            self._console.print(_line(progress), highlight=False, soft_wrap=True)


def _line(progress: Progress) -> str:
    totals = progress.totals
    counts = ", ".join(f"{getattr(totals, verdict):,} {verdict}" for verdict in Verdict)
    return f"{progress.seconds:5.0f} s: {progress.sent:,} sent, lag {progress.lag:,}, {progress.rate:,.0f}/s; {counts}"


def _table(progress: Progress) -> Table:
    totals = progress.totals
    table = Table(title=f"Weighbridge, {progress.seconds:.0f} s", title_justify="left", show_header=False)
    table.add_row("sent", f"{progress.sent:,}", "")
    table.add_row("judged per second", f"{progress.rate:,.0f}", "")
    table.add_row("lag", f"{progress.lag:,}", "", end_section=True)
    for verdict in Verdict:
        number = getattr(totals, verdict)
        table.add_row(verdict, f"{number:,}", "█" * round(BAR_CELLS * number / max(totals.consumed, 1)))
    table.columns[1].justify = "right"
    return table
