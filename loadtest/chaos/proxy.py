"""What may happen on the way to PostgreSQL? Connections are cut, slow, or mute, and COMMIT gets lost, or its reply."""

import asyncio
import contextlib
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable

import msgspec

from loadtest.chaos.faults import Fault

CHUNK_BYTES = 65_536
PROTOCOL_3 = 3  # the upper half of a StartupMessage's version (PostgreSQL, "Message Formats")

Address = tuple[str, int]


class Frames:
    """Cuts what a client says into messages, without which a COMMIT could not be told from a payload."""

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._typed = False  # what comes before the end of the StartupMessage has no type

    def cut(self, data: bytes) -> list[bytes]:
        """Take what has come in; give the messages that are whole."""
        self._waiting += data
        frames = []
        while (size := self._size()) is not None and len(self._waiting) >= size:
            frames.append(bytes(self._waiting[:size]))
            del self._waiting[:size]
            if not self._typed:
                (self._typed,) = (version == PROTOCOL_3 for version in struct.unpack_from(">h", frames[-1], 4))
        return frames

    def _size(self) -> int | None:
        start = 1 if self._typed else 0
        if len(self._waiting) < start + 4:
            return None
        (length,) = struct.unpack_from(">i", self._waiting, start)
        return start + int(length)


def is_commit(frame: bytes) -> bool:
    """Whether a message is a COMMIT as asyncpg says it, as a simple query; said otherwise, none would count as lost."""
    return frame[:1] == b"Q" and frame[5:].rstrip(b"\0; ").upper() == b"COMMIT"


class Link(msgspec.Struct, eq=False):
    """One connection of a worker, with its other half to the server."""

    client: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    server: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    mute: bool = False
    swallowed: bool = False  # something that its client said
    reply_lost: bool = False

    def cut(self) -> None:
        """End both halves at once."""
        self.client[1].transport.abort()
        self.server[1].transport.abort()


class Proxy:
    """Leads connections to the server, and ill-treats them as it is told."""

    def __init__(self, find: Callable[[], Address]) -> None:
        self._find = find
        self.links: set[Link] = set()
        self._kept: set[Link] = set()  # mute ones, whose client has given up: the server does not know
        self.delay_s = 0.0
        self.bytes_per_s = 0
        self.held_up = 0  # pieces of what was said
        self.waiting: list[Fault] = []  # for the next COMMIT that goes by
        self._passed = True  # the last one: where every COMMIT is lost, nothing is ever done
        self.struck: Counter[Fault] = Counter()  # what really happened

    def cut_all(self) -> int:
        """End every connection; gives how many there were."""
        links = [link for link in self.links if not link.mute]
        for link in links:
            link.cut()
        return len(links)

    def calm(self) -> None:
        """Ill-treat nothing from now on; what is mute stays so."""
        self.waiting.clear()
        self.delay_s, self.bytes_per_s = 0.0, 0

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server = await asyncio.open_connection(*self._find())
        except OSError:
            writer.transport.abort()
            return
        link = Link((reader, writer), server)
        self.links.add(link)
        pumps = [asyncio.ensure_future(self._requests(link)), asyncio.ensure_future(self._replies(link))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self.links.discard(link)
            if link.mute:
                self._kept.add(link)
            else:
                link.cut()

    async def _requests(self, link: Link) -> None:
        frames = Frames()
        while data := await link.client[0].read(CHUNK_BYTES):
            await self._hold_up(len(data))
            if link.mute:
                self.struck[Fault.HALF_OPEN] += not link.swallowed
                link.swallowed = True
                continue
            for frame in frames.cut(data):
                if is_commit(frame) and self._lose(link) is Fault.COMMIT_UNSENT:
                    return
                link.server[1].write(frame)
            await link.server[1].drain()

    def _lose(self, link: Link) -> Fault | None:
        """Lose this COMMIT, or its reply, if that is asked for; of two in a row, one passes."""
        self._passed = not (self.waiting and self._passed)
        if self._passed:
            return None
        fault = self.waiting.pop(0)
        link.reply_lost = True
        if fault is Fault.COMMIT_UNSENT:
            self.struck[fault] += 1
        return fault

    async def _replies(self, link: Link) -> None:
        while data := await link.server[0].read(CHUNK_BYTES):
            if link.reply_lost:
                self.struck[Fault.COMMIT_UNANSWERED] += 1
                return
            await self._hold_up(len(data))
            if not link.mute:
                link.client[1].write(data)
                await link.client[1].drain()

    async def _hold_up(self, size: int) -> None:
        seconds = self.delay_s + (size / self.bytes_per_s if self.bytes_per_s else 0.0)
        self.held_up += bool(seconds)
        await asyncio.sleep(seconds)

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """Accept connections for the length of the block; gives the port."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield int(server.sockets[0].getsockname()[1])
        finally:
            server.close()
            for link in self.links | self._kept:
                link.cut()
