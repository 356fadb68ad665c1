"""The contract seen from outside: envelopes by somebody who has read schemas/envelope.md and none of our code."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import cbor2
import msgspec
import pytest

from deploy import embedded
from ingest.core.verdict import Hold, Refusal
from tests.whole.device import PAYLOAD, Map, Stranger, ed25519_key, encode, mirrored, p256_key, state, tagged
from tests.whole.house import House, Record, open_house

pytestmark = pytest.mark.real

DAY_S = 86_400
ACCEPTED, DUPLICATE = ("accepted", ""), ("duplicate", "")
NOT_PROVOKED = {Refusal.POISON, Refusal.LAPSED, Hold.RATE_LIMITED}  # no message of one device's brings them about
CHARS = "vehicle:A-Z_a.z"


class Case(msgspec.Struct, frozen=True):
    """What one device says, in order, and the verdicts that this deserves."""

    name: str
    say: Callable[[Stranger], list[bytes | None]]
    deserved: list[tuple[str, str]]
    p256: bool = False
    sql: str = ""  # what an operator does to the device before it speaks
    epoch: int | None = None  # what the registry raises its epoch to before it speaks


def header(device: Stranger, **changed: object) -> bytes:
    return cbor2.dumps(device.header(device.claims(1), **changed))


def unsigned(device: Stranger, **changed: object) -> bytes:
    """An envelope some of whose parts were changed after it was signed."""
    protected = header(device)
    parts: Map = {"protected": protected, "unprotected": {}, "payload": PAYLOAD}
    return tagged(*{**parts, "signature": device.sign(protected, PAYLOAD), **changed}.values())


def raw_header(device: Stranger, change: Callable[[bytes], bytes]) -> bytes:
    """An envelope whose protected header is no plain map; signed over the bytes as they are."""
    protected = change(header(device))
    return device.seal(protected, PAYLOAD)


def stranger(device: Stranger, name: str = "") -> Stranger:
    """Somebody with another key who uses the device's name, or another name."""
    return Stranger(name or device.name, ed25519_key() if device.alg == -8 else p256_key(), device.epoch)


def refused(reason: Refusal) -> list[tuple[str, str]]:
    return [("refused", reason)]


def held(reason: Hold) -> list[tuple[str, str]]:
    return [("held", reason)]


def malformed(name: str, say: Callable[[Stranger], bytes | None]) -> Case:
    return Case(f"malformed: {name}", lambda device: [say(device)], refused(Refusal.MALFORMED))


KEY = "update store.device_key set {} where device_no = $1"
NEW_BOOT = {"m70003": b"new boot"}

