"""Are these bytes a well-formed envelope, and what does it claim? Any bytes get an answer, in linear time.

The rules are schemas/envelope.md; numbers in brackets are sections of RFC 8949 (CBOR) unless another is named. Every
place in an envelope allows one kind of item, so the reader needs no recursion and ends at the first byte that deviates.
"""

import math
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import msgspec

from ingest.core.device import COSE_ALGORITHMS, SIGNATURE_BYTES
from ingest.core.message import Envelope, RawRecord, Refused
from ingest.core.verdict import Refusal

EXTERNAL_AAD = b"weighbridge/telemetry/v1"

KID_BYTES_MAX = 32
EPOCH_MAX = 2**32 - 1
SEQ_MAX = 2**63 - 2
BOOT_BYTES = 8
CONFIGURATION_BYTES = 32

_START = b"\xd2\x84"  # tag 18 around an array of four: COSE_Sign1 (RFC 9052, 4.2)
_EMPTY_MAP = b"\xa0"
_SIGNED_HEAD = b"\x84\x6aSignature1"  # Sig_structure (RFC 9052, 4.4) up to the protected header
_SIGNED_AAD = bytes((0x58, len(EXTERNAL_AAD))) + EXTERNAL_AAD

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _MAP = 0, 1, 2, 3, 5  # major types (3.1)
_FLOAT64 = 8  # of major type 7, and the only one of it that has a place in an envelope: a kind of its own here
_KINDS = (
    "an unsigned integer",
    "a negative integer",
    "a byte string",
    "a text string",
    "an array",
    "a map",
    "a tag",
    "a short float or a simple value",
    "a float64",
)
_LONG = {24: (1, 24), 25: (2, 2**8), 26: (4, 2**16), 27: (8, 2**32)}  # bytes, least number in need of them (4.2.1)

_DEVICE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_SOFTWARE = re.compile(rb"[\x20-\x7e]{1,64}")


class _Deviation(Exception):  # noqa: N818  an answer on its way out of the reader, not an error
    """The first thing that is not as the contract says. Of what was sent, its text shows numbers only."""


class _Field(msgspec.Struct, frozen=True):
    """A key that a map may have. Its reader is given the bytes, the head of the value and the place behind the head."""

    key: str
    name: str  # as the contract numbers it
    read: Callable[[bytes, int, int, int, str], tuple[Any, int]]  # (data, major, argument, at, name) -> value, end


class _Map(msgspec.Struct, frozen=True):
    """The keys that a map may have, by their only encoding (a longer one is not found), and those that it must have."""

    name: str
    fields: Mapping[bytes, _Field]
    required: frozenset[str]


def read(record: RawRecord, bytes_max: int) -> Envelope | Refused:
    """Read the record's value as an envelope. It never raises; what the envelope claims is not yet proved."""
    if record.unreadable is not None:
        return Refused(record, Refusal.POISON, record.unreadable)
    size = len(record.value)
    if size > bytes_max:
        return Refused(record, Refusal.OVERSIZE, f"{size} bytes; at most {bytes_max} are allowed")
    try:
        return _envelope(record)
    except _Deviation as deviation:
        return Refused(record, Refusal.MALFORMED, str(deviation))


def _envelope(record: RawRecord) -> Envelope:
    value = record.value
    if value[:2] != _START:
        _explain_start(value)
    protected_at, protected_end = _bytes(value, 2, "the protected header")
    payload_head = protected_end + 1
    if value[protected_end:payload_head] != _EMPTY_MAP:
        _explain_unprotected(value, protected_end)
    payload_at, payload_end = _bytes(value, payload_head, "the payload")
    signature_at, end = _bytes(value, payload_end, "the signature")
    if end != len(value):
        raise _Deviation(f"{len(value) - end} bytes follow the signature; an envelope ends with it")

    header = _header(value[protected_at:protected_end])
    claims = header["claims"]
    alg = header["alg"]
    if end - signature_at != SIGNATURE_BYTES and alg in COSE_ALGORITHMS:
        _explain_signature(end - signature_at)
    return Envelope(
        record=record,
        alg=alg,
        kid=header["kid"],
        device_id=claims["sub"],
        issued_at_s=claims["iat"],
        expires_at_s=claims.get("exp"),
        epoch=claims["epoch"],
        seq=claims["seq"],
        boot=claims["boot"],
        software=claims["software"],
        configuration=claims["configuration"],
        payload=value[payload_at:payload_end],
        signature=value[signature_at:],
        signed=sig_structure(value[2:protected_end], value[payload_head:payload_end]),
    )


def sig_structure(protected: bytes, payload: bytes) -> bytes:
    """Build what was signed: heads have one form only, so that the items received are the items of Sig_structure."""
    return b"".join((_SIGNED_HEAD, protected, _SIGNED_AAD, payload))


