"""What is shown of a comparison? Two tables: rates with their ratios, and who used the processor."""

from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table

from loadtest.compare.trial import Row


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the rates, the ratios, and where the time of the product and of the parts goes."""
    console.print(_rates(rows))
    console.print(_costs(rows))


def _rates(rows: Sequence[Row]) -> Table:
    table = Table(
        title="messages per second (fleet: devices x samples in a message)",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for name in ("fleet", "engine"):
        table.add_column(name, no_wrap=True)
    for name in ("a naive", "b product", "b alone", "c bound", "b/a", "b/c"):
        table.add_column(name, justify="right")
    for row in rows:
        found = [_whole(row.product), _whole(row.one_process), _whole(row.bound), *_ratios(row)]
        if row.missing:
            found = ["none", "", "", "", ""]
        table.add_row(*_names(row), _whole(row.naive), *found)
    for why in sorted({row.missing for row in rows if row.missing}):
        table.caption = f"none: {why}"
    return table


def _costs(rows: Sequence[Row]) -> Table:
    table = Table(title="microseconds of processor for each message", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("fleet", "engine"):
        table.add_column(name, no_wrap=True)
    for name in ("worker", "SQL", "Kafka", "fetch", "verify", "decode", "copy", "state"):
        table.add_column(name, justify="right")
    for row in rows:
        if row.cpu_us and row.parts_us:
            found = (*msgspec.structs.astuple(row.cpu_us), *msgspec.structs.astuple(row.parts_us))
            table.add_row(*_names(row), *(f"{one:.1f}" for one in found))
    return table


def _names(row: Row) -> tuple[str, ...]:
    return f"{row.devices:,} x {row.samples}", f"{row.alg} {row.engine}"


def _ratios(row: Row) -> list[str]:
    return [f"{ratio:.2f}" if ratio is not None else "" for ratio in (row.over_naive, row.over_bound)]


def _whole(rate: float | None) -> str:
    return f"{rate:,.0f}" if rate is not None else ""
