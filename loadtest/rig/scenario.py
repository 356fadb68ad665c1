"""Which loads are there? Each is described: what is sent, when it is due, what it deserves, and what is compared.

A course is played on a topic and a database of its own. The first of its streams is the one that is watched: what the
others do to it is the question. Devices come in a multiple of the partitions, so that message number n stands in
partition n modulo their number, and each device has one.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType

import msgspec
from msgspec.structs import replace

from ingest.config import EngineChoice
from ingest.core.device import Algorithm
from ingest.core.verdict import Hold, Refusal, Verdict
from loadtest.compare.ground import PARTITIONS
from loadtest.corpus import Content, Order
from loadtest.rig.arrival import Flow, Stretch

FLOOD = 10  # so many for each honest one
REPLAYS = 5
HOSTILE_MAX = 20_000  # that are signed; they are sent again and again
BURST = 5
NOISE = 4
TENANTS = 100
FEW_DEVICES = 10_000
SUSTAINED = 0.7  # of what can be taken: so much is to be asked of servers day by day


class Wish(msgspec.Struct, frozen=True):
    """What was asked for."""

    rate: float  # of the stream that is watched, messages per second
    seconds: float
    warm: float  # seconds before, at the first rate, which do not count: a broker that has just started is slow
    devices: int
    samples: int
    algorithm: Algorithm
    engine: EngineChoice
    processes: int  # of workers
    senders: int  # processes that send
    seed: int


class Stream(msgspec.Struct, frozen=True):
    """Messages of one corpus, one after another, and what each of them deserves."""

    name: str
    order: Order
    flow: Flow
    verdict: Verdict = Verdict.ACCEPTED
    reason: str = ""
    otherwise: tuple[Verdict, str] | None = None
    first: int = 0  # only so many of the corpus, over and over; 0: all, once
    tenants: int = 1

    def index(self, number: int) -> int:
        """Say which message of the corpus is sent as number so many."""
        return number % self.first if self.first else number


class Phase(msgspec.Struct, frozen=True):
    """A time that is told apart."""

    name: str
    from_s: float
    until_s: float


class Course(msgspec.Struct, frozen=True):
    """One load."""

    name: str
    streams: tuple[Stream, ...]
    phases: tuple[Phase, ...] = ()
    settings: Mapping[str, str] = MappingProxyType({})  # of the workers
    warm_s: float = 0.0  # from the beginning, before anything counts
    backlog: bool = False  # all is in the log before the workers begin: closed loop, as fast as they can

    @property
    def flows(self) -> list[Flow]:
        """When each stream is due."""
        return [stream.flow for stream in self.streams]

    @property
    def count(self) -> int:
        """How many messages there are."""
        return sum(flow.count for flow in self.flows)


class Measure(StrEnum):
    """What is compared between two phases, or two courses."""

    GOODPUT = "goodput"  # of the stream that is watched
    MEMORY = "memory"  # of the workers, at most
    P99 = "p99"  # append to commit, of the last course; compared with a second


class Claim(msgspec.Struct, frozen=True):
    """The second of two is at least so many times the first, or at most."""

    what: str
    measure: Measure
    least: float | None = None
    most: float | None = None


class Scenario(msgspec.Struct, frozen=True):
    """A load that has a name."""

    about: str
    rate: float  # if none is named
    plan: Callable[[Wish], tuple[Course, ...]]
    claim: Claim | None = None
    devices: int = 5_000  # if no number is named
    then: Callable[[Course, float], Course] | None = None  # one more, by the rate that was taken


def _steady(wish: Wish) -> tuple[Course, ...]:
    return (Course("steady", (_honest(wish, Stretch(wish.seconds, wish.rate)),), warm_s=wish.warm),)


def _saturation(wish: Wish) -> tuple[Course, ...]:
    (course,) = _steady(wish)
    return (replace(course, name="saturation", phases=_phases(("offered", wish.seconds))),)


def _sustained(course: Course, taken: float) -> Course:
    """Send the same messages again, more slowly: so they last longer."""
    (stream,), rate = course.streams, SUSTAINED * taken
    seconds = stream.flow.count / rate - course.warm_s
    flow = Flow((Stretch(course.warm_s, rate), Stretch(seconds, rate)))
    phases = _phases(("sustained", seconds))
    return replace(course, name=f"{SUSTAINED:.0%} of it", streams=(replace(stream, flow=flow),), phases=phases)


def _burst(wish: Wish) -> tuple[Course, ...]:
    calm, loud = wish.seconds * 0.4, wish.seconds * 0.2
    stretches = (Stretch(calm, wish.rate), Stretch(loud, BURST * wish.rate), Stretch(calm, wish.rate))
    phases = _phases(("before", calm), ("burst", loud), ("after", calm))
    return (Course("burst", (_honest(wish, *stretches),), phases, warm_s=wish.warm),)


def _reconnect(wish: Wish) -> tuple[Course, ...]:
    """Send in a twentieth of the time what was kept in a fifth of it, beside what comes anyway."""
    parts = (("before", 0.3, 1), ("outage", 0.2, 0), ("storm", 0.05, 5), ("after", 0.45, 1))
    stretches = (Stretch(wish.seconds * share, wish.rate * times) for _, share, times in parts)
    phases = _phases(*((name, wish.seconds * share) for name, share, _ in parts))
    return (Course("reconnect", (_honest(wish, *stretches),), phases, warm_s=wish.warm),)


def _drain(wish: Wish) -> tuple[Course, ...]:
    return (Course("drain", (_at_once(wish),), backlog=True),)


def _flood(wish: Wish) -> tuple[Course, ...]:
    return _beside(wish, "flood", _hostile(wish, Content.FORGED, Refusal.BAD_SIGNATURE))


def _malformed(wish: Wish) -> tuple[Course, ...]:
    return _beside(wish, "malformed", _hostile(wish, Content.MALFORMED, Refusal.MALFORMED))


def _replay(wish: Wish) -> tuple[Course, ...]:
    before = int(wish.seconds / 2 * wish.rate) // PARTITIONS * PARTITIONS
    again = Stream(
        "replayed",
        _honest(wish, Stretch(wish.seconds, wish.rate)).order,
        _later(wish, REPLAYS),
        Verdict.DUPLICATE,
        first=before,
    )
    return _beside(wish, "storm", again)


def _tenants(wish: Wish) -> tuple[Course, ...]:
    """Give each tenant half of what is watched; the noisy one wants much more."""
    order = replace(_order(wish, _later(wish, NOISE).count), seed=wish.seed + 1_000_000)
    noisy = Stream(
        "noisy",
        order,
        _later(wish, NOISE),
        otherwise=(Verdict.HELD, Hold.RATE_LIMITED),
    )
    share = str(max(1, int(wish.rate / PARTITIONS / 2)))
    settings = {"WEIGHBRIDGE_POLICY_TENANT_PER_S_MAX": share, "WEIGHBRIDGE_POLICY_TENANT_BURST_MAX": share}
    (course,) = _beside(wish, "noise", noisy)
    quiet = replace(course.streams[0], name="quiet", tenants=TENANTS)
    return (replace(course, streams=(quiet, noisy), settings=settings),)


def _devices(wish: Wish) -> tuple[Course, ...]:
    many = _steady(wish)[0]
    few = _steady(replace(wish, devices=min(FEW_DEVICES, wish.devices)))[0]
    return (
        replace(few, name=f"{few.streams[0].order.devices:,} devices"),
        replace(many, name=f"{many.streams[0].order.devices:,} devices"),
    )


def _beside(wish: Wish, name: str, other: Stream) -> tuple[Course, ...]:
    """Have half of the time without the other stream, and half with it."""
    half = wish.seconds / 2
    honest = _honest(wish, Stretch(wish.seconds, wish.rate))
    return (Course(name, (honest, other), _phases(("alone", half), (name, half)), warm_s=wish.warm),)


def _later(wish: Wish, times: int) -> Flow:
    """Come in the second half, so many times as often as what is watched."""
    half = wish.seconds / 2
    return Flow((Stretch(wish.warm + half, 0), Stretch(half, times * wish.rate)))


def _honest(wish: Wish, *stretches: Stretch) -> Stream:
    flow = Flow((Stretch(wish.warm, stretches[0].rate), *stretches))
    return Stream("honest", _order(wish, flow.count), flow)


def _at_once(wish: Wish) -> Stream:
    flow = Flow((), int(wish.seconds * wish.rate))
    return Stream("honest", _order(wish, flow.count), flow)


def _hostile(wish: Wish, content: Content, reason: Refusal) -> Stream:
    flow = _later(wish, FLOOD)
    first = min(flow.count, HOSTILE_MAX) // PARTITIONS * PARTITIONS
    order = replace(_order(wish, first), content=content)
    return Stream(str(content), order, flow, Verdict.REFUSED, reason, first=first)


def _order(wish: Wish, messages: int) -> Order:
    devices = -(-wish.devices // PARTITIONS) * PARTITIONS
    return Order(devices, max(1, messages), wish.samples, wish.algorithm, seed=wish.seed)


def _phases(*parts: tuple[str, float]) -> tuple[Phase, ...]:
    found, at_s = [], 0.0
    for name, seconds in parts:
        found.append(Phase(name, at_s, at_s + seconds))
        at_s += seconds
    return tuple(found)


GOODPUT = Claim("goodput of the watched stream beside the other, of what it is alone", Measure.GOODPUT, least=0.8)

SCENARIOS: Mapping[str, Scenario] = MappingProxyType(
    {
        "steady": Scenario("An even stream.", 5_000, _steady),
        "saturation": Scenario(
            f"As much as is asked for, and {SUSTAINED:.0%} of what was taken of it.", 30_000, _saturation,
            Claim(f"p99 from append to commit at {SUSTAINED:.0%} of that rate, of a second", Measure.P99, most=1.0),
            then=_sustained,
        ),
        "burst": Scenario(f"{BURST} times the rate for a fifth of the time.", 2_000, _burst),
        "reconnect": Scenario("An outage, and after it all that was kept meanwhile, at once.", 2_000, _reconnect),
        "drain": Scenario("A backlog of rate times seconds, as fast as it can be taken.", 5_000, _drain),
        "flood": Scenario(f"{FLOOD} forged messages for each honest one.", 1_000, _flood, GOODPUT),
        "replay": Scenario(f"{REPLAYS} replayed messages for each honest one.", 1_500, _replay, GOODPUT),
        "malformed": Scenario(f"{FLOOD} malformed messages for each honest one.", 1_000, _malformed, GOODPUT),
        "tenants": Scenario(f"{TENANTS} tenants, and one more that is noisy.", 1_500, _tenants, GOODPUT),
        "devices": Scenario(
            f"The same from {FEW_DEVICES:,} devices and from many more.", 5_000, _devices,
            Claim("memory of the workers with many devices, of what it is with few", Measure.MEMORY, most=1.1), 100_000
        ),
    }
)  # fmt: skip
