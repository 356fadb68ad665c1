"""What do tests on real servers stand on? A pair of their own, a fresh database, fresh topics."""

import asyncio
import contextlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from deploy import embedded
from deploy.embedded.command import STATE, say
from ingest.adapters.multibuffer import Multibuffer, UnavailableError
from ingest.adapters.postgres.migration import migrate

REAL_PASSED = pytest.StashKey[int]()

FreshTopic = Callable[..., Awaitable[str]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Nothing fails open: a skipped test on real servers is a failed one."""
    report = yield
    if item.get_closest_marker("real"):
        if report.skipped and not hasattr(report, "wasxfail"):
            report.outcome = "failed"
            report.longrepr = f"a test on real servers may not be skipped: {report.longrepr}"
        if report.passed and report.when == "call":
            item.config.stash[REAL_PASSED] = item.config.stash.get(REAL_PASSED, 0) + 1
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("CI") and not session.config.stash.get(REAL_PASSED, 0):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if os.environ.get("CI"):
        passed = config.stash.get(REAL_PASSED, 0)
        terminalreporter.write_line(
            f"tests on real servers that passed: {passed}{'' if passed else ', and CI needs some'}"
        )
        terminalreporter.write_line(f"the engine of this machine: {_engine()}")


def _engine() -> str:
    try:
        return f"{Multibuffer().name}, compared with the portable one"
    except UnavailableError as error:
        return f"portable; nothing is known of the multibuffer one, whose tests were skipped: {error}"


@pytest.fixture(scope="session")
def servers() -> Iterator[embedded.Addresses]:
    """Addresses of a running pair: this run's own, or the user's if the environment names them."""
    sweep()
    state = STATE / f"test-{os.getpid()}"
    try:
        yield embedded.up(state, say)
    finally:
        throw_away(state)


def throw_away(state: Path) -> None:
    embedded.erase(state, say)
    shutil.rmtree(state, ignore_errors=True)


def sweep() -> None:
    """Stop and erase what runs that were killed have left behind."""
    for state in STATE.glob("test-*"):
        if not Path("/proc", state.name.removeprefix("test-")).exists():
            throw_away(state)


@contextlib.asynccontextmanager
async def lend_database(servers: embedded.Addresses, template: str) -> AsyncIterator[str]:
    """Give the URL of a copy of this database, and drop it at the end of the block."""
    name = f"test_{secrets.token_hex(6)}"
    server = await asyncpg.connect(servers.database)
    try:
        await server.execute(f"create database {name} template {template}")
        yield database_url(servers, name)
        await server.execute(f"drop database {name} with (force)")
    finally:
        await server.close()


@pytest.fixture
async def fresh_database(servers: embedded.Addresses) -> AsyncIterator[str]:
    """URL of an empty database that is this test's own."""
    async with lend_database(servers, "template1") as url:
        yield url


@pytest.fixture(scope="session")
def template(servers: embedded.Addresses) -> str:
    """Name a database that is migrated and empty, to be copied."""
    name = f"template_{secrets.token_hex(6)}"

    async def make() -> None:
        server = await asyncpg.connect(servers.database)
        await server.execute(f"create database {name}")
        await server.close()
        await migrate(database_url(servers, name))

    with ThreadPoolExecutor(1) as thread:  # a loop may be running here
        thread.submit(asyncio.run, make()).result()
    return name


@pytest.fixture
async def store_database(servers: embedded.Addresses, template: str) -> AsyncIterator[str]:
    """URL of a migrated database that is this test's own."""
    async with lend_database(servers, template) as url:
        yield url


def database_url(servers: embedded.Addresses, name: str) -> str:
    return urlsplit(servers.database)._replace(path=f"/{name}").geturl()


@pytest.fixture
async def fresh_topic(servers: embedded.Addresses) -> AsyncIterator[FreshTopic]:
    """Make topics that are this test's own: `await fresh_topic(partitions=3)` gives a name."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers.kafka)
    await admin.start()
    names: list[str] = []

    async def make(partitions: int = 1, **config: str) -> str:
        name = f"test.{secrets.token_hex(6)}"
        configs = {"message.timestamp.type": "LogAppendTime"} | {k.replace("_", "."): v for k, v in config.items()}
        answer = await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=configs)])
        assert all(code == 0 for _, code, *_ in answer.topic_errors), answer
        names.append(name)
        return name

    try:
        yield make
        if names:
            await admin.delete_topics(names)
    finally:
        await admin.close()
