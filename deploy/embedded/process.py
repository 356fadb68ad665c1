"""Is that process the server that we started, and how is it started and stopped? Linux: it is /proc that tells.

A number alone proves nothing: process numbers are used again. Ours is the process that has the number, the start time
and the boot that were recorded when it began, and that works in the server's own directory.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from deploy.embedded.account import Account

T = TypeVar("T")

LAUNCH_S_MAX = 30.0
TAIL_LINES = 15


class Birth(msgspec.Struct, frozen=True):
    """One process and no other, for as long as the machine keeps its boot id."""

    pid: int
    started_ticks: int  # since boot, proc_pid_stat(5) field 22
    boot: str


class Daemon(msgspec.Struct, frozen=True):
    """Where a server of ours keeps what is known of it."""

    name: str
    record: Path  # its Birth
    log: Path
    home: Path  # its working directory, and nobody else's


class Order(msgspec.Struct, frozen=True):
    """What `launch` is to become."""

    daemon: Daemon
    command: list[str]
    environment: dict[str, str]
    account: Account | None


class Stuck(Exception):  # noqa: N818 - it is read as a word, and its text is the whole answer
    """A server did not do what it was asked for in the time that it was given."""


def written(value: msgspec.Struct) -> bytes:
    """Write a value as JSON, paths as text."""
    return msgspec.json.encode(value, enc_hook=str)


def read(text: bytes, kind: type[T]) -> T:
    """Read back what was `written`."""
    return msgspec.json.decode(text, type=kind, dec_hook=lambda wanted, value: wanted(value))


def birth(pid: int) -> Birth | None:
    """Say which process has this number now; None if there is none, or only what is left of one."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # the name before it may hold spaces and parentheses
    return None if fields[0] in "ZX" else Birth(pid, int(fields[19]), boot)


def works_in(pid: int, home: Path) -> bool:
    """Whether this process has `home` for its working directory."""
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == home
    except OSError:
        return False


def workers(home: Path, program: str) -> list[int]:
    """List the processes that run this program in this directory."""
    numbers = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return [pid for pid in numbers if works_in(pid, home) and runs(pid, program)]


def runs(pid: int, program: str) -> bool:
    """Whether this process runs a program of this name."""
    try:
        return Path(f"/proc/{pid}/exe").readlink().name == program
    except OSError:
        return False


def alive(daemon: Daemon) -> int | None:
    """Give the number of the server's process, if what is recorded still runs and is ours."""
    try:
        recorded = read(daemon.record.read_bytes(), Birth)
    except (OSError, msgspec.DecodeError):  # never started, or killed while it wrote this
        return None
    same = birth(recorded.pid) == recorded and works_in(recorded.pid, daemon.home)
    return recorded.pid if same else None


def start(order: Order) -> None:
    """Start a server that outlives us. Its record is on disk before it runs, so it cannot be lost sight of."""
    if order.daemon.log.exists():
        order.daemon.log.replace(order.daemon.log.with_suffix(".log.1"))
    program = [sys.executable, "-P", "-m", "deploy.embedded.launch"]
    done = subprocess.run(program, input=written(order), capture_output=True, timeout=LAUNCH_S_MAX, check=False)
    if done.returncode:
        raise Stuck(f"{order.daemon.name} could not be started: {done.stderr.decode(errors='replace').strip()}")


def stop(daemon: Daemon, steps: Sequence[tuple[signal.Signals, float]]) -> None:
    """Ask a server to end, more firmly each time, waiting the given seconds after each; then forget it."""
    if (pid := alive(daemon)) is not None:
        end(daemon, pid, steps)
    daemon.record.unlink(missing_ok=True)


def end(daemon: Daemon, pid: int, steps: Sequence[tuple[signal.Signals, float]]) -> None:
    """Signal this one process. Its descriptor pins it: looked at again under it, the number cannot change hands."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if alive(daemon) != pid:
            return
        for step, patience_s in steps:
            signal.pidfd_send_signal(descriptor, step)
            if ended(descriptor, patience_s):
                return
    finally:
        os.close(descriptor)
    raise Stuck(f"{daemon.name} (process {pid}) does not end; its log is {daemon.log}")


def ended(descriptor: int, patience_s: float) -> bool:
    """Wait for the process behind a descriptor to end."""
    return bool(select.select([descriptor], [], [], patience_s)[0])


def tail(log: Path) -> str:
    """Give the last lines of a log."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])