CASES = [
    Case("Ed25519", lambda d: [d.say(1), d.say(2)], [ACCEPTED] * 2),
    Case("P-256", lambda d: [d.say(1), d.say(2)], [ACCEPTED] * 2, p256=True),
    Case("Ed25519 by its own number", lambda d: [d.seal(header(d, n1=-19), PAYLOAD)], [ACCEPTED]),
    Case("P-256 by its own number", lambda d: [d.seal(header(d, n1=-9), PAYLOAD)], [ACCEPTED], p256=True),
    Case("gaps, late numbers, the whole time in integers",
         lambda d: [d.say(9, n6=int(time.time())), d.say(3), d.say(2**24 + 9)], [ACCEPTED] * 3),
    Case("the first number may be high", lambda d: [d.say(2**24)], [ACCEPTED]),
    Case("exp later than any calendar", lambda d: [d.say(1, n4=1.7e308), d.say(2, n4=2**64 - 1)], [ACCEPTED] * 2),
    Case("a clock that is a little wrong, data that is late",
         lambda d: [d.say(1, n6=time.time() + 3_600), d.say(2, n6=time.time() - 29 * DAY_S)], [ACCEPTED] * 2),
    Case("a sample of another kind, and several",
         lambda d: [d.say(1, encode(state(), state(latitude=-90.0, longitude=180.0)))], [ACCEPTED]),
    Case("schema 1.1", lambda d: [d.say(1, encode(state(humidity=45.0), version="1.1"))], [ACCEPTED]),
    Case("a device id of every kind of character, a software version of 64",
         lambda d: [d.say(1, m70004="~" * 64)], [ACCEPTED]),
    Case("sent again", lambda d: [one := d.say(1), one, d.say(2), one], [ACCEPTED, DUPLICATE, ACCEPTED, DUPLICATE]),
    Case("sent again, signed again", lambda d: [one := d.say(1), mirrored(one), one],
         [ACCEPTED, DUPLICATE, DUPLICATE], p256=True),
    Case("high s first", lambda d: [mirrored(one := d.say(1)), one], [ACCEPTED, DUPLICATE], p256=True),
    Case("held, and sent again", lambda d: [one := d.say(2**30), one, d.say(1)],
         [*held(Hold.SEQ_JUMP), DUPLICATE, ACCEPTED]),

    Case("oversize", lambda d: [b"\xd2" + bytes(65_536), d.say(1)], [*refused(Refusal.OVERSIZE), ACCEPTED]),
    malformed("nothing", lambda _: b""),
    malformed("a tombstone", lambda _: None),
    malformed("text", lambda _: b"hello"),
    malformed("untagged", lambda d: d.say(1)[1:]),
    malformed("another tag", lambda d: b"\xd1" + d.say(1)[1:]),
    malformed("a tag more", lambda d: b"\xd8\x3d" + d.say(1)),
    malformed("a byte more", lambda d: d.say(1) + b"\0"),
    malformed("a byte less", lambda d: d.say(1)[:-1]),
    malformed("an array without an end", lambda d: b"\xd2\x9f" + d.say(1)[2:] + b"\xff"),
    malformed("an array with a long head", lambda d: b"\xd2\x98\x04" + d.say(1)[2:]),
    malformed("kid outside what is signed", lambda d: unsigned(d, unprotected={4: d.kid})),
    malformed("no payload", lambda d: unsigned(d, payload=None)),
    malformed("no signature", lambda d: unsigned(d, signature=None)),
    malformed("a signature in DER", lambda d: unsigned(d, signature=b"\x30\x44\x02\x20" + bytes(66))),
    malformed("five parts", lambda d: unsigned(d, fifth=b"")),
    malformed("a header that is a map", lambda d: tagged(d.header(d.claims(1)), {}, PAYLOAD, bytes(64))),
    malformed("an empty header", lambda d: raw_header(d, lambda _: b"")),
    malformed("an unknown label", lambda d: d.seal(header(d, n16="x"), PAYLOAD)),
    malformed("crit", lambda d: d.seal(header(d, n2=[15]), PAYLOAD)),
    malformed("a label twice", lambda d: raw_header(d, lambda h: b"\xa4\x01\x27" + h[1:])),
    malformed("true for 1", lambda d: raw_header(d, lambda h: b"\xa4\xf5\x27" + h[1:])),
    malformed("1 in two bytes", lambda d: raw_header(d, lambda h: h[:1] + b"\x18\x01" + h[2:])),
    malformed("a byte after the header's map", lambda d: raw_header(d, lambda h: h + b"\0")),
    malformed("alg as text", lambda d: d.seal(header(d, n1="EdDSA"), PAYLOAD)),
    malformed("kid of 33 bytes", lambda d: d.seal(header(d, n4=bytes(33)), PAYLOAD)),
    malformed("an empty kid", lambda d: d.seal(header(d, n4=b""), PAYLOAD)),
    malformed("kid as text", lambda d: d.seal(header(d, n4=d.kid.decode()), PAYLOAD)),
    malformed("an unknown claim", lambda d: d.say(1, n7=b"id")),
    malformed("no boot", lambda d: d.seal(cbor2.dumps(d.header({k: v for k, v in d.claims(1).items() if k != -70003})),
                                          PAYLOAD)),
    malformed("a name with a space", lambda d: d.say(1, n2="a b")),
    malformed("a name of 65", lambda d: d.say(1, n2="a" * 65)),
    malformed("a name with an umlaut", lambda d: d.say(1, n2="ü")),
    malformed("iat that is no number", lambda d: d.say(1, n6=float("nan"))),
    malformed("iat as text", lambda d: d.say(1, n6="now")),
    malformed("exp without end", lambda d: d.say(1, n4=float("inf"))),
    malformed("number 0", lambda d: d.say(0)),
    malformed("a number below 0", lambda d: d.say(-1)),
    malformed("number 2^63-1", lambda d: d.say(2**63 - 1)),
    malformed("a number beyond 64 bits", lambda d: d.say(2**64)),
    malformed("epoch 2^32", lambda d: d.say(1, m70001=2**32)),
    malformed("boot of 7 bytes", lambda d: d.say(1, m70003=bytes(7))),
    malformed("a line break in the software version", lambda d: d.say(1, m70004="1\n")),
    malformed("an empty software version", lambda d: d.say(1, m70004="")),
    malformed("half a digest", lambda d: d.say(1, m70005=bytes(16))),
    Case("nobody", lambda d: [stranger(d, "nobody").say(1)], refused(Refusal.UNKNOWN_DEVICE)),
    Case("a kid that is nobody's", lambda d: [d.seal(header(d, n4=b"?"), PAYLOAD)], refused(Refusal.UNKNOWN_KEY)),
    Case("another's kid", lambda d: [d.seal(header(d, n4=b"kid Ed25519"), PAYLOAD)], refused(Refusal.WRONG_DEVICE)),
    Case("another algorithm", lambda d: [d.seal(header(d, n1=-7), PAYLOAD)], refused(Refusal.ALGORITHM_MISMATCH)),
    Case("no algorithm of ours", lambda d: [d.seal(header(d, n1=5), PAYLOAD)], refused(Refusal.ALGORITHM_MISMATCH)),
    Case("forged", lambda d: [stranger(d).say(1), stranger(d).say(2**62), d.say(1)],
         [*refused(Refusal.BAD_SIGNATURE) * 2, ACCEPTED]),
    Case("forged, P-256", lambda d: [stranger(d).say(1), d.say(1)], [*refused(Refusal.BAD_SIGNATURE), ACCEPTED],
         p256=True),
    Case("signed for another purpose", lambda d: [d.seal(header(d), PAYLOAD, b"weighbridge/telemetry/v2")],
         refused(Refusal.BAD_SIGNATURE)),
    Case("signed for no purpose", lambda d: [d.seal(header(d), PAYLOAD, b"")], refused(Refusal.BAD_SIGNATURE)),
    Case("another payload under the signature", lambda d: [unsigned(d, payload=PAYLOAD[:-1] + b"\xff")],
         refused(Refusal.BAD_SIGNATURE)),
    Case("a signature of zeros", lambda d: [unsigned(d, signature=bytes(64))], refused(Refusal.BAD_SIGNATURE)),
    Case("a signature of zeros, P-256", lambda d: [unsigned(d, signature=bytes(64))], refused(Refusal.BAD_SIGNATURE),
         p256=True),
    Case("a revoked key", lambda d: [d.say(1)], refused(Refusal.KEY_REVOKED),
         sql=KEY.format("state = 'revoked', revoked_at = now(), revoked_why = 'stolen'")),
    Case("a pending key", lambda d: [d.say(1)], refused(Refusal.KEY_NOT_VALID), sql=KEY.format("state = 'pending'")),
    Case("a key of yesterday", lambda d: [d.say(1)], refused(Refusal.KEY_NOT_VALID),
         sql=KEY.format("valid_until = now() - interval '1 day'")),
    Case("a key of tomorrow", lambda d: [d.say(1)], refused(Refusal.KEY_NOT_VALID),
         sql=KEY.format("valid_from = now() + interval '1 day'")),
    Case("expired", lambda d: [d.say(1, n4=time.time() - 1), d.say(1)], [*refused(Refusal.EXPIRED), ACCEPTED]),
    Case("a closed epoch", lambda d: [d.say(1), d.say(1, m70001=2)], [*refused(Refusal.EPOCH_CLOSED), ACCEPTED],
         epoch=2),
    Case("no Avro", lambda d: [d.say(1, b""), d.say(2, b"{}")], refused(Refusal.INVALID_PAYLOAD) * 2),
    Case("a byte after the samples", lambda d: [d.say(1, PAYLOAD + b"\0")], refused(Refusal.INVALID_PAYLOAD)),
    Case("half a sample", lambda d: [d.say(1, PAYLOAD[:-4])], refused(Refusal.INVALID_PAYLOAD)),
    Case("no sample", lambda d: [d.say(1, encode())], refused(Refusal.INVALID_PAYLOAD)),
    Case("1,025 samples", lambda d: [d.say(1, encode(*[state()] * 1_025))], refused(Refusal.INVALID_PAYLOAD)),
    Case("1,024 samples", lambda d: [d.say(1, encode(*[state()] * 1_024))], [ACCEPTED]),
    Case("too fast", lambda d: [d.say(1, encode(state(speed=400.5)))], refused(Refusal.OUT_OF_RANGE)),
    Case("no number", lambda d: [d.say(1, encode(state(speed=float("nan"))))], refused(Refusal.OUT_OF_RANGE)),
    Case("without bounds", lambda d: [d.say(1, encode(state(latitude=float("inf"))))], refused(Refusal.OUT_OF_RANGE)),

    Case("quarantined", lambda d: [d.say(1)], held(Hold.QUARANTINED),
         sql="update store.device_state set standing = 'quarantined' where device_no = $1"),
    Case("a clone", lambda d: [d.say(1), d.say(1, encode(state(speed=0.0))), d.say(2)],
         [ACCEPTED, *held(Hold.EQUIVOCATION), *held(Hold.QUARANTINED)]),
    Case("a counter that was lost", lambda d: [d.say(1), d.say(1, **NEW_BOOT)],
         [ACCEPTED, *held(Hold.COUNTER_ROLLBACK)]),
    Case("far ahead", lambda d: [d.say(1), d.say(2**24 + 2), d.say(2**63 - 2)], [ACCEPTED, *held(Hold.SEQ_JUMP) * 2]),
    Case("an epoch that nobody gave out", lambda d: [d.say(1, m70001=2), d.say(1)],
         [*held(Hold.EPOCH_UNKNOWN), ACCEPTED]),
    Case("the future", lambda d: [d.say(1, n6=time.time() + 2 * DAY_S), d.say(2, n6=1e308)],
         held(Hold.CLOCK_FUTURE) * 2),
    Case("long ago", lambda d: [d.say(1, n6=time.time() - 31 * DAY_S), d.say(2, n6=-1e308), d.say(3, n6=0)],
         held(Hold.STALE) * 3),
    Case("a retired key", lambda d: [d.say(5), d.say(6)], [ACCEPTED, *held(Hold.KEY_RETIRED)],
         sql=KEY.format("state = 'retired', seq_cutoff = 5, cutoff_epoch = 1")),
    Case("a schema to come", lambda d: [d.say(1, b"\xc3\x01" + bytes(range(8)) + PAYLOAD[10:])],
         held(Hold.SCHEMA_UNKNOWN)),
]  # fmt: skip
NAMES = [case.name for case in CASES]


