"""What lies between a client and the servers? A wire for each, on which the simulation can let anything happen.

One thread, no I/O. What a transaction writes becomes visible at its end, not before; rows are locked in device order,
the lease last.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import msgspec

from ingest.core.judge import KeysMovedError
from ingest.ports import TroubleError

STATEMENT_S_MAX = 60.0  # how long a statement waits for a lock


class Call(msgspec.Struct, frozen=True):
    """One thing that a client asks of a server; of the log when there is no connection."""

    operation: str
    partition: int
    connection: "Connection | None" = None


class Wire(Protocol):
    """What lies between a client and the servers. What it raises is trouble."""

    async def request(self, call: Call) -> None:
        """Carry a request. If this raises, the server never heard of it."""

    async def reply(self, call: Call) -> None:
        """Carry the reply. If this raises, the server has done its part already."""

    def end(self, connection: "Connection") -> None:
        """Let the server end a connection: at once, or when it comes to it."""


class _Quiet:
    async def request(self, call: Call) -> None:  # noqa: ARG002 (the wire's shape)
        await asyncio.sleep(0)

    async def reply(self, call: Call) -> None:
        pass

    def end(self, connection: "Connection") -> None:
        connection.end()


QUIET = _Quiet()


class Connection:
    """One connection, with both its ends: what the client asks, and what the server holds for it."""

    def __init__(self, partition: int, wire: Wire) -> None:
        self.partition = partition
        self.ended = False  # by the server
        self._hung_up = False  # by the client
        self._wire = wire
        self._locked: list[asyncio.Lock] = []
        self._staged: Callable[[], None] | None = None

    @contextlib.asynccontextmanager
    async def call(self, operation: str) -> AsyncIterator[None]:
        """Ask the server for what the block does."""
        call = Call(operation, self.partition, self)
        await self._wire.request(call)
        if self.ended or self._hung_up:
            raise TroubleError(f"{operation}: the connection was ended")
        yield
        await self._wire.reply(call)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Begin, and commit at the end of the block; any exception but that keys moved ends the connection."""
        try:
            async with self.call("BEGIN"):
                pass
            try:
                yield
            except KeysMovedError:
                async with self.call("ROLLBACK"):
                    self.roll_back()
                raise
            async with self.call("COMMIT"):
                self.commit()
        except KeysMovedError:
            raise
        except BaseException:
            self.hang_up()
            raise

    def hang_up(self) -> None:
        """Use the connection no more; the server hears of it sooner or later."""
        if not self._hung_up:
            self._hung_up = True
            self._wire.end(self)

    async def lock(self, row: asyncio.Lock) -> None:
        """Lock a row until the end of the transaction. Raises TroubleError."""
        if row in self._locked:
            return
        if row.locked():
            await _wait(row)
        else:
            await row.acquire()
        self._locked.append(row)
        if self.ended:
            self.roll_back()
            raise TroubleError("the connection was ended while it waited for a row")

    def stage(self, effect: Callable[[], None]) -> None:
        """Keep what the transaction writes until it commits."""
        self._staged = effect

    def commit(self) -> None:
        """Let what was written take effect, unless the connection has ended."""
        if self._staged is not None:
            self._staged()
        self.roll_back()

    def roll_back(self) -> None:
        """Forget what was written, and give back the locks."""
        self._staged = None
        for row in self._locked:
            row.release()
        self._locked.clear()

    def end(self) -> None:
        """End it, as the server does when a client is gone or is to go."""
        self.ended = True
        self.roll_back()


async def _wait(row: asyncio.Lock) -> None:
    try:
        async with asyncio.timeout(STATEMENT_S_MAX):
            await row.acquire()
    except TimeoutError as error:
        raise TroubleError(f"a row stayed locked for {STATEMENT_S_MAX:.0f} s") from error
