"""How do several worker processes live together? Each is started, watched, started again when it dies, and drained."""

import asyncio
import random
import signal
import sys
import time
from collections.abc import Sequence

import structlog

log = structlog.get_logger()

BACKOFF_S_MIN, BACKOFF_S_MAX = 0.2, 10.0
CALM_S = 60.0  # a process that lived this long starts again at once
KILL_AFTER_S = 1.5  # beyond the drain time: what is cut off is fenced, and lost to nobody


async def supervise(commands: Sequence[Sequence[str]], drain_s_max: float) -> int:
    """Keep a process running for each command until SIGTERM or SIGINT; returns the exit status for our own process."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    statuses = await asyncio.gather(*(_keep(command, stopping, drain_s_max) for command in commands))
    return exit_status(statuses)


def exit_status(statuses: Sequence[int]) -> int:
    """Name the worst: being killed is worse than failing, and is told as a shell does, 128 and the signal's number."""
    return max(status if status >= 0 else 128 - status for status in statuses)


async def _keep(command: Sequence[str], stopping: asyncio.Event, drain_s_max: float) -> int:
    backoff_s = BACKOFF_S_MIN
    while True:
        started = time.monotonic()
        process = await asyncio.create_subprocess_exec(sys.executable, *command)
        status = await _watch(process, stopping, drain_s_max)
        if stopping.is_set():
            return 0 if status == -signal.SIGTERM else status  # told before it could listen, it did as it was told
        backoff_s = BACKOFF_S_MIN if time.monotonic() - started > CALM_S else min(backoff_s * 2, BACKOFF_S_MAX)
        log.error("worker_died", pid=process.pid, status=status, restart_in_s=round(backoff_s, 1))
        await asyncio.wait([asyncio.ensure_future(stopping.wait())], timeout=backoff_s * random.uniform(0.5, 1.5))  # noqa: S311 (spreads the restarts)
        if stopping.is_set():
            return 0


async def _watch(process: asyncio.subprocess.Process, stopping: asyncio.Event, drain_s_max: float) -> int:
    """Wait for the process to end, by itself or because we were told to stop."""
    ended, told = asyncio.ensure_future(process.wait()), asyncio.ensure_future(stopping.wait())
    await asyncio.wait((ended, told), return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if not ended.done():
        process.terminate()
        await asyncio.wait([ended], timeout=drain_s_max + KILL_AFTER_S)
        if not ended.done():
            log.error("worker_killed", pid=process.pid)
            process.kill()
    return await ended
