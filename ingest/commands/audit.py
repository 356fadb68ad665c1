"""What have people decided? The record of it, and whether it is whole."""

from pathlib import Path

import click

from ingest.adapters.postgres.audit import LIST_ROWS_MAX, Head, list_acts, verify
from ingest.commands.shell import ask, config_option, connected, json_option, run, settings_of, show_rows


@click.group
def audit() -> None:
    """See what people have decided, and whether the record of it is whole."""


@audit.command("list")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:  # noqa: FBT001 (click gives flags so)
    """List who did what to whom, when and why; as JSON, with how things stood before and after."""
    found = ask(config, list_acts)
    if len(found) == LIST_ROWS_MAX:
        click.echo(f"the last {LIST_ROWS_MAX} acts; the view weighbridge.audit has all", err=True)
    show_rows(found, ("audit_no", "acted_at", "actor", "act", "subject", "reason"), as_json=as_json)


def _head(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Head | None:
    if text is None:
        return None
    rows, _, digest = text.partition(":")
    try:
        head = Head(int(rows), bytes.fromhex(digest))
    except ValueError:
        head = Head(-1)
    if head.rows < 0 or len(head.hash) != len(Head().hash):
        raise click.BadParameter("give what an earlier verification printed, N:HASH")
    return head


@audit.command("verify")
@config_option
@click.option("--expect", metavar="N:HASH", callback=_head, help="What an earlier verification printed.")
def verify_(config: Path | None, expect: Head | None) -> None:
    """Follow the chain of hashes from its beginning, and print its head, N:HASH.

    A row that was changed, removed or moved is named, and the exit status is 1. That rows were cut off at the end, or
    all of them made anew, only those can tell who have kept an earlier head elsewhere, and give it with --expect.
    """
    settings = settings_of(config, "database")

    async def work() -> int:
        async with connected(settings) as connection:
            head = await verify(connection, expect)
        click.echo(f"{head.rows} acts, and none was changed, removed or moved; the head:", err=True)
        click.echo(str(head))
        return 0

    run(work())
