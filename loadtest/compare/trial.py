"""How is it compared? Round by round: the naive consumer, the product with each engine, the parts; then the medians."""

import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import msgspec

from deploy.embedded.command import say
from ingest.adapters.multibuffer import Multibuffer, UnavailableError
from ingest.adapters.sodium import Sodium
from ingest.config import EngineChoice
from ingest.core.device import Algorithm
from ingest.core.signature import Engine, Job
from loadtest.chaos.stage import Servers
from loadtest.compare import bound, naive
from loadtest.compare.bound import Parts, Work
from loadtest.compare.cpu import CORES
from loadtest.compare.ground import Ground, connected, enrol, lay, sign
from loadtest.compare.product import Cpu, Drained, WrongError, drain
from loadtest.corpus import Corpus, Order

ENGINES: Mapping[EngineChoice, Callable[[], Engine]] = {
    EngineChoice.PORTABLE: Sodium,
    EngineChoice.MULTIBUFFER: Multibuffer,
}
NAIVE_S_MAX = 600.0
NAIVE_SAYS_MAX = 2_000  # characters of its last words

Measured = TypeVar("Measured", Cpu, Parts)


class Course(msgspec.Struct, frozen=True):
    """What is compared once: the fleet and its messages, how many of them the slow ones get, and how often."""

    order: Order
    few: int  # for the naive consumer: the first so many
    rounds: int
    fewer: Mapping[EngineChoice, int] = MappingProxyType({})  # for an engine that would take too long over all of them
    processes: tuple[int, ...] = (CORES,)  # of workers; the first is what the product's rate is
    tried: int | None = None  # with the parts: the first so many, of a size with the product's batches; None: the few


class _Grounds(msgspec.Struct, frozen=True):
    """Where each has its turn, and what the parts are tried with."""

    naive: Ground
    parts: Ground
    of: Mapping[EngineChoice, Ground]
    work: Work


class Round(msgspec.Struct, frozen=True):
    """What one round gave."""

    naive: naive.Done
    drained: dict[EngineChoice, list[Drained]]  # by engine; for each number of processes
    parts: dict[EngineChoice, Parts]


class Row(msgspec.Struct, frozen=True):
    """What is shown: messages per second, medians over the rounds; the ratios are medians of each round's own."""

    alg: Algorithm
    engine: EngineChoice
    samples: int
    devices: int
    naive: float
    product: float | None = None
    bound: float | None = None
    over_naive: float | None = None
    over_bound: float | None = None
    processes: int = CORES
    one_process: float | None = None  # the product's rate with one
    cpu_us: Cpu | None = None  # of the product, for each message
    parts_us: Parts | None = None
    naive_us: float | None = None  # processor time of the naive consumer itself
    missing: str | None = None  # why there is no such engine here


async def compare(servers: Servers, courses: Sequence[Course], cache: Path) -> list[Row]:
    """Compare on these servers, on which nothing else is going on."""
    engines, missing = _engines()
    rows: list[Row] = []
    enrolled: dict[str, str] = {}
    for course in courses:
        grounds = await _lay(servers, course, await sign(course.order, cache), enrolled)
        say(f"comparing with {course.order}")
        rounds = [await _round(grounds, course, engines) for _ in range(course.rounds)]
        rows += [_row(course, engine, rounds) for engine in engines]
        rows += [absent(course, engine, why, rounds) for engine, why in missing.items()]
    return rows


def _engines() -> tuple[dict[EngineChoice, Engine], dict[EngineChoice, str]]:
    found: dict[EngineChoice, Engine] = {}
    missing: dict[EngineChoice, str] = {}
    for choice, make in ENGINES.items():
        try:
            found[choice] = make()
        except UnavailableError as error:
            missing[choice] = str(error)
    return found, missing


async def _lay(servers: Servers, course: Course, corpus: Corpus, enrolled: dict[str, str]) -> _Grounds:
    """Fill the topics, and enrol the fleet unless an earlier course has."""
    fleet = str(corpus.order.fleet)
    if fleet not in enrolled:
        template = f"fleet_{len(enrolled)}"
        say(f"enrolling {corpus.order.devices:,} devices")
        await enrol(servers, corpus, template)
        enrolled[fleet] = template
    shares = {choice: course.fewer.get(choice, len(corpus)) for choice in ENGINES}
    tried = course.tried or course.few
    found = {many: await lay(servers, corpus, enrolled[fleet], many) for many in {course.few, tried, *shares.values()}}
    of = {choice: found[many] for choice, many in shares.items()}
    return _Grounds(found[course.few], found[tried], of, bound.prepare(found[tried]))


