"""How do others see that this process is well? /metrics for Prometheus, /healthz for whoever restarts it, no more."""

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from aiohttp import web

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus' text format


@contextlib.asynccontextmanager
async def serve(
    host: str, port: int, render: Callable[[], bytes], find_faults: Callable[[], Sequence[str]]
) -> AsyncIterator[int]:
    """Listen until the end of the block; gives the port, which is a free one where 0 was asked for.

    `find_faults` says in words why this process is not well; it is well when there is nothing to say.
    """

    async def show_metrics(_: web.Request) -> web.Response:
        return web.Response(body=render(), headers={"Content-Type": METRICS_TYPE})

    async def show_health(_: web.Request) -> web.Response:
        faults = list(find_faults())
        return web.json_response({"healthy": not faults, "reasons": faults}, status=503 if faults else 200)

    application = web.Application()
    application.router.add_get("/metrics", show_metrics)
    application.router.add_get("/healthz", show_health)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        yield await _listen(runner, host, port)
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> int:
    site = web.TCPSite(runner, host, port)
    try:
        await site.start()
    except OSError as error:
        remedy = "free it, or set another http_host and http_port"
        raise OSError(error.errno, f"cannot listen on {host}:{port} ({error.strerror}); {remedy}") from error
    bound: int = runner.addresses[0][1]
    return bound
