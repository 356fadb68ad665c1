"""Who may send, under which key, and what has come of it? Devices from their enrolment to their end."""

import functools
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TextIO

import click

from ingest.adapters.postgres import admission, lifecycle, registry
from ingest.adapters.postgres.audit import Decision
from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.registry import LIST_ROWS_MAX, Imported, list_devices, read_lines, show_device
from ingest.commands.shell import (
    ask,
    config_option,
    connected,
    decision_options,
    json_option,
    run,
    settings_of,
    show_rows,
)
from ingest.config import Settings
from ingest.core.certificate import PEM_CHARACTERS_MAX, Presented
from ingest.core.enrolment import Candidate
from ingest.core.envelope import SEQ_MAX
from ingest.core.proof import REQUEST_CHARACTERS_MAX, read_request

LATE = 100_000  # a week of messages, at one every six seconds


@click.group
def devices() -> None:
    """Enrol devices, look at them, and change their keys."""


@devices.command("import")
@config_option
@click.argument("file", type=click.File(encoding="utf-8", errors="replace"))  # what it replaces, no line may have
@click.option("--pending", is_flag=True, help="Their keys may not sign yet: until `activate`, or an enrolment.")
@decision_options("enrolment")
def import_(config: Path | None, file: TextIO, decision: Decision, *, pending: bool) -> None:
    """Enrol the devices of FILE, one JSON object a line; none of them if anything is wrong with one.

    \b
    device_id, tenant, vehicle_id   text
    epoch                           whole number
    kid                             hexadecimal, 1 to 32 bytes
    alg                             "EdDSA" or "ES256"
    public_key                      SubjectPublicKeyInfo, PEM

    A new kid is a further key of its device. A higher epoch closes the one before, and ends the keys that are not named
    again with it. A key that is pending comes into force when it is imported without --pending.

    All lines are checked before the first is enrolled. Many are enrolled in portions: interrupted, it goes on when
    typed again.
    """  # noqa: D301 (click wants the character itself: what follows is a table)
    run(enrol_lines(settings_of(config, "database"), file, decision, pending=pending))


def enrol(lines: Iterable[str]) -> None:
    """Enrol a simulated fleet."""
    run(enrol_lines(settings_of(None, "database"), lines, Decision("weighbridge", "a simulated fleet")))


async def enrol_lines(settings: Settings, lines: Iterable[str], decision: Decision, *, pending: bool = False) -> int:
    """Enrol all of them, or none if anything is wrong with one, and say what was done."""
    entries = read_lines(lines, pending=pending)

    def tell(done: Imported) -> None:
        if done.lines < len(entries):
            click.echo(f"{done.lines:,} of {len(entries):,} lines", err=True)

    async with connected(settings) as connection:
        _tell(await registry.import_devices(connection, entries, decision, tell))
    return 0


def _tell(done: Imported) -> None:
    new = f"{done.devices_new} new devices, {done.keys_new} new keys, {done.epochs_raised} epochs raised"
    renewed = f", {done.keys_renewed} keys renewed" if done.keys_renewed else ""
    activated = f", {done.keys_activated} keys activated" if done.keys_activated else ""
    click.echo(f"{done.lines} lines: {new}{renewed}{activated}")
    if done.keys_shared:
        click.echo(f"warning: {done.keys_shared} public keys belong to several devices; each needs its own", err=True)


Reader = Callable[[], Candidate]
Command = Callable[..., None]

text_file = click.File(encoding="utf-8", errors="replace")


def _reader(_context: click.Context, _parameter: click.Parameter, file: TextIO | None) -> Reader | None:
    """Leave the reading to the command, which says in a line what is wrong with a request."""
    return None if file is None else lambda: read_request(file.read(REQUEST_CHARACTERS_MAX + 1))


def request_option(*, required: bool) -> Callable[[Command], Command]:
    """Ask for a request, and give the command a `read` for it."""
    return click.option(
        "--request", "read", type=text_file, required=required, callback=_reader,
        help="What the device asks for, and its proof: JSON (schemas/envelope.md, 7).",
    )  # fmt: skip


