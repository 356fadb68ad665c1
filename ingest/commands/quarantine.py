"""Who is suspected, on what evidence, and what is decided of it? Devices are looked at, released and revoked."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import click

import schemas
from ingest.adapters.postgres.audit import Decision
from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.lane import Review, release_device, revoke_standing
from ingest.adapters.postgres.provenance import Provenance
from ingest.adapters.postgres.suspicion import list_suspects, show_suspect
from ingest.build import identify
from ingest.commands.shell import ask, config_option, decision_options, json_option, settings_of, show_rows
from ingest.core.examine import Examiner
from ingest.core.payload import load
from ingest.core.signature import Portable


@click.group
def quarantine() -> None:
    """See which devices are suspected, and decide what becomes of them."""


@quarantine.command("list")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:  # noqa: FBT001 (click gives flags so)
    """List the devices that are not simply trusted, the most suspected first."""
    show_rows(ask(config, list_suspects), as_json=as_json)


@quarantine.command
@config_option
@click.argument("device_id")
def show(config: Path | None, device_id: str) -> None:
    """Show as JSON what speaks against a device, what was decided, and what of it is held."""
    found = ask(config, lambda connection: show_suspect(connection, device_id))
    click.echo(json.dumps(found, indent=2, default=str))


@quarantine.command
@config_option
@click.argument("device_id")
@decision_options()
def release(config: Path | None, device_id: str, decision: Decision) -> None:
    """Trust a device again, and judge again all that is held of it. Interrupted, it goes on when it is typed again."""
    review(config, lambda connection: release_device(connection, device_id, decision))


@quarantine.command
@config_option
@click.argument("device_id")
@decision_options()
def revoke(config: Path | None, device_id: str, decision: Decision) -> None:
    """Never trust a device again: what it says is held. Its keys are revoked with `weighbridge devices revoke`."""
    ask(config, lambda connection: revoke_standing(connection, device_id, decision))
    click.echo(f"device {device_id} is revoked")


def review(config: Path | None, decide: Callable[[Connection], Awaitable[int]]) -> None:
    """Write a decision down and judge again what it is about; say what comes of it."""
    policy, catalogue, engine = settings_of(config, "database").policy, load(schemas.read_telemetry()), Portable()
    provenance = Provenance(identify(), engine.name, policy, tuple(catalogue.schemas))

    async def work(connection: Connection) -> int:
        release_no = await decide(connection)
        async for counts in Review(connection, Examiner(policy, catalogue, engine), provenance).run(release_no):
            said = ", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number)
            click.echo(f"release {release_no}: {said}", err=True)
        return release_no

    click.echo(f"release {ask(config, work)} is done")
