"""Is every copy of a credential noticed, how soon, and is nobody else taken for one? A fleet with copies in it."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from enum import StrEnum
from itertools import islice
from pathlib import Path
from statistics import median

import cbor2
import msgspec
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from device_sim.chance import Chance
from device_sim.fault import Fault
from device_sim.fleet import MIXES, Mix, Plan, sends
from device_sim.identity import Fleet, Identity
from device_sim.sender import Pace, TakeTruth
from device_sim.truth import Deserved, Differences
from device_sim.vehicle import Send, Turn, Vehicle, World, build
from device_sim.wire import CLAIM_BOOT, CLAIM_SEQ, LABEL_CLAIMS, load
from ingest.core.policy import Policy
from loadtest.attack.report import Claim, Report, Stopwatch, equal
from loadtest.attack.site import Site, Truth, at_work, opened, weigh
from loadtest.chaos.stage import Servers
from loadtest.view import Progress, View

WORKERS = 2
SAMPLES_MAX = 4
BAR_CELLS = 40
DRAWN_MAX = 10  # messages until caught, in the picture
# What an honest vehicle may do that looks like a clone: lose its counter, and be recorded and played back.
HONEST = Mix({**MIXES["honest"].shares, Fault.COUNTER_ROLLBACK: 0.01, Fault.REPLAY: 0.01})
ORIGINAL = "original"

CAUGHT = """
    select d.device_id, a.evidence, a.partition, a.kafka_offset
    from store.accusation a join store.device d using (device_no)
    where a.after = 'quarantined' and a.before <> 'quarantined'"""
QUARANTINED = "select device_id from weighbridge.device where standing = 'quarantined'"
ACCUSED = "select distinct device_id from weighbridge.accusation"
SPARED = "select count(*) from store.accusation where spared"
COHORTS = """
    select max(devices), max(fallen) from (
        select count(*) as devices, count(*) filter (where s.standing = 'quarantined') as fallen
        from store.device_state s join store.device d using (device_no) join store.vehicle v using (vehicle_no)
        where s.software <> '' group by v.tenant_no, s.software
    ) cohort"""


class Wish(msgspec.Struct, frozen=True):
    """How much of what."""

    vehicles: int
    clones: int
    turns: int
    rate: float
    seed: int


class Copy(StrEnum):
    """How a copy of a unit behaves: from which number, when, and how fast."""

    SNAPSHOT = "snapshot"  # in the boot of its original, and from its number
    AT_ONCE = "at_once"  # in its own boot, from its original's number; who is first is chance
    LATER = "later"  # from a number that its original has left behind, as fast as that
    SLOWER = "slower"  # the same, and speaks every other time
    FASTER = "faster"  # the same, and speaks twice each time


class Unit(msgspec.Struct):
    """A copy at work."""

    kind: Copy
    vehicle: Vehicle
    boot: bytes
    heard: int = 0  # messages of its original since it was copied


class Cloning:
    """Makes copies of some vehicles while the fleet speaks, and lets them speak."""

    def __init__(self, plan: Plan, numbers: Iterable[int]) -> None:
        self._plan = plan
        self._world = World(Identity(plan.fleet), load(), plan.start_s, 1.0, plan.samples_max)
        kinds = list(Copy)
        self._due = {number: kinds[place % len(kinds)] for place, number in enumerate(numbers)}
        self._units: dict[int, Unit] = {}
        self._chance = Chance(plan.fleet.seed)

    def join(self, fleet: Iterable[Send]) -> Iterator[Send]:
        """Let copies speak among the fleet."""
        sent = 0
        for send in fleet:
            number = int(send.device_id.rpartition("-")[2])
            now_s = self._plan.start_s + sent / self._plan.rate
            told = self._answer(send, number, now_s) if number in self._due else [send]
            yield from told
            sent += len(told)

    def _answer(self, send: Send, number: int, now_s: float) -> list[Send]:
        """Give what an original says, and what its copy says to that; the first time it is copied."""
        original = replace(send, cause=ORIGINAL)
        unit = self._units.get(number)
        if unit is None:
            self._units[number] = self._copy(send, number)
            return [original]
        unit.heard += 1
        turn = Turn(self._world, unit.vehicle, now_s, unit.kind)
        said = [self._say(turn, unit.boot) for _ in range(_times(unit))]
        if unit.kind is Copy.AT_ONCE and self._chance.happens(0.5):
            return [*said, original]
        return [original, *said]

    def _copy(self, send: Send, number: int) -> Unit:
        assert send.value is not None, "vehicles send no tombstones"
        claims = cbor2.loads(cbor2.loads(send.value).value[0])[LABEL_CLAIMS]
        vehicle, kind = build(self._world, number), self._due[number]
        vehicle.seq = claims[CLAIM_SEQ]
        vehicle.chance = Chance(self._chance.bits())
        boot = claims[CLAIM_BOOT] if kind is Copy.SNAPSHOT else self._world.identity.boot(number, -1)
        return Unit(kind, vehicle, boot)

    @staticmethod
    def _say(turn: Turn, boot: bytes) -> Send:
        draft = turn.draft()
        turn.spend()
        return turn.accepted(replace(draft, claims=replace(draft.claims, boot=boot)).seal())


def _times(unit: Unit) -> int:
    """Say how many messages a copy sends now; the later ones let their original go ahead first."""
    match unit.kind:
        case Copy.SNAPSHOT | Copy.AT_ONCE:
            return 1
        case Copy.LATER:
            return int(unit.heard >= 2)
        case Copy.SLOWER:
            return int(unit.heard % 2 == 0)
        case Copy.FASTER:
            return 2 if unit.heard >= 2 else 0


class Pursuit(msgspec.Struct, frozen=True):
    """How long it took until a cloned device was caught, in messages since its copy began to speak."""

    kind: str
    evidence: str  # "": not caught
    of_copy: int = 0
    of_both: int = 0


def pursue(aside: Iterable[Deserved], caught: Mapping[str, tuple[str, int]]) -> list[Pursuit]:
    """Follow each cloned device from the first message of its copy to the one that put it into quarantine."""
    said: dict[str, list[Deserved]] = defaultdict(list)
    for row in aside:
        said[row.device_id].append(row)
    return [_pursuit(sorted(rows, key=lambda row: row.offset), caught.get(device)) for device, rows in said.items()]


def _pursuit(rows: list[Deserved], caught: tuple[str, int] | None) -> Pursuit:
    first = next((row for row in rows if row.fault != ORIGINAL), None)
    kind = "silent" if first is None else first.fault
    if first is None or caught is None:
        return Pursuit(kind, "")
    evidence, offset = caught
    until = [row for row in rows if first.offset <= row.offset <= offset]
    return Pursuit(kind, evidence, sum(row.fault != ORIGINAL for row in until), len(until))


async def attack(wish: Wish, servers: Servers, folder: Path, console: Console) -> Report:
    """Let a fleet and its copies speak, and see who is in quarantine."""
    run = int(time.time())
    name = f"attack_clones_{run}"
    fleet = Fleet(wish.seed, wish.vehicles, run)
    plan = Plan(fleet, HONEST, time.time(), wish.rate, SAMPLES_MAX)
    cloned = cloned_numbers(wish)
    truth, whole = Truth(), Stopwatch()
    async with opened(servers, name, fleet) as site:
        enrolled = whole.facts(wish.vehicles)
        plan = replace(plan, start_s=time.time())
        async with at_work(site, WORKERS, folder):
            watch = Stopwatch()
            with View(console) as view:
                take = _sorted_out(truth, {Identity(fleet).device_id(number) for number in cloned})
                speaking = Cloning(plan, cloned).join(islice(sends(plan), wish.vehicles * wish.turns))
                sent = await weigh(site, speaking, Pace(wish.rate), take, Progress(view.show))
            facts = watch.facts(sent.sent)
        found = await truth.compare(site)
        caught = {device: (evidence, offset) for device, evidence, _, offset in await site.ask(CAUGHT)}
        pursuits = pursue(truth.aside, caught)
        show_pursuits(pursuits, console)
        facts |= {"enrolment_s": enrolled["seconds"], **await _guard(site), **_medians(pursuits)}
        return Report(await _claims(site, truth, pursuits, found), facts)


def cloned_numbers(wish: Wish) -> list[int]:
    """Choose who is cloned: by chance, and nobody twice."""
    chance, chosen = Chance(wish.seed), dict[int, None]()
    while len(chosen) < min(wish.clones, wish.vehicles):
        chosen[chance.below(wish.vehicles)] = None
    return list(chosen)


def _sorted_out(truth: Truth, cloned: AbstractSet[str]) -> TakeTruth:
    """Take the truth of all but the cloned: of those, who is first decides."""
    return lambda row: (truth.lay_aside if row.device_id in cloned else truth.take)(row)


async def _claims(site: Site, truth: Truth, pursuits: Sequence[Pursuit], found: Differences) -> list[Claim]:
    cloned = {row.device_id for row in truth.aside}
    quarantined = {device for (device,) in await site.ask(QUARANTINED)}
    accused = {device for (device,) in await site.ask(ACCUSED)}
    undeserved = found.wrong + found.unexpected + found.unaccounted
    examples = "; ".join(f"{one.fault}: {one.deserved}, got {one.found}" for one in found.examples[:3])
    return [
        equal("clones that are caught and quarantined", len(cloned & quarantined), len(pursuits)),
        equal("false quarantines", len(quarantined - cloned), 0),
        equal("others with any evidence against them", len(accused - cloned), 0),
        Claim("messages of others without the verdict that they deserve",
              f"{undeserved:,} of {found.sent:,} {examples}".strip(), undeserved == 0),
    ]  # fmt: skip


async def _guard(site: Site) -> dict[str, object]:
    """Say how near the fleet guard was to sparing a clone."""
    (((devices, fallen),), ((spared,),)) = await site.ask(COHORTS), await site.ask(SPARED)
    policy = Policy()
    most = max(policy.guard_devices_min, devices * policy.guard_share_percent_max // 100)
    return {
        "largest_cohort": devices,
        "most_quarantined_of_one_cohort": fallen,
        "guard_spares_beyond": most,
        "spared_by_the_guard": spared,
    }


def _medians(pursuits: Sequence[Pursuit]) -> dict[str, object]:
    caught = [one for one in pursuits if one.evidence]
    if not caught:
        return {}
    return {
        "messages_of_a_clone_until_caught_median": median(one.of_copy for one in caught),
        "messages_of_both_until_caught_median": median(one.of_both for one in caught),
    }


def show_pursuits(pursuits: Sequence[Pursuit], console: Console) -> None:
    """Show how many messages of a copy it took, by its kind, and drawn as a picture."""
    table = Table("copy", "clones", "caught", "by", "its messages", "of both",
                  title="Messages until a copy was caught: median, most", title_justify="left")  # fmt: skip
    for kind in sorted({one.kind for one in pursuits}):
        of_kind = [one for one in pursuits if one.kind == kind]
        caught = [one for one in of_kind if one.evidence]
        by = ", ".join(f"{count} {evidence}" for evidence, count in Counter(one.evidence for one in caught).items())
        table.add_row(kind, f"{len(of_kind):,}", f"{len(caught):,}", by,
                      _spread([one.of_copy for one in caught]), _spread([one.of_both for one in caught]),
                      style=None if len(caught) == len(of_kind) else "bold red")  # fmt: skip
    console.print(table)
    counts = Counter(min(one.of_copy, DRAWN_MAX) for one in pursuits if one.evidence)
    for messages in range(1, DRAWN_MAX + 1):
        bar = "█" * round(BAR_CELLS * counts[messages] / max(counts.values(), default=1))
        more = " or later" if messages == DRAWN_MAX else ""
        console.print(f"  caught by message {messages:2}{more:9} {counts[messages]:5,} {bar}", highlight=False)


def _spread(counts: Sequence[int]) -> str:
    return f"{median(counts):g}, {max(counts)}" if counts else ""