def certificate_options(command: Command) -> Command:
    """Ask for a certificate and what belongs to it, and give the command what is `presented`."""

    @click.option("--certificate", type=text_file, help="The device's, PEM; its common name is the device id.")
    @click.option("--chain", type=text_file, help="Those between it and the tenant's authority, PEM.")
    @click.option("--vehicle", help="With --certificate: the vehicle that the device is in.")
    @click.option("--epoch", type=click.IntRange(0, 2**32 - 1), help="With --certificate: its epoch.")
    @functools.wraps(command)
    def presenting(
        *arguments: object,
        certificate: TextIO | None, chain: TextIO | None, vehicle: str | None, epoch: int | None, **options: object
    ) -> None:  # fmt: skip
        presented = None
        if certificate is not None:
            if vehicle is None or epoch is None:
                raise click.UsageError("with --certificate, give --vehicle and --epoch")
            pems = [file.read(PEM_CHARACTERS_MAX + 1) if file else "" for file in (certificate, chain)]
            presented = Presented(pems[0], pems[1], vehicle, epoch)
        elif chain or vehicle is not None or epoch is not None:
            raise click.UsageError("--chain, --vehicle and --epoch belong to --certificate; a request says its own")
        command(*arguments, presented=presented, **options)

    return presenting


@devices.command("enrol")
@config_option
@request_option(required=False)
@certificate_options
@click.option("--tenant", required=True, help="Whose device it is.")
@decision_options("enrolment")
def enrol_(
    config: Path | None, read: Reader | None, presented: Presented | None, tenant: str, decision: Decision
) -> None:
    """Enrol a device, by its own request or a certificate: a new one, one with a further key, or a higher epoch."""
    if (read is None) == (presented is None):
        raise click.UsageError("give either --request or --certificate")

    async def work(connection: Connection) -> None:
        if presented is not None:
            _tell(await admission.enrol_certified(connection, presented, tenant, time.time(), decision))
        elif read is not None:
            _tell(await admission.enrol(connection, read(), tenant, decision))

    _act(config, work)


def _kid(_context: click.Context, _parameter: click.Parameter, text: str | None) -> bytes | None:
    try:
        return None if text is None else bytes.fromhex(text)
    except ValueError:
        raise click.BadParameter("write a kid as hexadecimal digits") from None


@devices.command("activate")
@config_option
@click.argument("device_id")
@click.argument("kid", callback=_kid)
@decision_options()
def activate_(config: Path | None, device_id: str, kid: bytes, decision: Decision) -> None:
    """Put the pending key KID (hexadecimal) of DEVICE_ID into force, on your word that the device has it."""

    async def work(connection: Connection) -> None:
        await lifecycle.activate(connection, device_id, kid, decision)
        click.echo(f"key {kid.hex()} of {device_id} is active")

    _act(config, work)


@devices.command("rotate")
@config_option
@click.argument("device_id")
@request_option(required=True)
@click.option("--cutoff", type=click.IntRange(0, SEQ_MAX), help="The last number that its old keys may sign.")
@decision_options()
def rotate_(config: Path | None, device_id: str, read: Reader, cutoff: int | None, decision: Decision) -> None:
    """Give DEVICE_ID a new key. Its old ones are good up to the cut-off: for what it has buffered.

    That is what the request says was the last number (last_seq), unless --cutoff says otherwise; or else the highest
    that was accepted.
    """

    async def work(connection: Connection) -> None:
        candidate = read()
        last = await lifecycle.rotate(connection, device_id, candidate, cutoff, decision)
        click.echo(f"{device_id} has key {candidate.kid.hex()}; those before it are good up to number {last}")

    _act(config, work)


@devices.command("replace")
@config_option
@click.argument("device_id")
@request_option(required=True)
@click.option(
    "--late", default=LATE, show_default=True, type=click.IntRange(0, lifecycle.LATE_MAX),
    help="How many numbers above the highest accepted the old device may still send.",
)  # fmt: skip
@decision_options()
def replace_(config: Path | None, device_id: str, read: Reader, late: int, decision: Decision) -> None:
    """Put another device into the vehicle of DEVICE_ID. What the old one has buffered is still accepted."""

    async def work(connection: Connection) -> None:
        candidate = read()
        last = await lifecycle.replace(connection, device_id, candidate, late, decision)
        click.echo(f"{candidate.device_id} takes the place of {device_id}, whose keys are good up to number {last}")

    _act(config, work)


