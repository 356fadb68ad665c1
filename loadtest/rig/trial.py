"""How is a scenario played? Each course on a topic and a database of its own: sign, enrol, begin, send, watch, read."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from deploy.embedded.command import say
from device_sim.truth import Differences
from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.readout import count_owned
from ingest.adapters.postgres.registry import Entry, read_lines
from ingest.adapters.topics import make_topic, prepare_topic
from loadtest.chaos.stage import Servers
from loadtest.compare.ground import ALERTS, PARTITIONS, Ground, connected, enrol_entries, sign
from loadtest.compare.product import READY_S_MAX, STALLED_S_MAX, Workers, WrongError, standing_by
from loadtest.corpus import Corpus, Order
from loadtest.rig.account import Account
from loadtest.rig.histogram import Histogram
from loadtest.rig.probe import Probe
from loadtest.rig.result import Count, Ratio, Result, Sent, spread
from loadtest.rig.scenario import Claim, Course, Measure, Scenario, Stream, Wish
from loadtest.rig.sender import Task, Told

BEGIN_IN_S = 0.5
LOOK_EVERY_S = 1.0
END_S_MAX = 20.0
SATURATED_S = 1.0  # who lags behind by less than what comes in that time keeps up
LINE_BYTES_MAX = 16 * 2**20  # of what a sender says in a second


class Senders:
    """The processes that send, and what they said."""

    def __init__(self, processes: Sequence[asyncio.subprocess.Process]) -> None:
        self._processes = processes
        self.late = Histogram()
        self.told: list[Told] = []
        self._ended = 0
        self._listening: list[asyncio.Task[None]] = []

    @property
    def pids(self) -> list[int]:
        """Their process numbers."""
        return [process.pid for process in self._processes]

    @property
    def done(self) -> bool:
        """Whether all is sent. Raises WrongError if one of them failed."""
        for task in self._listening:
            if task.done():
                task.result()
        return self._ended == len(self._processes)

    async def ready(self) -> None:
        """Wait until each has its messages at hand."""
        for process in self._processes:
            assert process.stdout, "it is a pipe"
            if not await asyncio.wait_for(process.stdout.readline(), READY_S_MAX):
                raise WrongError("a sender did not come up; what it said stands above")

    def begin(self, at_s: float) -> None:
        """Let time begin."""
        for process in self._processes:
            assert process.stdin, "it is a pipe"
            process.stdin.write(f"{at_s}\n".encode())
            self._listening.append(asyncio.create_task(self._listen(process)))

    def heard(self) -> list[Told]:
        """Give what they have said since the last time."""
        told, self.told = self.told, []
        return told

    async def close(self) -> None:
        """Wait for them to end; if not all was sent, nobody wants the rest any more."""
        unfinished = self._ended < len(self._processes)
        for task in self._listening:
            task.cancel()
        for process in self._processes:
            if unfinished:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            await _end(process)

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout, "it is a pipe"
        async for line in process.stdout:
            told = msgspec.json.decode(line, type=Told)
            self.told.append(told)
            if told.done:
                self.late.merge(Histogram(told.late_us))
                self._ended += 1
                return
        raise WrongError("a sender ended before all was sent; what it said stands above")


async def play_all(servers: Servers, scenario: Scenario, wish: Wish, cache: Path) -> list[Result]:
    """Play its courses in turn, and the one that depends on them. Raises WrongError if one cannot be played."""
    courses = list(scenario.plan(wish))
    results = [await play(servers, course, wish, cache) for course in courses]
    if scenario.then is not None:
        (phase,) = results[-1].parts
        if not phase.goodput:
            raise WrongError("nothing was committed while it was sent: give it more --seconds")
        if results[-1].lag_max < phase.offered * SATURATED_S:
            say("it kept up with all that came: what can be taken is more; a higher --rate would tell")
        last = scenario.then(courses[-1], min(phase.goodput, phase.offered))
        results.append(await play(servers, last, wish, cache))
    return results


async def play(servers: Servers, course: Course, wish: Wish, cache: Path) -> Result:
    """Play a course on these servers. Raises WrongError if it cannot be played to its end."""
    corpora = {stream.order: await sign(stream.order, cache) for stream in course.streams}
    name = f"rig_{time.time_ns()}"
    entries = _entries(course, corpora)
    say(f"{course.name}: enrolling {len(entries):,} devices")
    began_s = time.monotonic()
    await enrol_entries(servers, entries, f"{name}_fleet")
    enrolling = len(entries), time.monotonic() - began_s
    del entries
    await make_topic(servers.kafka, ALERTS, 1)
    await prepare_topic(servers.kafka, name, PARTITIONS)
    ground = Ground(servers, corpora[course.streams[0].order], name, f"{name}_fleet", course.settings)
    try:
        async with ground.database(name) as database:
            played = await _play(ground, course, wish, cache, database)
            say(f"{course.name}: reading what became of {course.count:,} messages")
            async with connected(database) as connection:
                return await _result(played, connection, corpora, enrolling)
    finally:
        await servers.drop_database(f"{name}_fleet")
        async with servers.administered() as client:
            await client.delete_topics([name])


class Played(msgspec.Struct, frozen=True):
    """A course that was played to its end."""

    course: Course
    topic: str
    begin_at_s: float
    probe: Probe
    late: Histogram


def _entries(course: Course, corpora: dict[Order, Corpus]) -> list[Entry]:
    """List the devices of all fleets, each fleet once, and share them out among tenants."""
    found: dict[str, list[Entry]] = {}
    for stream in course.streams:
        fleet = str(stream.order.fleet)
        if fleet not in found:
            with corpora[stream.order].registrations.open(encoding="utf-8") as lines:
                read = read_lines(lines)
            found[fleet] = [
                replace(entry, tenant=f"{stream.name}-{number % stream.tenants + 1}")
                for number, entry in enumerate(read)
            ]
    return [entry for entries in found.values() for entry in entries]


async def _play(ground: Ground, course: Course, wish: Wish, cache: Path, database: str) -> Played:
    async with contextlib.AsyncExitStack() as stack:
        senders = await stack.enter_async_context(_senders(ground, course, wish, cache))
        await senders.ready()
        if course.backlog:
            await _fill(senders)
        connection = await stack.enter_async_context(connected(database))
        workers, begin = await stack.enter_async_context(standing_by(ground, database, wish.processes, wish.engine))
        probe = Probe(ground, connection, workers.pids, senders.pids)
        await begin()
        begin_at_s = time.time()
        if not course.backlog:
            await _owned(connection, ground.topic)
            begin_at_s = time.time() + BEGIN_IN_S
            senders.begin(begin_at_s)
        probe.zero_s = begin_at_s + course.warm_s
        await _watch(probe, senders, workers, course.count)
    return Played(course, ground.topic, begin_at_s, probe, senders.late)


async def _fill(senders: Senders) -> None:
    senders.begin(time.time())
    while not senders.done:
        await asyncio.sleep(LOOK_EVERY_S)
        say(f"{sum(told.sent for told in senders.told[-1:]):9,} wait in the log")


async def _owned(connection: Connection, topic: str) -> None:
    """Wait until all partitions are taken over: before that, a latency says nothing of those who work."""
    for _ in range(int(READY_S_MAX / 0.1)):
        if await count_owned(connection, topic) == PARTITIONS:
            return
        await asyncio.sleep(0.1)
    raise WrongError(f"the partitions of {topic} were not taken over within {READY_S_MAX:.0f} s")


async def _watch(probe: Probe, senders: Senders, workers: Workers, count: int) -> None:
    """Look every second until all is committed. Raises WrongError if that does not go on."""
    stalled_s = 0.0
    began_s = time.monotonic()
    looks = 0
    while True:
        before = probe.progress.committed
        for told in senders.heard():
            probe.progress.append(told.spans)
        await probe.look()
        if senders.done and probe.progress.committed >= count:
            return
        moved = probe.progress.committed > before or not senders.done
        stalled_s = 0.0 if moved else stalled_s + LOOK_EVERY_S
        workers.check()
        if stalled_s > STALLED_S_MAX:
            raise WrongError(f"the workers took {probe.progress.committed:,} of {count:,} messages, and no more")
        looks += 1
        await asyncio.sleep(max(0.0, began_s + looks * LOOK_EVERY_S - time.monotonic()))


@contextlib.asynccontextmanager
async def _senders(ground: Ground, course: Course, wish: Wish, cache: Path) -> AsyncIterator[Senders]:
    """Start the processes that send, each with its partitions, and end them at the end of the block."""
    processes = []
    for which in range(wish.senders):
        partitions = tuple(range(which, PARTITIONS, wish.senders))
        task = Task(ground.servers.kafka, ground.topic, course.streams, str(cache), partitions)
        command = ["-m", "loadtest.rig.sender", msgspec.json.encode(task).decode()]
        processes.append(
            await asyncio.create_subprocess_exec(
                sys.executable,
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=LINE_BYTES_MAX,
            )
        )
    senders = Senders(processes)
    try:
        yield senders
    finally:
        await senders.close()


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin, "it is a pipe"
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), END_S_MAX)
    except TimeoutError:
        process.kill()
        await process.wait()


async def _result(
    played: Played, connection: Connection, corpora: dict[Order, Corpus], enrolling: tuple[int, float]
) -> Result:
    course, probe = played.course, played.probe
    account = Account(course, played.topic, played.begin_at_s)
    await account.read(connection)
    found = account.comparison.differences()
    seconds = account.seconds()
    engines = [row[0] for row in await connection.fetch("select distinct engine from store.judged_by order by 1")]
    return Result(
        name=course.name,
        backlog=course.backlog,
        watched=course.streams[0].name,
        streams=[_sent(stream, corpora[stream.order]) for stream in course.streams],
        messages=course.count,
        seconds=account.last_s,
        rate=account.committed / account.last_s,
        lag_max=max(second.lag for second in seconds),
        enrolled=enrolling[0],
        enrolling_s=enrolling[1],
        engines=engines,
        waited=spread(account.waited),
        whole=spread(account.whole),
        handed_late=spread(played.late),
        buckets=list(account.waited.buckets()),
        seconds_seen=seconds,
        usage=probe.usage,
        cpu_us={kind: used * 1e6 / account.committed for kind, used in probe.used_s().items()},
        rss_mb_max=max(sum(usage.rss_mb.values()) for usage in probe.usage),
        parts=[phase.part() for phase in account.phases],
        counts=list(_counts(found)),
        unaccounted=found.unaccounted,
        wrong=found.wrong + found.unexpected,
        examples=[f"{one.partition}/{one.offset} ({one.fault}): deserved {one.deserved}, found {one.found}"
                  for one in found.examples],
    )  # fmt: skip


def _sent(stream: Stream, corpus: Corpus) -> Sent:
    order = stream.order
    deserved = f"{stream.verdict} {stream.reason}".strip()
    if stream.otherwise:
        deserved += f" or {' '.join(stream.otherwise)}"
    return Sent(
        stream.name,
        stream.flow.count,
        min(order.messages, stream.flow.count),
        corpus.value_bytes,
        order.content,
        order.seed,
        order.devices,
        deserved,
    )


def _counts(found: Differences) -> Iterable[Count]:
    for verdict, reason in sorted({*found.deserved, *found.found}):
        deserved, given = found.deserved.get((verdict, reason), 0), found.found.get((verdict, reason), 0)
        yield Count(verdict, reason, deserved, given)


def settle(scenario: Scenario, results: Sequence[Result]) -> list[Ratio]:
    """Hold what was found to what is claimed."""
    if scenario.claim is None:
        return []
    claim: Claim = scenario.claim
    if claim.measure is Measure.GOODPUT:
        ((before, after),) = ((result.parts[0].goodput, result.parts[1].goodput) for result in results)
    elif claim.measure is Measure.MEMORY:
        before, after = (result.rss_mb_max for result in results)
    else:
        before, after = 1_000.0, results[-1].waited.p99
    value = after / before if before else 0.0
    holds = (claim.least is None or value >= claim.least) and (claim.most is None or value <= claim.most)
    return [Ratio(claim.what, value, claim.least, claim.most, holds)]
