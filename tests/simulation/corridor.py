"""A fleet's messages, the log that they make, and the whole corridor over twins in memory."""

import asyncio
import itertools
import zlib
from collections import Counter, defaultdict

import msgspec

import schemas
from device_sim.fleet import MIXES, Plan, sends
from device_sim.identity import Fleet, Identity
from device_sim.vehicle import Send
from ingest.adapters.memory import MemoryLog, MemoryStore
from ingest.adapters.postgres.registry import Entry, read_lines
from ingest.core.device import Device, Key, KeyState, Sender, Standing
from ingest.core.examine import Examiner
from ingest.core.message import RawRecord
from ingest.core.outcome import Outcome
from ingest.core.payload import load
from ingest.core.policy import Policy
from ingest.core.signature import Portable
from ingest.core.verdict import Verdict
from ingest.ports import TroubleError
from ingest.worker import Worker

TOPIC = "telemetry.raw"
START_S = 1_790_000_000.0  # the broker's clock, in these tests: a constant, for no law knows today's date
PARTITIONS = 3

Position = tuple[int, int]  # partition, offset
Partitions = dict[int, list[RawRecord]]


class Traffic(msgspec.Struct):
    """What a fleet sent: the log, and what each position of it deserves."""

    entries: list[Entry]
    partitions: Partitions
    deserved: dict[Position, Send]

    @property
    def size(self) -> int:
        return len(self.deserved)


class Listener:
    """Keeps what the worker reports."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.troubles: list[TroubleError] = []

    def batch(self, outcome: Outcome, seconds: float, waiting: int) -> None:  # noqa: ARG002 (the observer's shape)
        self.outcomes.append(outcome)

    def trouble(self, error: TroubleError) -> None:
        self.troubles.append(error)

    def taken(self, partition: int) -> None:
        pass

    def left(self, partition: int) -> None:
        pass


def traffic(seed: int, count: int, vehicles: int = 150, mix: str = "everything") -> Traffic:
    """Let a fleet send `count` messages."""
    plan = Plan(Fleet(seed=seed, vehicles=vehicles), MIXES[mix], START_S - 20, samples_max=2)
    lines = [msgspec.json.encode(registration).decode() for registration in Identity(plan.fleet).registrations()]
    partitions: Partitions = defaultdict(list)
    deserved: dict[Position, Send] = {}
    for send in itertools.islice(sends(plan), count):
        partition = (zlib.crc32(send.device_id.encode()) + send.partition_shift) % PARTITIONS
        offset = len(partitions[partition])
        deserved[partition, offset] = send
        partitions[partition].append(RawRecord(TOPIC, partition, offset, int(START_S * 1000), send.value or b""))
    return Traffic(read_lines(lines), partitions, deserved)


def enrolled(entries: list[Entry]) -> MemoryStore:
    """Make a store with these devices in its registry."""
    senders, devices = {}, []
    for no, entry in enumerate(entries, 1):
        key = Key(no, entry.kid, entry.algorithm, entry.public, KeyState.ACTIVE, -(2**60), 2**60, None)
        senders[entry.device_id] = Sender(no, no, 1, 1, {entry.kid: key})
        devices.append(Device(no, Standing.TRUSTED, 1, entry.epoch, 0, (), {}))
    return MemoryStore(senders, devices)


def examiner() -> Examiner:
    """Make the examiner that production has."""
    return Examiner(Policy(), load(schemas.read_telemetry()), Portable())


def run(partitions: Partitions, store: MemoryStore, batch_records_max: int = 100) -> Listener:
    """Let one worker judge the whole log."""
    return asyncio.run(_run(partitions, store, batch_records_max))


async def _run(partitions: Partitions, store: MemoryStore, batch_records_max: int) -> Listener:
    listener = Listener()
    worker = Worker(TOPIC, MemoryLog(partitions, batch_records_max), store, examiner(), listener)
    stopping = asyncio.Event()
    tending = [asyncio.ensure_future(worker.tend(partition, stopping)) for partition in partitions]
    size = sum(map(len, partitions.values()))
    while sum(store.leases[TOPIC, partition].next_offset for partition in partitions) < size:
        ended, _ = await asyncio.wait(tending, timeout=0.01, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
    stopping.set()
    await asyncio.gather(*tending)
    return listener


def verdicts(store: MemoryStore) -> dict[Position, tuple[Verdict, str]]:
    """Give the one verdict of each position; more than one is a broken law."""
    given = {}
    for (_, partition, offset), found in store.verdicts.items():
        (given[partition, offset],) = found
    return given


def undeserved(store: MemoryStore, sent: Traffic) -> list[tuple[Position, Send, tuple[Verdict, str] | None]]:
    """List the positions whose verdict differs from what their send deserves; a group may exchange its verdicts."""
    given = verdicts(store)
    owed: dict[int, Counter[tuple[Verdict, str]]] = defaultdict(Counter)
    for send in sent.deserved.values():
        if send.group is not None:
            owed[send.group][send.verdict, send.reason] += 1
    wrong = []
    for position, send in sent.deserved.items():
        found = given.get(position)
        if send.group is None:
            fits = found == (send.verdict, send.reason)
        else:
            fits = found is not None and owed[send.group][found] > 0
            owed[send.group][found or (Verdict.REFUSED, "")] -= 1
        if not fits:
            wrong.append((position, send, found))
    return wrong