def instant(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    """Read a time, as microseconds since 1970 UTC."""
    if text is None:
        return None
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        read = datetime.min  # noqa: DTZ901 (without a zone, and so refused)
    if read.tzinfo is None:
        raise click.BadParameter("give date, time and offset from UTC, such as 2026-11-22T16:20:00Z")
    return (read - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)


@devices.command("revoke")
@config_option
@click.argument("device_id")
@click.option("--kid", callback=_kid, help="This key, in hexadecimal; without it, every key of the device.")
@click.option("--compromised-since", callback=instant, metavar="TIME", help="Since when it may be in other hands.")
@decision_options()
def revoke_(
    config: Path | None, device_id: str, kid: bytes | None, compromised_since: int | None, decision: Decision
) -> None:
    """Accept nothing more under a key of DEVICE_ID, or under all of its keys, whatever time it claims.

    What was stored since --compromised-since stays, and is listed by the view weighbridge.tainted.
    """

    async def work(connection: Connection) -> None:
        began = time.monotonic()
        revoked = await lifecycle.revoke(connection, device_id, kid, compromised_since, decision)
        _tell_revoked(revoked, time.monotonic() - began)

    _act(config, work)


@devices.command("decommission")
@config_option
@click.argument("device_id")
@decision_options()
def decommission_(config: Path | None, device_id: str, decision: Decision) -> None:
    """Take DEVICE_ID out of service: its keys are revoked. It may be enrolled again, with a higher epoch."""

    async def work(connection: Connection) -> None:
        began = time.monotonic()
        revoked = await lifecycle.decommission(connection, device_id, decision)
        _tell_revoked(revoked, time.monotonic() - began)

    _act(config, work)


def _tell_revoked(kids: Iterable[str], seconds: float) -> None:
    """Say it with how long it took from asking to the commit, the wait for locks included."""
    for kid in kids:
        click.echo(f"key {kid} is revoked, in force after {seconds * 1000:.0f} ms: nothing more is stored under it")


@devices.command("transfer")
@config_option
@click.argument("vehicle_id")
@click.option("--to", "tenant", required=True, help="The tenant whose it is from then on.")
@click.option("--at", callback=instant, metavar="TIME", help="When it changed hands; now, unless given.")
@decision_options()
def transfer_(config: Path | None, vehicle_id: str, tenant: str, at: int | None, decision: Decision) -> None:
    """Give VEHICLE_ID to another tenant. Each message belongs to who owned the vehicle when it was issued."""

    async def work(connection: Connection) -> None:
        since_us = await lifecycle.transfer(connection, vehicle_id, tenant, at, decision)
        since = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=since_us)
        click.echo(f"{vehicle_id} belongs to {tenant}, and what was issued since {since.isoformat()} with it")

    _act(config, work)


def _act(config: Path | None, work: Callable[[Connection], Awaitable[None]]) -> None:
    """Do what a person decides, with a connection to the registry."""
    settings = settings_of(config, "database")

    async def act() -> int:
        async with connected(settings) as connection:
            await work(connection)
        return 0

    run(act())


@devices.command("list")
@config_option
@click.option("--tenant", help="Only the devices of this tenant.")
@json_option
def list_(config: Path | None, tenant: str | None, as_json: bool) -> None:  # noqa: FBT001 (click gives flags so)
    """List the devices, with what they have sent and what is missing."""
    found = ask(config, lambda connection: list_devices(connection, tenant))
    if len(found) == LIST_ROWS_MAX:
        click.echo(f"the first {LIST_ROWS_MAX} devices; the view weighbridge.device has all", err=True)
    show_rows(found, as_json=as_json)


@devices.command
@config_option
@click.argument("device_id")
def show(config: Path | None, device_id: str) -> None:
    """Show one device as JSON: its standing, keys, and the numbers that are missing."""
    found = ask(config, lambda connection: show_device(connection, device_id))
    if found is None:
        raise click.ClickException(
            f"no device {device_id} is enrolled; `weighbridge devices list` shows those that are"
        )
    click.echo(json.dumps(found, indent=2, default=str))
