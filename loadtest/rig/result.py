"""What is known when a course is over? Figures, by second where that says more; all of it is in the JSON file."""

import msgspec

from loadtest.rig.histogram import Histogram

LATE_MS = 100.0  # of a hundred messages, one was later: the sender is not to be believed


class Spread(msgspec.Struct, frozen=True):
    """How long it took, in milliseconds: half of them no longer than the first, and so on."""

    count: int
    p50: float
    p99: float
    p999: float
    max: float


def spread(histogram: Histogram) -> Spread:
    """Sum up."""
    p50, p99, p999 = (histogram.quantile(share) / 1_000 for share in (0.5, 0.99, 0.999))
    return Spread(histogram.count, p50, p99, p999, histogram.max / 1_000)


class Second(msgspec.Struct, frozen=True):
    """What happened in one second."""

    at_s: int  # since the time began that counts
    due: int
    appended: int
    committed: int
    lag: int  # at its end: appended and not committed
    p50_ms: float | None  # append to commit, of what was appended in it and is watched
    p99_ms: float | None


class Usage(msgspec.Struct, frozen=True):
    """Who used what, up to one moment."""

    at_s: float
    cores: dict[str, float]  # in use on average since the last moment, by kind of process
    rss_mb: dict[int, float]  # of each worker process


class Part(msgspec.Struct, frozen=True):
    """How the stream that is watched fared in one phase."""

    name: str
    from_s: float
    until_s: float
    offered: float  # messages per second, of all streams
    goodput: float  # accepted and committed per second, of the stream that is watched
    waited: Spread  # append to commit
    whole: Spread  # from when it was due to commit


class Count(msgspec.Struct, frozen=True):
    """How many of a stream deserved a verdict."""

    verdict: str
    reason: str
    deserved: int
    given: int


class Sent(msgspec.Struct, frozen=True):
    """A stream, as it was sent."""

    name: str
    messages: int
    signed: int  # different ones
    value_bytes: float
    content: str
    seed: int
    devices: int
    verdict: str


class Result(msgspec.Struct, frozen=True):
    """What came of a course."""

    name: str
    backlog: bool
    watched: str
    streams: list[Sent]
    messages: int
    seconds: float  # that counted, to the last commit
    rate: float  # messages committed per second, over that time
    lag_max: int
    enrolled: int
    enrolling_s: float
    engines: list[str]
    waited: Spread
    whole: Spread
    handed_late: Spread  # from when a message was due to when the sender let it go
    buckets: list[tuple[int, int, int]]  # of `waited`: lowest and highest µs, count
    seconds_seen: list[Second]
    usage: list[Usage]
    cpu_us: dict[str, float]  # for each message, by kind of process
    rss_mb_max: float  # of all worker processes together
    parts: list[Part]
    counts: list[Count]
    unaccounted: int
    wrong: int
    examples: list[str]


def late(result: Result) -> str:
    """Say so if the sender could not keep to its schedule: then it is the sender that was measured."""
    if result.backlog or result.handed_late.p99 < LATE_MS:
        return ""
    how = f"up to {result.handed_late.max:,.0f} ms late, p99 {result.handed_late.p99:,.0f} ms"
    return f"{result.name}: the sender was {how}: more of them (--senders) or a lower rate would tell more"


class Ratio(msgspec.Struct, frozen=True):
    """What was claimed, and what was found."""

    what: str
    value: float
    least: float | None
    most: float | None
    holds: bool

    def __str__(self) -> str:
        bound = f"at least {self.least:.0%}" if self.least is not None else f"at most {self.most:.0%}"
        return f"{self.what}: {self.value:.1%} ({bound} wanted)"


class Machine(msgspec.Struct, frozen=True):
    """On what, and with what."""

    cpu: str
    cores: int
    memory_mb: int
    load_before: list[float]
    kernel: str
    python: str
    commit: str
    build: str
    durability: dict[str, str]


class Report(msgspec.Struct, frozen=True):
    """All of it."""

    scenario: str
    about: str
    began_at: str
    wish: dict[str, object]
    machine: Machine
    results: list[Result]
    ratios: list[Ratio]

    @property
    def right(self) -> bool:
        """Whether every message got the verdict that it deserves."""
        return all(result.wrong == result.unaccounted == 0 for result in self.results)
