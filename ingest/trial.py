"""Which of these messages would end the process that examines them? A child process examines them first.

It says a byte for each message that it has survived. When it ends, or is silent for too long, another begins where it
stopped. To blame is only what ends a child that has examined nothing before: neither an earlier message nor an
accident, such as a signal that was meant for us, gives an honest message the verdict of a pill.
"""

import asyncio
import contextlib
import ctypes
import os
import pkgutil
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
import structlog

from ingest.core.device import Algorithm, KeyRing
from ingest.core.examine import Examiner
from ingest.core.message import Envelope, RawRecord, Refused
from ingest.core.payload import load
from ingest.core.policy import Policy
from ingest.core.signature import Engine, Job
from ingest.ports import TroubleError

START_S_MAX = 60.0  # from the child's start to its first word: it loads its libraries
SILENCE_S_MAX = 30.0  # for one message, which takes a millisecond if all is well
LOOKS = 30  # at a silent child, evenly in that time: where all processes stood still, no more than one look is lost
CPU_S_MAX = 20  # of a child: what computes without end is known by that, however busy the machine is
MEMORY_BYTES_MAX = 2 * 2**30  # of address space; a child that examines takes a tenth of it
OOM_FIRST = "1000"  # proc(5), oom_score_adj: where memory is short all the same, the child is to go, not its parent
PR_SET_PDEATHSIG = 1  # prctl(2)

# An engine must hold these: RFC 8032, 7.1, test 1, and RFC 6979, A.2.5, SHA-256 of "sample". One that cannot (a library
# that does not fit the processor, say) would be ended by every message, and no message is to blame for that.
CONTROL = (
    Job(
        Algorithm.ED25519,
        bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"),
        b"",
        bytes.fromhex(
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
            "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    Job(
        Algorithm.P256,
        bytes.fromhex(
            "60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"
            "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"
        ),
        b"sample",
        bytes.fromhex(
            "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716"
            "f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8"
        ),
    ),
)


class Charge(msgspec.Struct, frozen=True):
    """What a child needs before the first message: all that an examiner is made of, and the keys."""

    parent: int
    policy: Policy
    schemas: dict[str, str]
    engine: str  # its class, as pkgutil.resolve_name reads it; it is made without arguments
    ring: KeyRing


async def find_killers(
    examiner: Examiner,
    messages: Sequence[Envelope | Refused],
    ring: KeyRing,
    silence_s_max: float = SILENCE_S_MAX,
) -> frozenset[int]:
    """Examine these in child processes, two for each killer and one more at most; returns the killers' indexes.

    Raises TroubleError when a child cannot even begin: that is no message's doing.
    """
    tried = [index for index, message in enumerate(messages) if isinstance(message, Envelope)]
    records = [messages[index].record for index in tried]
    charge, at, children, killers = _charge(examiner, ring), 0, 0, set()
    while at < len(records):
        survived = await _survive(charge, records[at:], silence_s_max)
        if survived == 0:
            killers.add(tried[at])
        at += survived or 1
        children += 1
    offsets = [messages[index].record.offset for index in sorted(killers)]
    structlog.get_logger().warning("tried", messages=len(records), killers=offsets, children=children)
    return frozenset(killers)


def _charge(examiner: Examiner, ring: KeyRing) -> bytes:
    schemas = {schema.name: schema.text for schema in examiner.catalogue.schemas}
    kind = type(examiner.engine)
    engine = f"{kind.__module__}:{kind.__qualname__}"
    return msgspec.msgpack.encode(Charge(os.getpid(), examiner.policy, schemas, engine, ring))


async def _survive(charge: bytes, records: Sequence[RawRecord], silence_s_max: float) -> int:
    """Let a new child examine these; returns how many it did, in order, before it ended or fell silent."""
    child = await _start()
    assert child.stdin is not None
    assert child.stdout is not None
    feeding = asyncio.create_task(_feed(child.stdin, charge, records))
    try:
        if not await _hear(child.stdout, 1, START_S_MAX):
            raise TroubleError(
                "a child process that was to examine messages ended before it could begin: "
                "see that there is memory for another process, and that the engine works on this machine"
            )
        return await _hear(child.stdout, len(records), silence_s_max)
    finally:
        feeding.cancel()
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await asyncio.gather(feeding, child.wait(), return_exceptions=True)


async def _start() -> asyncio.subprocess.Process:
    """Start a fresh interpreter: of ours it has three pipes and the environment, and no import from where we stand."""
    pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    program = (sys.executable, "-P", "-c", f"from {__name__} import stand; stand()")
    try:
        return await asyncio.create_subprocess_exec(*program, stdin=pipe, stdout=pipe, stderr=nowhere)
    except OSError as error:
        raise TroubleError(f"no child process can be started to examine messages: {error}") from error


async def _feed(to: asyncio.StreamWriter, charge: bytes, records: Sequence[RawRecord]) -> None:
    with contextlib.suppress(ConnectionError):  # it ended: whoever listens to it knows
        to.write(_framed(charge))
        for record in records:
            await to.drain()
            to.write(_framed(msgspec.msgpack.encode(record)))
        await to.drain()


def _framed(content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + content


async def _hear(child: asyncio.StreamReader, count: int, silence_s_max: float) -> int:
    """Count what it says: so many bytes, or fewer if it ends or is silent for so long."""
    heard = looks = 0
    while heard < count and looks < LOOKS:
        try:
            async with asyncio.timeout(silence_s_max / LOOKS):  # wait_for of 3.11 takes a cancellation for a result
                said = await child.read(count - heard)
        except TimeoutError:
            looks += 1
            continue
        if not said:
            break
        heard, looks = heard + len(said), 0
    return heard


def stand() -> None:
    """Be the child: read the charge and then messages, and say a byte when ready and after each one survived."""
    _limit_ourselves()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # uvloop passes on what is inheritable, as that of whoever started us
    voice = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints, it goes nowhere and counts for nothing
    charge = msgspec.msgpack.decode(_receive(sys.stdin.buffer), type=Charge)
    assert os.getppid() == charge.parent, "it ended before we could ask to end with it"
    engine: Engine = pkgutil.resolve_name(charge.engine)()
    assert all(engine.check(CONTROL)), f"{engine.name} does not hold what is known to hold"
    examiner = Examiner(charge.policy, load(charge.schemas), engine)
    os.write(voice, b"!")
    while frame := _receive(sys.stdin.buffer):
        record = msgspec.msgpack.decode(frame, type=RawRecord)
        examiner.examine(examiner.read([record]), charge.ring)
        os.write(voice, b".")


def _receive(source: BinaryIO) -> bytes:
    """Read the next frame; nothing at the end."""
    return source.read(int.from_bytes(source.read(4), "big"))


def _limit_ourselves() -> None:
    """End with our parent, take no more than a trial can need, and leave no core behind: it would hold payloads."""
    assert ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) == 0
    with contextlib.suppress(OSError):  # not every container allows it
        Path("/proc/self/oom_score_adj").write_text(OOM_FIRST, encoding="ascii")
    for limited, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES_MAX),
        (resource.RLIMIT_CPU, CPU_S_MAX),
        (resource.RLIMIT_CORE, 0),
    ):
        _, ceiling = resource.getrlimit(limited)
        resource.setrlimit(limited, (most if ceiling == resource.RLIM_INFINITY else min(most, ceiling), ceiling))
