"""How much does the worker do at once, and whom does it tell? The loop itself, over the twins."""

import asyncio
import itertools
from collections.abc import Sequence

import pytest

from ingest.adapters.memory.log import MemoryLog
from ingest.adapters.memory.store import MemoryStore
from ingest.adapters.memory.wire import QUIET, Call, Connection
from ingest.core.device import Device, Key, KeyRing, KeyState, Sender, Standing
from ingest.core.enrolment import admit
from ingest.core.examine import Examiner
from ingest.core.message import Envelope, Examined, RawRecord, Refused
from ingest.core.outcome import Outcome
from ingest.core.policy import Policy
from ingest.core.signature import Job, OpenSSL
from ingest.metrics import STUCK_S_MAX, Metrics
from ingest.ports import TroubleError
from ingest.worker import STEP_BYTES_MAX, STEP_MESSAGES_MAX, TRIALS_AT_ONCE, USUAL_BYTES, Limits, Worker, _steps
from loadtest.mutation import RECEIVED_AT_MS, open_workshop
from loadtest.simulation.clock import play
from tests.simulation import corridor

SHOP = open_workshop(20)
BUNDLE = next(one for one in SHOP.specimens if len(one.payload) > 10_000).seal()
BUNDLE_SAMPLES = 1_024
STEP_SAMPLES = (STEP_BYTES_MAX // (len(BUNDLE) - USUAL_BYTES) + 1) * BUNDLE_SAMPLES


def enrolled() -> MemoryStore:
    senders, devices = {}, []
    for number, one in enumerate(SHOP.identity.registrations(), 1):
        key = Key(number, bytes.fromhex(one.kid), *admit(one.alg, one.public_key), KeyState.ACTIVE, 0, None, None)
        senders[one.device_id] = Sender(number, number, 1, 1, {key.kid: key})
        devices.append(Device(number, Standing.TRUSTED, 1, one.epoch, 0, (), {}))
    return MemoryStore(senders, devices)


def records(values: Sequence[bytes], partition: int = 0) -> list[RawRecord]:
    return [RawRecord(corridor.TOPIC, partition, at, RECEIVED_AT_MS, value) for at, value in enumerate(values)]


def samples(outcome: Outcome) -> int:
    """How many samples were examined for it: a duplicate has as many as what it repeats."""
    return BUNDLE_SAMPLES * outcome.consumed


def test_what_was_read_at_once_is_committed_in_parts_of_so_many_samples() -> None:
    store = enrolled()
    listener = corridor.run({0: records([BUNDLE] * 60)}, store, 100, batch_samples_max=8_000)
    first, *between, _ = [samples(outcome) for outcome in listener.outcomes]
    assert len(between) > 2
    assert all(8_000 <= size < 8_000 + STEP_SAMPLES for size in (first, *between))
    spans = [(outcome.span.from_offset, outcome.span.to_offset) for outcome in listener.outcomes]
    assert [0, *(end for _, end in spans)] == [*(start for start, _ in spans), 60]
    assert len(corridor.verdicts(store)) == 60


def test_a_bound_below_one_message_lets_the_message_through() -> None:
    store = enrolled()
    corridor.run({0: records([BUNDLE])}, store, batch_samples_max=1)
    assert len(corridor.verdicts(store)) == 1


@pytest.mark.parametrize("size", [0, 1, 300, USUAL_BYTES, USUAL_BYTES + 1, 30_000, STEP_BYTES_MAX, 1_000_000])
def test_a_step_has_messages_or_bytes_enough_and_at_most_one_message_more(size: int) -> None:
    messages = corridor.examiner().read(records([bytes(size)] * (STEP_MESSAGES_MAX + 1)))
    steps = list(_steps(messages))
    assert list(itertools.chain.from_iterable(steps)) == messages
    for step in steps:
        assert 0 < len(step) <= STEP_MESSAGES_MAX
        assert sum(max(0, len(message.record.value) - USUAL_BYTES) for message in step[:-1]) < STEP_BYTES_MAX
    assert list(_steps([])) == []


class Turns:
    """An engine that notes how many turns the others had had when it was asked."""

    name = "turns"

    def __init__(self) -> None:
        self.others = 0
        self.noted: list[int] = []
        self._engine = OpenSSL()

    def check(self, jobs: Sequence[Job]) -> list[bool]:
        self.noted.append(self.others)
        return self._engine.check(jobs)

    async def take_turns(self) -> None:
        while True:
            self.others += 1
            await asyncio.sleep(0)


async def test_others_get_their_turn_between_two_steps() -> None:
    turns, store = Turns(), enrolled()
    examiner = Examiner(Policy(), corridor.examiner().catalogue, turns)
    listener = corridor.Stopping(after=1)
    worker = Worker(
        corridor.TOPIC,
        MemoryLog({0: records([BUNDLE] * 40)}, 100),
        store,
        examiner,
        corridor.kill_nobody,
        listener,
        Limits(samples_max=50_000),
    )
    other = asyncio.create_task(turns.take_turns())
    await worker.tend(0, listener.stopping)
    other.cancel()
    assert listener.outcomes[0].consumed == 40
    assert len(turns.noted) > 5
    assert all(later > sooner for sooner, later in itertools.pairwise(turns.noted))


def test_batches_of_a_process_are_examined_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    examined: list[int] = []
    examine = Examiner.examine

    def note(self: Examiner, messages: Sequence[Envelope | Refused], ring: KeyRing) -> list[Examined]:
        examined.append(messages[0].record.partition)
        return examine(self, messages, ring)

    monkeypatch.setattr(Examiner, "examine", note)
    logs = {partition: records([BUNDLE] * 30, partition) for partition in range(3)}
    corridor.run(logs, enrolled())
    turns = [partition for partition, _ in itertools.groupby(examined)]
    assert len(examined) > 3 * len(turns), "each took several steps"
    assert sorted(turns) == [0, 1, 2]


async def test_no_more_than_so_many_partitions_have_a_child_at_once() -> None:
    now: list[int] = []
    seen: list[int] = []

    async def try_slowly(_examiner: Examiner, messages: Sequence[Envelope | Refused], _ring: KeyRing) -> frozenset[int]:
        now.append(messages[0].record.partition)
        seen.append(len(now))
        await asyncio.sleep(0.01)
        now.remove(messages[0].record.partition)
        return frozenset()

    store, logs = enrolled(), {partition: records([BUNDLE], partition) for partition in range(3 * TRIALS_AT_ONCE)}
    for partition in logs:
        async with store.take_over(corridor.TOPIC, partition):
            pass  # and its owner dies
    listener = corridor.Stopping(after=len(logs))
    worker = Worker(corridor.TOPIC, MemoryLog(logs, 100), store, corridor.examiner(), try_slowly, listener)
    await asyncio.gather(*(worker.tend(partition, listener.stopping) for partition in logs))
    assert len(seen) == len(logs)
    assert max(seen) == TRIALS_AT_ONCE


def test_who_is_told_to_stop_commits_no_further_part() -> None:
    store, log = enrolled(), records([BUNDLE] * 60)
    listener = corridor.Stopping(after=1)
    worker = Worker(
        corridor.TOPIC,
        MemoryLog({0: log}, 100),
        store,
        corridor.examiner(),
        corridor.kill_nobody,
        listener,
        Limits(samples_max=1),
    )
    asyncio.run(worker.tend(0, listener.stopping))
    assert len(listener.outcomes) == 1
    corridor.run({0: log}, store)
    assert len(corridor.verdicts(store)) == 60


class Broken:
    """A wire on which nothing is committed until it is mended: each attempt takes a minute to fail."""

    def __init__(self) -> None:
        self.mended = False

    async def request(self, call: Call) -> None:
        await QUIET.request(call)
        if call.operation == "COMMIT" and not self.mended:
            await asyncio.sleep(60)
            raise TroubleError("no answer in 60 s")

    async def reply(self, call: Call) -> None:
        await QUIET.reply(call)

    def end(self, connection: Connection) -> None:
        QUIET.end(connection)


async def watch_for_an_hour(wire: Broken, metrics: Metrics, log: list[RawRecord]) -> list[list[str]]:
    """Let a worker work for an hour; give what its health says each minute."""
    worker = Worker(
        corridor.TOPIC,
        MemoryLog({0: log}, 100, wait_s=1.0),
        enrolled().through(wire),
        corridor.examiner(),
        corridor.kill_nobody,
        metrics,
    )
    stopping = asyncio.Event()
    tending = asyncio.create_task(worker.tend(0, stopping))
    said = []
    for minute in range(60):
        wire.mended = minute >= 30
        await asyncio.sleep(60)
        said.append(metrics.find_faults())
    stopping.set()
    await tending
    return said


def test_a_partition_that_never_commits_is_unwell_all_the_time_until_it_comes_on() -> None:
    async def run() -> list[list[str]]:
        metrics = Metrics("0.1.0", "portable", asyncio.get_running_loop().time)
        said = await watch_for_an_hour(Broken(), metrics, records([BUNDLE]))
        assert metrics.find_faults() == [], "what was given up is nobody's trouble here"
        return said

    said = play(run())
    until = int(STUCK_S_MAX // 60)
    assert not any(said[: until - 1])
    assert all("partition 0: no progress for" in faults[0] for faults in said[until:29])
    assert not any(said[32:]), "reads that find nothing are progress"


def test_a_partition_in_which_nothing_is_sent_is_well() -> None:
    async def run() -> list[list[str]]:
        return await watch_for_an_hour(Broken(), Metrics("0.1.0", "portable", asyncio.get_running_loop().time), [])

    assert not any(play(run()))
