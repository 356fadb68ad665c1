"""Which worker processes are there, how do they end, and what do they say? Ends only what it has started itself."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

EXIT_S_MAX = 10.0  # what a worker that is told to stop may take
GIVE_UP_S = 30.0
LISTEN_LOOKS_MAX = 100
ENDS_NOBODY = "ends nobody"  # the variant of `variants` that a rival is


class Member(msgspec.Struct, eq=False):
    """One worker process."""

    process: asyncio.subprocess.Process
    journal: Path
    ending: bool = False  # we have told it to, or killed it
    asleep: bool = False


class Exit(msgspec.Struct, frozen=True):
    """How a process ended that was told to stop."""

    status: int
    seconds: float
    journal: Path

    @property
    def late(self) -> bool:
        """Whether it took longer than it may."""
        return self.seconds > EXIT_S_MAX


class Crew:
    """The worker processes; `broken` names what is wrong with them, see `variants`."""

    def __init__(self, folder: Path, environ: Mapping[str, str], broken: Sequence[str] = ()) -> None:
        self._folder = folder
        self.environ = dict(environ)
        self._broken = broken
        self._journals: list[Path] = []
        self.members: list[Member] = []
        self.exits: list[Exit] = []
        self.died: list[str] = []  # of itself: never expected

    async def start(self) -> Member:
        """Start one more."""
        return await self._start(self._broken, self.environ)

    async def start_rival(self) -> Member:
        """Start one in a group of its own: all partitions are its, and the backends of others are left alive."""
        group = {"WEIGHBRIDGE_GROUP": f"rival-{len(self._journals)}"}
        return await self._start([*self._broken, ENDS_NOBODY], self.environ | group)

    async def _start(self, broken: Sequence[str], environ: Mapping[str, str]) -> Member:
        journal = self._folder / f"worker-{len(self._journals)}.jsonl"
        self._journals.append(journal)
        worker = ["ingest", "worker", "--parent", str(os.getpid())]  # should we be killed, it stops as well
        module = ["loadtest.chaos.variants", *broken] if broken else worker
        with journal.open("wb") as file:
            process = await asyncio.create_subprocess_exec(sys.executable, "-m", *module, env=environ, stderr=file)
        member = Member(process, journal)
        self.members.append(member)
        return member

    def awake(self) -> list[Member]:
        """List those that run, and are neither stopped nor about to end."""
        alive = [one for one in self.members if one.process.returncode is None]
        return [one for one in alive if not one.ending and not one.asleep]

    async def kill(self, member: Member) -> bool:
        """Kill -9; whether it was that which it died of."""
        member.ending = True
        with contextlib.suppress(ProcessLookupError):
            member.process.kill()
        status = await member.process.wait()
        self.members.remove(member)
        return status == -signal.SIGKILL

    async def stop(self, member: Member) -> None:
        """SIGTERM, and note how it ends. One that is still being loaded does not listen yet, and owns nothing."""
        member.ending = True
        for _ in range(LISTEN_LOOKS_MAX):
            if listens(member.process.pid):
                break
            await asyncio.sleep(0.1)
        began = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            member.process.terminate()
        try:
            await asyncio.wait_for(member.process.wait(), GIVE_UP_S)
        except TimeoutError:
            member.process.kill()
        self.exits.append(Exit(await member.process.wait(), time.monotonic() - began, member.journal))
        self.members.remove(member)

    @contextlib.contextmanager
    def asleep(self, member: Member) -> Iterator[None]:
        """SIGSTOP, and SIGCONT at the end of the block."""
        member.asleep = True
        os.kill(member.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.process.pid, signal.SIGCONT)
            member.asleep = False

    async def replace_dead(self) -> None:
        """Start again whoever died of itself, and note it."""
        for member in list(self.members):
            if member.process.returncode is not None and not member.ending:
                member.ending = True
                self.died.append(f"status {member.process.returncode}, journal {member.journal}")
                self.members.remove(member)
                await self.start()

    async def close(self) -> None:
        """Tell all of them to stop."""
        await asyncio.gather(*(self.stop(member) for member in list(self.members)))

    def mentions(self, word: bytes) -> int:
        """Count how often this stands in the journals so far."""
        return sum(path.read_bytes().count(word) for path in self._journals)

    def events(self) -> list[Counter[str]]:
        """Count what each journal says, by event; a line that is no event is `strange`."""
        return [said(path) for path in self._journals]


def listens(pid: int) -> bool:
    """Whether a process would take SIGTERM itself (proc_pid_status(5), SigCgt); also once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    caught = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt")), 0)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def said(path: Path) -> Counter[str]:
    """Count the events of one journal."""
    decode = msgspec.json.Decoder(dict[str, object]).decode
    counted: Counter[str] = Counter()
    for line in path.read_bytes().splitlines():
        try:
            told = decode(line)
            counted["cut off"] += int(str(told.get("cut_off", 0)))
            event = str(told.get("event"))
        except msgspec.DecodeError:
            event = "strange"
        counted[event if len(event.split()) == 1 else "a library's warning"] += 1
    return counted
