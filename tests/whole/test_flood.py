"""Who sends more than it may waits, and nobody else; the count goes on across workers: on real servers."""

from collections.abc import Iterator

import pytest

from deploy import embedded
from tests.whole.device import Stranger, ed25519_key
from tests.whole.house import House, open_house

pytestmark = pytest.mark.real

PER_S, BURST = 1, 20
LIMITS = {"policy_device_per_s_max": PER_S, "policy_device_burst_max": BURST, "policy_device_away_s_max": 0}


@pytest.fixture
def house(servers: embedded.Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(servers, tmp_path_factory.mktemp("rate"), partitions=1) as house:
        yield house


def test_a_flood_waits_beyond_its_rate_while_others_pass_and_comes_out_by_a_persons_word(house: House) -> None:
    noisy, calm = (Stranger(name, ed25519_key()) for name in ("tcu-noisy", "tcu-calm"))
    house.enrol([noisy.registration(), calm.registration()])
    for start in (1, 31):  # by one worker, then by another
        with house.worker(**LIMITS):
            house.weigh(*[noisy.say(seq) for seq in range(start, start + 30)], calm.say(start))
    rows = house.query(
        "select kafka_offset, received_at, device_id, verdict, reason from weighbridge.verdict order by 1"
    )
    received_s = [row["received_at"].timestamp() for row in rows if row["device_id"] == "tcu-noisy"]
    assert [row["verdict"] for row in rows if row["device_id"] == "tcu-noisy"] == expected(received_s)
    assert {row["reason"] for row in rows if row["verdict"] == "held"} == {"rate_limited"}
    assert [row["verdict"] for row in rows if row["device_id"] == "tcu-calm"] == ["accepted"] * 2
    assert [tuple(row) for row in house.query("select kind, subject from weighbridge.alert")] == [
        ("rate_abuse", "tcu-noisy")
    ]
    house.run("held", "rejudge", "rate_limited", "--reason", "it was a test")
    assert {row[0] for row in house.query("select distinct verdict from weighbridge.verdict")} == {"accepted"}
    house.check_tiles()


def test_what_a_tenant_sends_above_its_share_waits_and_that_is_told(house: House) -> None:
    devices = [Stranger(f"tcu-{number}", ed25519_key()) for number in range(8)]
    house.enrol([device.registration() for device in devices])
    with house.worker(policy_tenant_per_s_max=1, policy_tenant_burst_max=3):
        found = house.weigh(*[device.say(1) for device in devices])
    assert found[:3] == [("accepted", "")] * 3
    assert ("held", "rate_limited") in found[3:]
    ((kind, subject),) = house.query("select kind, subject from weighbridge.alert")
    assert (kind, subject.partition(" in ")[2]) == ("share_spent", f"{house.topic}/0")


def expected(received_s: list[float]) -> list[str]:
    """Count anew what a device may send, by the broker's clock."""
    left, before, verdicts = float(BURST), received_s[0], []
    for at in received_s:
        left, before = min(BURST, left + (at - before) * PER_S), at
        verdicts.append("accepted" if left > 0.9995 else "held")  # milliseconds, as floats
        left -= verdicts[-1] == "accepted"
    return verdicts
