"""Who is speaking? Six ways in which a device's identity goes wrong or changes hands, each from end to end.

Each shows what the store says of every message, who was told, what standing the device has, and what a person sees.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from deploy import embedded
from tests.core.authority import Authority, Wanted, pem, root
from tests.whole.device import PAYLOAD, Stranger, ed25519_key, encode, p256_key, state
from tests.whole.house import House, open_house

pytestmark = pytest.mark.real

HOUR_S, DAY_S = 3_600, 86_400
ACCEPTED, DUPLICATE = ("accepted", ""), ("duplicate", "")
BOOT, COPY_BOOT = {"m70003": b"unit one"}, {"m70003": b"a copy's"}
WHY = ("--reason", "a test", "--by", "me")


@pytest.fixture(scope="module")
def house(servers: embedded.Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("identities")
    with open_house(servers, folder, partitions=1, batch_wait_ms=20) as house, house.worker():
        yield house


def enrolled(house: House, tenant: str = "strangers") -> Stranger:
    device = Stranger(f"tcu-{secrets.token_hex(4)}", p256_key())
    house.enrol([device.registration(tenant=tenant)])
    return device


def shown(house: House, device: Stranger) -> dict[str, Any]:
    """See what `devices show` says."""
    found: dict[str, Any] = json.loads(house.run("devices", "show", device.name).stdout)
    return found


def keys(house: House, device: Stranger) -> list[tuple[str, int, int | None]]:
    """See of each key its state and the epochs that it speaks for."""
    return [(key["state"], key["epoch_from"], key["epoch_until"]) for key in shown(house, device)["keys"]]


def suspected(house: House, device: Stranger) -> dict[str, Any]:
    """See what `quarantine show` says."""
    found: dict[str, Any] = json.loads(house.run("quarantine", "show", device.name).stdout)
    return found


def alerts(house: House, device: Stranger) -> list[str]:
    """See what was raised of a device, in order."""
    raised = [json.loads(line) for line in house.run("alerts", "list", "--json").stdout.splitlines()]
    return [one["kind"] for one in raised if one["subject"] == device.name]


def acts(house: House, device: Stranger) -> list[tuple[str, str]]:
    """See who did what to a device, and that the record of it is whole."""
    house.run("audit", "verify")
    done = [json.loads(line) for line in house.run("audit", "list", "--json").stdout.splitlines()]
    return [(one["act"], one["actor"]) for one in done if one["subject"] == device.name and one["actor"] == "me"]


def stored(house: House, device: Stranger) -> list[tuple[int, int, str]]:
    """Read (epoch, seq, owner) of what is stored of a device."""
    rows = house.query(
        "select epoch, seq, tenant from weighbridge.message where device_id = $1 order by epoch, seq", device.name
    )
    return [(row[0], row[1], row[2]) for row in rows]


def test_a_cloned_credential_is_caught_and_what_both_units_say_waits_for_a_person(house: House) -> None:
    unit, neighbour = enrolled(house), enrolled(house)
    caught = unit.say(4, **BOOT)
    assert house.weigh(unit.say(1, **BOOT), unit.say(2, **BOOT), unit.say(3, **COPY_BOOT)) == [ACCEPTED] * 3
    assert house.weigh(caught, unit.say(5, **COPY_BOOT), unit.say(3, **BOOT), caught, neighbour.say(1)) == [
        ("held", "quarantined"),  # the unit goes on in a boot that another one has followed: there are two
        ("held", "quarantined"),
        ("held", "equivocation"),
        DUPLICATE,
        ACCEPTED,
    ]
    assert sorted(alerts(house, unit)) == ["clone", "equivocation", "quarantine"]
    assert alerts(house, neighbour) == []
    found = suspected(house, unit)
    assert (found["standing"], found["waiting"]) == ("quarantined", {"equivocation": 1, "quarantined": 2})
    assert {row["evidence"] for row in found["evidence"]} == {"clone", "equivocation"}
    assert unit.name in house.run("quarantine", "list").stdout
    assert neighbour.name not in house.run("quarantine", "list").stdout
    # the unit gets another key, which the copy has not: what waits was signed with the one that both had
    house.run("devices", "revoke", unit.name, *WHY)
    again = unit.renewed(epoch=2)
    house.run("devices", "enrol", "--request", again.ask(house.folder), "--tenant", "strangers", *WHY)
    assert house.weigh(again.say(1), unit.say(6, **COPY_BOOT)) == [("held", "quarantined"), ("refused", "key_revoked")]
    house.run("quarantine", "release", unit.name, *WHY)
    assert house.weigh(again.say(2)) == [ACCEPTED]
    found = suspected(house, unit)
    assert (found["standing"], found["suspicion"], found["waiting"]) == ("released", 0, {})
    strangers = [(1, seq, "strangers") for seq in (1, 2, 3)] + [(2, seq, "strangers") for seq in (1, 2)]
    assert stored(house, unit) == strangers
    refused = house.query(
        "select seq from weighbridge.exception where device_id = $1 and reason = 'key_revoked' order by seq", unit.name
    )
    assert [row[0] for row in refused] == [3, 4, 5, 6], "what waited was judged again, under today's registry"
    assert acts(house, unit)[:2] == [("revoke", "me"), ("enrol", "me")]
    decided = [(row["after"], row["actor"]) for row in found["transitions"]]
    assert decided == [("quarantined", "policy"), ("released", "me")]


def certified(house: House, device: Stranger, authority: Authority, epoch: int) -> bytes:
    """Enrol a device by its certificate; returns the kid that follows from it."""
    certificate = authority.certify(device.key, Wanted((device.name,)))
    path = house.folder / f"{device.name}-{epoch}.pem"
    path.write_text(pem(certificate))
    placed = ("--vehicle", f"vehicle of {device.name}", "--epoch", str(epoch), "--tenant", "vouching")
    house.run("devices", "enrol", "--certificate", path, *placed, *WHY)
    return kid_of(certificate)


def kid_of(certificate: x509.Certificate) -> bytes:
    der = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).digest()


def under(device: Stranger, kid: bytes, seq: int, **changed: object) -> bytes:
    """Say something under the key of that name, which need not be the device's own."""
    return device.seal(cbor2.dumps(device.header(device.claims(seq, **changed), n4=kid)), PAYLOAD)


