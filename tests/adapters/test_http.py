import socket
from collections.abc import Sequence

import aiohttp
import pytest

from ingest.adapters.http import serve


async def ask(port: int, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, str, str]:
    async with (
        aiohttp.ClientSession() as client,
        client.request(method, f"http://127.0.0.1:{port}{path}", data=body) as answer,
    ):
        return answer.status, answer.headers.get("Content-Type", ""), await answer.text()


def well() -> Sequence[str]:
    return ()


async def test_metrics_are_shown_as_they_are_when_asked_for() -> None:
    seen = iter([b"a 1\n", b"a 2\n"])
    async with serve("127.0.0.1", 0, lambda: next(seen), well) as port:
        assert await ask(port, "/metrics") == (200, "text/plain; version=0.0.4; charset=utf-8", "a 1\n")
        assert (await ask(port, "/metrics"))[2] == "a 2\n"


async def test_health_is_200_when_well_and_503_with_reasons_when_not() -> None:
    faults: list[str] = []
    async with serve("127.0.0.1", 0, bytes, lambda: faults) as port:
        expected = '{"healthy": true, "reasons": []}'
        assert await ask(port, "/healthz") == (200, "application/json; charset=utf-8", expected)
        faults.append("partition 3 has not been read for 40 s")
        status, _, text = await ask(port, "/healthz")
        assert (status, text) == (503, '{"healthy": false, "reasons": ["partition 3 has not been read for 40 s"]}')


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/metrics/", 404), ("GET", "/healthz/../etc", 404), ("POST", "/metrics", 405)],
)
async def test_nothing_else_is_answered(method: str, path: str, status: int) -> None:
    async with serve("127.0.0.1", 0, bytes, well) as port:
        assert (await ask(port, path, method))[0] == status


async def test_a_large_body_changes_nothing() -> None:
    async with serve("127.0.0.1", 0, bytes, well) as port:
        assert (await ask(port, "/healthz", "POST", bytes(100_000)))[0] == 405
        assert (await ask(port, "/healthz"))[0] == 200


async def test_it_listens_on_the_loopback_only_and_stops_with_the_block() -> None:
    async with serve("127.0.0.1", 0, bytes, well) as port:
        with socket.socket() as other:
            other.bind(("127.0.0.2", port))  # free: the port is taken on 127.0.0.1 alone
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask(port, "/healthz")


async def test_a_port_in_use_is_said_with_what_to_do() -> None:
    async with serve("127.0.0.1", 0, bytes, well) as port:
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port} .*set another http_host and http_port"):
            async with serve("127.0.0.1", port, bytes, well):
                pytest.fail("the port was taken")


async def test_a_health_check_that_fails_is_no_health() -> None:
    def broken() -> Sequence[str]:
        raise RuntimeError("lost")

    async with serve("127.0.0.1", 0, bytes, broken) as port:
        assert (await ask(port, "/healthz"))[0] == 500
