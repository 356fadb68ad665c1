"""On what was it measured? The machine, the code, and what durability is promised."""

import asyncio
import os
import platform
from pathlib import Path

from ingest.build import identify
from loadtest.chaos.stage import Servers
from loadtest.compare.cpu import CORES
from loadtest.compare.ground import connected
from loadtest.rig.result import Machine

_SHOWN = ("fsync", "synchronous_commit", "full_page_writes")
UNKNOWN = "unknown"


def load() -> list[float]:
    """Say how busy the machine is: over 1, 5 and 15 minutes."""
    return list(os.getloadavg())


async def describe(servers: Servers, load_before: list[float]) -> Machine:
    """Describe it."""
    async with connected(servers.database("postgres")) as connection:
        durability = {f"PostgreSQL {name}": str(await connection.fetchval(f"show {name}")) for name in _SHOWN}
    async with servers.administered() as client:
        durability |= {"Kafka acks": "all", "Kafka brokers": str(len((await client.describe_cluster())["brokers"]))}
    return Machine(
        cpu=_field("/proc/cpuinfo", "model name"),
        cores=CORES,
        memory_mb=int(_field("/proc/meminfo", "MemTotal").split()[0]) >> 10,
        load_before=load_before,
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        commit=await _commit(),
        build=identify(),
        durability=durability,
    )


def _field(file: str, name: str) -> str:
    for line in Path(file).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return UNKNOWN


async def _commit() -> str:
    """Ask git which commit this is, if it is a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return UNKNOWN
    said, _ = await process.communicate()
    return said.decode().strip() or UNKNOWN
