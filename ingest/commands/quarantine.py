"""Who is suspected, on what evidence, and what is decided of it? Devices are looked at, released and revoked."""

import json
from pathlib import Path

import click

import schemas
from ingest.adapters.postgres.audit import Decision
from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.lane import Review, release_device, revoke_standing
from ingest.adapters.postgres.provenance import Provenance
from ingest.adapters.postgres.suspicion import list_suspects, show_suspect
from ingest.build import identify
from ingest.commands.shell import config_option, connected, decision_options, json_option, run, settings_of
from ingest.config import Settings
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
    settings = settings_of(config, "database")

    async def work() -> int:
        async with connected(settings) as connection:
            found = await list_suspects(connection)
        for row in found:
            click.echo(json.dumps(row) if as_json else "  ".join(str(value) for value in row.values()))
        return 0

    run(work())


@quarantine.command
@config_option
@click.argument("device_id")
def show(config: Path | None, device_id: str) -> None:
    """Show as JSON what speaks against a device, what was decided, and what of it is held."""
    settings = settings_of(config, "database")

    async def work() -> int:
        async with connected(settings) as connection:
            found = await show_suspect(connection, device_id)
        click.echo(json.dumps(found, indent=2, default=str))
        return 0

    run(work())


@quarantine.command
@config_option
@click.argument("device_id")
@decision_options()
def release(config: Path | None, device_id: str, decision: Decision) -> None:
    """Trust a device again, and judge again all that is held of it. Interrupted, it goes on when it is typed again."""
    settings = settings_of(config, "database")

    async def work() -> int:
        async with connected(settings) as connection:
            release_no = await release_device(connection, device_id, decision)
            await review(connection, settings, release_no)
        return 0

    run(work())


@quarantine.command
@config_option
@click.argument("device_id")
@decision_options()
def revoke(config: Path | None, device_id: str, decision: Decision) -> None:
    """Never trust a device again: what it says is held. Its keys are revoked with `weighbridge devices revoke`."""
    settings = settings_of(config, "database")

    async def work() -> int:
        async with connected(settings) as connection:
            await revoke_standing(connection, device_id, decision)
        click.echo(f"device {device_id} is revoked")
        return 0

    run(work())


async def review(connection: Connection, settings: Settings, release_no: int) -> None:
    """Judge again what a decision is about, and say what comes of it."""
    catalogue, engine = load(schemas.read_telemetry()), Portable()
    provenance = Provenance(identify(), engine.name, settings.policy, tuple(catalogue.schemas))
    found = Review(connection, Examiner(settings.policy, catalogue, engine), provenance)
    async for counts in found.run(release_no):
        said = ", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number)
        click.echo(f"release {release_no}: {said}", err=True)
    click.echo(f"release {release_no} is done")
