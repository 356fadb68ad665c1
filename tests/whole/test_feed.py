"""What is found is told: an alert stands in the store once, and gets to its topic at least once, whoever is killed."""

import asyncio
import contextlib
import json
import random
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import asyncpg
import cbor2
import pytest

from deploy import embedded
from ingest.core.alert import CLAIMS_MAX
from ingest.core.verdict import AlertKind
from tests.whole.device import PAYLOAD, Stranger, ed25519_key, encode, state
from tests.whole.house import House, Running, open_house, wait_for

pytestmark = pytest.mark.real

KILLS, AT_ONCE, SUBJECTS = 20, 100, 17
WORKERS = 4  # of those that are killed are whole ones
FORGED = 1_000

WRITE = """
    insert into store.alert (alert_id, kind, subject, raised_at, topic_no, partition, kafka_offset, evidence, judged_by)
    select md5(n::text), 'clone', 'tcu-' || n % $3, now(), (select topic_no from store.topic), 0, n, '{"seq": 1}',
           (select min(judged_by) from store.judged_by)
    from generate_series($1::bigint, $2::bigint) n"""


RELAY = "select pid from pg_stat_activity where application_name = 'weighbridge feed' and datname = current_database()"
WAITS = " and wait_event_type = 'Lock'"
END_RELAY = RELAY.replace("select pid", "select pg_terminate_backend(pid)")


