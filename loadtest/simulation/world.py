"""How does a run go? A few worker processes, one log, one store; faults while there are any left, then calm."""

import asyncio
import contextlib
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import msgspec
import structlog
from msgspec.structs import replace

from ingest.adapters.memory.store import MemoryStore
from ingest.adapters.memory.wire import QUIET, Call, Connection
from ingest.core.examine import Examiner
from ingest.core.rate import Bucket
from ingest.ports import TroubleError
from loadtest.simulation.clock import play
from loadtest.simulation.corpus import TOPIC, Traffic, enrolled
from loadtest.simulation.oracle import BURST_MAX, Batch, Books, Row, Tally
from loadtest.simulation.process import BATCH_RECORDS_MAX, Cable, Frailty, Process
from loadtest.simulation.storm import Chronicle, Fault, Plan

PROCESSES = 3
SESSION_S_MAX = 12.0  # after which the group gives away what a silent member had
SLEEP_S_MAX = 40.0
DOWN_S_MAX = 10.0  # of the database
TOLD_LATE_S_MAX = 15.0
RUN_S_MAX = 3_600.0  # of virtual time
STEPS_MAX = 20_000
LOOK_EVERY_S = 1.0


class Setting(msgspec.Struct, frozen=True):
    """What a run is made of, beside its log: all chance comes from the seed."""

    seed: int
    plan: Callable[[random.Random], Plan]
    say: Callable[[str], object] | None = None


class Run(msgspec.Struct, frozen=True):
    """What a run left."""

    books: Books
    chronicle: Chronicle
    failures: list[str]  # of the run itself: a process that broke, an end that never came
    plan: Plan


def run(sent: Traffic, examiner: Examiner, setting: Setting) -> Run:
    """Play one run. The same setting gives the same run, to the last step."""
    random.seed(setting.seed)  # the worker's own jitter
    chronicle = Chronicle(setting.say)
    with _hushed():
        return play(_run(sent, examiner, setting, chronicle))


async def _run(sent: Traffic, examiner: Examiner, setting: Setting, chronicle: Chronicle) -> Run:
    return await World(sent, examiner, setting, chronicle).run()


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Let the product's log lines cost nothing: the chronicle tells what happens."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


