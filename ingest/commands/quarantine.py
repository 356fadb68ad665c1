"""Who is suspected, on what evidence, and what is decided of it? Devices are released and revoked, by one or by two."""

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import click

import schemas
from ingest.adapters.postgres.audit import Decision
from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.lane import Review
from ingest.adapters.postgres.provenance import Provenance
from ingest.adapters.postgres.ruling import (
    PROPOSAL_DAYS_MAX,
    Effect,
    Kind,
    Proposal,
    Ruling,
    approve,
    list_proposals,
    rule,
    withdraw,
)
from ingest.adapters.postgres.suspicion import list_suspects, show_suspect
from ingest.build import identify
from ingest.commands.shell import ask, config_option, decision_options, json_option, settings_of, show_rows
from ingest.core.examine import Examiner
from ingest.core.payload import load
from ingest.core.signature import OpenSSL
from ingest.core.verdict import Refusal, Verdict

number_argument = click.argument("number", type=click.IntRange(1, 2**31 - 1))


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
    decide(config, Ruling(Kind.RELEASE, device_id), decision)


@quarantine.command
@config_option
@click.argument("device_id")
@decision_options()
def revoke(config: Path | None, device_id: str, decision: Decision) -> None:
    """Never trust a device again: what it says is held. Its keys are revoked with `weighbridge devices revoke`."""
    decide(config, Ruling(Kind.REVOKE, device_id), decision)


@quarantine.command
@config_option
@json_option
def proposals(config: Path | None, as_json: bool) -> None:  # noqa: FBT001 (click gives flags so)
    """List what somebody has proposed and another person has to approve."""
    show_rows(ask(config, list_proposals), as_json=as_json)


@quarantine.command("approve")
@config_option
@number_argument
@decision_options()
def approve_(config: Path | None, number: int, decision: Decision) -> None:
    """Let what somebody else has proposed take effect."""
    carry_out(config, lambda connection: approve(connection, number, decision))


@quarantine.command("withdraw")
@config_option
@number_argument
@decision_options()
def withdraw_(config: Path | None, number: int, decision: Decision) -> None:
    """Take back what was proposed."""
    ask(config, lambda connection: withdraw(connection, number, decision))
    click.echo(f"proposal {number} is withdrawn")


def decide(config: Path | None, ruling: Ruling, decision: Decision) -> None:
    """Let a decision take effect, if one person is enough for it."""
    approvals = settings_of(config, "database").policy.release_approvals
    carry_out(config, lambda connection: rule(connection, ruling, decision, approvals))


def carry_out(config: Path | None, decided: Callable[[Connection], Awaitable[Effect | Proposal]]) -> None:
    """Write a decision down, judge again what it lets out of the lane, and say what comes of it."""
    policy, catalogue, engine = settings_of(config, "database").policy, load(schemas.read_telemetry()), OpenSSL()
    provenance = Provenance(identify(), engine.name, policy, tuple(catalogue.schemas))

    async def work(connection: Connection) -> str:
        effect = await decided(connection)
        if isinstance(effect, Effect) and effect.release_no is not None:
            review = Review(connection, Examiner(policy, catalogue, engine), provenance)
            await _watch(review.run(effect.release_no), f"release {effect.release_no}")
        return _conclude(effect)

    click.echo(ask(config, work))


async def _watch(batches: AsyncIterator[Counter[Verdict | Refusal]], name: str) -> None:
    so_far: Counter[Verdict | Refusal] = Counter()
    async for counts in batches:
        so_far += counts
        said = ", ".join(f"{number:,} {verdict}" for verdict, number in so_far.items())
        click.echo(f"{name}: {said}", err=True)
    if so_far[Refusal.LAPSED]:
        click.echo(f"{name}: of what has lapsed no bytes were kept. It is judged if it is sent again.", err=True)


def _conclude(effect: Effect | Proposal) -> str:
    ruling = effect.ruling
    if isinstance(effect, Proposal):
        return (
            f"proposal {effect.number}: {ruling}. Nothing has changed yet: another person has to type "
            f"`weighbridge quarantine approve {effect.number}` within {PROPOSAL_DAYS_MAX} days"
        )
    return (
        f"device {ruling.subject} is revoked" if effect.release_no is None else f"release {effect.release_no} is done"
    )
