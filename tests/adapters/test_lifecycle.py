"""Acts that make no sense are refused with a word on what to do, and change nothing; those that do are written down."""

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from msgspec.structs import replace

from deploy import embedded
from tests.core.authority import Wanted, p256, pem, root
from tests.whole.device import Stranger, ed25519_key
from tests.whole.house import House, open_house

pytestmark = pytest.mark.real

WHY = ("--reason", "a test", "--by", "me")
TABLES = ("device", "device_key", "device_state", "vehicle", "vehicle_transfer", "tenant", "tenant_ca", "audit")
EVERYTHING = " union all ".join(f"select '{table}', to_jsonb(t)::text from store.{table} t" for table in TABLES)  # noqa: S608


@pytest.fixture(scope="module")
def house(servers: embedded.Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(servers, tmp_path_factory.mktemp("lifecycle"), partitions=1) as house:
        house.run("tenants", "add", "strangers")
        house.run("tenants", "add", "others")
        yield house


@pytest.fixture
def device(house: House) -> Stranger:
    """A device with ten numbers accepted."""
    device = Stranger(f"unit-{secrets.token_hex(6)}", ed25519_key())
    enrol(house, device)
    house.query(
        "update store.device_state set highest = 10, accepted = 10 where device_no = $1", number_of(house, device)
    )
    return device


def number_of(house: House, device: Stranger) -> int:
    ((number,),) = house.query("select device_no from store.device where device_id = $1", device.name)
    return int(number)


def written(house: House, content: object, name: str = "json") -> str:
    """Write a file, and return its path."""
    path = house.folder / f"{secrets.token_hex(4)}.{name}"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def enrol(house: House, device: Stranger) -> str:
    asked = written(house, device.request())
    return house.run("devices", "enrol", "--request", asked, "--tenant", "strangers", *WHY).stdout


def newer(device: Stranger, **changed: Any) -> Stranger:  # noqa: ANN401 (any field)
    return replace(device, **{"key": ed25519_key(), "key_name": "new", **changed})


def unit_in(device: Stranger) -> Stranger:
    """Another unit for the vehicle of this one."""
    vehicle = str(device.registration()["vehicle_id"])
    return Stranger(f"next-{device.name}", ed25519_key(), vehicle=vehicle)


def refused(house: House, *act: str) -> str:
    """Ask for an act that is refused, and changes nothing at all; returns what was said."""
    before = everything(house)
    said = house.run(*act, *WHY, status=1).stderr
    assert everything(house) == before
    return said


def everything(house: House) -> set[tuple[str, str]]:
    return {(row[0], row[1]) for row in house.query(EVERYTHING)}


def key_states(house: House, device: Stranger) -> dict[str, tuple[object, ...]]:
    query = "select kid, state, seq_cutoff, epoch_from, epoch_until from weighbridge.key where device_id = $1"
    rows = house.query(query, device.name)
    return {bytes.fromhex(row[0]).decode().partition(" ")[0]: tuple(row)[1:] for row in rows}


def last_act(house: House) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(house.run("audit", "list", "--json").stdout.splitlines()[-1])
    return found


def test_a_rotation_retires_the_active_keys_and_says_who_decided_it_and_why(house: House, device: Stranger) -> None:
    asked = written(house, newer(device).request(last_seq=20))
    house.run("devices", "rotate", device.name, "--request", asked, "--reason", "yearly", "--by", "Ada")
    assert key_states(house, device) == {"kid": ("retired", 20, 1, None), "new": ("active", None, 1, None)}
    act = last_act(house)
    assert [act[name] for name in ("act", "subject", "actor", "reason")] == ["rotate", device.name, "Ada", "yearly"]
    before, after = (act[when]["devices"][device.name] for when in ("before", "after"))
    assert {key["state"] for key in before["keys"].values()} == {"active"}
    assert sorted(key["state"] for key in after["keys"].values()) == ["active", "retired"]
    assert after["key_version"] == before["key_version"] + 1


def test_a_person_may_say_the_cut_off_instead_of_the_device(house: House, device: Stranger) -> None:
    asked = written(house, newer(device).request(last_seq=20))
    house.run("devices", "rotate", device.name, "--request", asked, "--cutoff", "15", *WHY)
    assert key_states(house, device)["kid"] == ("retired", 15, 1, None)


def test_a_cut_off_is_a_number_of_the_epoch_in_which_its_key_was_retired(house: House, device: Stranger) -> None:
    house.enrol([device.registration(epoch=4)])
    house.run("devices", "rotate", device.name, "--request", written(house, newer(device, epoch=4).request(7)), *WHY)
    assert cutoff_of(house, device) == (4, 7)
    house.enrol([newer(device, key_name="third", epoch=9).registration()])
    assert cutoff_of(house, device) == (4, 7)


def cutoff_of(house: House, device: Stranger) -> tuple[object, ...]:
    query = "select cutoff_epoch, seq_cutoff from weighbridge.key where device_id = $1 and state = 'retired'"
    (row,) = house.query(query, device.name)
    return tuple(row)


def test_a_key_is_known_before_it_is_in_force(house: House, device: Stranger) -> None:
    lines = [newer(device).registration(), unit_in(device).registration()]
    assert "1 new devices, 2 new keys" in imported(house, *lines)
    assert "0 new devices, 0 new keys" in imported(house, *lines)
    assert key_states(house, device) == {"kid": ("active", None, 1, None), "new": ("pending", None, 1, None)}
    activate = ("devices", "activate", device.name)
    before = version_of(house, device)
    assert "is active" in house.run(*activate, newer(device).kid.hex(), *WHY).stdout
    assert version_of(house, device) == before + 1
    act = last_act(house)
    states = [
        act[when]["devices"][device.name]["keys"][newer(device).kid.hex()]["state"] for when in ("before", "after")
    ]
    assert (act["act"], act["reason"], states) == ("activate", "a test", ["pending", "active"])
    assert "only a pending key" in refused(house, *activate, newer(device).kid.hex())
    assert "has no key 00" in refused(house, *activate, "00")
    assert "no device nobody" in refused(house, "devices", "activate", "nobody", "00")
    house.run(*activate, "x", *WHY, status=2)


@pytest.mark.parametrize("how", ["imported", "asked for", "rotated to"])
def test_a_pending_key_comes_into_force_when_somebody_answers_for_it(house: House, device: Stranger, how: str) -> None:
    second = newer(device)
    imported(house, second.registration())
    before = version_of(house, device)
    if how == "imported":
        assert "0 new keys, 0 epochs raised, 1 keys activated" in house.enrol([second.registration()]).stdout
    elif how == "asked for":
        assert "1 keys activated" in enrol(house, second)
    else:
        house.run("devices", "rotate", device.name, "--request", written(house, second.request(20)), *WHY)
    first = ("retired", 20, 1, None) if how == "rotated to" else ("active", None, 1, None)
    assert key_states(house, device) == {"kid": first, "new": ("active", None, 1, None)}
    assert version_of(house, device) == before + 1
    assert "0 new keys, 0 epochs raised\n" in imported(house, second.registration())
    assert key_states(house, device)["new"][0] == "active"


def test_a_pending_key_neither_raises_an_epoch_nor_outlives_one_nor_brings_a_unit_back(
    house: House, device: Stranger
) -> None:
    second = newer(device)
    said = imported(house, second.registration(epoch=2), status=1)
    assert "a pending key cannot raise it to 2" in said
    imported(house, second.registration())
    house.enrol([device.registration(epoch=2)])
    activate = ("devices", "activate", device.name, second.kid.hex())
    assert "is of a closed epoch" in refused(house, *activate)
    third = newer(device, key_name="third", epoch=2)
    imported(house, third.registration())
    house.run("devices", "replace", device.name, "--request", written(house, unit_in(device).request()), *WHY)
    assert "was replaced by" in refused(house, "devices", "activate", device.name, third.kid.hex())
    assert "was replaced by" in house.enrol([third.registration()], status=1).stderr
    assert key_states(house, device)["third"][0] == "pending"


def imported(house: House, *lines: dict[str, object], status: int = 0) -> str:
    """Import keys as pending; returns what was said."""
    path = written(house, "\n".join(map(json.dumps, lines)))
    return house.run("devices", "import", "--pending", path, *WHY, status=status).output


def version_of(house: House, device: Stranger) -> int:
    ((version,),) = house.query("select key_version from weighbridge.device where device_id = $1", device.name)
    return int(version)


def test_a_rotation_that_makes_no_sense_is_refused(house: House, device: Stranger) -> None:
    rotate = ("devices", "rotate", device.name, "--request")
    other = newer(device, name=f"other-{device.name}")
    good = written(house, newer(device).request())
    assert "is for device other-" in refused(house, *rotate, written(house, other.request()))
    assert "is for vehicle elsewhere" in refused(
        house, *rotate, written(house, newer(device, vehicle="elsewhere").request())
    )
    assert "is for epoch 2" in refused(house, *rotate, written(house, newer(device, epoch=2).request()))
    assert "does not hold" in refused(house, *rotate, written(house, {**newer(device).request(), "last_seq": 99}))
    assert "10 was accepted" in refused(house, *rotate, good, "--cutoff", "9")
    assert "number 9 cannot have been the last" in refused(house, *rotate, written(house, newer(device).request(9)))
    assert "say a lower one" in refused(house, *rotate, good, "--cutoff", str(2**62))
    assert "a new key needs a new kid" in refused(
        house, *rotate, written(house, newer(device, key_name="kid").request())
    )
    assert "make a new pair" in refused(house, *rotate, written(house, newer(device, key=device.key).request()))
    assert "no device nobody" in refused(house, "devices", "rotate", "nobody", "--request", good)
    assert "no request" in refused(house, *rotate, written(house, "{"))


def test_a_key_of_another_device_is_not_taken(house: House, device: Stranger) -> None:
    other = Stranger(f"other-{device.name}", ed25519_key())
    enrol(house, other)
    asked = written(house, newer(device, key=other.key).request())
    assert f"of device {other.name}" in refused(house, "devices", "rotate", device.name, "--request", asked)


def test_a_revocation_that_makes_no_sense_is_refused(house: House, device: Stranger) -> None:
    revoke = ("devices", "revoke", device.name)
    assert "has no key 00; it has 6b" in refused(house, *revoke, "--kid", "00")
    assert "in the future" in refused(house, *revoke, "--compromised-since", "2100-01-01T00:00:00Z")
    assert "no device nobody" in refused(house, "devices", "revoke", "nobody")
    house.run(*revoke, *WHY)
    assert "every key" in refused(house, *revoke)
    assert "is revoked already" in refused(house, *revoke, "--kid", device.kid.hex())
    house.run(*revoke, "--compromised-since", "2026-01-02T00:00:00Z", *WHY)  # as was found out later
    house.run(*revoke, "--compromised-since", "2026-01-01T00:00:00Z", *WHY)
    assert "every key" in refused(house, *revoke, "--compromised-since", "2026-01-03T00:00:00Z")
    for wrong in (("--compromised-since", "yesterday"), ("--compromised-since", "2026-11-22T16:20:00"), ("--kid", "x")):
        house.run(*revoke, *wrong, *WHY, status=2)


def test_every_act_has_a_reason_that_can_be_read(house: House, device: Stranger) -> None:
    revoke = ("devices", "revoke", device.name)
    for reason in ((), ("--reason", ""), ("--reason", " "), ("--reason", "two\nlines"), ("--reason", "x" * 501)):
        house.run(*revoke, *reason, status=2)
    house.run(*revoke, "--reason", "stolen", "--by", "\x1b[2J", status=2)
    assert key_states(house, device)["kid"][0] == "active"


def test_a_revoked_key_does_not_come_back_under_another_name(house: House, device: Stranger) -> None:
    house.run("devices", "revoke", device.name, *WHY)
    before = everything(house)
    thief = Stranger(f"thief-of-{device.name}", device.key)
    for line in (device.registration(kid="aa"), thief.registration(), device.registration(epoch=2)):
        said = house.enrol([line], status=1).stderr
        assert "was revoked as key" in said or "is revoked; a new epoch needs a new key" in said
    assert everything(house) == before
    assert "0 new keys" in house.enrol([device.registration()]).stdout
    assert key_states(house, device)["kid"][0] == "revoked"


def test_a_replacement_keeps_the_vehicle_and_retires_the_old_unit(house: House, device: Stranger) -> None:
    unit = unit_in(device)
    house.run("devices", "replace", device.name, "--request", written(house, unit.request()), "--late", "5", *WHY)
    assert key_states(house, device) == {"kid": ("retired", 15, 1, None)}
    assert key_states(house, unit) == {"kid": ("active", None, 1, None)}
    devices = last_act(house)["after"]["devices"]
    assert devices[device.name]["replaced_by"] == unit.name
    again = replace(unit_in(device), name=f"third-{device.name}")
    asked = written(house, again.request())
    assert "was replaced by" in refused(house, "devices", "replace", device.name, "--request", asked)
    assert "was replaced by" in refused(
        house, "devices", "rotate", device.name, "--request", written(house, newer(device).request())
    )
    assert "was replaced by" in house.enrol([newer(device, epoch=2).registration()], status=1).stderr


def test_a_replacement_that_makes_no_sense_is_refused(house: House, device: Stranger) -> None:
    act = ("devices", "replace", device.name, "--request")
    elsewhere = Stranger(f"next-{device.name}", ed25519_key(), vehicle="elsewhere")
    assert "is for vehicle elsewhere" in refused(house, *act, written(house, elsewhere.request()))
    assert "is enrolled already" in refused(house, *act, written(house, newer(device).request()))
    assert "make a new pair" in refused(house, *act, written(house, replace(unit_in(device), key=device.key).request()))


def test_what_is_decommissioned_stays_so_until_it_gets_a_higher_epoch(house: House, device: Stranger) -> None:
    act = ("devices", "decommission", device.name)
    assert "is revoked" in house.run(*act, *WHY).stdout
    assert "is decommissioned already" in refused(house, *act)
    assert "is decommissioned" in refused(
        house, "devices", "rotate", device.name, "--request", written(house, newer(device).request())
    )
    assert "higher epoch" in house.enrol([newer(device).registration()], status=1).stderr
    assert "0 new keys" in house.enrol([device.registration()]).stdout
    assert "1 epochs raised" in house.enrol([newer(device, epoch=2).registration()]).stdout
    assert key_states(house, device) == {"kid": ("revoked", None, 1, 2), "new": ("active", None, 2, None)}
    house.run(*act, *WHY)


def test_keys_end_with_their_epoch_unless_it_names_them_again(house: House, device: Stranger) -> None:
    house.enrol([newer(device).registration()])
    house.enrol([device.registration(epoch=2), newer(device, key_name="third").registration(epoch=2)])
    assert key_states(house, device) == {
        "kid": ("active", None, 1, None), "new": ("active", None, 1, 2), "third": ("active", None, 2, None),
    }  # fmt: skip
    ended = newer(device)
    assert "of a closed epoch" in house.enrol([replace(ended, key=device.key).registration(epoch=3)], status=1).stderr


def test_a_transfer_that_makes_no_sense_is_refused(house: House, device: Stranger) -> None:
    vehicle = str(device.registration()["vehicle_id"])
    act = ("devices", "transfer", vehicle, "--to")
    assert "belongs to strangers already" in refused(house, *act, "strangers")
    assert "no tenant 'nobody'" in refused(house, *act, "nobody")
    assert "no vehicle nothing" in refused(house, "devices", "transfer", "nothing", "--to", "others")
    assert "in the future" in refused(house, *act, "others", "--at", "2100-01-01T00:00:00Z")
    house.run(*act, "others", "--at", "2026-01-01T00:00:00+01:00", *WHY)
    assert last_act(house)["after"]["at_us"] == 1_767_222_000_000_000
    assert "in their order" in refused(house, *act, "strangers", "--at", "2025-12-31T23:00:00Z")
    assert "belongs to tenant others, not strangers" in house.enrol([device.registration()], status=1).stderr


def test_a_device_gets_in_by_a_certificate_under_an_authority_of_its_tenant(house: House) -> None:
    authority, key, name = root(), p256(), f"unit-{secrets.token_hex(6)}"
    between = authority.subordinate("factory")
    leaf, chain = written(house, pem(between.certify(key, Wanted((name,))))), written(house, between.pem)
    placed = ("--vehicle", f"vehicle of {name}", "--epoch", "1")
    certified = ("devices", "enrol", "--certificate", leaf, "--chain", chain, *placed, "--tenant")
    assert "trusts no authority" in refused(house, *certified, "strangers")
    fingerprint = house.run("tenants", "trust", "strangers", written(house, authority.pem), *WHY).stdout.strip()
    assert "trusts no authority" in refused(house, *certified, "others")
    assert "1 new devices, 1 new keys" in house.run(*certified, "strangers").stdout
    assert "0 new devices, 0 new keys" in house.run(*certified, "strangers").stdout
    ((until,),) = house.query("select valid_until from weighbridge.key where device_id = $1", name)
    longer = between.certify(key, Wanted((name,), until=until))
    renewed = ("--certificate", written(house, pem(longer)))
    assert "1 keys renewed" in house.run(*certified, "strangers", *renewed).stdout
    listed = {row["tenant"]: row for row in map(json.loads, house.run("tenants", "list", "--json").stdout.splitlines())}
    assert listed["strangers"]["authorities"] == [fingerprint]
    assert "trusts" in refused(house, "tenants", "trust", "strangers", written(house, authority.pem))
    house.run("tenants", "distrust", "strangers", fingerprint, *WHY)
    assert "trusts no authority" in refused(house, *certified, "strangers")
    assert "trusts no authority" in refused(house, "tenants", "distrust", "strangers", fingerprint)


def test_enrolment_is_by_a_request_or_a_certificate_and_says_what_it_needs(house: House, device: Stranger) -> None:
    asked, any_file = written(house, newer(device).request()), written(house, "x")
    enrolling = ("devices", "enrol", "--tenant", "strangers")
    for wrong in (
        (), ("--request", asked, "--certificate", any_file, "--vehicle", "v", "--epoch", "1"),
        ("--certificate", any_file), ("--request", asked, "--epoch", "1"),
    ):  # fmt: skip
        house.run(*enrolling, *wrong, status=2)
    assert "no tenant 'nobody'" in refused(house, "devices", "enrol", "--tenant", "nobody", "--request", asked)
    nothing = ("--certificate", any_file, "--vehicle", "v", "--epoch", "1")
    assert "no certificate" in refused(house, *enrolling, *nothing)
    assert "there is a tenant others already" in refused(house, "tenants", "add", "others")
    assert "printable" in refused(house, "tenants", "add", "\n")
    ed = root(key=ed25519.Ed25519PrivateKey.generate())
    assert "ECDSA or RSA" in refused(house, "tenants", "trust", "others", written(house, ed.pem))
