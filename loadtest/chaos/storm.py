"""How is each fault done, and did it really happen? What it came to is counted, never what was tried."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from signal import SIGINT, SIGKILL, SIGQUIT, Signals

import asyncpg
from aiokafka.errors import KafkaError

from loadtest.chaos.crew import Member
from loadtest.chaos.faults import GROUP, ONCE, PAUSE_S_MAX, PAUSE_S_MIN, TIMES, Fault, deal
from loadtest.chaos.reading import judged
from loadtest.chaos.stage import Stage

SESSION_S = 10.0  # after so long without a heartbeat the group gives a member's partitions away
LULL_S = 12.0  # from one round to the next: a back-off may have come to 5 s, and what waits is to be worked off
RIVAL_S_MAX = 15.0  # until it has judged and somebody was fenced; then one of the two is enough
REST_S = 8.0  # of the servers, from one restart to the next: between them something must be sent and judged
BROKER, DATABASE = range(2)
LOOKS_MAX, LOOK_EVERY_S = 120, 0.5
TRIES_MAX = 4  # at the end, of what has not happened yet
LONG_FROM, LONG_PART = 0.4, 0.2  # of the storm: when the long outage begins, and how long it is
PARTITIONS_ADDED_MAX = 6
WORLD = (OSError, TimeoutError, KafkaError, asyncpg.PostgresError, asyncpg.InterfaceError)

OWNED = "select partition from store.partition_lease where split_part(worker, ':', 2) = $1"
TERMINATE = """
    select pg_terminate_backend(a.pid) from (select * from store.partition_lease order by random()) l
    join pg_stat_activity a on a.pid = l.owner_pid and a.backend_start = l.owner_started limit 1"""


class Storm:
    """Strikes the stage with faults dealt from a seed."""

    def __init__(self, stage: Stage, seed: int, seconds: float) -> None:
        self._stage = stage
        self._seed = seed
        self._seconds = seconds
        self._chance = random.Random(seed)  # noqa: S311 (reproducible chance)
        self._tasks: set[asyncio.Task[None]] = set()
        self._counted: Counter[Fault] = Counter()
        self._striking: set[Fault] = set()
        self.failed: list[Exception] = []  # of the storm's own making
        self._acts: Mapping[Fault, Callable[[], Awaitable[int | None]]] = {
            Fault.KILL: self._kill,
            Fault.ZOMBIE: self._zombie,
            Fault.RIVAL: self._rival,
            Fault.TERMINATE: self._terminate,
            Fault.DATABASE_CRASH: lambda: self._restart(DATABASE, SIGQUIT, 0.0),
            Fault.DATABASE_OUTAGE: lambda: self._restart(DATABASE, SIGINT, self._chance.uniform(4, 10)),
            Fault.LONG_OUTAGE: lambda: self._restart(DATABASE, SIGINT, LONG_PART * seconds),
            Fault.DISK_FULL: self._fill_disk,
            Fault.COMMIT_UNSENT: lambda: self._lose(Fault.COMMIT_UNSENT),
            Fault.COMMIT_UNANSWERED: lambda: self._lose(Fault.COMMIT_UNANSWERED),
            Fault.CUT: self._cut,
            Fault.HALF_OPEN: self._half_open,
            Fault.DELAY: self._delay,
            Fault.THROTTLE: self._throttle,
            Fault.BROKER_KILL: lambda: self._restart(BROKER, SIGKILL, 0.0),
            Fault.VISITOR: self._visitor,
            Fault.ROLLING: self._rolling,
            Fault.PARTITIONS: self._partitions,
        }

    def happened(self) -> Counter[Fault]:
        """Count what really happened."""
        return self._counted + self._stage.proxy.struck

    async def rage(self, faults: Sequence[Fault]) -> None:
        """Strike for so long, the group and what it works with at once; then make up for what has not happened."""
        until = time.monotonic() + self._seconds
        group = [fault for fault in faults if fault in GROUP]
        rest = [fault for fault in faults if fault not in GROUP | ONCE]
        await asyncio.gather(
            self._one_by_one(group, until), self._overlapping(rest, until), self._once(ONCE.intersection(faults))
        )
        self._stage.proxy.calm()
        await self._make_up(faults)
        self._stage.proxy.calm()

    async def _one_by_one(self, faults: Sequence[Fault], until: float) -> None:
        """Strike the group, each time when it is at work again."""
        for fault in deal(random.Random(self._seed), faults):  # noqa: S311 (reproducible chance)
            if time.monotonic() > until:
                return
            await self._strike(fault)
            await self._until_at_work()
            await asyncio.sleep(self._pause_s())

    async def _overlapping(self, faults: Sequence[Fault], until: float) -> None:
        """Strike without waiting for the end of it, with a lull after each round; gives back when all is over."""
        round_faults = sum(TIMES[fault] for fault in faults)
        for number, fault in enumerate(deal(random.Random(self._seed), faults), 1):  # noqa: S311 (as above)
            if time.monotonic() > until:
                break
            task = asyncio.create_task(self._strike(fault))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(LULL_S if number % round_faults == 0 else self._pause_s())
        await asyncio.gather(*self._tasks)

    def _pause_s(self) -> float:
        return self._chance.uniform(PAUSE_S_MIN, PAUSE_S_MAX)

    async def _once(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            await asyncio.sleep(LONG_FROM * self._seconds)
            await self._strike(fault)

    async def _make_up(self, faults: Sequence[Fault]) -> None:
        """Strike what has not happened yet, one after the other and in between all is well; not for ever."""
        for fault in faults:
            for _ in range(TRIES_MAX):
                if self._has_happened(fault):
                    break
                await self._until_at_work()
                await self._strike(fault)
                await self._until(partial(self._has_happened, fault))

    def _has_happened(self, fault: Fault) -> bool:
        return self.happened()[fault] > 0

    async def _until(self, reached: Callable[[], bool]) -> bool:
        """Wait until something is so; not for ever."""
        for _ in range(LOOKS_MAX):
            if reached():
                return True
            await asyncio.sleep(LOOK_EVERY_S)
        return False

    async def _until_at_work(self) -> None:
        """Wait until more is judged than before; not for ever. What strikes when nobody is at work shows nothing."""
        seen: set[int] = set()
        for _ in range(LOOKS_MAX):
            with contextlib.suppress(*WORLD):
                seen.add(await judged(self._stage.database, self._stage.topic))
            if len(seen) > 1:
                return
            await asyncio.sleep(LOOK_EVERY_S)

    async def _strike(self, fault: Fault) -> None:
        if fault in self._striking:
            return  # it is being done
        self._striking.add(fault)
        try:
            happened = await self._acts[fault]() or 0
            self._counted[fault] += happened  # not in one: others count while this one is awaited
        except WORLD:
            return  # another fault was in the way: this one did not happen
        except Exception as error:  # noqa: BLE001 (a storm that breaks is told at the end, not in the middle)
            self.failed.append(error)
        finally:
            self._striking.discard(fault)

    def _victim(self) -> Member | None:
        awake = self._stage.crew.awake()
        return self._chance.choice(awake) if awake else None

    async def _kill(self) -> int:
        victim = self._victim()
        if victim is None:
            return 0
        killed = await self._stage.crew.kill(victim)
        await self._stage.crew.start()
        return int(killed)

    async def _zombie(self) -> int:
        """Let one that owns partitions sleep until somebody else has taken one of them over; then it wakes."""
        victims = [(one, owned) for one in self._stage.crew.awake() if (owned := await self._owned(one))]
        if not victims:
            return 0
        victim, owned = self._chance.choice(victims)
        with self._stage.crew.asleep(victim):
            await asyncio.sleep(SESSION_S + self._chance.uniform(2, 4))
            for _ in range(LOOKS_MAX):
                with contextlib.suppress(*WORLD):
                    if owned - await self._owned(victim):
                        return 1
                await asyncio.sleep(LOOK_EVERY_S)
        return 0

    async def _owned(self, member: Member) -> set[int]:
        return {row[0] for row in await self._stage.ask(OWNED, str(member.process.pid))}

    async def _visitor(self) -> int:
        """Let one more join the group, and leave it."""
        guest = await self._stage.crew.start()
        return await self._receive(guest, lambda: b'"assigned"' in guest.journal.read_bytes())

    async def _rival(self) -> int:
        """Let one take over what the group owns as if it could not end its predecessors, until the two have met."""
        crew = self._stage.crew
        fenced_before = crew.mentions(b'"fenced"')
        guest = await crew.start_rival()
        until = time.monotonic() + RIVAL_S_MAX

        def met() -> bool:
            signs = b'"batch"' in guest.journal.read_bytes(), crew.mentions(b'"fenced"') > fenced_before
            return all(signs) or (any(signs) and time.monotonic() > until)

        return await self._receive(guest, met)

    async def _receive(self, guest: Member, seen: Callable[[], bool]) -> int:
        """Keep a guest until it has done what it came for."""
        guest.ending = True  # no victim of other faults
        came = await self._until(seen)
        await asyncio.sleep(self._chance.uniform(0.5, 2))
        await self._stage.crew.stop(guest)
        return int(came)

    async def _terminate(self) -> int:
        return sum(row[0] for row in await self._stage.ask(TERMINATE))

    async def _restart(self, which: int, how: Signals, away_s: float) -> int:
        servers = self._stage.servers
        async with servers.busy:
            before = servers.pids()[which]
            assert before is not None, "whoever ends a server starts it again"
            await servers.end(before, how)
            await asyncio.sleep(away_s)
            await servers.up()
            await asyncio.sleep(REST_S)
            return int(servers.pids()[which] not in (None, before))

    async def _fill_disk(self) -> int:
        """Leave no room for the tables until a worker has felt it."""
        servers, crew = self._stage.servers, self._stage.crew
        assert servers.disk, "else this is not asked for"
        async with servers.busy:  # recovery on a full disk is not to be had
            before = crew.mentions(b"DiskFullError")
            with servers.disk.full():
                return int(await self._until(lambda: crew.mentions(b"DiskFullError") > before))

    async def _lose(self, fault: Fault) -> None:
        self._stage.proxy.waiting.append(fault)

    async def _cut(self) -> int:
        return int(self._stage.proxy.cut_all() > 0)

    async def _half_open(self) -> None:
        links = [link for link in self._stage.proxy.links if not link.mute]
        if links:
            self._chance.choice(links).mute = True

    async def _delay(self) -> int:
        proxy = self._stage.proxy
        before, proxy.delay_s = proxy.held_up, self._chance.uniform(0.02, 0.3)
        await asyncio.sleep(self._chance.uniform(1, 4))
        proxy.delay_s = 0.0
        return int(proxy.held_up > before)

    async def _throttle(self) -> int:
        proxy = self._stage.proxy
        before, proxy.bytes_per_s = proxy.held_up, self._chance.randint(50_000, 500_000)
        await asyncio.sleep(self._chance.uniform(1, 4))
        proxy.bytes_per_s = 0
        return int(proxy.held_up > before)

    async def _rolling(self) -> int:
        victim = self._victim()
        if victim is None:
            return 0
        await self._stage.crew.stop(victim)
        await self._stage.crew.start()
        return 1

    async def _partitions(self) -> int:
        if self._counted[Fault.PARTITIONS] >= PARTITIONS_ADDED_MAX:
            return 0
        return await self._stage.servers.add_partition(self._stage.topic)