@pytest.fixture
def house(servers: embedded.Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(servers, tmp_path_factory.mktemp("feed"), partitions=1, policy_guard_devices_min=2) as house:
        yield house


def rows(house: House) -> list[asyncpg.Record]:
    return house.query("select * from weighbridge.alert order by alert_no")


def told(house: House) -> list[dict[str, Any]]:
    """Read the topic as anybody can; what was published twice, once."""
    events: dict[str, dict[str, Any]] = {}
    for record in sorted(house.records(f"{house.topic}.alerts"), key=lambda one: (one.partition, one.offset)):
        event = json.loads(record.value)
        assert record.key == event["subject"].encode()
        assert dict(record.headers)["content-type"].startswith(b"application/cloudevents+json")
        events.setdefault(event["id"], event)
    return list(events.values())


def wait_published(house: House) -> None:
    wait_for(lambda: all(row["published_at"] for row in rows(house)), lambda: "alerts wait to be published")


def borrowing(device: Stranger, kid: bytes, seq: int) -> bytes:
    """Make an envelope in which a device names another one's key."""
    return device.seal(cbor2.dumps(device.header(device.claims(seq), n4=kid)), PAYLOAD)


def provoke(house: House, *names: str) -> dict[str, Stranger]:
    """Enrol devices; one has a new key, one none any more."""
    devices = {name: Stranger(name, ed25519_key()) for name in names}
    house.enrol([device.registration() for device in devices.values()])
    path = house.folder / "request.json"
    path.write_text(json.dumps(Stranger("rotated", ed25519_key(), key_name="new").request()))
    house.run("devices", "rotate", "rotated", "--request", path, "--cutoff", "5", "--reason", "a test")
    house.run("devices", "revoke", "revoked", "--reason", "a test")
    return devices


def find(house: House, place: Mapping[str, Any]) -> bytes:
    """Get the envelope that an alert points at."""
    where = (place["topic"], place["incarnation"], place["partition"], place["offset"])
    ((envelope,),) = house.query(
        "select envelope from (select topic, incarnation, partition, kafka_offset, envelope from weighbridge.message "
        "union all select topic, incarnation, partition, kafka_offset, envelope from weighbridge.held) m "
        "where (topic, incarnation, partition, kafka_offset) = ($1, $2, $3, $4)",
        *where,
    )
    return bytes(envelope)


def test_each_kind_is_written_once_published_and_shown(house: House) -> None:
    devices = provoke(house, "copied", "cloned", "spared", "rotated", "revoked", "ahead")
    copied, cloned, spared = devices["copied"], devices["cloned"], devices["spared"]
    pairs = {one.name: (one.say(1), one.say(1, encode(state(speed=1.0)))) for one in (copied, spared)}
    turns = [cloned.say(n, m70003=boot) for n, boot in ((1, b"boot-one"), (2, b"boot-two"), (3, b"boot-one"))]
    strangers = [Stranger(f"nobody-{n}", copied.key).say(1) for n in range(60)]
    others = [
        devices["rotated"].say(6),
        devices["revoked"].say(1),
        borrowing(cloned, copied.kid, 9),
        devices["ahead"].say(1, n6=time.time() + 2 * 86_400),
        *strangers,
    ]
    with house.worker():
        house.weigh(*pairs["copied"], *turns, *pairs["spared"], *others, *others)
        wait_published(house)
    found = rows(house)
    expected = set(AlertKind) - {AlertKind.RATE_ABUSE, AlertKind.SHARE_SPENT}  # those are raised in test_flood.py
    assert sorted({row["kind"] for row in found}) == sorted(kind.value for kind in expected)
    assert len(found) == len(expected) + 2, "two are quarantined, and two have used a number twice"
    assert {row["tenant"] for row in found if row["kind"] != "unknown_devices"} == {"strangers"}
    events = told(house)
    assert [event["id"] for event in events if event["subject"] == "copied"] == [
        row["alert_id"] for row in found if row["subject"] == "copied"
    ]
    assert sorted(event["id"] for event in events) == sorted(row["alert_id"] for row in found)
    (event,) = [one for one in events if (one["type"], one["subject"]) == ("weighbridge.alert.equivocation", "copied")]
    assert {event["specversion"], event["datacontenttype"]} == {"1.0", "application/json"}
    first = event["data"]["evidence"]["first"]
    both = [find(house, {**first, "offset": first["kafka_offset"]}), find(house, event["data"]["position"])]
    assert both == list(pairs["copied"])
    shown = [json.loads(line) for line in house.run("alerts", "tail", "--json").stdout.splitlines()]
    assert sorted(shown, key=lambda one: one["id"]) == sorted(events, key=lambda one: one["id"])
    assert house.run("alerts", "tail", "--since", "2099-01-01T00:00:00Z").stdout == ""
    assert len(house.run("alerts", "list").stdout.splitlines()) == len(found)


def test_a_forged_flood_raises_a_bounded_number_of_alerts_and_holds_nobody_guilty(house: House) -> None:
    devices = provoke(house, "rotated", "revoked", "victim")
    victim, revoked = devices["victim"], devices["revoked"]
    flood = [revoked.say(n) for n in range(1, 50)] * (FORGED // 50)
    flood += [Stranger(f"nobody-{n}", victim.key).say(1) for n in range(FORGED)]
    flood += [borrowing(victim, revoked.kid, n) for n in range(1, 50)]
    random.Random(5).shuffle(flood)
    with house.worker():
        house.weigh(*flood, victim.say(1))
    found = house.query("select kind, count(*) from weighbridge.alert group by 1")
    counted = {row[0]: int(row[1]) for row in found}
    hours = 2  # one may end meanwhile
    assert counted.keys() == {"revoked_key_used", "cross_vehicle_key", "unknown_devices"}
    assert all(0 < count <= hours for count in counted.values()), f"less than {CLAIMS_MAX}: one device is named"
    (row,) = house.query("select standing, accepted from weighbridge.device where device_id = 'victim'")
    assert tuple(row) == ("trusted", 1)


def test_a_relay_that_is_killed_again_and_again_loses_none_and_keeps_the_order(house: House) -> None:
    chance = random.Random(20)
    with house.worker():
        house.weigh(b"no message")
    for kill in range(KILLS):
        house.query(WRITE, kill * AT_ONCE, (kill + 1) * AT_ONCE - 1, SUBJECTS)
        between = kill % 2 == 0  # publishing and marking: nobody can mark while a row of those is locked
        process = house.worker() if kill < WORKERS else house.running("tests.whole.feeder")
        _kill_one(house, process, between=between, delay_s=chance.uniform(0, 0.05))
    with house.worker():
        wait_published(house)
    found, events = rows(house), told(house)
    assert len(found) == len(events) == KILLS * AT_ONCE
    assert {event["id"] for event in events} == {row["alert_id"] for row in found}
    assert len(house.records(f"{house.topic}.alerts")) > len(events), "some kill came between publishing and marking"
    order = defaultdict(list)
    for event in events:
        order[event["subject"]].append(event["data"]["position"]["offset"])
    assert all(offsets == sorted(offsets) for offsets in order.values())


def _kill_one(
    house: House, process: contextlib.AbstractContextManager[Running], *, between: bool, delay_s: float
) -> None:
    """Start a process, let it publish something, and kill it."""
    locked = "select from store.alert where published_at is null for update" if between else "select"
    with holding(house, locked), process as worker:
        if between:
            wait_for(lambda: bool(house.query(RELAY + WAITS)), lambda: "nothing is published")
        else:
            wait_for(lambda: bool(worker.events("feeding")), lambda: "nobody leads the feed")
            time.sleep(delay_s)
        worker.process.send_signal(signal.SIGKILL)
        worker.process.wait()
        house.query(END_RELAY)  # what waits for a lock does not see that nobody waits for it any more


@contextlib.contextmanager
def holding(house: House, statement: str) -> Iterator[None]:
    """Hold what a statement locks for the length of the block."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(house.database))
        try:
            runner.run(connection.execute("begin"))
            runner.run(connection.execute(statement))
            yield
        finally:
            runner.run(connection.close())
