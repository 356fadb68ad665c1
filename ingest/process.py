"""How does one worker process live? It tends the partitions that it is given, and drains when told to stop."""

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeVar

import structlog

from ingest.worker import Worker

T = TypeVar("T")

log = structlog.get_logger()

LOOK_FOR_PARENT_EVERY_S = 1.0
GARBAGE_AFTER = 100_000  # containers more than are freed: about as many as a full batch holds


class Partitions:
    """The partitions that are ours, each with the task that tends it."""

    def __init__(self, drain_s_max: float) -> None:
        self._drain_s_max = drain_s_max
        self._tasks: dict[int, tuple[asyncio.Task[None], asyncio.Event]] = {}
        self.joined = False  # whether the group has given us any answer yet
        self.leaving = False
        self.broken: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    @property
    def ours(self) -> frozenset[int]:
        """The numbers of the partitions that are tended now."""
        return frozenset(self._tasks)

    def begin(self, worker: Worker, partitions: frozenset[int]) -> None:
        """Tend these, too; unless we are about to leave, of which the group has not heard yet."""
        self.joined = True
        if self.leaving:
            return
        for partition in sorted(partitions):
            assert partition not in self._tasks, f"partition {partition} is tended already"
            stopping = asyncio.Event()
            task = asyncio.create_task(worker.tend(partition, stopping), name=f"partition {partition}")
            task.add_done_callback(self._ended)
            self._tasks[partition] = task, stopping
        log.info("assigned", partitions=sorted(partitions))

    async def end(self, partitions: frozenset[int]) -> None:
        """Let the batches in flight finish within the drain time; the rest is cut off, and the fence holds."""
        ending = [self._tasks.pop(partition) for partition in sorted(partitions) if partition in self._tasks]
        for _, stopping in ending:
            stopping.set()
        tasks = {task for task, _ in ending}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._drain_s_max)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
            log.info("revoked", partitions=sorted(partitions), cut_off=len(late))

    @contextlib.asynccontextmanager
    async def alongside(self, work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
        """Do this work in the background for the length of the block; what breaks it breaks the process."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def fail(self, error: BaseException) -> None:
        """Pass on a broken invariant: a process that is wrong about itself must die, and the log is still there."""
        if not self.broken.done():
            self.broken.set_exception(error)

    def check(self) -> None:
        """Raise what was passed on, if anything was."""
        if self.broken.done():
            self.broken.result()

    def _ended(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.fail(error)


async def before(told: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Do this work, unless we are told to stop before it is done: then it is cut off, and there is no result."""
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(told.wait())
    await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if working.done():
        return working.result()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    return None


async def until_told(told: asyncio.Event, partitions: Partitions) -> None:
    """Wait until we are told to stop, or for a task to break."""
    waiting: asyncio.Future[object] = asyncio.ensure_future(told.wait())
    await asyncio.wait((waiting, partitions.broken), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    partitions.check()
    partitions.leaving = True
    log.info("draining", partitions=sorted(partitions.ours))


async def notice_orphaned(parent: int, told: asyncio.Event) -> None:
    """Tell us to stop when the process that supervises us is gone: nobody else would, or start us again."""
    while os.getppid() == parent:  # noqa: ASYNC110 (the system is asked, which tells of no event)
        await asyncio.sleep(LOOK_FOR_PARENT_EVERY_S)
    log.warning("orphaned", parent=parent)
    told.set()


def seek_garbage_seldom() -> None:
    """Let the collector pass over what was loaded, and look once at what a batch holds, not once for every 700 objects.

    Next to nothing here is ever in a cycle: looking for it took a worker 5 to 10 % of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER)


@contextlib.contextmanager
def listening() -> Iterator[asyncio.Event]:
    """Listen for SIGTERM and SIGINT for the length of the block; gives the event that they set."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    try:
        yield told
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
