"""How do the two servers come up, how are they, and how do they go down? Any of it, at any time, twice."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path

import msgspec

from deploy.embedded import kafka, postgres
from deploy.embedded.memory import LOOPBACK, Memory, becomes_free, free_ports, locked, recall, remember, remembers
from deploy.embedded.process import Daemon, Order, Stuck, alive, start, stop, tail
from deploy.software import Say

READY_S_MAX = 120.0
SAY_EVERY_S = 3.0


class Addresses(msgspec.Struct, frozen=True):
    """Where the two servers are."""

    kafka: str  # bootstrap servers, host:port
    database: str  # postgresql:// URL


def given() -> Addresses:
    """Read which servers the environment names to be used instead of ours."""
    return Addresses(os.environ.get("WEIGHBRIDGE_KAFKA", ""), os.environ.get("WEIGHBRIDGE_DATABASE", ""))


class Condition(StrEnum):
    """How a server is."""

    RUNNING = "running"
    UNREADY = "unready"  # alive, but it does not answer: starting, or in trouble
    STOPPED = "stopped"
    GIVEN = "given"  # somebody else's, named by the environment


class Report(msgspec.Struct, frozen=True):
    """What is known of one server."""

    name: str
    condition: Condition
    address: str
    pid: int | None
    log: Path


class Server(msgspec.Struct, frozen=True):
    """One of the two, with what is particular to it."""

    daemon: Daemon
    address: str
    given: str  # the address of somebody else's, to be used instead; else empty
    order: Callable[[Say], Order]
    ready: Callable[[], bool]
    farewell: Sequence[tuple[signal.Signals, float]]


def servers(state: Path, memory: Memory) -> tuple[Server, Server]:
    """Describe both: Kafka, then PostgreSQL."""
    database = postgres.daemon(state, memory)
    return (
        Server(
            daemon=kafka.daemon(state),
            address=f"{LOOPBACK}:{memory.kafka_port}",
            given=given().kafka,
            order=partial(kafka.order, state, memory),
            ready=partial(kafka.ready, memory),
            farewell=kafka.FAREWELL,
        ),
        Server(
            daemon=database,
            address=postgres.address(memory),
            given=given().database,
            order=partial(postgres.order, database, memory),
            ready=partial(postgres.ready, database, memory),
            farewell=postgres.FAREWELL,
        ),
    )


def up(state: Path, say: Say) -> Addresses:
    """Bring up what is not up yet, and say where it is. Returns when both answer."""
    state = state.resolve()
    with locked(state, say):
        memory = prepare(state)
        both = servers(state, memory)
        ours = [server for server in both if not server.given]
        for server in ours:  # both before waiting for either: one makes its storage while the other starts
            set_going(server, say)
        for server in ours:
            if not await_ready(server, say):  # it may have been dying when we looked: one more try
                set_going(server, say)
                insist(server, say)
    return Addresses(*(server.given or server.address for server in both))


def prepare(state: Path) -> Memory:
    """Settle ports and places of what is about to start, and write them down before it does."""
    memory = recall(state)
    kafka_ports = (memory.kafka_port, memory.controller_port)
    if not given().kafka and alive(kafka.daemon(state)) is None and not all(map(becomes_free, kafka_ports)):
        broker, controller = free_ports(2)
        memory = msgspec.structs.replace(memory, kafka_port=broker, controller_port=controller)
    if not given().database and alive(postgres.daemon(state, memory)) is None:
        memory = postgres.settle(state, memory)
        if not becomes_free(memory.database_port):
            memory = msgspec.structs.replace(memory, database_port=free_ports(1)[0])
    remember(state, memory)
    return memory


def set_going(server: Server, say: Say) -> None:
    """Start a server unless it runs."""
    if alive(server.daemon) is None:
        say(f"starting {server.daemon.name}")
        start(server.order(say))


def await_ready(server: Server, say: Say) -> bool:
    """Wait until a server is ready (True) or has ended (False): bounded, and with the end of its log if it hangs."""
    ours = server.daemon
    begun_at = said_at = time.monotonic()
    while not server.ready():
        now = time.monotonic()
        if alive(ours) is None:
            return False
        if now - begun_at > READY_S_MAX:
            raise Stuck(f"{ours.name} is not ready after {READY_S_MAX:.0f} s; the end of {ours.log}:\n{tail(ours.log)}")
        if now - said_at > SAY_EVERY_S:
            said_at = now
            say(f"waiting for {ours.name}, {now - begun_at:.0f} s so far")
        time.sleep(0.05)
    say(f"{ours.name} is ready (process {alive(ours)}, log {ours.log})")
    return True


def insist(server: Server, say: Say) -> None:
    """Wait until a server is ready, and take its end for an answer."""
    ours = server.daemon
    if not await_ready(server, say):
        raise Stuck(f"{ours.name} ends while it starts; the end of {ours.log}:\n{tail(ours.log)}")


def status(state: Path) -> tuple[Report, Report]:
    """Say how both servers are, Kafka first. Changes nothing."""
    state = state.resolve()
    broker, database = servers(state, recall(state))
    known = remembers(state)
    return look(broker, known=known), look(database, known=known)


def look(server: Server, *, known: bool) -> Report:
    """Say how one server is; an address that nothing was ever started at is not one."""
    ours = server.daemon
    pid = None if server.given else alive(ours)
    if server.given:
        condition = Condition.GIVEN
    elif pid is None:
        condition = Condition.STOPPED
    else:
        condition = Condition.RUNNING if server.ready() else Condition.UNREADY
    return Report(ours.name, condition, server.given or (server.address if known else ""), pid, ours.log)


def down(state: Path, say: Say) -> None:
    """Stop what is ours and runs, and wait until it has ended. The data stay."""
    state = state.resolve()
    if not remembers(state):
        return
    with locked(state, say):
        for server in servers(state, recall(state)):
            if alive(server.daemon) is not None:
                say(f"stopping {server.daemon.name}")
            stop(server.daemon, server.farewell)


def erase(state: Path, say: Say) -> None:
    """Stop both, and throw their data away."""
    state = state.resolve()
    down(state, say)
    if not remembers(state):
        return
    with locked(state, say):
        if home := recall(state).database_home:
            shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(state / "kafka", ignore_errors=True)
        for name in ("memory.json", "kafka.log", "kafka.log.1", "postgres.log", "postgres.log.1"):
            (state / name).unlink(missing_ok=True)
