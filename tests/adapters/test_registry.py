"""Devices are enrolled, all of a file or none, and what the registry says is what the worker does: by the commands."""

import json
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from deploy import embedded
from tests.whole.device import Stranger, ed25519_key, encode, p256_key, state
from tests.whole.house import House, open_house

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def house(servers: embedded.Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(servers, tmp_path_factory.mktemp("registry"), partitions=1) as house, house.worker():
        yield house


@pytest.fixture(scope="module")
def bare(servers: embedded.Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A database that nothing was prepared in."""
    with open_house(servers, tmp_path_factory.mktemp("bare"), partitions=0) as house:
        yield house


@pytest.fixture
def device() -> Stranger:
    return stranger()


def stranger(**changed: object) -> Stranger:
    return Stranger(f"device-{secrets.token_hex(6)}", ed25519_key(), **changed)  # type: ignore[arg-type]


def ids(house: House, *options: str) -> set[str]:
    listed = house.run("devices", "list", "--json", *options).stdout.splitlines()
    return {json.loads(line)["device_id"] for line in listed}


def public_pem(key: ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_a_file_is_imported_once_however_often(house: House) -> None:
    devices = [stranger(), Stranger(f"device-{secrets.token_hex(6)}", p256_key())]
    lines = [device.registration() for device in devices]
    assert house.enrol(lines).stdout == "2 lines: 2 new devices, 2 new keys, 0 epochs raised\n"
    shown = [house.run("devices", "show", device.name).stdout for device in devices]
    assert house.enrol(lines).stdout == "2 lines: 0 new devices, 0 new keys, 0 epochs raised\n"
    assert [house.run("devices", "show", device.name).stdout for device in devices] == shown


def test_all_problems_are_said_at_once_by_line_and_nothing_is_imported(house: House, device: Stranger) -> None:
    low_order = public_pem(ed25519.Ed25519PublicKey.from_public_bytes(bytes(32)))
    foreign = public_pem(rsa.generate_private_key(65_537, 2_048).public_key())
    private = device.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    wrong: list[tuple[dict[str, object], str]] = [
        ({"public_key": low_order}, "prime-order"),
        ({"public_key": foreign}, "RSA"),
        ({"public_key": private}, "private key"),
        ({"alg": "ES256"}, "an Ed25519 key"),
        ({"alg": "none"}, "alg"),
        ({"serial": 1}, "serial"),
        ({"device_id": "two words"}, "device_id"),
        ({"device_id": "ü"}, "device_id"),
        ({"vehicle_id": ""}, "vehicle_id"),
        ({"tenant": "a\nb"}, "tenant"),
        ({"epoch": 2**32}, "epoch"),
        ({"epoch": True}, "epoch"),
        ({"kid": "zz"}, "kid"),
        ({"kid": "00" * 33}, "kid"),
    ]
    before = ids(house)
    lines = [device.registration(), *(device.registration(**changed) for changed, _ in wrong)]
    said = house.enrol(lines, status=1).stderr
    assert "nothing was imported" in said
    for line_no, (_, word) in enumerate(wrong, 2):
        (line,) = [one for one in said.splitlines() if f"line {line_no}:" in one]
        assert word in line
    assert "BEGIN" not in said
    assert ids(house) == before


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"{", b"[]\n", b"\0\n", "{}".encode("utf-16")],
    ids=["bytes", "half", "list", "NUL", "UTF-16"],
)
def test_a_file_that_is_none_of_ours_is_refused_in_a_line(house: House, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "devices.jsonl"
    path.write_bytes(content)
    assert "nothing was imported" in house.run("devices", "import", path, status=1).stderr


def test_a_key_has_its_kid_for_good(house: House, device: Stranger) -> None:
    house.enrol([device.registration()])
    other, third = Stranger(device.name, ed25519_key()), stranger()
    said = house.enrol([third.registration(), other.registration()], status=1).stderr
    assert "a new key needs a new kid" in said
    assert third.name not in ids(house)
    assert "1 new keys" in house.enrol([other.registration(kid="aa")]).stdout
    keys = json.loads(house.run("devices", "show", device.name).stdout)["keys"]
    assert [key["kid"] for key in keys] == [device.kid.hex(), "aa"]


def test_what_a_file_says_twice_and_differently_is_refused(house: House, device: Stranger) -> None:
    for changed in ({"epoch": 2}, {"vehicle_id": "other"}, {"tenant": "other"}, {"public_key": pem_of(stranger())}):
        said = house.enrol([device.registration(), device.registration(**changed)], status=1).stderr
        assert "several" in said
    assert device.name not in ids(house)


def pem_of(device: Stranger) -> object:
    return device.registration()["public_key"]


def test_a_device_is_not_moved_by_an_import(house: House, device: Stranger) -> None:
    house.enrol([device.registration(epoch=2)])
    assert "not an import" in house.enrol([device.registration(epoch=2, vehicle_id="other")], status=1).stderr
    assert "belongs to tenant" in house.enrol([device.registration(epoch=2, tenant="other")], status=1).stderr
    assert "take it back" in house.enrol([device.registration(epoch=1)], status=1).stderr


def test_a_higher_epoch_closes_the_one_before_but_for_its_gaps(house: House, device: Stranger) -> None:
    house.enrol([device.registration()])
    first, gap = device.say(1), device.say(3)
    assert house.weigh(first, device.say(2), device.say(5)) == [("accepted", "")] * 3
    successor = Stranger(device.name, ed25519_key(), epoch=2, key_name="new")
    assert house.enrol([successor.registration()]).stdout == "1 lines: 0 new devices, 1 new keys, 1 epochs raised\n"
    assert house.weigh(
        gap, device.say(6), first, gap, device.say(2, encode(state(speed=1.0))),
        device.say(1, m70001=2), successor.say(1), successor.say(1, m70001=3), device.say(4),
    ) == [
        ("accepted", ""), ("refused", "epoch_closed"), ("duplicate", ""), ("duplicate", ""), ("held", "equivocation"),
        ("refused", "key_not_valid"), ("accepted", ""), ("held", "epoch_unknown"), ("accepted", ""),
    ]  # fmt: skip
    shown = json.loads(house.run("devices", "show", device.name).stdout)
    assert (shown["epoch"], shown["accepted"], shown["highest"], shown["held"]) == (2, 1, 1, 2)


def test_two_devices_may_give_their_keys_the_same_name(house: House) -> None:
    """A kid names a key of the device that the message names: no other's is looked at."""
    one, two = stranger(), stranger()
    said = house.enrol([one.registration(kid="0102"), two.registration(kid="0102")])
    assert "warning" not in said.stderr
    values = [device.seal(header_with_kid(device, b"\1\2"), encode(state())) for device in (one, two)]
    crossed = Stranger(one.name, two.key).seal(header_with_kid(one, b"\1\2"), encode(state()))
    assert house.weigh(*values, crossed) == [("accepted", "")] * 2 + [("refused", "bad_signature")]


def header_with_kid(device: Stranger, kid: bytes) -> bytes:
    return cbor2.dumps(device.header(device.claims(1), n4=kid))


def test_a_key_that_several_devices_share_is_warned_about(house: House, device: Stranger) -> None:
    twin = Stranger(f"twin-of-{device.name}", device.key)
    assert "warning: 1 public keys belong to several devices" in house.enrol(
        [device.registration(), twin.registration()]
    ).stderr  # fmt: skip


def test_devices_are_listed_by_tenant_and_shown_with_their_gaps(house: House, device: Stranger) -> None:
    tenant = f"tenant of {device.name}"
    house.enrol([device.registration(tenant=tenant)])
    assert house.weigh(device.say(2), device.say(5)) == [("accepted", "")] * 2
    assert ids(house, "--tenant", tenant) == {device.name}
    assert device.name in house.run("devices", "list").stdout
    shown = json.loads(house.run("devices", "show", device.name).stdout)
    assert (shown["standing"], shown["missing"], shown["tenant"]) == ("trusted", 2, tenant)
    assert shown["gaps"] == [{"from_seq": 3, "to_seq": 5, "gaps_exact": True}]
    assert "no device nobody is enrolled" in house.run("devices", "show", "nobody", status=1).stderr


@pytest.mark.parametrize(
    "command",
    [
        "devices list",
        "devices show x",
        "devices import x",
        "devices revoke x --reason x",
        "tenants list",
        "audit verify",
        "check --truth truth --json",
    ],
)
def test_before_prepare_a_command_says_what_to_do(bare: House, command: str) -> None:
    line = {"topic": "t", "partition": 0, "offset": 0, "verdict": "accepted", "reason": "", "group": None,
            "fault": "", "device_id": "x"}  # fmt: skip
    (bare.folder / "truth").write_text(json.dumps(line))
    (bare.folder / "x").write_text(json.dumps(stranger().registration()))
    assert "weighbridge prepare" in bare.refuse(*command.split())


def test_two_who_prepare_at_once_prepare_once(bare: House) -> None:
    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(lambda _: bare.attempt("prepare", "--partitions", "2"), range(2)))
    assert [one.returncode for one in done] == [0, 0]
    assert sorted("migrations: up to date" in one.stderr for one in done) == [False, True]
    made = [line for one in done for line in one.stderr.splitlines() if ": made," in line]
    assert len(made) == len(set(made)) == 2, "each of the topics was made by one of the two"


def test_a_truth_that_was_tampered_with_is_found_out(house: House) -> None:
    before = house.consumed()
    truth = house.send_fleet(run=9, count=300)
    house.wait_consumed(before + 300)
    house.check(truth)
    lines = truth.read_text().splitlines()
    place = next(at for at, line in enumerate(lines) if '"accepted"' in line)
    wrong = {**json.loads(lines[place]), "verdict": "refused", "reason": "bad_signature"}
    missing = {**json.loads(lines[-1]), "offset": 10**6}
    truth.write_text("\n".join([*lines[:place], json.dumps(wrong), *lines[place + 1 :], json.dumps(missing)]) + "\n")
    done = house.run("check", "--truth", truth, "--json", status=1)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["unaccounted"], found["wrong_verdicts"]) == (1, 1)
    assert f"{house.topic}/0/{wrong['offset']}" in done.stderr.replace("\n", "")
