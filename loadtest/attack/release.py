"""Is each held message judged once? Half of them are released, and whoever does it is killed in the middle of it."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace
from rich.console import Console

from device_sim.chance import Chance
from device_sim.identity import Fleet, Identity
from device_sim.sender import Pace
from device_sim.truth import Deserved, Differences
from device_sim.vehicle import Send, Turn, World, build
from device_sim.wire import load
from ingest.core.verdict import Hold, Verdict
from loadtest.attack.report import Claim, Report, Stopwatch, equal
from loadtest.attack.site import Site, at_work, opened, weigh
from loadtest.chaos.stage import Servers
from loadtest.check import compare
from loadtest.view import Progress, View

WORKERS = 2
SAMPLES_MAX = 2
KILL_S_MAX = 0.1  # after the first batch of a release: the second is under way, or about to begin
RELEASE_S_MAX = 300.0
GONE_LOOKS_MAX = 600
LOOK_EVERY_S = 0.1
PROOF = 100  # suspicion that two contents under one number raise: enough at once

UNDERWAY = "select count(*) from pg_stat_activity where application_name = 'weighbridge command' and datname = $1"
UNFINISHED = """
    select count(*) from weighbridge.release
    where device_id = $1 and done_at is null and accepted + duplicate + held + refused > 0"""
DECIDED = """
    select count(*), count(done_at), coalesce(sum(accepted), 0)::bigint,
           coalesce(sum(accepted + duplicate + held + refused), 0)::bigint
    from weighbridge.release"""
# What a device's row says, and what is there of it.
ROWS = """
    select d.device_id, s.standing, s.accepted, s.held, s.highest - s.lowest + 1,
           (select count(*) from store.message m where m.device_no = s.device_no),
           (select count(*) from store.held h where h.device_no = s.device_no),
           (select sum(length(h.envelope)) from store.held h where h.device_no = s.device_no) = s.held_bytes
    from store.device_state s join store.device d using (device_no) where d.device_id = any($1)"""
SAMPLES = """
    select count(*), count(distinct (device_no, epoch, seq, sample_no)), (select sum(samples) from store.message)
    from (select device_no, epoch, seq, sample_no from store.vehicle_state
          union all select device_no, epoch, seq, sample_no from store.battery_charging
          union all select device_no, epoch, seq, sample_no from store.diagnostics
          union all select device_no, epoch, seq, sample_no from store.security_event) sample"""
PICTURE = """
    select d.device_id, to_jsonb(s)::text,
           (select md5(string_agg(md5(to_jsonb(h)::text), '' order by partition, kafka_offset))
            from store.held h where h.device_no = s.device_no)
    from store.device_state s join store.device d using (device_no) where d.device_id = any($1) order by 1"""


class Wish(msgspec.Struct, frozen=True):
    """How much of what."""

    devices: int
    messages: int
    kills: int
    rate: float
    seed: int

    @property
    def held_of_each(self) -> int:
        """How many messages of a device are held."""
        return self.messages // self.devices


class Releases(msgspec.Struct, frozen=True):
    """What was released, how long that took, and how often it was killed in the middle."""

    facts: dict[str, object]
    killed: int


async def attack(wish: Wish, servers: Servers, folder: Path, console: Console) -> Report:
    """Hold messages of quarantined devices, release half of the devices, and look at what became of each message."""
    run = int(time.time())
    fleet = Fleet(wish.seed, wish.devices, run)
    names = [Identity(fleet).device_id(number) for number in range(wish.devices)]
    released, kept = names[::2], names[1::2]
    rows: list[Deserved] = []
    async with opened(servers, f"attack_release_{run}", fleet) as site, at_work(site, WORKERS, folder):
        watch = Stopwatch()
        with View(console) as view:
            await weigh(site, caught(wish, fleet), Pace(wish.rate), rows.append, Progress(view.show))
        facts = {f"{name}_to_hold_them": value for name, value in watch.facts(len(rows)).items()}
        held = await compare(site.database, rows)
        before = await site.ask(PICTURE, kept)
        releases = await _release(wish, site, released, console)
        found = await compare(site.database, _as_released(rows, frozenset(released)))
        claims = [
            equal("messages that are held", held.found.get((Verdict.HELD, Hold.QUARANTINED), 0)
                  + held.found.get((Verdict.HELD, Hold.EQUIVOCATION), 0), wish.held_of_each * wish.devices),
            equal("releases that were killed in the middle", releases.killed, wish.kills),
            *_judged(found),
            *await _claims(wish, site, released),
            equal("devices that were not released: rows and held messages to the byte",
                  sum(a == b for a, b in zip(before, await site.ask(PICTURE, kept), strict=True)), len(kept)),
        ]  # fmt: skip
        return Report(claims, facts | releases.facts)


def caught(wish: Wish, fleet: Fleet) -> Iterator[Send]:
    """Give what devices say that are caught with two contents under one number, and go on as if nothing were."""
    now_s = time.time()
    world = World(Identity(fleet), load(), now_s, wish.devices / wish.rate, SAMPLES_MAX)
    vehicles = [build(world, number) for number in range(wish.devices)]
    for vehicle in vehicles:
        turn = Turn(world, vehicle, now_s)
        yield turn.honest()
        yield turn.held(turn.draft(vehicle.seq, now_s - 5).seal(), Hold.EQUIVOCATION)
        turn.accuse(PROOF)
    for said in range(1, wish.held_of_each):
        for vehicle in vehicles:
            yield Turn(world, vehicle, now_s + said * world.interval_s).honest()


def _as_released(rows: Iterable[Deserved], released: frozenset[str]) -> Iterator[Deserved]:
    """Say what each message deserves once these devices are trusted again."""
    for row in rows:
        waited = row.reason == Hold.QUARANTINED and row.device_id in released
        yield replace(row, verdict=Verdict.ACCEPTED, reason="") if waited else row


async def _release(wish: Wish, site: Site, devices: Sequence[str], console: Console) -> Releases:
    """Release device after device by the command, and kill it now and then."""
    watch, chance, killed = Stopwatch(), Chance(wish.seed), 0
    for number, device in enumerate(devices):
        if killed * len(devices) < wish.kills * (number + 1):  # where one came too late, the next is due
            killed += await _kill(site, device, chance.between(0, KILL_S_MAX))
        await _finish(site, device)
        if number % 10 == 9:
            console.print(f"{number + 1:,} of {len(devices):,} devices released, {killed} times killed in the middle",
                          highlight=False)  # fmt: skip
    facts = watch.facts(wish.held_of_each * len(devices))
    return Releases({f"{name}_to_release_half": value for name, value in facts.items()}, killed)


async def _kill(site: Site, device: str, after_s: float) -> bool:
    """Kill -9 a release some time after its first batch; whether it was in the middle."""
    async with _releasing(site, device) as process:
        assert process.stderr is not None, "it was asked for"
        await asyncio.wait_for(process.stderr.readline(), RELEASE_S_MAX)
        await asyncio.sleep(after_s)
    for _ in range(GONE_LOOKS_MAX):  # PostgreSQL may be at its last statement still
        if await site.ask(UNDERWAY, site.name) == [(0,)]:
            break
        await asyncio.sleep(LOOK_EVERY_S)
    return process.returncode == -signal.SIGKILL and await site.ask(UNFINISHED, device) == [(1,)]


async def _finish(site: Site, device: str) -> None:
    """Release a device to the end, unless that was done before somebody was killed."""
    async with _releasing(site, device) as process:
        _, said = await asyncio.wait_for(process.communicate(), RELEASE_S_MAX)
    if process.returncode and b"only one that is watched or quarantined" not in said:
        raise ValueError(f"the release of {device} failed: {said.decode(errors='replace').strip()}")


@contextlib.asynccontextmanager
async def _releasing(site: Site, device: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Type the command; if it is not done at the end of the block it is killed."""
    words = ("quarantine", "release", device, "--reason", "an attack is measured", "--by", "weighbridge attack")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ingest", *words, env=site.environ(), stdout=asyncio.subprocess.DEVNULL, stderr=pipe
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _judged(found: Differences) -> list[Claim]:
    examples = "; ".join(f"{one.deserved}, got {one.found}" for one in found.examples[:3])
    accepted = found.found.get((Verdict.ACCEPTED, ""), 0)
    return [
        equal("messages with exactly one verdict", found.sent - found.unaccounted - found.unexpected, found.sent),
        Claim("messages with another than they deserve now", f"{found.wrong:,} {examples}".strip(), found.wrong == 0),
        equal("messages accepted", accepted, found.deserved.get((Verdict.ACCEPTED, ""), 0)),
    ]


async def _claims(wish: Wish, site: Site, released: list[str]) -> list[Claim]:
    ((decisions, done, accepted, judged),) = await site.ask(DECIDED)
    ((samples, distinct, said),) = await site.ask(SAMPLES)
    rows = await site.ask(ROWS, released)
    # all but the second content under the first number are accepted, and stand in one run of numbers
    right = [("released", wish.held_of_each, 1, wish.held_of_each, wish.held_of_each, 1, True)] * len(rows)
    same = sum(row[1:] == expected for row, expected in zip(rows, right, strict=True))
    return [
        equal("decisions that are done, one for each device", done if decisions == done else -1, len(released)),
        equal("messages judged under them", judged, wish.held_of_each * len(released)),
        equal("of those accepted", accepted, (wish.held_of_each - 1) * len(released)),
        equal("samples, each stored once", samples if samples == distinct else -1, said),
        equal("rows of released devices that say what is there", same, len(released)),
    ]
