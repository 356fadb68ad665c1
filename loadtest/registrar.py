"""Who decides about vehicles while they speak? People, by the very acts that the commands do, so many a second."""

import asyncio
import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Final

from device_sim.chance import Chance
from device_sim.hindsight import Done
from device_sim.lifecycle import LATE, Ask, Deed, Lives
from device_sim.truth import Deserved
from ingest.adapters.postgres import lifecycle, registry
from ingest.adapters.postgres.audit import Decision
from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.readout import read_positions
from ingest.core.proof import read_request
from loadtest.attack.site import Site

PEOPLE = 4
LOOK_EVERY_S = 0.05
MEETING_S = 0.15  # about as long as it takes until a message that has landed is judged
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
    await registry.enrol(connection, read_request(ask.request), ask.tenant, DECISION)


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


class Registrar:
    """Some people at a registry, and what they know of what was sent."""

    def __init__(self, lives: Lives, site: Site, deeds_per_s: float) -> None:
        self.rows: list[Deserved] = []
        self.done: list[Done] = []
        self.took_ms: dict[Deed, list[float]] = defaultdict(list)
        self._lives: Final = lives
        self._site: Final = site
        self._deeds_per_s: Final = deeds_per_s
        self._heard: Counter[str] = Counter()
        self._last: dict[str, tuple[int, int]] = {}
        self._judged: dict[int, int] = {}
        self._people: asyncio.Queue[Connection] = asyncio.Queue()
        self._over = asyncio.Event()
        self._chance = Chance(1)

    def take(self, row: Deserved) -> None:
        """Take note of what has landed."""
        self.rows.append(row)
        self._heard[row.device_id] += 1
        self._last[row.device_id] = row.partition, row.offset

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Do one thing after the other for the length of the block. What was begun is finished."""
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(PEOPLE):
                self._people.put_nowait(await stack.enter_async_context(self._site.connected()))
            looking = self._look(await stack.enter_async_context(self._site.connected()))
            working = asyncio.gather(self._work(), looking)
            try:
                yield
            finally:
                self._over.set()
                await working

    async def _look(self, connection: Connection) -> None:
        """See how far all is judged, again and again: for all who wait for it."""
        while not self._over.is_set():
            self._judged = await read_positions(connection, self._site.name)
            await asyncio.sleep(LOOK_EVERY_S)

    async def _work(self) -> None:
        began_s, deeds = time.monotonic(), list[asyncio.Task[None]]()
        while not self._over.is_set():
            ask = self._lives.due()
            if ask is not None:
                deeds.append(asyncio.create_task(self._do(ask)))
            due_s = began_s + (len(deeds) + 1) / self._deeds_per_s
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), max(LOOK_EVERY_S, due_s - time.monotonic()))
        await asyncio.gather(*deeds)

    async def _do(self, ask: Ask) -> None:
        """Do what is asked, and tell the vehicle; not if the fleet falls silent before it can be done."""
        if not await (self._settled(ask) if ask.settled else self._speaking(ask)):
            return
        async with self._somebody() as connection:
            judged = await read_positions(connection, self._site.name)
            at_ms, began_s = int(time.time() * 1000) - ENTERED_LATE_MS, time.monotonic()
            last_seq = await ACTS[ask.deed](connection, ask, at_ms * 1000)
        self._lives.done(ask, last_seq)
        self.took_ms[ask.deed].append((time.monotonic() - began_s) * 1000)
        self.done.append(Done(ask, judged, at_ms))

    async def _settled(self, ask: Ask) -> bool:
        """Wait until all that a device has sent is judged; no, if the fleet falls silent before."""
        while not self._over.is_set():
            if self._heard[ask.device_id] >= ask.sent:
                partition, offset = self._last[ask.device_id]
                if self._judged.get(partition, 0) > offset:
                    return True
            await asyncio.sleep(LOOK_EVERY_S)
        return False

    async def _speaking(self, ask: Ask) -> bool:
        """Wait until a device has just sent something: where deed and judgement meet is where mistakes are made."""
        before = self._heard[ask.device_id]
        while self._heard[ask.device_id] == before:
            if self._over.is_set():
                return False
            await asyncio.sleep(LOOK_EVERY_S / 10)
        await asyncio.sleep(self._chance.between(0, MEETING_S))
        return True

    @contextlib.asynccontextmanager
    async def _somebody(self) -> AsyncIterator[Connection]:
        connection = await self._people.get()
        try:
            yield connection
        finally:
            self._people.put_nowait(connection)