def _bytes(data: bytes, at: int, name: str) -> tuple[int, int]:
    """Where the content of a byte string begins and ends."""
    major, size, start = _head(data, at, name)
    end = start + size
    if major != _BYTES:
        _explain_kind(name, major, "a byte string")
    if end > len(data):
        _explain_end(name)
    return start, end


def _header(protected: bytes) -> dict[str, Any]:
    """Read the map inside the protected byte string; nothing may follow it."""
    major, pairs, at = _head(protected, 0, _HEADER.name)
    values, end = _map(protected, major, pairs, at, _HEADER)
    if end != len(protected):
        raise _Deviation(f"{len(protected) - end} bytes follow the map in the protected header")
    return values


def _map(data: bytes, major: int, pairs: int, at: int, rule: _Map) -> tuple[dict[str, Any], int]:
    """Read a map by its rule. One of a billion pairs ends at the first that is unknown, repeated or not there."""
    if major != _MAP:
        _explain_kind(rule.name, major, "a map")
    fields = rule.fields
    values: dict[str, Any] = {}
    for _ in range(pairs):
        field = fields.get(data[at : at + 1])
        if field is not None:
            at += 1
        else:
            field = fields.get(data[at : at + 5])
            if field is None:
                _explain_key(data, at, rule)
            at += 5
        if field.key in values:
            raise _Deviation(f"{field.name} stands twice in {rule.name}")
        kind, argument, at = _head(data, at, field.name)
        values[field.key], at = field.read(data, kind, argument, at, field.name)
    if not values.keys() >= rule.required:
        _explain_missing(values, rule)
    return values, at


def _head(data: bytes, at: int, name: str) -> tuple[int, int, int]:
    """Read the head of a data item (3): its major type, its argument, and the place behind the head."""
    if at >= len(data):
        _explain_end(name)
    initial = data[at]
    info = initial & 31
    at += 1
    if info < 24:
        return initial >> 5, info, at
    if info > 27:
        raise _Deviation(f"{name} has an {'indefinite' if info == 31 else 'unassigned'} length")
    width, least = _LONG[info]
    end = at + width
    if end > len(data):
        _explain_end(name)
    argument = int.from_bytes(data[at:end], "big")
    if initial == 0xFB:
        return _FLOAT64, argument, end
    if argument < least:
        raise _Deviation(f"{name} has {argument} in {width} bytes; numbers and lengths must be in shortest form")
    return initial >> 5, argument, end


# The readers of single values. The bits of a float64 come as its argument (3.3).


def _claims(data: bytes, major: int, pairs: int, at: int, _name: str) -> tuple[dict[str, Any], int]:
    return _map(data, major, pairs, at, _CLAIMS)


def _alg(_data: bytes, major: int, argument: int, at: int, name: str) -> tuple[int, int]:
    if major == _NEGATIVE:
        return -1 - argument, at
    if major != _UNSIGNED:
        _explain_kind(name, major, "an integer")
    return argument, at


def _time(_data: bytes, major: int, bits: int, at: int, name: str) -> tuple[float, int]:
    if major == _UNSIGNED:
        return float(bits), at  # of 64 bits at most: far from overflow
    if major == _NEGATIVE:
        return float(-1 - bits), at
    if major != _FLOAT64:
        _explain_kind(name, major, "an integer or a float64")
    (seconds,) = struct.unpack(">d", bits.to_bytes(8, "big"))
    if not math.isfinite(seconds):
        raise _Deviation(f"{name} is not a finite number")
    return seconds, at


def _kid(data: bytes, major: int, size: int, at: int, name: str) -> tuple[bytes, int]:
    end = at + size
    if major != _BYTES:
        _explain_kind(name, major, "a byte string")
    if not 1 <= size <= KID_BYTES_MAX:
        raise _Deviation(f"{name} has {size} bytes; it must have 1 to {KID_BYTES_MAX}")
    if end > len(data):
        _explain_end(name)
    return data[at:end], end


def _device_id(data: bytes, major: int, size: int, at: int, name: str) -> tuple[str, int]:
    end = at + size
    if major != _TEXT:
        _explain_kind(name, major, "a text string")
    if end > len(data):
        _explain_end(name)
    if _DEVICE_ID.fullmatch(data, at, end) is None:
        raise _Deviation(f"{name} of {size} bytes is not 1 to 64 of A-Z a-z 0-9 . _ : -")
    return data[at:end].decode("ascii"), end


def _software(data: bytes, major: int, size: int, at: int, name: str) -> tuple[str, int]:
    end = at + size
    if major != _TEXT:
        _explain_kind(name, major, "a text string")
    if end > len(data):
        _explain_end(name)
    if _SOFTWARE.fullmatch(data, at, end) is None:
        raise _Deviation(f"{name} of {size} bytes is not 1 to 64 printable ASCII characters")
    return data[at:end].decode("ascii"), end


