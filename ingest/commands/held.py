"""What waits, and why? Messages that are held for one reason are judged again when that reason may be gone."""

from pathlib import Path

import click

from ingest.adapters.postgres.audit import Decision
from ingest.adapters.postgres.ruling import Kind, Ruling
from ingest.commands.quarantine import decide
from ingest.commands.shell import config_option, decision_options
from ingest.core.verdict import Hold


@click.group
def held() -> None:
    """Look after the messages that wait."""


@held.command
@config_option
@click.argument("held_for", type=click.Choice([hold.value for hold in Hold]))
@decision_options()
def rejudge(config: Path | None, held_for: str, decision: Decision) -> None:
    """Judge again all that is HELD_FOR one reason, such as schema_unknown. Interrupted, it goes on when typed again."""
    decide(config, Ruling(Kind.REJUDGE, held_for), decision)
