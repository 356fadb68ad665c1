"""What can forgeries do to those whom they name? The same real traffic is sent twice: with them, and without."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path

import msgspec
from msgspec.structs import replace
from rich.console import Console

from device_sim.chance import Chance
from device_sim.fleet import MIXES, Plan, sends
from device_sim.identity import Fleet, Identity
from device_sim.sender import Pace
from device_sim.truth import Deserved, Differences
from device_sim.vehicle import Send
from ingest.core.verdict import Verdict
from loadtest.attack.forgery import Attacker, Forgery, Replay
from loadtest.attack.report import Claim, Report, Stopwatch, equal
from loadtest.attack.site import Site, Truth, at_work, opened, weigh
from loadtest.chaos.stage import Servers
from loadtest.view import Progress, View

WORKERS = 2

STANDINGS = "select standing, count(*) from weighbridge.device group by 1"
ACCUSED = "select count(*) from store.accusation"
# What follows from the broker's clock differs between two runs, however calm; all else is compared to the byte.
ROWS = """
    select d.device_id, (to_jsonb(s) - '{clock_off_since,rate_at,rate_milli}'::text[]
                         || jsonb_build_object('clock_is_off', s.clock_off_since is not null))::text
    from store.device_state s join store.device d using (device_no)
    union all
    select d.device_id || ' closed', to_jsonb(c)::text from store.closed_ledger c join store.device d using (device_no)
    order by 1"""


class Wish(msgspec.Struct, frozen=True):
    """How much of what."""

    vehicles: int
    honest: int
    forged: int
    replays: int
    rate: float
    seed: int


class _Tally:
    """The truth of what is sent, and how much of it was of which kind."""

    def __init__(self) -> None:
        self.truth = Truth()
        self.kinds: Counter[str] = Counter()

    def take(self, row: Deserved) -> None:
        self.truth.take(row)
        self.kinds[str(row.fault) if row.fault in (*Forgery, *Replay) else "real"] += 1


async def attack(wish: Wish, servers: Servers, folder: Path, console: Console) -> Report:
    """Send both, on two sites at the same time, and compare."""
    run = int(time.time())
    fleet = Fleet(wish.seed, wish.vehicles, run)
    names = f"attack_forged_{run}", f"attack_calm_{run}"
    async with opened(servers, names[0], fleet) as site, opened(servers, names[1], fleet) as calm:
        async with at_work(site, WORKERS, folder), at_work(calm, 1, folder):
            watch, tally = Stopwatch(), _Tally()
            sent = await _send(wish, fleet, (site, calm), tally, console)
            facts = watch.facts(sent)
        found = await tally.truth.compare(site)
        told = ", ".join(f"{count:,} {kind}" for kind, count in tally.kinds.items())
        return Report(await _claims(wish, (site, calm), found), facts | {"sent": told})


async def _send(wish: Wish, fleet: Fleet, sites: tuple[Site, Site], tally: _Tally, console: Console) -> int:
    """Send to both sites what their vehicles say at the same moments, and to the first what is forged as well."""
    total = wish.honest + wish.forged + wish.replays
    plan = Plan(fleet, MIXES["honest"], time.time(), wish.rate * wish.honest / total)
    site, calm = sites
    with View(console) as view:
        attacked, _ = await asyncio.gather(
            weigh(site, mixed(wish, plan), Pace(wish.rate), tally.take, Progress(view.show)),
            weigh(calm, islice(sends(plan), wish.honest), Pace(plan.rate), lambda _: None, Progress(lambda _: None)),
        )
    return attacked.sent


def mixed(wish: Wish, plan: Plan) -> Iterator[Send]:
    """Give what vehicles say, and after each message its share of what is forged and replayed."""
    attacker = Attacker(Identity(plan.fleet), Chance(wish.seed))
    forgeries, replays = islice(cycle(Forgery), wish.forged), islice(cycle(Replay), wish.replays)
    for number, send in enumerate(islice(sends(plan), wish.honest)):
        # whichever copy of a content is judged first is accepted, and all others are duplicates
        real = replace(send, group=number) if send.verdict is Verdict.ACCEPTED else send
        yield real
        if real.group is not None:
            attacker.hear(real)
        for kind in islice(forgeries, _share(wish.forged, number, wish.honest)):
            yield attacker.forge(kind)
        for again in islice(replays, _share(wish.replays, number, wish.honest)):
            yield attacker.replay(again)


def _share(whole: int, number: int, parts: int) -> int:
    """Cut a whole number into parts that differ by one at most; gives one of them."""
    return whole * (number + 1) // parts - whole * number // parts


async def _claims(wish: Wish, sites: tuple[Site, Site], found: Differences) -> list[Claim]:
    site, calm = sites
    standings = Counter(dict(await site.ask(STANDINGS)))
    ((accused,),) = await site.ask(ACCUSED)
    calm_rows = await calm.ask(ROWS)
    same = sum(a == b for a, b in zip(await site.ask(ROWS), calm_rows, strict=True))
    given = {verdict: _total(found.found, verdict) for verdict in Verdict}
    due = {verdict: _total(found.deserved, verdict) for verdict in Verdict}
    examples = "; ".join(f"{one.fault}: {one.deserved}, got {one.found}" for one in found.examples[:3])
    undeserved = found.wrong + found.unexpected + found.unaccounted
    return [
        equal("vehicles that are trusted", standings["trusted"], wish.vehicles),
        equal("real messages that are accepted", given[Verdict.ACCEPTED], due[Verdict.ACCEPTED]),
        equal("forged messages that are refused", given[Verdict.REFUSED], wish.forged),
        equal("replays and retransmissions that are duplicates", given[Verdict.DUPLICATE], due[Verdict.DUPLICATE]),
        Claim("messages without the verdict that they deserve", f"{undeserved:,} {examples}".strip(), undeserved == 0),
        equal("device rows as without the attack, to the byte", same, len(calm_rows)),
        equal("pieces of evidence against anybody", accused, 0),
    ]  # fmt: skip


def _total(counts: Mapping[tuple[str, str], int], verdict: Verdict) -> int:
    return sum(count for (given, _), count in counts.items() if given == verdict)
