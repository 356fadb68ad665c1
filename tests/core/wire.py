"""How are envelopes made and read in these tests? By cbor2 and by hand, so that anything can be wrong with them."""

from typing import Any

import cbor2

from ingest.core import envelope as strict
from ingest.core import layout
from ingest.core.message import Envelope, RawRecord, Refused
from ingest.core.verdict import Refusal

BYTES_MAX = 65_536
BOOT = bytes(range(8))
CONFIGURATION = bytes(range(32))
CLAIMS: dict[Any, Any] = {
    2: "vehicle-1",
    6: 1_790_000_000,
    -70001: 1,
    -70002: 7,
    -70003: BOOT,
    -70004: "tcu 4.2",
    -70005: CONFIGURATION,
}
HEADER: dict[Any, Any] = {1: -8, 4: b"key-1", 15: CLAIMS}
PAYLOAD = b"\xc3\x01payload"
SIGNATURE = bytes(64)


def framed(
    protected: bytes,
    unprotected: bytes = b"\xa0",
    payload: bytes | None = PAYLOAD,
    signature: bytes = SIGNATURE,
) -> bytes:
    return b"\xd2\x84" + cbor2.dumps(protected) + unprotected + cbor2.dumps(payload) + cbor2.dumps(signature)


def envelope(header: dict[Any, Any] | None = None, **claims: object) -> bytes:
    """An envelope with some claims changed; `...` leaves one out. Claims are named n2, n6 or m70001 for -70001."""
    changed = CLAIMS | {int(name.replace("m", "-").removeprefix("n")): value for name, value in claims.items()}
    kept = {number: value for number, value in changed.items() if value is not ...}
    return framed(cbor2.dumps({**HEADER, 15: kept, **(header or {})}))


def read_value(value: bytes) -> Envelope | Refused:
    record = RawRecord("telemetry.raw", 0, 0, 1_790_000_000_000, value)
    found = strict.read(record, BYTES_MAX)
    assert layout.read_usual([record], BYTES_MAX) in ([found], [None])  # however it is laid out
    return found


def accepted(value: bytes) -> Envelope:
    found = read_value(value)
    assert isinstance(found, Envelope), found.detail
    return found


def malformed(value: bytes) -> str:
    found = read_value(value)
    assert isinstance(found, Refused)
    assert found.reason is Refusal.MALFORMED
    assert isinstance(found.reached, RawRecord)
    assert 0 < len(found.detail) <= 250
    assert found.detail.isprintable()
    return found.detail


def raw_map(*pairs: bytes, count: int | None = None) -> bytes:
    """A map of encoded pairs, with no regard for what a map may be."""
    return bytes((0xA0 + (len(pairs) if count is None else count),)) + b"".join(pairs)


def pairs_of(mapping: dict[Any, Any]) -> list[bytes]:
    return [cbor2.dumps(key) + cbor2.dumps(value) for key, value in mapping.items()]


def with_claims(*pairs: bytes) -> bytes:
    """An envelope whose claims map is made of these pairs."""
    header = raw_map(b"\x01\x27", b"\x04\x45key-1", b"\x0f" + raw_map(*pairs))
    return framed(header)


def with_claim(number: int, encoded: bytes) -> bytes:
    """An envelope in which one claim's value is these bytes."""
    others = {key: value for key, value in CLAIMS.items() if key != number}
    return with_claims(*pairs_of(others), cbor2.dumps(number) + encoded)


def header_with(*pairs: bytes) -> bytes:
    return framed(raw_map(*pairs))


PROTECTED = cbor2.dumps(HEADER)
ENVELOPE = envelope()