def test_a_revoked_certificate_speaks_no_more_whatever_time_it_claims(house: House) -> None:
    authority, device = root(), Stranger(f"tcu-{secrets.token_hex(4)}", p256_key())
    (house.folder / "authority.pem").write_text(authority.pem)
    house.run("tenants", "add", "vouching")
    house.run("tenants", "trust", "vouching", house.folder / "authority.pem")
    kid = certified(house, device, authority, epoch=1)
    signed_before = under(device, kid, 3)
    assert house.weigh(under(device, kid, 1), under(device, kid, 2)) == [ACCEPTED] * 2
    said = house.run("devices", "revoke", device.name, "--kid", kid.hex(), *WHY).stdout
    assert f"key {kid.hex()} is revoked" in said
    back_dated = under(device, kid, 4, n6=time.time() - 10 * DAY_S)
    assert house.weigh(signed_before, back_dated, under(device, kid, 5)) == [("refused", "key_revoked")] * 3
    assert alerts(house, device) == ["revoked_key_used"]
    assert suspected(house, device)["standing"] == "trusted", "anybody may name a key that is revoked"
    assert keys(house, device) == [("revoked", 1, None)]
    placed = ("--vehicle", f"vehicle of {device.name}", "--epoch", "2", "--tenant", "vouching")
    path = house.folder / f"{device.name}-1.pem"
    assert "revoked" in house.run("devices", "enrol", "--certificate", path, *placed, status=1).stderr
    again = device.renewed(epoch=2)
    renewed = certified(house, again, authority, epoch=2)
    assert house.weigh(under(again, renewed, 1), under(device, kid, 6)) == [ACCEPTED, ("refused", "key_revoked")]
    assert stored(house, device) == [(1, 1, "vouching"), (1, 2, "vouching"), (2, 1, "vouching")]


def test_a_replacement_unit_and_three_days_of_the_old_ones_data_are_both_complete(house: House) -> None:
    old, now_s = enrolled(house), time.time()
    hours = {seq: old.say(seq, n6=now_s - (72 - seq) * HOUR_S) for seq in range(1, 73)}
    heard = [hours[seq] for seq in range(1, 73) if seq % 3 == 0]
    buffered = [hours[seq] for seq in reversed(hours) if seq % 3 != 0]
    assert house.weigh(*heard) == [ACCEPTED] * 24
    unit = Stranger(f"new-{old.name}", ed25519_key(), vehicle=str(old.registration()["vehicle_id"]))
    asked = unit.ask(house.folder)
    said = house.run("devices", "replace", old.name, "--request", asked, "--late", "10", *WHY).stdout
    assert "whose keys are good up to number 82" in said
    mixed = [value for seq, late in enumerate(buffered, 1) for value in (unit.say(seq), late)]
    assert house.weigh(*mixed) == [ACCEPTED] * 96
    assert house.weigh(old.say(82), old.say(83), *buffered[:5]) == [ACCEPTED, ("held", "key_retired"), *[DUPLICATE] * 5]
    assert [seq for _, seq, _ in stored(house, old)] == [*range(1, 73), 82]
    assert [seq for _, seq, _ in stored(house, unit)] == list(range(1, 49))
    assert (shown(house, unit)["missing"], shown(house, unit)["standing"]) == (0, "trusted")
    assert [(gap["from_seq"], gap["to_seq"]) for gap in shown(house, old)["gaps"]] == [(73, 82)]
    assert (keys(house, old), keys(house, unit)) == ([("retired", 1, None)], [("active", 1, None)])
    assert (alerts(house, old), alerts(house, unit)) == (["retired_key_used"], [])
    assert suspected(house, old)["standing"] == "trusted", "once is not enough"
    (row,) = house.query(
        "select count(distinct device_id), max(issued_at) - min(issued_at) > interval '71 hours' "
        "from weighbridge.message where vehicle_id = $1 and tenant = 'strangers'",
        unit.vehicle,
    )
    assert tuple(row) == (2, True)
    assert acts(house, old) == [("replace", "me")]


