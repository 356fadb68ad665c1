"""Does the examination bear whatever is sent to it? Hostile inputs for as long as asked, and what they cost.

Every input gets an answer in bounded time and memory, what nobody signed is not taken for signed, and both readers of
envelopes read the same, or the exit status is 1.
"""

import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

import schemas
from ingest.core import envelope, layout
from ingest.core.alike import ALIKE_MIN, Bulk
from ingest.core.device import Key, KeyRing, KeyState, Sender
from ingest.core.enrolment import admit
from ingest.core.examine import Examiner
from ingest.core.message import Examined, RawRecord, Reading, Refused, Unreadable
from ingest.core.payload import load, reread
from ingest.core.policy import Policy
from ingest.core.signature import OpenSSL
from loadtest.mutation import RECEIVED_AT_MS, Spoilt, Workshop, open_workshop, spoil

INPUT_CPU_S_MAX = 0.050
RSS_GROWTH_BYTES_MAX = 20 * 2**20
WARM_UP_SHARE, WARM_UP_S_MAX = 0.1, 30.0  # until then caches fill and the allocator finds its size
SHOW_EVERY_S = 10.0
MEASUREMENTS = 5
DETAIL_CHARACTERS_MAX = 250


class NotBorneError(Exception):
    """What an input did that no input may do."""


class Bench:
    """An examiner with the keys of the fleet, and the account of what it was given."""

    def __init__(self, shop: Workshop) -> None:
        self._examiner = Examiner(Policy(), load(schemas.read_telemetry()), OpenSSL())
        self._bulk = Bulk(self._examiner.catalogue)
        self._ring = _ring(shop)
        self._sound = frozenset(specimen.content for specimen in shop.specimens)
        self.answers: Counter[str] = Counter()
        self.slowest_s = 0.0
        self.slowest = ""

    @property
    def tried(self) -> int:
        """How many inputs were borne."""
        return self.answers.total()

    def bear(self, spoilt: Spoilt) -> None:
        """Examine one input. Raises NotBorneError, or whatever the examination raised."""
        found, cpu_s = self._measure(spoilt.value)
        self._check(found, spoilt)
        self._compare(_record(spoilt.value))
        if cpu_s > self.slowest_s:
            self._note(spoilt)
        self.answers[found.reason if isinstance(found, Refused) else type(found).__name__] += 1

    def _measure(self, value: bytes) -> tuple[Examined, float]:
        record = _record(value)
        started_s = time.process_time()
        (found,) = self._examiner.examine(self._examiner.read([record]), self._ring)
        return found, time.process_time() - started_s

    def _note(self, spoilt: Spoilt) -> None:
        """Measure a slow input again: the neighbours of the machine or a collection of garbage may be to blame."""
        cpu_s = min(self._measure(spoilt.value)[1] for _ in range(MEASUREMENTS))
        if cpu_s > INPUT_CPU_S_MAX:
            raise NotBorneError(
                f"it took {cpu_s * 1_000:.1f} ms of CPU; at most {INPUT_CPU_S_MAX * 1_000:.0f} are allowed"
            )
        if cpu_s > self.slowest_s:
            self.slowest_s, self.slowest = cpu_s, f"spoilt in its {spoilt.part}, {len(spoilt.value)} bytes"

    def _check(self, found: Examined, spoilt: Spoilt) -> None:
        match found:
            case Refused(detail=detail):
                if not (0 < len(detail) <= DETAIL_CHARACTERS_MAX and detail.isprintable()):
                    raise NotBorneError(f"its refusal is explained by {detail!r}")
            case Reading(verified=verified) | Unreadable(verified=verified):
                if not spoilt.signed and verified.envelope.signed not in self._sound:
                    raise NotBorneError("nobody signed it, yet it was verified")

    def _compare(self, record: RawRecord) -> None:
        """Hold the quick readers to the strict ones: of the envelope, and of payloads that are alike."""
        bytes_max = Policy().envelope_bytes_max
        found = envelope.read(record, bytes_max)
        (usual,) = layout.read_usual([record], bytes_max)
        if usual not in (found, None):
            raise NotBorneError("its layout is read otherwise than the strict reader reads it")
        if isinstance(found, Refused):
            return
        drawn = self._bulk.read([found.payload] * ALIKE_MIN)[0]
        if drawn is not None and tuple(drawn) != reread(found.payload, self._examiner.catalogue):
            raise NotBorneError("its payload is read otherwise among others than alone")


