"""What does a state directory remember from one start to the next? Addresses, a password, and where the data are."""

import fcntl
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from deploy.embedded.process import Stuck, read, written
from deploy.software import Say

LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 32_000)  # below those that the kernel gives to outgoing connections, which would take ours
TRIES_MAX = 200
DYING_S_MAX = 3.0
LOCK_S_MAX = 300.0


class Memory(msgspec.Struct, frozen=True):
    """What is remembered. A port stays the same for as long as nobody else takes it while its server is down."""

    kafka_port: int
    controller_port: int
    database_port: int
    password: str
    database_home: Path | None = None  # chosen when PostgreSQL is first started


def remembers(state: Path) -> bool:
    """Whether anything was ever started from this state directory."""
    return (state / "memory.json").exists()


def recall(state: Path) -> Memory:
    """Read what is remembered, or begin."""
    try:
        return read((state / "memory.json").read_bytes(), Memory)
    except FileNotFoundError:
        broker, controller, database = free_ports(3)
        return Memory(broker, controller, database, secrets.token_urlsafe(24))


def remember(state: Path, memory: Memory) -> None:
    """Write it down, readable by its owner only: there is a password in it."""
    half = state / "memory.half"
    half.unlink(missing_ok=True)
    half.touch(mode=0o600)
    half.write_bytes(written(memory))
    half.replace(state / "memory.json")


def free(port: int) -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do: a closing connection is no bar
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def becomes_free(port: int) -> bool:
    """Whether a port is free, or soon will be: what was killed holds on to it until its last thread is gone."""
    give_up_at = time.monotonic() + DYING_S_MAX
    while not free(port):
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.05)
    return True


def free_ports(count: int) -> list[int]:
    """Pick ports that nobody listens on, at random: two state directories that start at once should not collide."""
    found: set[int] = set()
    for _ in range(TRIES_MAX):
        port = secrets.choice(PORTS)
        if free(port):
            found.add(port)
        if len(found) == count:
            return list(found)
    raise Stuck(f"no {count} free ports between {PORTS.start} and {PORTS.stop} on {LOOPBACK}")


@contextmanager
def locked(state: Path, say: Say) -> Iterator[None]:
    """Let one command at a time work on this state. The kernel lets go of the lock when its holder dies."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("w") as file:
        await_lock(file.fileno(), say)
        yield


def await_lock(descriptor: int, say: Say) -> None:
    """Wait for the lock, saying so, and not for ever."""
    give_up_at = time.monotonic() + LOCK_S_MAX
    waiting = False
    while time.monotonic() < give_up_at:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not waiting:
                say("another command is at work on this state, waiting for it")
            waiting = True
            time.sleep(0.1)
        else:
            return
    raise Stuck(f"another command has held this state for {LOCK_S_MAX:.0f} s")
