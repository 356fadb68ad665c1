"""The world is bad: the worker decides nothing, the log keeps what waits, and all is judged rightly once it is well."""

import asyncio
import secrets
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import msgspec
import pytest

import schemas
from deploy import embedded
from deploy.embedded import kafka, process
from tests.whole.house import House, Running, open_house, wait_for

pytestmark = pytest.mark.real

COUNT = 400
ATTEMPTS = 4  # that come to nothing, before the world is well again
DAYS_BACK = 2  # by this clock every honest message would come from the future, further than is allowed
WRONG_CLOCK = f"""
import time
def behind(now, second):
    return lambda: now() - {DAYS_BACK} * 86_400 * second
time.time, time.time_ns = behind(time.time, 1), behind(time.time_ns, 10**9)
"""


@pytest.fixture
def house(servers: embedded.Addresses, tmp_path: Path) -> Iterator[House]:
    with open_house(servers, tmp_path) as house:
        yield house


def administer(servers: embedded.Addresses, *statements: str) -> None:
    async def execute() -> None:
        connection = await asyncpg.connect(servers.database)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(execute())


def wait_for_trouble(worker: Running, what: str) -> None:
    """Wait until attempts have come to nothing for this reason, and see that they come less and less often."""

    def waits() -> list[float]:
        return [event["retry_in_s"] for event in worker.events("trouble") if what in event["error"]]

    wait_for(lambda: len(waits()) >= ATTEMPTS, lambda: f"no trouble with {what!r}")
    assert max(waits()) > min(waits())


def check_held_back(house: House, truth: Path) -> None:
    """Nothing was decided of what waits."""
    assert house.consumed() == 0
    assert house.query("select * from weighbridge.verdict") == []
    house.run("check", "--truth", truth, status=1)


def check_judged(house: House, truth: Path) -> None:
    house.wait_consumed(COUNT)
    house.check(truth)
    house.check_tiles()


@pytest.fixture
def gauge(servers: embedded.Addresses, house: House) -> Iterator[House]:
    """The house, with a role of its own for workers: what is revoked from a superuser stays with him."""
    role = f"gauge_{secrets.token_hex(4)}"
    owner = urlsplit(servers.database).username
    administer(servers, f"create role {role} login password 'weigh' in role {owner}")
    at = urlsplit(house.database)
    database = at._replace(netloc=f"{role}:weigh@{at.hostname}:{at.port}").geturl()
    yield msgspec.structs.replace(house, environ={**house.environ, "WEIGHBRIDGE_DATABASE": database})
    asyncio.run(drop(house.database, role))


async def drop(database: str, role: str) -> None:
    """Drop a role, and leave to its owner what it has made."""
    connection = await asyncpg.connect(database)
    await connection.execute(f"reassign owned by {role} to current_user; drop owned by {role}; drop role {role}")
    await connection.close()


def test_without_the_registry_nothing_is_judged_and_with_it_all_is(house: House, gauge: House) -> None:
    truth = house.send_fleet(run=1, count=COUNT)
    house.query("revoke select on store.device_key from current_user")
    with gauge.worker() as worker:
        wait_for_trouble(worker, "permission denied for table device_key")
        check_held_back(house, truth)
        house.query("grant select on store.device_key to current_user")
        check_judged(house, truth)


def test_a_database_that_may_only_be_read_is_waited_for(servers: embedded.Addresses, house: House) -> None:
    truth = house.send_fleet(run=1, count=COUNT)
    name = urlsplit(house.database).path.strip("/")
    administer(servers, f"alter database {name} set default_transaction_read_only = on")
    with house.worker() as worker:
        wait_for_trouble(worker, "read-only")
        check_held_back(house, truth)
        administer(servers, f"alter database {name} reset default_transaction_read_only")
        check_judged(house, truth)


def test_a_worker_goes_on_by_itself_when_its_broker_is_back(
    servers: embedded.Addresses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    monkeypatch.delenv("WEIGHBRIDGE_KAFKA", raising=False)
    monkeypatch.setenv("WEIGHBRIDGE_DATABASE", servers.database)  # so only a Kafka is started
    try:
        ours = embedded.up(state, lambda _: None)
        with open_house(ours, tmp_path, batch_records_max=40) as house:
            truth = house.send_fleet(run=1, count=COUNT)
            with house.worker() as worker:
                wait_for(lambda: house.consumed() > 0, lambda: "nothing was consumed")
                process.stop(kafka.daemon(state), [(signal.SIGKILL, 30.0)])
                wait_for(lambda: bool(worker.events("not_watched")), lambda: "nobody noticed")
                assert embedded.up(state, lambda _: None) == ours
                check_judged(house, truth)
                assert worker.process.poll() is None
    finally:
        embedded.erase(state, lambda _: None)


def test_what_the_clock_of_a_worker_says_changes_no_verdict(house: House, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    wrong.joinpath("sitecustomize.py").write_text(f"{WRONG_CLOCK}\nopen({str(wrong / 'set')!r}, 'w').close()\n")
    late = msgspec.structs.replace(house, environ={**house.environ, "PYTHONPATH": str(wrong)})
    truth = house.send_fleet(run=1, count=COUNT)
    with late.worker():
        check_judged(house, truth)
    assert wrong.joinpath("set").exists(), "the clock was right"
    assert house.query("select from weighbridge.message where time_quality = 'ok' limit 1")


def test_a_worker_without_its_schemas_does_not_start(house: House, tmp_path: Path) -> None:
    bare = tmp_path / "bare" / "schemas"
    bare.joinpath("telemetry").mkdir(parents=True)
    shutil.copy(str(schemas.__file__), bare)
    without = msgspec.structs.replace(house, environ={**house.environ, "PYTHONPATH": str(bare.parent)})
    assert "no telemetry schemas" in without.refuse("worker")