class World:
    """The group and its members, and what befalls them."""

    def __init__(self, sent: Traffic, examiner: Examiner, setting: Setting, chronicle: Chronicle) -> None:
        self._sent, self._examiner, self._chronicle = sent, examiner, chronicle
        self._chance = random.Random(setting.seed)  # noqa: S311 (reproducible chance)
        self._plan = setting.plan(self._chance)
        self._batch_max = self._chance.randint(1, BATCH_RECORDS_MAX)  # of all: they have the same settings
        self._store = enrolled(sent.entries, sent.unkeepable)
        self._deaths: Counter[bytes] = Counter()  # by the signature of the pill
        self._ends = {partition: records[-1].offset + 1 for partition, records in sent.partitions.items()}
        self._processes: list[Process] = []  # the living and the dead
        self._owners: dict[int, Process] = {}  # to whom the group has given each partition
        self._calm_at_s = 0.0
        self._down_until_s = 0.0
        self._moving: set[asyncio.Task[None]] = set()  # changes of keys that wait for rows
        self._loop = asyncio.get_running_loop()

    async def run(self) -> Run:
        """Run until all is judged and the last fault has had its consequences."""
        for _ in range(PROCESSES):
            self._start()
        self._settle()
        while not self._over():  # noqa: ASYNC110 (the store is asked, which tells of no event)
            await asyncio.sleep(LOOK_EVERY_S)
        failures = self._failures()
        if not failures:
            for process in self._living():
                await process.leave()
        for process in self._processes:
            process.cable.alive = False
        for process in self._processes:
            self._chronicle.counts["fenced"] += process.fenced
        return Run(books(self._store, self._deaths), self._chronicle, failures, self._plan)

    def _over(self) -> bool:
        judged = self._loop.time() >= self._calm_at_s and not self._moving and self._unjudged() == []
        given_up = self._loop.time() > RUN_S_MAX or self._chronicle.steps > STEPS_MAX
        return judged or given_up or any(process.partitions.broken.done() for process in self._processes)

    def _unjudged(self) -> list[int]:
        return [p for p, end in self._ends.items() if self._store.leases[TOPIC, p].next_offset < end]

    def _failures(self) -> list[str]:
        broken = [p.partitions.broken.exception() for p in self._processes if p.partitions.broken.done()]
        failures = [f"a process broke: {error!r}" for error in broken]
        if self._unjudged() and not broken:
            when = f"{self._loop.time():.0f} s and {self._chronicle.steps} steps"
            failures.append(f"after {when} partitions {self._unjudged()} were not finished")
        return failures

    # The group ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        cable = Cable(f"worker {len(self._processes) + 1}", self._plan, self._chance, self._chronicle)
        cable.down_until_s = self._down_until_s
        frailty = Frailty(self._examiner, self._sent.pills, cable)
        process = Process(cable, self._sent.partitions, self._store, frailty, self._batch_max)
        cable.upset = lambda fault, call: self._upset(process, fault, call)
        frailty.swallowed = lambda signature: self._swallow(process, signature)
        self._processes.append(process)

    def _living(self) -> list[Process]:
        return [process for process in self._processes if process.cable.alive]

    def _settle(self) -> None:
        """Give what nobody has to somebody, as soon as somebody answers."""
        owners = {partition: self._owners.get(partition) for partition in self._ends}
        orphans = [partition for partition, owner in owners.items() if owner is None or not owner.cable.alive]
        if not all(self._give(partition) for partition in orphans):
            self._later(LOOK_EVERY_S, self._settle)

    def _give(self, partition: int) -> bool:
        """Give a partition to a member that answers, other than its owner. False when there is none."""
        old, now_s = self._owners.get(partition), self._loop.time()
        answering = [p for p in self._living() if p is not old and p.cable.asleep_until_s <= now_s]
        if answering:
            self._owners[partition] = self._chance.choice(answering)
            self._tell(f"partition {partition} is {self._owners[partition].cable.name}'s")
            self._owners[partition].give(partition)
        return bool(answering)

    def _hand_over(self, partition: int) -> None:
        """Give away what a member has given up; when nobody else answers it has it again."""
        if not self._give(partition):
            self._owners[partition].give(partition)

    def _later(self, within_s: float, act: Callable[[], None]) -> None:
        """Do something in a while; the run does not end before."""
        wait_s = self._chance.uniform(0.05, within_s)
        self._calm_at_s = max(self._calm_at_s, self._loop.time() + wait_s)
        self._loop.call_later(wait_s, act)

    def _tell(self, text: str) -> None:
        self._chronicle.tell(self._loop.time(), text)

    # What befalls them ----------------------------------------------------------------------------------------------

    def _upset(self, process: Process, fault: Fault, call: Call) -> None:
        match fault:
            case Fault.CRASH:
                self._crash(process)
            case Fault.ASLEEP:
                self._sleep(process)
            case Fault.REBALANCE:
                process.take(call.partition, lambda: self._hand_over(call.partition))
            case Fault.REBALANCE_LATE | Fault.REBALANCE_UNTOLD:
                self._give(call.partition)
                if fault is Fault.REBALANCE_LATE:
                    self._later(TOLD_LATE_S_MAX, lambda: self._correct(process, call.partition))
            case Fault.ASTRAY | Fault.AHEAD:
                self._lead_astray(process, fault, call.partition)
            case Fault.ENDED:
                assert call.connection is not None, "only a connection can be ended"
                call.connection.end()
            case Fault.RESTART:
                self._restart_database()
            case _:
                assert fault is Fault.KEYS_MOVED, f"nobody knows what to do about {fault}"
                moving = asyncio.ensure_future(self._move_keys())
                self._moving.add(moving)
                moving.add_done_callback(self._moving.discard)

    def _crash(self, process: Process) -> None:
        process.cable.alive = False
        process.cable.cut()
        self._later(SESSION_S_MAX, self._settle)
        self._later(SESSION_S_MAX, self._replace)

    def _swallow(self, process: Process, signature: bytes) -> None:
        self._deaths[signature] += 1
        self._chronicle.counts["death of a worker process by a pill"] += 1
        self._tell(f"{process.cable.name} dies of a pill")
        self._crash(process)

    def _replace(self) -> None:
        self._start()
        self._settle()

    def _sleep(self, process: Process) -> None:
        sleep_s = self._chance.uniform(0.5, SLEEP_S_MAX)
        process.cable.asleep_until_s = self._loop.time() + sleep_s
        held = [p for p, owner in self._owners.items() if owner is process]
        epochs = {p: self._store.leases[TOPIC, p].owner_epoch for p in held}
        for partition in held:
            self._later(sleep_s * 1.2, lambda p=partition: self._take_from(process, p))  # type: ignore[misc]
        self._calm_at_s = max(self._calm_at_s, self._loop.time() + sleep_s)
        self._loop.call_later(sleep_s, self._wake, process, epochs)

    def _take_from(self, process: Process, partition: int) -> None:
        if self._owners[partition] is process:
            self._give(partition)
            self._later(SLEEP_S_MAX, lambda: self._correct(process, partition))

    def _wake(self, process: Process, epochs: dict[int, int]) -> None:
        if process.cable.alive:
            taken = any(self._store.leases[TOPIC, p].owner_epoch > epoch for p, epoch in epochs.items())
            self._chronicle.counts["zombie woke after the take-over" if taken else "woke in time"] += 1
            self._tell(f"{process.cable.name} wakes")

    def _correct(self, process: Process, partition: int) -> None:
        """Tell a process at last what it has lost, unless it has been given it again."""
        if self._owners[partition] is not process:
            process.take(partition, lambda: None)

    def _lead_astray(self, process: Process, fault: Fault, partition: int) -> None:
        next_offset, end = self._store.leases[TOPIC, partition].next_offset, self._ends[partition]
        span = (0, next_offset) if fault is Fault.ASTRAY else (next_offset + 1, end)
        twice = fault is Fault.AHEAD and self._chronicle.counts[fault]  # a hole that shows twice alike is believed
        if span[0] < span[1] and not twice:
            process.log.seek(partition, self._chance.randrange(*span))
            self._chronicle.counts[fault] += 1

    def _restart_database(self) -> None:
        self._down_until_s = self._loop.time() + self._chance.uniform(0.5, DOWN_S_MAX)
        for process in self._living():
            process.cable.down_until_s = self._down_until_s
            process.cable.cut()

    async def _move_keys(self) -> None:
        """Change every device's keys, as the registry does: under the lock of its row. The keys stay good."""
        for device_id, sender in sorted(self._store.senders.items()):
            connection = Connection(-1, QUIET)
            with contextlib.suppress(TroubleError):  # a row that stays locked too long: those keys do not move
                await connection.lock(self._store.locks[sender.device_no])
                self._move(device_id)
            connection.end()

    def _move(self, device_id: str) -> None:
        sender = self._store.senders[device_id]
        device = self._store.devices[sender.device_no]
        self._store.senders[device_id] = replace(sender, key_version=sender.key_version + 1)
        self._store.devices[sender.device_no] = replace(device, key_version=device.key_version + 1)


