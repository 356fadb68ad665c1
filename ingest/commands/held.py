"""What waits, and why? Messages that are held for one reason are judged again when that reason may be gone."""

from pathlib import Path

import click

from ingest.adapters.postgres.audit import Decision
from ingest.adapters.postgres.readout import list_waiting
from ingest.adapters.postgres.ruling import Kind, Ruling
from ingest.commands.quarantine import decide
from ingest.commands.shell import ask, config_option, decision_options, json_option, settings_of, show_rows
from ingest.core.verdict import Hold


@click.group
def held() -> None:
    """Look after the messages that wait."""


@held.command("list")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:  # noqa: FBT001 (click gives flags so)
    """List for which reasons messages wait: how many, of how many devices, and from when on they lapse."""
    held_s_max = settings_of(config, "database").policy.held_s_max
    show_rows(ask(config, lambda connection: list_waiting(connection, held_s_max)), as_json=as_json)


@held.command
@config_option
@click.argument("held_for", type=click.Choice([hold.value for hold in Hold]))
@decision_options()
def rejudge(config: Path | None, held_for: str, decision: Decision) -> None:
    """Judge again all that is HELD_FOR one reason, such as schema_unknown. Interrupted, it goes on when typed again."""
    decide(config, Ruling(Kind.REJUDGE, held_for), decision)
