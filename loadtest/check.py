"""Did every message get the verdict that it deserved? The simulator's truth against the store."""

import asyncio
import os
import sys
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from device_sim.truth import Comparison, Deserved, Differences, Found, Owned, read
from ingest.adapters.postgres.connection import connect
from ingest.adapters.postgres.readout import read_owners, read_verdicts
from ingest.config import SettingsError, read_file
from ingest.core.verdict import Verdict
from ingest.ports import TroubleError


async def compare(database: str, truth: Iterable[Deserved]) -> Differences:
    """Compare the truth of a run with the store, position by position; raises TroubleError."""
    comparison = Comparison()
    for row in truth:
        comparison.expect(row)
    return await settle(database, comparison)


async def settle(
    database: str, comparison: Comparison, aside: AbstractSet[tuple[int, int]] = frozenset()
) -> Differences:
    """Hold the store to a truth, apart from positions (partition, offset) of which it says nothing; as `compare`."""
    connection = await connect(database, "weighbridge check")
    try:
        for span in comparison.spans():
            offsets = span.first, span.last
            async for offset, verdict, reason in read_verdicts(connection, span.topic, span.partition, offsets):
                if (span.partition, offset) not in aside:
                    comparison.find(Found(span.topic, span.partition, offset, verdict, reason))
            if comparison.names_owners:
                async for offset, tenant in read_owners(connection, span.topic, span.partition, offsets):
                    comparison.own(Owned(span.topic, span.partition, offset, tenant))
    finally:
        await connection.close()
    return comparison.differences()


def summary(found: Differences) -> dict[str, object]:
    """Say it for scripts."""
    totals = {verdict.value: sum(n for (given, _), n in found.found.items() if given == verdict) for verdict in Verdict}
    reasons = {reason: n for (_, reason), n in sorted(found.found.items()) if reason}
    return {
        "sent": found.sent,
        "consumed": sum(totals.values()),
        **totals,
        "reasons": reasons,
        "unaccounted": found.unaccounted,
        "wrong_verdicts": found.wrong + found.unexpected,
    }


def show(found: Differences, console: Console) -> None:
    """Say it for people: a table by verdict and reason, what differs, and the line that matters."""
    table = Table("verdict", "reason", "deserved", "given", title="What became of the messages", title_justify="left")
    for column in table.columns[2:]:
        column.justify = "right"
    order = {verdict.value: place for place, verdict in enumerate(Verdict)}
    for verdict, reason in sorted({*found.deserved, *found.found}, key=lambda kind: (order[kind[0]], kind[1])):
        deserved, given = found.deserved.get((verdict, reason), 0), found.found.get((verdict, reason), 0)
        table.add_row(verdict, reason, f"{deserved:,}", f"{given:,}", style=None if deserved == given else "bold red")
    console.print(table)
    for example in found.examples:
        console.print(f"  {example.topic}/{example.partition}/{example.offset} ({example.fault}): deserved "
                      f"{example.deserved}, found {example.found}", style="red", highlight=False)  # fmt: skip
    differences = found.wrong + found.unexpected
    console.print(
        f"{found.sent:,} messages sent: {found.unaccounted:,} unaccounted for, {differences:,} undeserved verdicts.",
        style="bold green" if found.agrees else "bold red", highlight=False,
    )  # fmt: skip


@click.command
@click.option(
    "--truth", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Of simulate."
)
@click.option("--config", type=click.Path(path_type=Path), help="Settings as TOML.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
def check(truth: Path, config: Path | None, as_json: bool) -> None:  # noqa: FBT001 (click gives flags so)
    """Compare what each message of a run deserved with what the store says. Exit status 1 when they differ."""
    try:
        found = asyncio.run(compare(read_file(config, os.environ, ("database",)).database, read(truth)))
    except (SettingsError, TroubleError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    show(found, Console(stderr=as_json))
    if as_json:
        click.echo(msgspec.json.encode(summary(found)).decode())
    sys.exit(0 if found.agrees else 1)
