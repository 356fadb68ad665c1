"""Whose are the devices? Tenants, and which authorities may vouch for their devices."""

import json
import time
from pathlib import Path
from typing import TextIO

import click

from ingest.adapters.postgres.audit import Decision
from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.tenants import add_tenant, distrust, list_tenants, trust
from ingest.commands.shell import ask, config_option, decision_options, json_option
from ingest.core.certificate import PEM_CHARACTERS_MAX, read_authority
from ingest.core.enrolment import EnrolmentError, check_name


@click.group
def tenants() -> None:
    """See the tenants, and name the authorities that may vouch for their devices."""


@tenants.command("list")
@config_option
@json_option
def list_(config: Path | None, as_json: bool) -> None:  # noqa: FBT001 (click gives flags so)
    """List the tenants, with the SHA-256 of the certificates of the authorities that they trust."""
    for row in ask(config, list_tenants):
        shown = f"{row['tenant']}  {row['devices']} devices  {row['vehicles']} vehicles"
        click.echo(json.dumps(row) if as_json else "  ".join([shown, *row["authorities"]]))


@tenants.command
@config_option
@click.argument("tenant")
@decision_options("a new tenant")
def add(config: Path | None, tenant: str, decision: Decision) -> None:
    """Make a tenant, for vehicles to be transferred to or enrolled for."""
    try:
        check_name("tenant", tenant)
    except EnrolmentError as error:
        raise click.ClickException(str(error)) from None
    ask(config, lambda connection: add_tenant(connection, tenant, decision))


@tenants.command("trust")
@config_option
@click.argument("tenant")
@click.argument("certificate", type=click.File(encoding="utf-8", errors="replace"))
@decision_options("enrolment by certificate")
def trust_(config: Path | None, tenant: str, certificate: TextIO, decision: Decision) -> None:
    """Let TENANT's devices be enrolled by certificates under the authority whose CERTIFICATE (PEM) this is."""
    text = certificate.read(PEM_CHARACTERS_MAX + 1)

    async def work(connection: Connection) -> str:
        return await trust(connection, tenant, read_authority(text, time.time()), decision)

    click.echo(ask(config, work))


@tenants.command("distrust")
@config_option
@click.argument("tenant")
@click.argument("fingerprint")
@decision_options()
def distrust_(config: Path | None, tenant: str, fingerprint: str, decision: Decision) -> None:
    """Enrol no more devices under the authority with this FINGERPRINT. Devices that are enrolled stay so."""
    ask(config, lambda connection: distrust(connection, tenant, fingerprint.lower(), decision))
