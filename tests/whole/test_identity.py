"""Who is speaking, over the years: each act of a person by its command, while devices go on sending what they have."""

import asyncio
import json
import re
import secrets
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from msgspec.structs import replace

from deploy import embedded
from ingest.adapters.postgres.connection import connect
from ingest.adapters.postgres.revocation import check
from ingest.metrics import Metrics
from tests.whole.device import Stranger, ed25519_key, p256_key
from tests.whole.house import House, open_house

pytestmark = pytest.mark.real

ACCEPTED, DUPLICATE = ("accepted", ""), ("duplicate", "")
KEY_REVOKED, KEY_NOT_VALID = ("refused", "key_revoked"), ("refused", "key_not_valid")
KEY_RETIRED, EPOCH_CLOSED = ("held", "key_retired"), ("refused", "epoch_closed")
WHY = ("--reason", "a test", "--by", "me")
ROUNDS_MAX = 2_000
ROUND_S = 0.15
REVOKED_UNDER_LOAD = """
    select r.stored_before, r.stored_now, a.last_stored, e.refused, e.first_refused,
           extract(epoch from b.committed_at - r.revoked_at) * 1000 as delay_ms
    from weighbridge.revocation r
    join (select device_id, max(kafka_offset) as last_stored from weighbridge.message group by 1) a using (device_id)
    join (select device_id, count(*) as refused, min(kafka_offset) as first_refused
          from weighbridge.exception where reason = 'key_revoked' group by 1) e using (device_id)
    join weighbridge.batch b on e.first_refused >= b.from_offset and e.first_refused < b.to_offset
    where device_id = any($1)"""
CHECKED = """
    select stored_after, (extract(epoch from time_to_revoke) * 1000)::float8 as asked_ms
    from weighbridge.revocation where device_id = any($1) and checked_at is not null"""