def _record(value: bytes) -> RawRecord:
    return RawRecord("telemetry.raw", 0, 0, RECEIVED_AT_MS, value)


def _ring(shop: Workshop) -> KeyRing:
    senders = {}
    for number, one in enumerate(shop.identity.registrations(), 1):
        key = Key(number, bytes.fromhex(one.kid), *admit(one.alg, one.public_key), KeyState.ACTIVE, 0, None, None)
        senders[one.device_id] = Sender(number, number, 1, 1, {key.kid: key})
    return KeyRing(senders, frozenset())


class Meter:
    """Resident memory: at the start, after the warm-up, and by how much it has grown since."""

    def __init__(self, seconds: float) -> None:
        self._warm_up_s = min(seconds * WARM_UP_SHARE, WARM_UP_S_MAX)
        self.first = _rss_bytes()
        self.warm: int | None = None
        self.last = self.first

    def read(self, elapsed_s: float) -> None:
        """Take a reading. Raises NotBorneError when memory grows and grows."""
        gc.collect()
        self.last = _rss_bytes()
        if self.warm is None and elapsed_s >= self._warm_up_s:
            self.warm = self.last
        if self.warm is not None and self.last - self.warm > RSS_GROWTH_BYTES_MAX:
            raise NotBorneError(f"memory grew from {_mib(self.warm)} after the warm-up to {_mib(self.last)}")


def _rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


@click.command
@click.option("--seconds", default=600.0, show_default=True, type=click.FloatRange(1, 86_400))
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0))
def fuzz(seconds: float, seed: int) -> None:
    """Send hostile envelopes, headers and payloads through the examination for some time."""
    shop = open_workshop(seed)
    bench, meter = Bench(shop), Meter(seconds)
    borne = _run(bench, meter, spoil(shop, seed), seconds)
    click.echo(_report(bench, meter))
    if not borne:
        click.echo(f"input {bench.tried + 1} of seed {seed} was not borne")
        sys.exit(1)


def _run(bench: Bench, meter: Meter, inputs: Iterator[Spoilt], seconds: float) -> bool:
    """Try inputs until the time is over; False, having shown it, at the first that is not borne."""
    started_s = time.monotonic()
    show_at_s = elapsed_s = 0.0
    while elapsed_s < seconds:
        spoilt = next(inputs)
        elapsed_s = time.monotonic() - started_s
        try:
            bench.bear(spoilt)
            if elapsed_s >= min(show_at_s, seconds):
                meter.read(elapsed_s)
                click.echo(f"{elapsed_s:6.0f} s of {seconds:.0f}: {bench.tried:,} inputs, {_mib(meter.last)}")
                show_at_s += SHOW_EVERY_S
        except Exception as error:  # noqa: BLE001 (the finding, whatever it is)
            click.echo(f"not borne, spoilt in its {spoilt.part}: {error!r}\n{spoilt.value.hex()}")
            return False
    return True


def _report(bench: Bench, meter: Meter) -> str:
    lines = [f"{count:>12,}  {answer}" for answer, count in bench.answers.most_common()]
    lines.append(f"{bench.tried:>12,}  inputs in all")
    lines.append(f"slowest: {bench.slowest_s * 1_000:.2f} ms of CPU ({bench.slowest})")
    warm = "never" if meter.warm is None else _mib(meter.warm)
    lines.append(
        f"resident memory: {_mib(meter.first)} at the start, {warm} after the warm-up, {_mib(meter.last)} at the end"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    fuzz()