def _epoch(_data: bytes, major: int, epoch: int, at: int, name: str) -> tuple[int, int]:
    if major != _UNSIGNED:
        _explain_kind(name, major, "an unsigned integer")
    if epoch > EPOCH_MAX:
        raise _Deviation(f"{name} is {epoch}; it must be 0 to 2^32-1")
    return epoch, at


def _seq(_data: bytes, major: int, seq: int, at: int, name: str) -> tuple[int, int]:
    if major != _UNSIGNED:
        _explain_kind(name, major, "an unsigned integer")
    if not 1 <= seq <= SEQ_MAX:
        raise _Deviation(f"{name} is {seq}; it must be 1 to 2^63-2")
    return seq, at


def _boot(data: bytes, major: int, size: int, at: int, name: str) -> tuple[bytes, int]:
    end = at + BOOT_BYTES
    if major != _BYTES or size != BOOT_BYTES or end > len(data):
        raise _Deviation(f"{name} is not a byte string of {BOOT_BYTES} bytes")
    return data[at:end], end


def _configuration(data: bytes, major: int, size: int, at: int, name: str) -> tuple[bytes, int]:
    end = at + CONFIGURATION_BYTES
    if major != _BYTES or size != CONFIGURATION_BYTES or end > len(data):
        raise _Deviation(f"{name} is not a byte string of {CONFIGURATION_BYTES} bytes")
    return data[at:end], end


# What is wrong, in words. These are reached only when something is.


def _explain_kind(name: str, major: int, wanted: str) -> NoReturn:
    raise _Deviation(f"{name} is {_KINDS[major]}; it must be {wanted}")


def _explain_end(name: str) -> NoReturn:
    raise _Deviation(f"the bytes end before {name} does")


def _explain_start(value: bytes) -> NoReturn:
    if not value:
        raise _Deviation("the record has no value; it must be one COSE_Sign1")
    if value[:1] != _START[:1]:
        raise _Deviation("the first byte is not d2 (tag 18); untagged and other COSE messages are refused")
    raise _Deviation("the second byte is not 84: tag 18 must hold a definite array of four")


def _explain_unprotected(value: bytes, at: int) -> NoReturn:
    major, pairs, _ = _head(value, at, "the unprotected header")
    if major != _MAP:
        _explain_kind("the unprotected header", major, "an empty map")
    raise _Deviation(f"the unprotected header has {pairs} entries; it must be empty")


def _explain_key(data: bytes, at: int, rule: _Map) -> NoReturn:
    name = f"a key of {rule.name}"
    major, argument, at = _head(data, at, name)
    key, _ = _alg(data, major, argument, at, name)
    known = ", ".join(field.name for field in rule.fields.values())
    raise _Deviation(f"{key} is no key of {rule.name}; those are {known}")


def _explain_missing(values: Mapping[str, Any], rule: _Map) -> NoReturn:
    missing = ", ".join(f.name for f in rule.fields.values() if f.key in rule.required and f.key not in values)
    raise _Deviation(f"not in {rule.name}, where it must be: {missing}")


def _explain_signature(size: int) -> NoReturn:
    raise _Deviation(f"the signature has {size} bytes; it must have {SIGNATURE_BYTES}: R‖S or r‖s, never DER")


_CLAIMS = _Map(
    "label 15 (claims)",
    {
        b"\x02": _Field("sub", "claim 2 (sub)", _device_id),
        b"\x06": _Field("iat", "claim 6 (iat)", _time),
        b"\x04": _Field("exp", "claim 4 (exp)", _time),
        b"\x3a\x00\x01\x11\x70": _Field("epoch", "claim -70001 (epoch)", _epoch),
        b"\x3a\x00\x01\x11\x71": _Field("seq", "claim -70002 (seq)", _seq),
        b"\x3a\x00\x01\x11\x72": _Field("boot", "claim -70003 (boot)", _boot),
        b"\x3a\x00\x01\x11\x73": _Field("software", "claim -70004 (software)", _software),
        b"\x3a\x00\x01\x11\x74": _Field("configuration", "claim -70005 (configuration)", _configuration),
    },
    frozenset(("sub", "iat", "epoch", "seq", "boot", "software", "configuration")),
)
_HEADER = _Map(
    "the protected header",
    {
        b"\x01": _Field("alg", "label 1 (alg)", _alg),
        b"\x04": _Field("kid", "label 4 (kid)", _kid),
        b"\x0f": _Field("claims", "label 15 (claims)", _claims),
    },
    frozenset(("alg", "kid", "claims")),
)
