"""Which of these messages would end the process that examines them? A child process examines them first.

It says a byte for each message that it has survived. When it ends, or is silent for too long, another begins where it
stopped. To blame is only what ends a child that has examined nothing before: neither an earlier message nor an
accident, such as a signal that was meant for us, gives an honest message the verdict of a pill.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence

import msgspec
import structlog

from ingest import ordeal
from ingest.core.device import KeyRing
from ingest.core.examine import Examiner
from ingest.core.message import Envelope, RawRecord, Refused
from ingest.core.signature import Engine
from ingest.ports import TroubleError

START_S_MAX = 60.0  # from the child's start to its first word: it loads its libraries
SILENCE_S_MAX = 30.0  # for one message, which takes a millisecond if all is well
LOOKS = 30  # at a silent child, evenly in that time: where all processes stood still, no more than one look is lost


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
    fast = getattr(examiner.engine, "fast", None)  # what watches another is made of it
    watched = None if fast is None else _name(fast)
    charge = ordeal.Charge(os.getpid(), examiner.policy, schemas, _name(examiner.engine), watched, ring)
    return msgspec.msgpack.encode(charge)


def _name(engine: Engine) -> str:
    kind = type(engine)
    return f"{kind.__module__}:{kind.__qualname__}"


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
    """Start a fresh interpreter, which looks for nothing in the directory that we happen to stand in."""
    pipe, nowhere = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    program = (sys.executable, "-P", "-c", f"from {ordeal.__name__} import stand; stand()")
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
