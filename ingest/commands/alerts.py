"""What is there to be told? Alerts, as the feed gives them to others, and as the store keeps them."""

import contextlib
import json
from pathlib import Path
from typing import Any

import click

from ingest.adapters.channel import listen
from ingest.adapters.postgres.outbox import LIST_ROWS_MAX, list_alerts
from ingest.commands.devices import instant
from ingest.commands.shell import ask, config_option, json_option, run, settings_of

REMEMBERED_MAX = 100_000  # ids: what is published twice is shown once


@click.group
def alerts() -> None:
    """See what there is to be told: clones, quarantines, keys that are used by others."""


@alerts.command("list")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:  # noqa: FBT001 (click gives flags so)
    """List the newest alerts from the database, whether they are published or not."""
    found = ask(config, list_alerts)
    if len(found) == LIST_ROWS_MAX:
        click.echo(f"the last {LIST_ROWS_MAX} alerts; the view weighbridge.alert has all", err=True)
    for row in found:
        shown = (row["raised_at"], row["kind"], row["subject"], row["evidence"])
        full = row | {"evidence": json.loads(row["evidence"])}
        click.echo(json.dumps(full) if as_json else "  ".join(map(_legible, shown)))


@alerts.command
@config_option
@json_option
@click.option("--follow", is_flag=True, help="Go on with what comes, until interrupted.")
@click.option("--since", callback=instant, metavar="TIME", help="From what was published at this time on.")
def tail(config: Path | None, as_json: bool, follow: bool, since: int | None) -> None:  # noqa: FBT001 (click gives flags so)
    """Show the alerts that were published to the topic, as everybody gets them; one that was published twice, once.

    With --json, each as the CloudEvents event that it is.
    """
    settings = settings_of(config, "kafka")

    async def work() -> int:
        shown: dict[str, None] = {}
        since_ms = None if since is None else since // 1000
        async with contextlib.aclosing(
            listen(settings.kafka, settings.alerts_topic, since_ms, follow=follow)
        ) as published:
            async for value in published:
                event = _event(value)
                if event is not None and event["id"] not in shown:
                    shown[event["id"]] = None
                    if len(shown) > REMEMBERED_MAX:
                        del shown[next(iter(shown))]
                    click.echo(json.dumps(event) if as_json else _line(event))
        return 0

    with contextlib.suppress(KeyboardInterrupt):
        run(work())


def _event(value: bytes) -> dict[str, Any] | None:
    """Read an event; anybody may be allowed to write into the topic, so what is none is passed over, and said."""
    try:
        event = json.loads(value)
    except ValueError:
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("id"), str):
        click.echo("passed over what is no CloudEvents event in JSON", err=True)
        return None
    return event


def _line(event: dict[str, Any]) -> str:
    data = event.get("data")
    evidence = data.get("evidence") if isinstance(data, dict) else None
    kind = str(event.get("type")).removeprefix("weighbridge.alert.")
    return "  ".join(_legible(part) for part in (event.get("time"), kind, event.get("subject"), json.dumps(evidence)))


def _legible(part: object) -> str:
    """Show no character that a terminal might obey."""
    return "".join(char if char.isprintable() else "?" for char in str(part))
