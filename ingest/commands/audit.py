"""What have people decided, and is everything that is stored still as it was committed? Asked of the store itself."""

import time
from datetime import UTC, datetime
from pathlib import Path

import click

import schemas
from ingest.adapters.postgres.audit import LIST_ROWS_MAX, BrokenChainError, Head, list_acts, verify
from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.findings import Findings
from ingest.adapters.postgres.inspection import inspect
from ingest.adapters.postgres.rereading import reread_all
from ingest.commands.shell import ask, config_option, connected, json_option, run, settings_of, show_rows
from ingest.core.payload import load

ACTS = "acts"  # the name of the chain of what people decided
PROGRESS_EVERY_S = 5.0


@click.group
def audit() -> None:
    """See what people have decided, and whether anything that is stored was changed."""


@audit.command("list")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:  # noqa: FBT001 (click gives flags so)
    """List who did what to whom, when and why; as JSON, with how things stood before and after."""
    found = ask(config, list_acts)
    if len(found) == LIST_ROWS_MAX:
        click.echo(f"the last {LIST_ROWS_MAX} acts; the view weighbridge.audit has all", err=True)
    show_rows(found, ("audit_no", "acted_at", "actor", "act", "subject", "reason"), as_json=as_json)


def _heads(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> dict[str, Head]:
    """Read what an earlier verification printed: a name and a head on each line."""
    heads: dict[str, Head] = {}
    for line in path.read_text(errors="replace").splitlines() if path else ():
        name, _, head = line.rpartition(" ")
        number, _, digest = head.partition(":")
        try:
            heads[name] = Head(int(number), bytes.fromhex(digest))
        except ValueError:
            heads[name] = Head(-1)
        if not name or heads[name].rows < 0 or len(heads[name].hash) != len(Head().hash):
            raise click.BadParameter("give what an earlier verification printed: NAME N:HASH on each line")
    return heads


def _midnight(_context: click.Context, _parameter: click.Parameter, day: datetime | None) -> int:
    """Say when a day begins, in microseconds since 1970 UTC."""
    return 0 if day is None else round(day.replace(tzinfo=UTC).timestamp()) * 1_000_000


@audit.command("verify")
@config_option
@click.option(
    "--expect",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    callback=_heads,
    help="A file with the heads that an earlier verification printed.",
)
@click.option(
    "--since",
    metavar="YYYY-MM-DD",
    type=click.DateTime(["%Y-%m-%d"]),
    callback=_midnight,
    help="Of messages, look only at those that were committed or issued since then.",
)
def verify_(config: Path | None, expect: dict[str, Head], since: int) -> None:
    """Find what was changed in the record of acts, in what was judged, and in every message and sample that is stored.

    Each row that was changed, removed, added or moved is named, and the exit status is 1; otherwise the heads are
    printed. That rows were cut off at the end, or all of them made anew, only those can tell who have kept earlier
    heads elsewhere, and give them with --expect.
    """
    settings = settings_of(config, "database")
    findings = Findings(lambda what: click.echo(what, err=True), _Progress())

    async def work() -> int:
        async with connected(settings) as connection:
            heads = await _verify(connection, expect, since, findings)
        _conclude(findings, heads)
        return 1 if findings.count else 0

    run(work())


async def _verify(
    connection: Connection, expect: dict[str, Head], since_us: int, findings: Findings
) -> dict[str, Head]:
    heads = {}
    try:
        heads[ACTS] = await verify(connection, expect.pop(ACTS, None))
        findings.checked[ACTS] += heads[ACTS].rows
    except BrokenChainError as error:
        findings.add(f"{ACTS}: {error}")
    heads |= await inspect(connection, expect, since_us, findings)
    await reread_all(connection, load(schemas.read_telemetry()), since_us, findings)
    return heads


def _conclude(findings: Findings, heads: dict[str, Head]) -> None:
    """Say what was looked at and what could not be; the heads only of what is whole, for they will be believed."""
    for what, number in findings.unchecked.items():
        click.echo(f"not checked: {number} {what}", err=True)
    checked = ", ".join(f"{number} {what}" for what, number in findings.checked.items())
    if findings.count:
        click.echo(f"{checked} checked: {findings.count} findings", err=True)
        return
    click.echo(f"{checked} checked, and none was changed, removed, added or moved; the heads:", err=True)
    for name, head in heads.items():
        click.echo(f"{name} {head}")


class _Progress:
    """Says how far it has come, now and then."""

    def __init__(self) -> None:
        self._said_at = time.monotonic()

    def __call__(self, how_far: str) -> None:
        if time.monotonic() - self._said_at > PROGRESS_EVERY_S:
            click.echo(how_far, err=True)
            self._said_at = time.monotonic()
