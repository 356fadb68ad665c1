"""When is what decided about vehicles that speak? So many deeds a second, where they meet what is just being judged."""

import asyncio
import contextlib
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from device_sim.chance import Chance
from device_sim.hindsight import Done
from device_sim.lifecycle import Ask, Lives
from device_sim.truth import Deserved
from ingest.adapters.postgres.readout import read_positions
from loadtest.attack.site import Site

LOOK_EVERY_S = 0.05
GLANCE_EVERY_S = 0.005
MEETING_S = 0.15  # about as long as it takes until a message that has landed is judged


class Registrar:
    """Has things done at the registry, and knows what was sent and what was done."""

    def __init__(self, lives: Lives, site: Site, deeds_per_s: float) -> None:
        self.rows: list[Deserved] = []
        self.done: list[Done] = []
        self._lives: Final = lives
        self._site: Final = site
        self._deeds_per_s: Final = deeds_per_s
        self._heard: Counter[str] = Counter()
        self._last: dict[str, tuple[int, int]] = {}
        self._judged: dict[int, int] = {}
        self._over = asyncio.Event()
        self._chance = Chance(1)

    def take(self, row: Deserved) -> None:
        """Take note of what has landed."""
        self.rows.append(row)
        self._heard[row.device_id] += 1
        self._last[row.device_id] = row.partition, row.offset

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Have one thing done after the other for the length of the block. What was begun is finished.

        Raises ValueError if the registry refuses something.
        """
        command = (sys.executable, "-m", "loadtest.people")
        people = await asyncio.create_subprocess_exec(*command, env=self._site.environ(), stdin=PIPE, stdout=PIPE)
        assert people.stdout is not None, "as it was started"
        await people.stdout.readline()  # they are there
        working = asyncio.gather(self._ask(people), self._hear(people), self._look())
        try:
            yield
        finally:
            self._over.set()
            await working
        if await people.wait():
            raise ValueError("the registry refused what a vehicle had asked for; what it said stands above")

    async def _look(self) -> None:
        """See how far all is judged, again and again."""
        async with self._site.connected() as connection:
            while not self._over.is_set():
                self._judged = await read_positions(connection, self._site.name)
                await asyncio.sleep(LOOK_EVERY_S)

    async def _hear(self, people: Process) -> None:
        """Tell the vehicles what was done."""
        assert people.stdout is not None, "as it was started"
        async for line in people.stdout:
            done = msgspec.json.decode(line, type=Done)
            self._lives.done(done.ask, done.last_seq)
            self.done.append(done)

    async def _ask(self, people: Process) -> None:
        began_s, waiting = time.monotonic(), list[asyncio.Task[None]]()
        while not self._over.is_set():
            ask = self._lives.due()
            if ask is not None:
                waiting.append(asyncio.create_task(self._put(people, ask)))
            due_s = began_s + (len(waiting) + 1) / self._deeds_per_s
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), max(LOOK_EVERY_S, due_s - time.monotonic()))
        await asyncio.gather(*waiting)
        assert people.stdin is not None, "as it was started"
        people.stdin.close()

    async def _put(self, people: Process, ask: Ask) -> None:
        """Ask for it when it is time; not if the fleet falls silent before."""
        ready = self._settled if ask.settled else self._speaking
        if await ready(ask):
            assert people.stdin is not None, "as it was started"
            people.stdin.write(msgspec.json.encode(ask) + b"\n")

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
            await asyncio.sleep(GLANCE_EVERY_S)
        await asyncio.sleep(self._chance.between(0, MEETING_S))
        return True
