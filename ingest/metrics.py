"""What is counted, and under which names? Once for each batch, from its Outcome; labels come from closed sets only.

What to be woken for is in deploy/alerts.yaml, and what to do then in deploy/RUNBOOK.md. That no record is lost cannot
be seen here: who counts himself agrees.
"""

import time
from collections import Counter as Tally
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from ingest.core.outcome import Outcome
from ingest.core.signature import Engine
from ingest.core.verdict import AlertKind, Hold, Refusal, Verdict
from ingest.ports import Backlog, BrokenLogError, FencedError, TroubleError

RECORDS = (1, 10, 50, 100, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000)
STUCK_S_MAX = 180.0  # without progress: a few attempts of which each may take a minute, and their back-off
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
REASONS: dict[Verdict, tuple[str, ...]] = {
    Verdict.ACCEPTED: ("",),
    Verdict.DUPLICATE: ("",),
    Verdict.HELD: tuple(Hold),
    Verdict.REFUSED: tuple(Refusal),
}


class Metrics:
    """The metrics of one process, in a registry of their own. It is the Observer of the worker and of the feed."""

    def __init__(self, build: str, engine: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = r = CollectorRegistry()
        ProcessCollector(registry=r)
        self._build = Gauge("weighbridge_build_info", "What is running: always 1", ("build", "engine"), registry=r)
        self._consumed = Counter("weighbridge_consumed", "Records consumed, by their offsets", registry=r)
        self._stopped = Gauge("weighbridge_engine_stopped", "1: it gave a wrong answer, and is not used", registry=r)
        self._messages = Counter("weighbridge_messages", "Verdicts given", ("verdict", "reason"), registry=r)
        self._unkept = Counter("weighbridge_unkept", "Verdicts without any bytes kept", ("verdict",), registry=r)
        self._samples = Counter("weighbridge_samples", "Samples accepted", ("kind",), registry=r)
        self._records = Histogram("weighbridge_batch_records", "Records in a batch", buckets=RECORDS, registry=r)
        self._seconds = Histogram("weighbridge_batch_seconds", "Reading to commit", buckets=SECONDS, registry=r)
        self._lag = Gauge("weighbridge_lag_records", "Records that wait in the log", ("partition",), registry=r)
        self._retries = Counter("weighbridge_retries", "Attempts that came to nothing", ("what",), registry=r)
        self._halted = Gauge(
            "weighbridge_halted", "1: the log is broken, a person must decide", ("partition",), registry=r
        )
        self._age = Gauge("weighbridge_progress_age_seconds", "Since its last progress", ("partition",), registry=r)
        self._clock = clock
        self._progress: dict[int, float] = {}  # when each partition of ours came on last
        self._taken: set[int] = set()  # of ours, those that were taken over at least once
        self._waiting: set[int] = set()  # of ours, those that wait for a person
        self._takeovers = Counter("weighbridge_takeovers", "Partitions taken over", ("partition",), registry=r)
        self._published = Counter("weighbridge_alerts_published", "Alerts published", ("kind",), registry=r)
        self._unpublished = Gauge("weighbridge_alerts_unpublished", "Alerts that wait to be published", registry=r)
        self._revoking = Histogram(
            "weighbridge_time_to_revoke_seconds", "Asked for to in force", buckets=SECONDS, registry=r
        )
        self._stored_after = Counter(
            "weighbridge_stored_after_revocation", "Messages stored under a key after its revocation", registry=r
        )
        self._unchecked = Gauge(
            "weighbridge_revocations_unchecked",
            "Revocations of which nobody knows whether they are in force",
            registry=r,
        )
        self._oldest_s: float | None = None  # when the oldest of them was written, by our clock
        age = Gauge("weighbridge_alerts_unpublished_age_seconds", "Of the oldest of them", registry=r)
        age.set_function(lambda: 0.0 if self._oldest_s is None else self._clock() - self._oldest_s)
        self._open(build, engine)

    def watch(self, engine: Engine) -> None:
        """Show whether this engine has been stopped: by then another than now answers in its place."""
        chosen = engine.name
        self._stopped.set_function(lambda: engine.name != chosen)

    def waiting(self, backlog: Backlog) -> None:
        """Take note of the alerts that are not published; between two looks they grow older."""
        self._unpublished.set(backlog.alerts)
        self._oldest_s = self._clock() - backlog.age_s if backlog.alerts else None

    def published(self, kinds: Mapping[str, int]) -> None:
        """Count alerts that this process has published."""
        for kind, number in kinds.items():
            self._published.labels(kind).inc(number)

    def revoked(self, seconds: float, stored_after: int) -> None:
        """Count a revocation that was checked: how long until nothing was stored any more, and what was after it."""
        self._revoking.observe(seconds)
        self._stored_after.inc(stored_after)

    def unchecked(self, revocations: int) -> None:
        """Take note of how many should have been checked by now."""
        self._unchecked.set(revocations)

    def batch(self, outcome: Outcome, seconds: float, waiting: int) -> None:
        """Count a committed batch: the time it took, and how many records wait behind it."""
        span = outcome.span
        consumed = span.to_offset - span.from_offset - sum(end - start for start, end in span.skipped)
        self._consumed.inc(consumed)
        for (verdict, reason), number in outcome.counts.items():
            self._messages.labels(verdict, reason).inc(number)
        for verdict, number in _unkept(outcome).items():
            self._unkept.labels(verdict).inc(number)
        kinds = Tally([kind for accepted in outcome.accepted for kind in accepted.reading.kinds()])
        for kind, number in kinds.items():
            self._samples.labels(kind).inc(number)
        self._records.observe(consumed)
        self._seconds.observe(seconds)
        self._lag.labels(span.partition).set(waiting)
        self._progress[span.partition] = self._clock()

    def trouble(self, partition: int, error: TroubleError) -> None:
        """Count an attempt that came to nothing: somebody else took the partition over, or the world is bad."""
        self._retries.labels(_what(error)).inc()
        if isinstance(error, BrokenLogError):
            self._halted.labels(partition).set(1)
            self._waiting.add(partition)

    def begun(self, partition: int) -> None:
        """Watch a partition that is ours; its lag is known with its first read."""
        self._progress[partition] = self._clock()
        self._age.labels(partition).set_function(lambda: self._clock() - self._progress[partition])

    def taken(self, partition: int) -> None:
        """Count a partition taken over, and its log confirmed."""
        self._taken.add(partition)
        self._waiting.discard(partition)
        self._halted.labels(partition).set(0)
        self._takeovers.labels(partition).inc()

    def idle(self, partition: int, waiting: int) -> None:
        """Count a read that gave nothing as progress, unless something waits."""
        self._lag.labels(partition).set(waiting)
        if not waiting:
            self._progress[partition] = self._clock()

    def left(self, partition: int) -> None:
        """Forget a partition given up: its lag is told by whoever has it now."""
        for gauge in (self._age, self._lag, self._halted):
            gauge.remove(partition)
        self._taken.discard(partition)
        self._waiting.discard(partition)
        del self._progress[partition]

    def find_faults(self) -> list[str]:
        """Say which partitions of ours are not well, and why; not of those for which a new process could do no more."""
        ours = sorted(self._progress.keys() - self._waiting)
        ages = {partition: self._clock() - self._progress[partition] for partition in ours}
        strange = [f"partition {number} is assigned but not taken over" for number in ages if number not in self._taken]
        stuck = [
            f"partition {number}: no progress for {age:.0f} s" for number, age in ages.items() if age > STUCK_S_MAX
        ]
        return strange + stuck

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)

    def _open(self, build: str, engine: str) -> None:
        """Start every series of the closed sets at 0, so that a first event shows as a rise."""
        self._build.labels(build, engine).set(1)
        for verdict, reasons in REASONS.items():
            for reason in reasons:
                self._messages.labels(verdict, reason)
        for verdict in (Verdict.DUPLICATE, Verdict.HELD, Verdict.REFUSED):
            self._unkept.labels(verdict)
        for kind in AlertKind:
            self._published.labels(kind)
        for what in ("fenced", "halted", "trouble"):
            self._retries.labels(what)


def _unkept(outcome: Outcome) -> dict[Verdict, int]:
    """Count those of whose bytes nothing is kept, because there were too many."""
    ended = [(Verdict.DUPLICATE, one.verified.record) for one in outcome.duplicates]
    ended += [(Verdict.REFUSED, one.record) for one in outcome.refused if one.record.value]
    unkept = Tally(verdict for verdict, record in ended if record.offset not in outcome.shown)
    unkept[Verdict.HELD] = sum(not one.whole for one in outcome.held)
    return unkept


def _what(error: TroubleError) -> str:
    match error:
        case FencedError():
            return "fenced"
        case BrokenLogError():
            return "halted"
        case _:
            return "trouble"
