"""Who acts at the registry while a fleet speaks? Some people, in a process that the fleet does not keep waiting.

What is asked comes in as lines of JSON, what was done goes out as others, after an empty one that says that they are
there. They act by the functions that the commands call; where one of these refuses, the process ends.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import MappingProxyType

import click
import msgspec

from device_sim.hindsight import Done
from device_sim.lifecycle import LATE, Ask, Deed
from ingest.adapters.postgres import admission, lifecycle
from ingest.adapters.postgres.audit import Decision
from ingest.adapters.postgres.connection import Connection, connect
from ingest.adapters.postgres.readout import read_positions
from ingest.core.proof import read_request

PEOPLE = 4
ASK_BYTES_MAX = 65_536
ENTERED_LATE_MS = 250  # a transfer is entered when it has taken place
DECISION = Decision("loadtest", "as the simulated vehicle asked")

Act = Callable[[Connection, Ask, int], Awaitable[int | None]]


async def _rotate(connection: Connection, ask: Ask, _at_us: int) -> int:
    return await lifecycle.rotate(connection, ask.device_id, read_request(ask.request), None, DECISION)


async def _replace(connection: Connection, ask: Ask, _at_us: int) -> int:
    return await lifecycle.replace(connection, ask.device_id, read_request(ask.request), LATE, DECISION)


async def _revoke(connection: Connection, ask: Ask, _at_us: int) -> None:
    await lifecycle.revoke(connection, ask.device_id, None, None, DECISION)


async def _decommission(connection: Connection, ask: Ask, _at_us: int) -> None:
    await lifecycle.decommission(connection, ask.device_id, DECISION)


async def _transfer(connection: Connection, ask: Ask, at_us: int) -> None:
    await lifecycle.transfer(connection, ask.vehicle_id, ask.tenant, at_us, DECISION)


async def _enrol(connection: Connection, ask: Ask, _at_us: int) -> None:
    await admission.enrol(connection, read_request(ask.request), ask.tenant, DECISION)


ACTS: Mapping[Deed, Act] = MappingProxyType(
    {
        Deed.ROTATE: _rotate,
        Deed.REPLACE: _replace,
        Deed.REVOKE: _revoke,
        Deed.DECOMMISSION: _decommission,
        Deed.TRANSFER: _transfer,
        Deed.ENROL: _enrol,
    }
)


async def act(connection: Connection, topic: str, ask: Ask) -> Done:
    """Do what is asked, and say what was judged before."""
    judged = await read_positions(connection, topic)
    at_ms, began_s = int(time.time() * 1000) - ENTERED_LATE_MS, time.monotonic()
    last_seq = await ACTS[ask.deed](connection, ask, at_ms * 1000)
    return Done(ask, judged, at_ms, last_seq, (time.monotonic() - began_s) * 1000)


async def _serve(database: str, topic: str) -> None:
    asked: asyncio.Queue[Ask | None] = asyncio.Queue()
    connections = [await connect(database, "weighbridge people") for _ in range(PEOPLE)]
    people = [asyncio.create_task(_work(one, topic, asked)) for one in connections]
    click.echo()  # they are there
    async for line in _lines():
        asked.put_nowait(msgspec.json.decode(line, type=Ask))
        for one in people:
            if one.done():
                one.result()  # why it ended
    for _ in people:
        asked.put_nowait(None)
    await asyncio.gather(*people)


async def _work(connection: Connection, topic: str, asked: "asyncio.Queue[Ask | None]") -> None:
    """Be one of the people: one thing after the other."""
    try:
        while (ask := await asked.get()) is not None:
            click.echo(msgspec.json.encode(await act(connection, topic, ask)))
    finally:
        await connection.close()


async def _lines() -> AsyncIterator[bytes]:
    reader = asyncio.StreamReader(ASK_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        yield line


@click.command
@click.option("--database", envvar="WEIGHBRIDGE_DATABASE", required=True)
@click.option("--topic", envvar="WEIGHBRIDGE_TOPIC", required=True)
def people(database: str, topic: str) -> None:
    """Do what is asked on stdin, a line each, and say on stdout what was done."""
    asyncio.run(_serve(database, topic))


if __name__ == "__main__":
    people()
