"""What could a hostile sender send? Envelopes spoilt at every depth, signed again where a spoilt part must get past.

Everything comes from one seed, in one order, so that a finding can be made again.
"""

import io
import itertools
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import cbor2
import fastavro
import msgspec

from device_sim.fleet import MIXES, Plan, sends
from device_sim.identity import Fleet, Identity
from device_sim.sampling import DIAGNOSTICS, SECURITY_EVENT, VEHICLE_STATE
from device_sim.wire import CONTEXT, ENVELOPE_BYTES_MAX, LABEL_CLAIMS, MAGIC, Sample, Schema, Signer, load, sign, wrap

START_S = 1_790_000_000.0
RECEIVED_AT_MS = int(START_S * 1_000)

_SPECIMENS = 200
_VEHICLES = 40
_BODY_AT = len(MAGIC) + 8  # behind the fingerprint
_EDITS_MAX = 6
_PIECE_BYTES_MAX = 64

# Heads of CBOR items and Avro numbers that promise more than there is, or stand at the edge of a range.
_PIECES = (
    b"\x00", b"\x01", b"\x02", b"\x7f", b"\x80", b"\xff", b"\xa0", b"\xf6", b"\xf7", b"\xd2", b"\x5f", b"\x9f", b"\xbf",
    b"\x1b" + b"\xff" * 8, b"\x3b" + b"\xff" * 8, b"\x5b" + b"\xff" * 8, b"\x7b\x00" + b"\xff" * 7,
    b"\x9a\xff\xff\xff\xff", b"\xba\xff\xff\xff\xff", b"\xfb\x7f\xf0" + bytes(6), b"\xfb\x7f\xf8" + bytes(6),
    b"\xf9\x7e\x00", b"\xc2\x49\x01" + bytes(8), b"\x81" * 40, b"\xfe" + b"\xff" * 8 + b"\x01", b"\xff" * 9 + b"\x01",
    b"\x80" * 20, b"\x80\x10", b"\xfe\x0f", b"\xc3\xa9", b"\xed\xa0\x80", b"\xe2\x80\xae", b"\xf0\x9f\x9a\x97",
)  # fmt: skip
_NUMBERS = (
    0, 1, -1, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53, 2**62, 2**63 - 2, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63),
    -(2**64), 10**400, 0.0, -0.0, 1e-320, 1e300, -1e300, 1.7976931348623157e308, math.inf, -math.inf, math.nan,
)  # fmt: skip
_ODDITIES: tuple[Any, ...] = (
    *_NUMBERS, None, True, False, b"", bytes(8), bytes(32), bytes(33), "", "x" * 65, "\x00", [], {}, [[[[[]]]]],
)  # fmt: skip


class Specimen(msgspec.Struct, frozen=True):
    """A sound message in its parts, with what it takes to sign it again."""

    signer: Signer
    protected: bytes
    payload: bytes

    @property
    def content(self) -> bytes:
        """What its signature stands for: the Sig_structure (RFC 9052, 4.4)."""
        return cbor2.dumps(["Signature1", self.protected, CONTEXT, self.payload])

    def seal(self) -> bytes:
        """Sign it as it is."""
        return wrap(sign(self.protected, self.payload, self.signer))


class Spoilt(msgspec.Struct, frozen=True):
    """One input: where it was spoilt, its bytes, and whether whoever spoilt it had the key."""

    part: str
    value: bytes
    signed: bool


class Workshop(msgspec.Struct, frozen=True):
    """What inputs are made of."""

    identity: Identity
    specimens: tuple[Specimen, ...]
    schemas: tuple[Schema, ...]


def open_workshop(seed: int) -> Workshop:
    """Collect sound messages of a fleet, and a few that are as large as messages get."""
    fleet = Fleet(seed=seed, vehicles=_VEHICLES)
    plan = Plan(fleet, MIXES["everything"], START_S - 20, samples_max=20)
    identity = Identity(fleet)
    signers = {identity.device_id(number): identity.signer(number) for number in range(_VEHICLES)}
    honest = (send.value or b"" for send in sends(plan) if send.cause == "honest")
    specimens = [_take_apart(value, signers) for value in itertools.islice(honest, _SPECIMENS)]
    schemas = tuple(load().values())
    large = [msgspec.structs.replace(specimens[0], payload=payload) for payload in _large_payloads(schemas[-1])]
    return Workshop(identity, (*specimens, *large), schemas)