def books(store: MemoryStore, deaths: Mapping[bytes, int]) -> Books:
    """Copy out, as plain data, all that the store keeps."""
    rows = {}
    for no, device in store.devices.items():
        tallies = {e: Tally(one.ranges, one.lowest, one.highest, one.accepted) for e, one in device.ledgers.items()}
        rest = (device.standing, device.epoch)
        rows[no] = Row(tallies, device.held, device.held_bytes, _spent_milli(device.rate), device.boots, rest)
    return Books(
        verdicts={
            (p, offset): [(str(v), str(r)) for v, r in found] for (_, p, offset), found in store.verdicts.items()
        },
        batches=[Batch(one.partition, (one.from_offset, one.to_offset), one.skipped) for one in store.batches],
        next_offsets={partition: owned.next_offset for (_, partition), owned in store.leases.items()},
        rows=rows,
        numbers={number: len(kept) for number, kept in store.stored.items()},
        shown={(p, offset): size for (_, p, offset), size in store.shown.items()},
        spent_milli={
            p: {no: _spent_milli(share) for no, share in owned.shares.items()}
            for (_, p), owned in store.leases.items()
            if owned.shares
        },
        deaths=dict(deaths),
    )


def _spent_milli(bucket: Bucket) -> int:
    return BURST_MAX * 1000 - bucket.level_milli if bucket.at_ms else 0
