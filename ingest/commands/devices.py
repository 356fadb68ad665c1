"""Who may send, and what has come of it? Devices are enrolled, listed and shown."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

import click

from ingest.adapters.postgres.registry import LIST_ROWS_MAX, import_devices, list_devices, read_lines, show_device
from ingest.commands.shell import config_option, connected, run, settings_of
from ingest.config import Settings


@click.group
def devices() -> None:
    """Enrol devices, and look at them."""


@devices.command("import")
@config_option
@click.argument("file", type=click.File(encoding="utf-8", errors="replace"))  # what it replaces, no line may have
def import_(config: Path | None, file: TextIO) -> None:
    r"""Enrol the devices of FILE, one JSON object a line; all of them or none.

    \b
    device_id, tenant, vehicle_id   text
    epoch                           whole number
    kid                             hexadecimal, 1 to 32 bytes
    alg                             "EdDSA" or "ES256"
    public_key                      SubjectPublicKeyInfo, PEM
    """
    run(enrol_lines(settings_of(config, "database"), file))


def enrol(lines: Iterable[str]) -> None:
    """Enrol a simulated fleet."""
    run(enrol_lines(settings_of(None, "database"), lines))


async def enrol_lines(settings: Settings, lines: Iterable[str]) -> int:
    """Enrol all of them or none, and say what was done."""
    entries = read_lines(lines)
    async with connected(settings) as connection:
        done = await import_devices(connection, entries)
    new = f"{done.devices_new} new devices, {done.keys_new} new keys, {done.epochs_raised} epochs raised"
    click.echo(f"{done.lines} lines: {new}")
    if done.keys_shared:
        click.echo(f"warning: {done.keys_shared} public keys belong to several devices; each needs its own", err=True)
    return 0


@devices.command("list")
@config_option
@click.option("--tenant", help="Only the devices of this tenant.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(config: Path | None, tenant: str | None, as_json: bool) -> None:  # noqa: FBT001 (click gives flags so)
    """List the devices, with what they have sent and what is missing."""
    settings = settings_of(config, "database")

    async def work() -> int:
        async with connected(settings) as connection:
            found = await list_devices(connection, tenant)
        if len(found) == LIST_ROWS_MAX:
            click.echo(f"the first {LIST_ROWS_MAX} devices; the view weighbridge.device has all", err=True)
        for row in found:
            click.echo(json.dumps(row) if as_json else "  ".join(str(value) for value in row.values()))
        return 0

    run(work())


@devices.command
@config_option
@click.argument("device_id")
def show(config: Path | None, device_id: str) -> None:
    """Show one device as JSON: its standing, keys, and the numbers that are missing."""
    settings = settings_of(config, "database")

    async def work() -> int:
        async with connected(settings) as connection:
            found = await show_device(connection, device_id)
        if found is None:
            raise click.ClickException(
                f"no device {device_id} is enrolled; `weighbridge devices list` shows those that are"
            )
        click.echo(json.dumps(found, indent=2, default=str))
        return 0

    run(work())
