"""How is each fault done, and did it really happen? What it came to is counted, never what was tried."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from signal import SIGINT, SIGKILL, SIGQUIT, Signals

import asyncpg
from aiokafka.errors import KafkaError

from loadtest.chaos.crew import Member
from loadtest.chaos.faults import PAUSE_S_MAX, PAUSE_S_MIN, Fault, deal
from loadtest.chaos.stage import Stage

SESSION_S = 10.0  # after so long without a heartbeat the group gives a member's partitions away
REST_S = 3.0  # of the servers, from one restart to the next: between them something must be sent and judged
BROKER, DATABASE = range(2)
LOOKS_MAX = 15  # at intervals of a second
PARTITIONS_ADDED_MAX = 6
WORLD = (OSError, TimeoutError, KafkaError, asyncpg.PostgresError, asyncpg.InterfaceError)

OWNED = "select partition from store.partition_lease where split_part(worker, ':', 2) = $1"
USURP = """
    update store.partition_lease set owner_epoch = owner_epoch + 1
    where (topic_no, partition) = (select topic_no, partition from store.partition_lease order by random() limit 1)"""
TERMINATE = """
    select pg_terminate_backend(a.pid) from (select * from store.partition_lease order by random()) l
    join pg_stat_activity a on a.pid = l.owner_pid and a.backend_start = l.owner_started limit 1"""


class Storm:
    """Strikes the stage with faults dealt from a seed."""

    def __init__(self, stage: Stage, chance: random.Random) -> None:
        self._stage = stage
        self._chance = chance
        self._tasks: set[asyncio.Task[None]] = set()
        self._counted: Counter[Fault] = Counter()
        self._restarting: set[Signals] = set()
        self.failed: list[Exception] = []  # of the storm's own making
        self._acts: Mapping[Fault, Callable[[], Awaitable[int | None]]] = {
            Fault.KILL: self._kill,
            Fault.ZOMBIE: self._zombie,
            Fault.USURP: self._usurp,
            Fault.TERMINATE: self._terminate,
            Fault.DATABASE_CRASH: lambda: self._restart(DATABASE, SIGQUIT, 0.0),
            Fault.DATABASE_OUTAGE: lambda: self._restart(DATABASE, SIGINT, self._chance.uniform(4, 10)),
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

    async def rage(self, seconds: float, faults: Sequence[Fault]) -> None:
        """Strike for so long; faults overlap. At the end of it all of them are over."""
        until = time.monotonic() + seconds
        for fault in deal(self._chance, faults):
            if time.monotonic() > until:
                break
            task = asyncio.create_task(self._strike(fault))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await asyncio.sleep(self._chance.uniform(PAUSE_S_MIN, PAUSE_S_MAX))
        await asyncio.gather(*self._tasks)
        self._stage.proxy.calm()

    async def _strike(self, fault: Fault) -> None:
        try:
            happened = await self._acts[fault]() or 0
            self._counted[fault] += happened  # not in one: others count while this one is awaited
        except WORLD:
            return  # another fault was in the way: this one did not happen
        except Exception as error:  # noqa: BLE001 (a storm that breaks is told at the end, not in the middle)
            self.failed.append(error)

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
                await asyncio.sleep(1)
        return 0

    async def _owned(self, member: Member) -> set[int]:
        return {row[0] for row in await self._stage.ask(OWNED, str(member.process.pid))}

    async def _usurp(self) -> int:
        """Take a lease away as a successor does that could not end its predecessor's backend."""
        return len(await self._stage.ask(f"{USURP} returning partition"))

    async def _terminate(self) -> int:
        return sum(row[0] for row in await self._stage.ask(TERMINATE))

    async def _restart(self, which: int, how: Signals, away_s: float) -> int:
        servers = self._stage.servers
        if how in self._restarting:
            return 0  # it is being done, or about to be
        self._restarting.add(how)
        try:
            async with servers.busy:
                before = servers.pids()[which]
                assert before is not None, "whoever ends a server starts it again"
                await servers.end(before, how)
                await asyncio.sleep(away_s)
                await servers.up()
                await asyncio.sleep(REST_S)
                return int(servers.pids()[which] not in (None, before))
        finally:
            self._restarting.discard(how)

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
        before, proxy.bytes_per_s = proxy.held_up, self._chance.randint(5_000, 100_000)
        await asyncio.sleep(self._chance.uniform(1, 4))
        proxy.bytes_per_s = 0
        return int(proxy.held_up > before)

    async def _visitor(self) -> int:
        crew = self._stage.crew
        visitor = await crew.start()
        visitor.ending = True  # no victim of other faults
        joined = False
        for _ in range(LOOKS_MAX):
            await asyncio.sleep(1)
            joined = b'"assigned"' in visitor.journal.read_bytes()
            if joined:
                break
        await asyncio.sleep(self._chance.uniform(0.5, 2))
        await crew.stop(visitor)
        return int(joined)

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
        return await self._stage.servers.add_partition()