class Said(msgspec.Struct, frozen=True):
    """Where the messages of a case stand, and who sent them."""

    house: House
    device: Stranger
    offsets: list[int]
    values: list[bytes | None]


def device_of(number: int, case: Case) -> Stranger:
    name = case.name if case.name in ("Ed25519", "P-256") else f"{CHARS}.{number}"
    return Stranger(name, p256_key() if case.p256 else ed25519_key())


@pytest.fixture(scope="module")
def said(servers: embedded.Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Said]]:
    """Let all devices speak, one after the other, to one worker."""
    devices = [device_of(number, case) for number, case in enumerate(CASES)]
    with open_house(servers, tmp_path_factory.mktemp("contract"), partitions=1) as house:
        house.enrol(device.registration() for device in devices)
        raised = [d.registration(epoch=c.epoch) for d, c in zip(devices, CASES, strict=True) if c.epoch]
        house.enrol(raised)
        for device, case in zip(devices, CASES, strict=True):
            operate(house, device, case.sql)
        values = [case.say(device) for device, case in zip(devices, CASES, strict=True)]
        records = [Record(v, key=d.name.encode()) for d, many in zip(devices, values, strict=True) for v in many]
        with house.worker():
            offsets = iter(house.send(records))
            house.wait_consumed(len(records))
        yield {
            case.name: Said(house, device, [next(offsets) for _ in many], many)
            for case, device, many in zip(CASES, devices, values, strict=True)
        }