async def _round(grounds: _Grounds, course: Course, engines: Mapping[EngineChoice, Engine]) -> Round:
    """Let each have its turn."""
    first, work = grounds.parts, grounds.work
    slow = await _naive(grounds.naive)
    fetched, decoded, copied = await bound.fetch(first), bound.decode(work.payloads), 0.0
    drained: dict[EngineChoice, list[Drained]] = {choice: [] for choice in engines}
    kept: dict[EngineChoice, float] = {}
    for choice, processes in itertools.product(engines, course.processes):
        async with first.database(f"compare_{time.monotonic_ns()}") as database:
            drained[choice].append(await drain(grounds.of[choice], database, processes, choice))
            if choice not in kept:
                async with connected(database) as connection:
                    kept[choice] = await bound.state(first, connection)
                    copied = copied or await bound.copy(first, connection)
    parts = {
        choice: Parts(fetched, bound.verify(engine, _some(work.jobs, course, choice)), decoded, copied, kept[choice])
        for choice, engine in engines.items()
    }
    _tell(slow.rate, drained)
    return Round(slow, drained, parts)


def _some(jobs: Sequence[Job], course: Course, choice: EngineChoice) -> Sequence[Job]:
    """Give an engine that would take too long over all of them as few as the naive consumer gets."""
    return jobs[: course.few] if choice in course.fewer else jobs


async def _naive(first: Ground) -> naive.Done:
    """Let the naive consumer have the first messages."""
    servers, name = first.servers, f"naive_{time.monotonic_ns()}"
    database = await servers.make_database(name)
    try:
        async with connected(database) as connection:
            await connection.execute(naive.TABLE)
        messages, order, registrations = first.messages, first.corpus.order, str(first.corpus.registrations)
        devices = min(messages, order.devices)
        wish = naive.Wish(servers.kafka, database, first.topic, name, messages, registrations, devices)
        done = await _consume(wish)
        async with connected(database) as connection:
            stored = await connection.fetchval("select count(*) from reading")
        if stored != messages * order.samples:
            raise WrongError(f"the naive consumer stored {stored:,} samples of {messages:,} messages")
        return done
    finally:
        await servers.drop_database(name)


async def _consume(wish: naive.Wish) -> naive.Done:
    """Run the naive consumer in a process of its own. Raises WrongError if it does not get through."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "loadtest.compare.naive", msgspec.json.encode(wish).decode(),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        said, complained = await asyncio.wait_for(process.communicate(), NAIVE_S_MAX)
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise WrongError(f"the naive consumer failed: {complained.decode(errors='replace')[-NAIVE_SAYS_MAX:]}")
    return msgspec.json.decode(said, type=naive.Done)


def _tell(slow: float, drained: Mapping[EngineChoice, Sequence[Drained]]) -> None:
    rates = ", ".join(f"{engine} {turns[0].rate:,.0f}" for engine, turns in drained.items())
    say(f"one round: naive {slow:,.0f}, {rates} messages/s")


def _row(course: Course, engine: EngineChoice, rounds: Sequence[Round]) -> Row:
    rates = [one.drained[engine][0].rate for one in rounds]
    bounds = [one.parts[engine].rate for one in rounds]
    last = [one.drained[engine][-1] for one in rounds]
    return Row(
        course.order.algorithm, engine, course.order.samples, course.order.devices,
        naive=statistics.median(one.naive.rate for one in rounds),
        product=statistics.median(rates),
        bound=statistics.median(bounds),
        over_naive=statistics.median(rate / one.naive.rate for rate, one in zip(rates, rounds, strict=True)),
        over_bound=statistics.median(rate / most for rate, most in zip(rates, bounds, strict=True)),
        processes=course.processes[0],
        one_process=statistics.median(one.rate for one in last) if course.processes[-1] == 1 else None,
        cpu_us=_median(Cpu, [one.drained[engine][0].cpu for one in rounds]),
        parts_us=_median(Parts, [one.parts[engine] for one in rounds]),
        naive_us=statistics.median(one.naive.cpu_s * 1e6 / one.naive.messages for one in rounds),
    )  # fmt: skip


def absent(course: Course, engine: EngineChoice, why: str, rounds: Sequence[Round]) -> Row:
    """Say that there is no such engine here, and why."""
    slow = statistics.median(one.naive.rate for one in rounds)
    return Row(course.order.algorithm, engine, course.order.samples, course.order.devices, slow, missing=why)


def _median(kind: type[Measured], found: Sequence[Measured]) -> Measured:
    """Take the median of each field."""
    names = kind.__struct_fields__
    return kind(**{name: statistics.median(getattr(one, name) for one in found) for name in names})
