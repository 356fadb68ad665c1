"""Does this process survive the messages that it examines? If it does not, it was a child that nobody will miss.

It reads a charge and then messages from standard input, and says a byte on standard output when it is ready and after
each message that it has survived. It is its own module because each child has to load it, and all that it imports.
"""

import contextlib
import ctypes
import os
import pkgutil
import resource
import signal
import sys
from pathlib import Path
from typing import BinaryIO

import msgspec

from ingest.core.device import KeyRing
from ingest.core.examine import Examiner
from ingest.core.message import RawRecord
from ingest.core.payload import load
from ingest.core.policy import Policy
from ingest.core.touchstone import SOUND

CPU_S_MAX = 20  # of a child: what computes without end is known by that, however busy the machine is
MEMORY_BYTES_MAX = 2**30  # of address space; a child that examines the largest batch takes 60 MB
OOM_FIRST = "1000"  # proc(5), oom_score_adj: where memory is short all the same, the child is to go, not its parent
PR_SET_PDEATHSIG = 1  # prctl(2)


class Charge(msgspec.Struct, frozen=True):
    """What a child needs before the first message: all that an examiner is made of, and the keys."""

    parent: int
    policy: Policy
    schemas: dict[str, str]
    engine: str  # its class, as pkgutil.resolve_name reads it; it is made without arguments,
    fast: str | None  # or of the engine that it watches, which is made so
    ring: KeyRing


def stand() -> None:
    """Be the child."""
    _limit_ourselves()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # uvloop passes on what is inheritable, as that of whoever started us
    voice = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints, it goes nowhere and counts for nothing
    charge = msgspec.msgpack.decode(_receive(sys.stdin.buffer), type=Charge)
    assert os.getppid() == charge.parent, "it ended before we could ask to end with it"
    # An engine that fails (for a processor that its library does not fit, say) would do so at every message, which none
    # is to blame for: so it is asked what is known first.
    made = pkgutil.resolve_name(charge.engine)
    engine = made(pkgutil.resolve_name(charge.fast)()) if charge.fast else made()
    assert all(engine.check(SOUND)), f"{engine.name} does not hold what is known to hold"
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