def operate(house: House, device: Stranger, sql: str) -> None:
    """Do by hand what the commands of operators do with more ado, or not at all."""
    if sql:
        ((number,),) = house.query("select device_no from store.device where device_id = $1", device.name)
        house.query(sql, number)
        house.query("update store.device_state set key_version = key_version + 1 where device_no = $1", number)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_each_rule_of_the_contract_gives_its_verdict(case: Case, said: dict[str, Said]) -> None:
    spoke = said[case.name]
    assert [(row["verdict"], row["reason"] or "") for row in verdicts(spoke)] == case.deserved


def verdicts(spoke: Said) -> list[asyncpg.Record]:
    query = "select * from weighbridge.verdict where topic = $1 and kafka_offset = any($2) order by kafka_offset"
    return spoke.house.query(query, spoke.house.topic, spoke.offsets)


def test_every_reason_of_the_contract_is_provoked() -> None:
    provoked = {reason for case in CASES for _, reason in case.deserved if reason}
    assert provoked == {*Refusal, *Hold} - NOT_PROVOKED


def test_a_verdict_names_what_the_message_claims(said: dict[str, Said]) -> None:
    row = verdicts(said["far ahead"])[2]
    device = said["far ahead"].device
    assert (row["device_id"], row["epoch"], row["seq"]) == (device.name, 1, 2**63 - 2)
    assert abs(row["received_at"].timestamp() - time.time()) < DAY_S
    row = verdicts(said["malformed: a byte more"])[0]
    assert (row["device_id"], row["epoch"], row["seq"]) == (None, None, None)


def test_what_was_accepted_is_kept_as_it_was_sent(said: dict[str, Said]) -> None:
    spoke = said["Ed25519"]
    rows = spoke.house.query("select * from weighbridge.message where device_id = 'Ed25519' order by seq")
    assert [row["envelope"] for row in rows] == spoke.values
    assert [(row["kid"], row["tenant"], row["vehicle_id"]) for row in rows] == [
        (spoke.device.kid.hex(), "strangers", "vehicle of Ed25519")
    ] * 2


def test_forgeries_and_duplicates_change_nothing_of_a_device(said: dict[str, Said]) -> None:
    for name, accepted in (("forged", 1), ("sent again", 2)):
        device = said[name].device.name
        (row,) = said[name].house.query("select * from weighbridge.device where device_id = $1", device)
        assert (row["standing"], row["held"], row["accepted"], row["highest"]) == ("trusted", 0, accepted, accepted)


def test_the_contract_is_read_here_from_its_text_alone() -> None:
    source = Path(__file__).with_name("device.py").read_text()
    assert "ingest" not in source
    assert "device_sim" not in source
