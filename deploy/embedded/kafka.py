"""How is one Kafka node run? Broker and controller in one process (KRaft), on this machine only."""

import os
import shutil
import socket
import struct
import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path
from signal import SIGKILL, SIGTERM

from deploy.embedded.memory import LOOPBACK, Memory
from deploy.embedded.process import Daemon, Order, Stuck
from deploy.software import Say, java, kafka

RECORD_BYTES_MAX = 1_048_576  # well above an envelope's limit: it is the worker that refuses, with a verdict
FAREWELL = ((SIGTERM, 60.0), (SIGKILL, 10.0))
FORMAT_S_MAX = 120.0
API_VERSIONS = 18
LOGGING = Path(__file__).with_name("kafka-log4j2.properties")
JVM = (
    "-Xms256m",
    "-Xmx512m",
    "-XX:+UseSerialGC",  # two cores: what G1 does beside the application is taken from the application
    "-XX:+ExitOnOutOfMemoryError",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
    f"-Dlog4j2.configurationFile={LOGGING}",
)


def daemon(state: Path) -> Daemon:
    """Say where this state keeps its Kafka."""
    return Daemon("Kafka", state / "kafka.pid.json", state / "kafka.log", state / "kafka")


def properties(home: Path, memory: Memory) -> str:
    """Write the broker's settings: small, without waits, and one replica of everything."""
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{LOOPBACK}:{memory.controller_port}",  # static: a port may change
        "listeners": f"BROKER://{LOOPBACK}:{memory.kafka_port},CONTROLLER://{LOOPBACK}:{memory.controller_port}",
        "advertised.listeners": f"BROKER://{LOOPBACK}:{memory.kafka_port}",
        "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "BROKER",
        "log.dirs": home / "data",
        "auto.create.topics.enable": "false",
        "message.max.bytes": RECORD_BYTES_MAX,
        "replica.fetch.max.bytes": RECORD_BYTES_MAX,
        "num.partitions": 4,
        "offsets.topic.num.partitions": 4,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "broker.heartbeat.interval.ms": 500,
        "broker.session.timeout.ms": 5_000,  # after kill -9 the next start waits for the dead one's session to end
        "group.initial.rebalance.delay.ms": 0,
        "log.cleaner.dedupe.buffer.size": 4 * 1024 * 1024,  # 128 MiB of the heap by default
        "num.network.threads": 2,
        "num.io.threads": 4,
        "background.threads": 2,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def order(state: Path, memory: Memory, say: Say) -> Order:
    """Make everything ready, the storage too if it is the first time, and say what is to run."""
    ours = daemon(state)
    ours.home.mkdir(exist_ok=True)
    runtime = java.provide(say)
    jars = kafka.jars(say)
    settings = ours.home / "server.properties"
    settings.write_text(properties(ours.home, memory))
    command = [str(runtime), *JVM, "-cp", f"{jars}/*"]
    if not (ours.home / "formatted").exists():
        say("formatting Kafka's storage")
        format_storage(ours.home, [*command, "kafka.tools.StorageTool", "format", "--config", str(settings)])
    return Order(ours, [*command, "kafka.Kafka", str(settings)], dict(os.environ), None)


def format_storage(home: Path, command: list[str]) -> None:
    """Format once, from nothing: what a killed formatting left behind holds no data yet."""
    shutil.rmtree(home / "data", ignore_errors=True)
    # in one word with its option: one id in 64 begins with a hyphen
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    done = subprocess.run(
        [*command, f"--cluster-id={cluster}"], capture_output=True, text=True, timeout=FORMAT_S_MAX, check=False
    )
    if done.returncode:
        raise Stuck(f"Kafka's storage could not be formatted:\n{done.stdout}{done.stderr}")
    (home / "formatted").touch()


def ready(memory: Memory) -> bool:
    """Ask which requests it understands (ApiVersions, version 0): it answers once it serves."""
    client = b"weighbridge"
    header = struct.pack(">hhih", API_VERSIONS, 0, 1, len(client)) + client
    try:
        with socket.create_connection((LOOPBACK, memory.kafka_port), timeout=1.0) as connection:
            connection.sendall(struct.pack(">i", len(header)) + header)
            answer = connection.recv(10, socket.MSG_WAITALL)  # length, our number 1, error code 0
    except OSError:
        return False
    return len(answer) == 10 and answer[4:] == b"\0\0\0\1\0\0"