def test_a_drifting_clock_costs_no_message_its_place_and_a_wild_one_waits_for_a_person(house: House) -> None:
    device, now_s = enrolled(house), time.time()
    ahead_s = [0, 200, HOUR_S, 23 * HOUR_S, 26 * HOUR_S, -29 * DAY_S, -31 * DAY_S, 0]
    said = [device.say(seq, encode(state(speed=float(seq))), n6=now_s + ahead) for seq, ahead in enumerate(ahead_s, 1)]
    wild, ancient = ("held", "clock_future"), ("held", "stale")
    assert house.weigh(*said) == [*[ACCEPTED] * 4, wild, ACCEPTED, ancient, ACCEPTED]
    assert house.weigh(said[4], said[6]) == [DUPLICATE] * 2
    qualities = house.query(
        "select time_quality from weighbridge.message where device_id = $1 order by seq", device.name
    )
    assert [row[0] for row in qualities] == ["ok", "ok", "ahead", "ahead", "behind", "ok"]
    assert alerts(house, device) == ["clock_drift"]
    found = suspected(house, device)
    assert (found["standing"], found["evidence"]) == ("trusted", []), "a bad clock is no bad intention"
    assert found["waiting"] == {"clock_future": 1, "stale": 1}
    # the last one in the unit's own order says how the vehicle is, not the one from the future
    (latest,) = house.query(
        "select speed from weighbridge.vehicle_state where device_id = $1 order by epoch desc, seq desc limit 1",
        device.name,
    )
    assert latest["speed"] == len(ahead_s)
    assert [seq for _, seq, _ in stored(house, device)] == [1, 2, 3, 4, 6, 8]
    assert shown(house, device)["held"] == 2


def test_a_unit_that_is_enrolled_again_begins_anew_and_its_old_key_gets_nowhere(house: House) -> None:
    device = enrolled(house)
    assert house.weigh(device.say(1), device.say(2)) == [ACCEPTED] * 2
    assert "is revoked" in house.run("devices", "decommission", device.name, *WHY).stdout
    assert house.weigh(device.say(3)) == [("refused", "key_revoked")]
    same_epoch = ("--request", device.renewed().ask(house.folder), "--tenant", "strangers")
    assert "give it a higher epoch" in house.run("devices", "enrol", *same_epoch, status=1).stderr
    again = device.renewed(epoch=2)
    house.run("devices", "enrol", "--request", again.ask(house.folder), "--tenant", "strangers", *WHY)
    deserved = {
        again.say(1): ACCEPTED,
        again.say(2): ACCEPTED,
        device.say(3): ("refused", "key_revoked"),
        device.say(3, m70001=2): ("refused", "key_revoked"),
        again.say(9, m70001=1): ("refused", "key_not_valid"),
        again.say(3, m70001=3): ("held", "epoch_unknown"),
    }
    assert house.weigh(*deserved) == list(deserved.values())
    assert stored(house, device) == [(epoch, seq, "strangers") for epoch in (1, 2) for seq in (1, 2)]
    assert keys(house, device) == [("revoked", 1, 2), ("active", 2, None)]
    assert alerts(house, device) == ["revoked_key_used"]
    found = shown(house, device)
    assert (found["standing"], found["epoch"], found["highest"], found["held"]) == ("trusted", 2, 2, 1)
    assert acts(house, device) == [("decommission", "me"), ("enrol", "me")]


def test_a_key_of_one_vehicle_says_nothing_for_another_and_costs_neither_anything(house: House) -> None:
    thief, victim = enrolled(house), enrolled(house, tenant="others")
    assert house.weigh(thief.say(1), victim.say(1)) == [ACCEPTED] * 2
    before = house.query("select * from weighbridge.device where device_id in ($1, $2)", thief.name, victim.name)
    named = Stranger(victim.name, thief.key, key_name=victim.key_name)
    assert house.weigh(under(named, thief.kid, 2), named.say(2), named.say(2**40)) == [
        ("refused", "wrong_device"),
        ("refused", "bad_signature"),
        ("refused", "bad_signature"),
    ]
    assert (alerts(house, victim), alerts(house, thief)) == (["cross_vehicle_key"], [])
    rows = house.query("select * from weighbridge.device where device_id in ($1, $2)", thief.name, victim.name)
    assert rows == before, "whose key it was and who was named: nobody's row has changed"
    taken = Stranger(victim.name, thief.key, key_name="taken")
    asked = ("--request", taken.ask(house.folder), *WHY)
    refused = house.run("devices", "rotate", victim.name, *asked, status=1).stderr
    assert f"is enrolled as key {thief.kid.hex()} of device {thief.name}" in refused
    assert house.weigh(thief.say(2), victim.say(2)) == [ACCEPTED] * 2
    assert stored(house, victim) == [(1, 1, "others"), (1, 2, "others")]
    assert stored(house, thief) == [(1, 1, "strangers"), (1, 2, "strangers")]
    assert [suspected(house, one)["standing"] for one in (thief, victim)] == ["trusted"] * 2
