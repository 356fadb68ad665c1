"""What is sent, and what does it deserve? Logs that device_sim's fleets fill, and a registry that knows the fleets."""

import itertools
import random
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

import cbor2
import msgspec
from msgspec.structs import replace

import schemas
from device_sim.fault import Fault
from device_sim.fleet import MIXES, Cause, Mix, Plan, sends
from device_sim.identity import Fleet, Identity
from device_sim.trouble import Trouble
from device_sim.vehicle import Send
from device_sim.wire import CLAIM_DEVICE, CLAIM_EPOCH, CLAIM_SEQ, LABEL_CLAIMS
from ingest.adapters.memory.store import MemoryStore
from ingest.adapters.postgres.registry import Entry, read_lines
from ingest.core.device import Device, Key, KeyRing, KeyState, Sender, Standing
from ingest.core.examine import Examiner
from ingest.core.message import Envelope, RawRecord, Refused
from ingest.core.payload import load
from ingest.core.policy import Policy
from ingest.core.signature import Engine, Job, OpenSSL
from ingest.core.verdict import Refusal, Verdict

TOPIC = "telemetry.raw"
START_S = 1_790_000_000.0  # the broker's clock, a constant: no law knows today's date
PARTITIONS = 3
COPIED_SHARE = 0.4  # of what may be copied into another partition
POISONS = (0, 0, 1, 2)  # how many there are in a scenario
GAP_SHARE = 0.05  # of the positions have a hole before them, as transaction markers leave

_STRANGERS_MAX = 3  # troubled vehicles in a small scenario, beside the two that copy and the one that never errs
_INNOCENT = {"honest", *(str(trouble) for trouble in Trouble if trouble is not Trouble.RETRANSMISSION)}
# A bomber's dozens of messages, and 65 kB ones, make runs long and show nothing more here.
_DEAR = {Fault.GAP_BOMBING, Fault.OVERSIZE, Fault.CROSS_PARTITION_REPLAY}

Position = tuple[int, int]  # partition, offset
Number = tuple[int, int, int]  # device, epoch, seq
Partitions = dict[int, list[RawRecord]]


class Traffic(msgspec.Struct):
    """What a fleet sent: the log, and what each position of it deserves."""

    entries: list[Entry]
    partitions: Partitions
    deserved: dict[Position, Send]
    pills: frozenset[bytes] = frozenset()  # the signatures of messages that end the process that examines them
    unkeepable: frozenset[bytes] = frozenset()  # messages whose rows the store refuses

    @property
    def size(self) -> int:
        """How many records the log has."""
        return len(self.deserved)


async def kill_nobody(_examiner: Examiner, _messages: Sequence[Envelope | Refused], _ring: KeyRing) -> frozenset[int]:
    """Try messages that end no process. See ingest.worker.Trial."""
    return frozenset()


def traffic(seed: int, count: int, vehicles: int = 150, mix: str = "everything") -> Traffic:
    """Let a fleet send `count` messages."""
    plan = Plan(Fleet(seed=seed, vehicles=vehicles), MIXES[mix], START_S - 20, samples_max=2)
    return _lay(plan, list(itertools.islice(sends(plan), count)), random.Random(0), gap_share=0.0)  # noqa: S311


def scenario(number: int, count: int = 40) -> Traffic:
    """Let a handful of vehicles send: two copy across partitions, the others have a trouble each, another each time."""
    chance = random.Random(number)  # noqa: S311 (reproducible chance)
    causes: list[Cause] = [cause for cause in (*Trouble, *Fault) if cause not in _DEAR]
    strange = chance.sample(causes, chance.randint(1, _STRANGERS_MAX))
    vehicles = len(strange) + 3
    mix = Mix({Fault.CROSS_PARTITION_REPLAY: 2 / vehicles, **dict.fromkeys(strange, 1 / vehicles)})
    plan = Plan(Fleet(seed=number, vehicles=vehicles), mix, START_S - 20, samples_max=1)
    told = _copied(list(itertools.islice(sends(plan), count)), chance)
    pills, unkeepable = _poisons(told, random.Random(f"poisons of {number}"))  # noqa: S311 (reproducible chance)
    sent = _lay(plan, [_deserving(send, pills | unkeepable) for send in told], chance, GAP_SHARE)
    return replace(sent, pills=frozenset(map(signature_of, pills)), unkeepable=unkeepable)


