"""Does each message get its verdict and its owner while people change keys, units and owners? A fleet, a registrar."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import click
import msgspec
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from deploy.embedded.command import state_option
from device_sim.fault import Fault
from device_sim.fleet import Mix, Plan, sends
from device_sim.hindsight import Done, look_back
from device_sim.identity import Fleet, Identity
from device_sim.lifecycle import Deed, Lives, Part
from device_sim.sender import Pace
from device_sim.trouble import Trouble
from device_sim.truth import Comparison, Differences
from ingest.adapters.postgres.readout import count_owned
from loadtest.attack.command import conduct, json_option, seed_option
from loadtest.attack.report import Claim, Report, Stopwatch, equal
from loadtest.attack.site import LOOK_EVERY_S, PARTITIONS, Site, at_work, opened, weigh
from loadtest.chaos.stage import Servers
from loadtest.check import settle, show
from loadtest.registrar import Registrar
from loadtest.view import Progress, View

WORKERS = 2
READY_S_MAX = 60.0
SAMPLES_MAX = 4
RATE_PER_VEHICLE_MAX = 5  # half of what the policy allows: stories come in bursts
EITHER_PERCENT_MAX = 5
MIX = Mix(
    {
        **dict.fromkeys(Part, 0.1),
        **dict.fromkeys((Fault.FORGED, Fault.WRONG_DEVICE_KEY, Fault.UNKNOWN_KEY, Fault.CLONE, Fault.REPLAY), 0.02),
        **dict.fromkeys((Trouble.OFFLINE, Trouble.REBOOT, Trouble.RETRANSMISSION), 0.03),
    }
)
REVOKED = "select count(*), coalesce(sum(stored_now - stored_before), 0)::bigint from weighbridge.revocation"


class Wish(msgspec.Struct, frozen=True):
    """How much of what."""

    vehicles: int
    seconds: float
    rate: float
    deeds: float
    seed: int


@click.command("lifecycle")
@click.option("--vehicles", default=300, show_default=True, type=click.IntRange(20, 100_000))
@click.option("--seconds", default=60.0, show_default=True, type=click.FloatRange(1, 900))
@click.option("--deeds", default=15.0, show_default=True, type=click.FloatRange(0.1, 100),
              help="Rotations, revocations, replacements, transfers and enrolments a second, together.")  # fmt: skip
@click.option("--rate", default=300.0, show_default=True, type=click.FloatRange(10, 20_000), help="Messages/s.")
@seed_option
@json_option
@state_option
def lifecycle_(state: Path, as_json: bool, **numbers: float) -> None:  # noqa: FBT001 (options)
    """Rotate, revoke, replace, transfer and enrol while a fleet speaks, thieves in it: each message gets its due.

    On a topic and a database of its own, on the servers that the environment names, or else on those of `weighbridge
    up`. Exit status 1 if a verdict or an owner is wrong, or anything is stored under a revoked key.
    """
    wish = msgspec.convert(numbers, Wish)
    conduct(state, lambda *scene: play(wish, *scene), as_json=as_json)


async def play(wish: Wish, servers: Servers, folder: Path, console: Console) -> Report:
    """Let the fleet speak and the registrar work, and compare with what was deserved."""
    if wish.rate > wish.vehicles * RATE_PER_VEHICLE_MAX:
        raise ValueError(f"more than {RATE_PER_VEHICLE_MAX} messages/s of a vehicle are limited: take more vehicles")
    fleet = Fleet(wish.seed, wish.vehicles, run=int(time.time()))
    identity = Identity(fleet)
    plan, lives = Plan(fleet, MIX, time.time(), wish.rate, SAMPLES_MAX), Lives(identity)
    async with opened(servers, f"lifecycle_{fleet.run}", fleet) as site:
        registrar = Registrar(lives, site, wish.deeds)
        async with at_work(site, WORKERS, folder):
            await _all_owned(site)
            watch, speaking = Stopwatch(), sends(replace(plan, start_s=time.time()), lives)
            pace = Pace(wish.rate, seconds=wish.seconds)
            with View(console) as view:
                async with registrar.at_work():
                    sent = await weigh(site, speaking, pace, registrar.take, Progress(view.show))
            facts = watch.facts(sent.sent)
        comparison = Comparison()
        for row in look_back(registrar.rows, registrar.done, identity):
            comparison.expect(row)
        found = await settle(site.database, comparison)
        show(found, console)
        show_deeds(registrar.done, console)
        done = len(registrar.done)
        facts |= {"deeds": done, "deeds_per_s": round(done / sent.seconds, 1), **_thefts(found)}
        return Report(await _claims(site, found), facts, "Deeds under load")


async def _all_owned(site: Site) -> None:
    """Wait until the workers have all partitions: what is done before meets no load."""
    async with site.connected() as connection:
        for _ in range(int(READY_S_MAX / LOOK_EVERY_S)):
            if await count_owned(connection, site.name) >= PARTITIONS:
                return
            await asyncio.sleep(LOOK_EVERY_S)


async def _claims(site: Site, found: Differences) -> list[Claim]:
    ((revoked, stored_after),) = await site.ask(REVOKED)
    undeserved = found.wrong + found.unexpected + found.unaccounted
    share = 100 * found.either / max(found.sent, 1)
    return [
        Claim("messages without the verdict that they deserve",
              f"{undeserved:,} of {found.sent:,}", undeserved == 0),
        Claim("stored messages of a wrong owner", f"{found.misowned:,} of {found.owned:,}", found.misowned == 0),
        equal(f"messages stored under a key after its revocation, of {revoked:,} keys", stored_after, 0),
        Claim("messages on their way while their key was revoked, for which either verdict is right",
              f"{found.either:,}, {share:.2f} %", share <= EITHER_PERCENT_MAX),
    ]  # fmt: skip


THEFTS = {
    ("held", "key_retired"): "thefts_held_retired_key",
    ("refused", "key_revoked"): "thefts_refused_revoked_key",
    ("refused", "epoch_closed"): "thefts_refused_closed_epoch",
    ("refused", "key_not_valid"): "thefts_refused_key_of_another_epoch",
    ("refused", "wrong_device"): "thefts_refused_key_of_another_device",
}


def _thefts(found: Differences) -> dict[str, object]:
    return {name: found.found.get(verdict, 0) for verdict, name in THEFTS.items()}


def show_deeds(done: Sequence[Done], console: Console) -> None:
    """Show what was done at the registry, and how long it took."""
    table = Table("deed", "done", "ms, median", "ms, most", title="What was done meanwhile", title_justify="left")
    for deed in Deed:
        took_ms = [one.took_ms for one in done if one.ask.deed is deed]
        if took_ms:
            table.add_row(deed, f"{len(took_ms):,}", f"{median(took_ms):.0f}", f"{max(took_ms):.0f}")
    console.print(table)