def _take_apart(value: bytes, signers: dict[str, Signer]) -> Specimen:
    protected, _, payload, _ = cbor2.loads(value).value
    return Specimen(signers[cbor2.loads(protected)[LABEL_CLAIMS][2]], protected, payload)


def _large_payloads(schema: Schema) -> Iterator[bytes]:
    """Fill the envelope with what costs most to read: many samples, many short strings, long strings."""
    at = {"recorded_at_us": RECEIVED_AT_MS * 1_000}
    event = at | {"event": "BUS_OVERLOAD", "severity": "LOW", "source": "x", "event_id": 1, "count": 1}
    codes = at | {"dtc_count": 0, "dtc_list": [""] * 32, "low_voltage_battery_voltage": 12.0, "is_service_due": False}
    state = at | {
        "speed": 0.0, "traveled_distance_m": 0, "current_gear": 0, "is_moving": False, "state_of_charge": 50.0,
    }  # fmt: skip
    yield schema.encode([(SECURITY_EVENT, event)] * 1_024)
    yield schema.encode([(DIAGNOSTICS, codes)] * 1_024)
    yield schema.encode([(VEHICLE_STATE, state)] * 1_024)


def spoil(shop: Workshop, seed: int) -> Iterator[Spoilt]:
    """Give inputs without end."""
    chance = random.Random(seed)  # noqa: S311 (reproducible chance, not secrets)
    ways: tuple[Callable[[Workshop, random.Random], Spoilt], ...] = (
        _random, _envelope, _envelope, _header, _header, _claim, _claim, _payload, _payload, _payload, _body, _values,
        _transplant,
    )  # fmt: skip
    while True:
        yield chance.choice(ways)(shop, chance)


def _random(_shop: Workshop, chance: random.Random) -> Spoilt:
    start = chance.choice((b"", b"\xd2", b"\xd2\x84", b"\xd2\x84\x58\x6b\xa3\x01\x27"))
    return Spoilt("random", start + chance.randbytes(chance.randrange(400)), signed=False)


def _envelope(shop: Workshop, chance: random.Random) -> Spoilt:
    return Spoilt("envelope", _edit(chance.choice(shop.specimens).seal(), chance), signed=False)


def _header(shop: Workshop, chance: random.Random) -> Spoilt:
    specimen = chance.choice(shop.specimens)
    return _signed("header", specimen, _edit(specimen.protected, chance), specimen.payload)


def _claim(shop: Workshop, chance: random.Random) -> Spoilt:
    """Put something odd in the place of a label or claim, or beside them."""
    specimen = chance.choice(shop.specimens)
    said: dict[Any, Any] = cbor2.loads(specimen.protected)
    spot = said if chance.random() < 0.2 else said[LABEL_CLAIMS]
    spot[chance.choice((*spot, chance.choice((0, 3, -1, True, 1.5, "sub"))))] = chance.choice(_ODDITIES)
    return _signed("claim", specimen, cbor2.dumps(said, canonical=chance.random() < 0.5), specimen.payload)


def _payload(shop: Workshop, chance: random.Random) -> Spoilt:
    """Edit the body and leave marker and fingerprint, so that a schema is found for it."""
    specimen = chance.choice(shop.specimens)
    head, body = specimen.payload[:_BODY_AT], specimen.payload[_BODY_AT:]
    return _signed("payload", specimen, specimen.protected, head + _edit(body, chance))


def _body(shop: Workshop, chance: random.Random) -> Spoilt:
    """Put random bytes, or another message's body, behind a known fingerprint, or an unknown one."""
    specimen, other = chance.sample(shop.specimens, 2)
    head = MAGIC + chance.choice((*(schema.fingerprint for schema in shop.schemas), chance.randbytes(8)))
    random_body = chance.choice((b"\x02", b"\x80\x10", b"")) + chance.randbytes(chance.randrange(300))
    return _signed("body", specimen, specimen.protected, head + chance.choice((random_body, other.payload[_BODY_AT:])))