@pytest.fixture(scope="module")
def house(servers: embedded.Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(servers, tmp_path_factory.mktemp("identity"), partitions=1, batch_wait_ms=20) as house:
        house.run("tenants", "add", "strangers")
        house.run("tenants", "add", "others")
        with house.worker():
            yield house


@pytest.fixture
def device(house: House) -> Stranger:
    """A device that was enrolled by its own request."""
    device = Stranger(f"unit-{secrets.token_hex(6)}", ed25519_key())
    enrol(house, device)
    return device


def enrol(house: House, device: Stranger) -> None:
    house.run("devices", "enrol", "--request", device.ask(house.folder), "--tenant", "strangers")


def test_a_key_is_rotated_and_what_was_buffered_under_the_old_one_is_stored(house: House, device: Stranger) -> None:
    first, *buffered = [device.say(seq) for seq in range(1, 1_002)]
    assert house.weigh(first) == [ACCEPTED]
    rotated = replace(device, key=p256_key(), key_name="new")
    asked = rotated.ask(house.folder, last_seq=1_001)
    said = house.run("devices", "rotate", device.name, "--request", asked, *WHY).stdout
    assert "good up to number 1001" in said
    assert house.weigh(rotated.say(1_002), *buffered) == [ACCEPTED] * 1_001
    assert house.weigh(device.say(1_003), rotated.say(1_004)) == [KEY_RETIRED, ACCEPTED]
    assert house.weigh(buffered[0]) == [DUPLICATE]


def test_without_a_word_of_the_device_the_old_key_ends_at_what_was_accepted(house: House, device: Stranger) -> None:
    late = device.say(2)
    assert house.weigh(device.say(1), device.say(3)) == [ACCEPTED] * 2
    rotated = device.renewed()
    house.run("devices", "rotate", device.name, "--request", rotated.ask(house.folder), *WHY)
    assert house.weigh(late, device.say(4), rotated.say(5)) == [ACCEPTED, KEY_RETIRED, ACCEPTED]


def test_after_a_revocation_nothing_is_stored_whatever_time_it_claims(house: House, device: Stranger) -> None:
    assert house.weigh(device.say(1), device.say(2)) == [ACCEPTED] * 2
    since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    said = house.run("devices", "revoke", device.name, "--compromised-since", since, *WHY).stdout
    assert re.fullmatch(rf"key {device.kid.hex()} is revoked, in force after \d+ ms: nothing more .*\n", said)
    back_dated = device.say(3, n6=time.time() - 10 * 86_400)
    assert house.weigh(device.say(4), back_dated) == [KEY_REVOKED] * 2
    tainted = house.query("select seq from weighbridge.tainted where device_id = $1 order by seq", device.name)
    assert [row[0] for row in tainted] == [1, 2]
    again = device.renewed(epoch=2)
    enrol(house, again)
    assert house.weigh(again.say(1), device.say(5)) == [ACCEPTED, KEY_REVOKED]


def test_one_of_two_keys_is_revoked_and_the_other_goes_on(house: House, device: Stranger) -> None:
    second = device.renewed()
    enrol(house, second)
    assert house.weigh(device.say(1), second.say(2)) == [ACCEPTED] * 2
    house.run("devices", "revoke", device.name, "--kid", device.kid.hex(), *WHY)
    assert house.weigh(device.say(3), second.say(4)) == [KEY_REVOKED, ACCEPTED]


def test_a_kept_old_key_can_neither_claim_the_new_epoch_nor_go_on_in_the_old_one(
    house: House, device: Stranger
) -> None:
    gap = device.say(2)
    assert house.weigh(device.say(1), device.say(3)) == [ACCEPTED] * 2
    unit = device.renewed(epoch=2)
    enrol(house, unit)
    assert house.weigh(
        unit.say(1), device.say(2, m70001=2), device.say(4), gap, unit.say(9, m70001=1), device.say(1, m70001=3)
    ) == [ACCEPTED, KEY_NOT_VALID, EPOCH_CLOSED, ACCEPTED, KEY_NOT_VALID, KEY_NOT_VALID]


def test_what_was_buffered_in_an_earlier_epoch_is_stored_after_a_rotation_in_a_later_one(
    house: House, device: Stranger
) -> None:
    late = device.say(49)
    assert house.weigh(device.say(50)) == [ACCEPTED]
    house.enrol([device.registration(epoch=2)])
    again = replace(device, epoch=2)
    assert house.weigh(again.say(1)) == [ACCEPTED]
    rotated = again.renewed()
    house.run("devices", "rotate", device.name, "--request", rotated.ask(house.folder, last_seq=5), *WHY)
    assert house.weigh(late, device.say(51), again.say(5), again.say(6), rotated.say(7)) == [
        ACCEPTED, EPOCH_CLOSED, ACCEPTED, KEY_RETIRED, ACCEPTED,
    ]  # fmt: skip


def test_a_pending_key_signs_nothing_until_it_is_activated(house: House, device: Stranger) -> None:
    second = device.renewed()
    path = house.folder / f"{device.name}.jsonl"
    path.write_text(json.dumps(second.registration()))
    house.run("devices", "import", "--pending", path, *WHY)
    assert house.weigh(device.say(1), second.say(2)) == [ACCEPTED, KEY_NOT_VALID]
    house.run("devices", "activate", device.name, second.kid.hex(), *WHY)
    assert house.weigh(second.say(2), second.say(3)) == [ACCEPTED] * 2


def test_a_key_that_the_new_epoch_names_again_goes_on(house: House, device: Stranger) -> None:
    assert house.weigh(device.say(1)) == [ACCEPTED]
    house.enrol([device.registration(epoch=2)])
    assert house.weigh(replace(device, epoch=2).say(1), device.say(2)) == [ACCEPTED, EPOCH_CLOSED]


def test_a_message_belongs_to_who_owned_the_vehicle_when_it_was_recorded(house: House, device: Stranger) -> None:
    vehicle = str(device.registration()["vehicle_id"])
    before, sold = time.time() - 100, datetime.now(UTC) - timedelta(seconds=50)
    since = time.time() - 10
    late = device.say(2, n6=before)
    assert house.weigh(device.say(1, n6=before), device.say(3, n6=since)) == [ACCEPTED] * 2
    # entered late: what was stored meanwhile, and received after it, goes with the vehicle
    said = house.run("devices", "transfer", vehicle, "--to", "others", "--at", sold.isoformat(), *WHY).stdout
    assert f"issued since {sold.isoformat(timespec='milliseconds').removesuffix('+00:00')}" in said
    assert house.weigh(late, device.say(4), device.say(5, n6=time.time() + 3_600)) == [ACCEPTED] * 3
    rows = house.query("select seq, tenant from weighbridge.message where device_id = $1 order by seq", device.name)
    assert [tuple(row) for row in rows] == [
        (1, "strangers"), (2, "strangers"), (3, "others"), (4, "others"), (5, "others"),
    ]  # fmt: skip
    house.run("devices", "transfer", vehicle, "--to", "strangers", *WHY)
    assert house.weigh(device.say(6), device.say(7, n6=since), device.say(8, n6=before)) == [ACCEPTED] * 3
    rows = house.query(
        "select tenant from weighbridge.message where device_id = $1 and seq > 4 order by seq", device.name
    )
    assert [row[0] for row in rows] == ["others", "strangers", "others", "strangers"]


class Fleet(msgspec.Struct, frozen=True):
    """Devices that go on sending until they are told to stop; each sends once more after that."""

    house: House
    devices: list[Stranger]
    told: threading.Event

    def send(self) -> int:
        """Send round after round; returns how many messages that were."""
        return asyncio.run(self._send())

    async def _send(self) -> int:
        async with AIOKafkaProducer(bootstrap_servers=self.house.kafka) as producer:
            for seq in range(1, ROUNDS_MAX):
                last = self.told.is_set()
                for device in self.devices:
                    await producer.send(self.house.topic, device.say(seq))
                if last:
                    await producer.flush()
                    return seq * len(self.devices)
                await asyncio.sleep(ROUND_S)
        raise AssertionError("nobody told the fleet to stop")


def test_while_a_fleet_sends_nothing_is_stored_after_a_revocation(house: House) -> None:
    devices = [Stranger(f"fleet-{number}-{secrets.token_hex(4)}", ed25519_key()) for number in range(100)]
    house.enrol([device.registration() for device in devices])
    before, fleet = house.consumed(), Fleet(house, devices, threading.Event())
    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(fleet.send)
        house.wait_consumed(before + len(devices))
        try:
            for device in devices:
                house.run("devices", "revoke", device.name, *WHY)
        finally:
            fleet.told.set()
        sent = sending.result()
    house.wait_consumed(before + sent)
    rows = house.query(REVOKED_UNDER_LOAD, [device.name for device in devices])
    assert len(rows) == len(devices)
    assert [row for row in rows if not 0 < row["stored_before"] == row["stored_now"]] == []
    assert [row for row in rows if row["last_stored"] >= row["first_refused"]] == []
    assert sum(row["stored_now"] + row["refused"] for row in rows) == sent
    asyncio.run(check_all(house))
    checked = house.query(CHECKED, [device.name for device in devices])
    assert [row["stored_after"] for row in checked] == [0] * len(devices)
    delays_ms = sorted(row["delay_ms"] for row in rows)
    print(f"{sent} messages, 100 revocations: from a revocation to the commit of the first refusal "  # noqa: T201
          f"{statistics.median(delays_ms):.0f} ms in the median, {delays_ms[-1]:.0f} ms at most; "
          f"in force {max(row['asked_ms'] for row in checked):.0f} ms at most after it was asked for")  # fmt: skip


async def check_all(house: House) -> None:
    """Check the revocations that no worker has come to yet."""
    connection = await connect(house.database, "test")
    for _ in range(3):
        await check(connection, Metrics("test", "none"), after_s=0)
    await connection.close()