def _copied(sent: list[Send], chance: random.Random) -> list[Send]:
    """Copy some messages of blameless devices into other partitions; which copy is judged first is nobody's to say."""
    guilty = {send.device_id for send in sent if send.verdict in (Verdict.HELD, Verdict.REFUSED)}
    times = Counter(send.value for send in sent)
    told = list(sent)
    for at, send in reversed(list(enumerate(sent))):
        alone = send.group is None and times[send.value] == 1
        if alone and _is_innocent(send, guilty) and chance.random() < COPIED_SHARE:
            told[at] = replace(send, group=-at - 1)
            copy = replace(told[at], verdict=Verdict.DUPLICATE, partition_shift=chance.randint(1, PARTITIONS - 1))
            told.insert(chance.randint(at + 1, len(told)), copy)
    return told


def _is_innocent(send: Send, guilty: set[str]) -> bool:
    return send.cause in _INNOCENT and send.device_id not in guilty


def _poisons(told: list[Send], chance: random.Random) -> tuple[frozenset[bytes], frozenset[bytes]]:
    """Choose pills and unkeepable messages, with all their copies, among those that no other verdict depends on."""
    guilty = {send.device_id for send in told if send.verdict in (Verdict.HELD, Verdict.REFUSED)}
    times = Counter(send.value for send in told)
    blameless = [
        send.value
        for send in told
        if send.value and send.verdict is Verdict.ACCEPTED and _is_innocent(send, guilty)
        if (times[send.value] == 1 if send.group is None else send.group < 0)  # below 0: the copies are ours
    ]
    chosen = chance.sample(blameless, min(len(blameless), chance.choice(POISONS)))
    pills = frozenset(chosen[: (len(chosen) + chance.randint(0, 1)) // 2])
    return pills, frozenset(chosen) - pills


def _deserving(send: Send, poisons: frozenset[bytes]) -> Send:
    """Give a send with the verdict that it deserves when these are poison."""
    if send.value not in poisons:
        return send
    return replace(send, verdict=Verdict.REFUSED, reason=Refusal.POISON, group=None)


def signature_of(value: bytes) -> bytes:
    """Read, with a reader that is not the product's, the signature of an authentic message."""
    signature: bytes = cbor2.loads(value).value[3]
    return signature


def _lay(plan: Plan, sent: list[Send], chance: random.Random, gap_share: float) -> Traffic:
    """Lay the messages into partitions by key, as a producer does."""
    lines = [msgspec.json.encode(registration).decode() for registration in Identity(plan.fleet).registrations()]
    partitions: Partitions = defaultdict(list)
    deserved: dict[Position, Send] = {}
    ends = [0] * PARTITIONS
    for send in sent:
        partition = (zlib.crc32(send.device_id.encode()) + send.partition_shift) % PARTITIONS
        offset = ends[partition] + (chance.random() < gap_share)
        ends[partition] = offset + 1
        deserved[partition, offset] = send
        partitions[partition].append(RawRecord(TOPIC, partition, offset, int(START_S * 1000), send.value or b""))
    return Traffic(read_lines(lines), dict(partitions), deserved)


def claimed(sent: Traffic) -> dict[Position, Number]:
    """Read, with a reader that is not the product's, which number each authentic message claims."""
    numbers = {entry.device_id: no for no, entry in enumerate(sent.entries, 1)}
    return {at: _number(send, numbers) for at, send in sent.deserved.items() if send.verdict is not Verdict.REFUSED}


def _number(send: Send, numbers: dict[str, int]) -> Number:
    claims = cbor2.loads(cbor2.loads(send.value or b"").value[0])[LABEL_CLAIMS]
    return numbers[claims[CLAIM_DEVICE]], claims[CLAIM_EPOCH], claims[CLAIM_SEQ]


def enrolled(entries: list[Entry], unkeepable: Collection[bytes] = ()) -> MemoryStore:
    """Make a store with these devices in its registry."""
    senders, devices = {}, []
    for no, entry in enumerate(entries, 1):
        key = Key(no, entry.kid, entry.algorithm, entry.public, KeyState.ACTIVE, -(2**60), 2**60, None)
        senders[entry.device_id] = Sender(no, no, 1, 1, {entry.kid: key})
        devices.append(Device(no, Standing.TRUSTED, 1, entry.epoch, 0, (), {}))
    return MemoryStore(senders, devices, unkeepable)


def examiner(engine: Engine | None = None, policy: Policy | None = None) -> Examiner:
    """Make the examiner that production has."""
    return Examiner(policy or Policy(), load(schemas.read_telemetry()), engine or OpenSSL())


class Remembering:
    """An engine for logs that are read again and again: it checks each signature once."""

    name = "remembering"

    def __init__(self) -> None:
        self._engine = OpenSSL()
        self._answers: dict[Job, bool] = {}

    def check(self, jobs: Sequence[Job]) -> list[bool]:
        """See ingest.core.signature.Engine."""
        new = [job for job in jobs if job not in self._answers]
        self._answers.update(zip(new, self._engine.check(new), strict=True))
        return [self._answers[job] for job in jobs]