def _values(shop: Workshop, chance: random.Random) -> Spoilt:
    """Put numbers beyond their bounds into samples, and send up to more samples than are allowed."""
    specimen = chance.choice(shop.specimens[:_SPECIMENS])
    schema = next(schema for schema in shop.schemas if schema.fingerprint == specimen.payload[2:_BODY_AT])
    samples = _read(schema, specimen.payload)
    kind, fields = chance.choice(samples)
    spoilt = dict(fields)
    spoilt[chance.choice(list(fields))] = chance.choice(_NUMBERS)
    copies = chance.choice((*[1] * 20, 2, 1_023, 1_024, 1_025))
    try:
        payload = schema.encode([*samples, (kind, spoilt)] if copies == 1 else [(kind, spoilt)] * copies)
    except (ValueError, TypeError, OverflowError):  # what Avro cannot write cannot be sent
        payload = schema.encode(samples)
    return _signed("values", specimen, specimen.protected, payload)


def _read(schema: Schema, payload: bytes) -> list[Sample]:
    body = io.BytesIO(payload[_BODY_AT:])
    read: Any = fastavro.schemaless_reader(body, schema.parsed, None, return_record_name=True)
    samples: list[Sample] = read["samples"]
    return samples


def _transplant(shop: Workshop, chance: random.Random) -> Spoilt:
    """Put the header, payload or signature of another message into one."""
    one, other = chance.sample(shop.specimens, 2)
    parts = sign(one.protected, one.payload, one.signer)
    at = chance.choice((0, 2, 3))
    parts[at] = sign(other.protected, other.payload, other.signer)[at]
    return Spoilt("transplant", wrap(parts), signed=False)


def _signed(part: str, specimen: Specimen, protected: bytes, payload: bytes) -> Spoilt:
    return Spoilt(part, wrap(sign(protected, payload, specimen.signer)), signed=True)


def _edit(data: bytes, chance: random.Random) -> bytes:
    """Change a few places; what grows beyond what is read at all is of no more interest."""
    for _ in range(chance.randint(1, _EDITS_MAX)):
        at = _place(data, chance)
        size = chance.randint(0, min(_PIECE_BYTES_MAX, len(data)))
        data = chance.choice(_EDITS)(data, at, size, chance)
    return data[: ENVELOPE_BYTES_MAX + 1]


def _place(data: bytes, chance: random.Random) -> int:
    """Choose a place; half of the time near the beginning, where the structure is."""
    return chance.randrange(1 + (min(len(data), 24) if chance.random() < 0.5 else len(data)))


def _flip(data: bytes, at: int, _size: int, chance: random.Random) -> bytes:
    return data[:at] + bytes(byte ^ (1 << chance.randrange(8)) for byte in data[at : at + 1]) + data[at + 1 :]


def _overwrite(data: bytes, at: int, _size: int, chance: random.Random) -> bytes:
    piece = chance.choice(_PIECES)
    return data[:at] + piece + data[at + len(piece) :]


def _insert(data: bytes, at: int, _size: int, chance: random.Random) -> bytes:
    return data[:at] + chance.choice(_PIECES) + data[at:]


def _remove(data: bytes, at: int, size: int, _chance: random.Random) -> bytes:
    return data[:at] + data[at + size :]


def _repeat(data: bytes, at: int, size: int, chance: random.Random) -> bytes:
    return data[:at] + data[at : at + size] * chance.choice((2, 3, 50)) + data[at + size :]


def _cut(data: bytes, at: int, _size: int, _chance: random.Random) -> bytes:
    return data[:at]


def _noise(data: bytes, at: int, size: int, chance: random.Random) -> bytes:
    return data[:at] + chance.randbytes(size) + data[at + size :]


_EDITS = (_flip, _flip, _flip, _overwrite, _insert, _remove, _repeat, _cut, _noise)
