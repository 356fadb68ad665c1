"""Is this envelope laid out as almost all are? One expression then reads it whole; any other goes to the strict reader.

The expression matches a part of what schemas/envelope.md allows, never more: keys in the order of their encodings
(RFC 8949, 4.2.1), or exp behind iat; the four algorithms; times of 32 bits or float64. What does not match need not be
wrong: `envelope.read` judges and explains it. What keeps the two from differing is in decisions/envelope-reader.md.
"""

import re
import struct

from ingest.core import envelope
from ingest.core.message import Envelope, RawRecord, Refused


def _sized(major: int, sizes: range, item: bytes) -> bytes:
    """Match a string of one of these sizes; the group has the last byte of its head, then what is in it."""
    strings = b"|".join(
        re.escape(bytes((size if size > 23 else major + size,))) + item + b"{%d}" % size for size in sizes
    )
    short, long, last = major + 1, major + 24, sizes[-1]
    return rb"(?:\x%02x(?=[\x18-\x%02x])|(?=[\x%02x-\x%02x]))(" % (long, last, short, major + 23) + strings + b")"


# Heads are in shortest form (RFC 8949, 4.2.1). Every repetition is of as many bytes as one of them, or the contract,
# says: no value, however long or hostile, takes more than a few microseconds. A float64 that begins with 41 is finite:
# it lies between 36 hours and 272 years after 1970.
_TIME = rb"\xfb\x41.{7}|\x1a(?!\0\0).{4}"
_UINT32 = rb"[\x00-\x17]|\x18[\x18-\xff]|\x19[^\0].|\x1a(?!\0\0).{4}"
_USUAL = re.compile(
    rb"\xd2\x84\x58.\xa3"
    rb"\x01([\x26-\x28\x32])"
    rb"\x04" + _sized(0x40, range(1, 33), b".") + rb"\x0f([\xa7\xa8])"
    rb"\x02" + _sized(0x60, range(1, 65), rb"[A-Za-z0-9._:-]") +
    rb"(?:\x04(?P<exp>" + _TIME + rb"))?\x06(" + _TIME + rb")(?(exp)|(?:\x04(" + _TIME + rb"))?)"
    rb"\x3a\0\x01\x11\x70(" + _UINT32 + rb")"
    rb"\x3a\0\x01\x11\x71((?!\0)(?:" + _UINT32 + rb"|\x1b(?!\0{4}|\x7f\xff{7})[\x00-\x7f].{7}))"
    rb"\x3a\0\x01\x11\x72\x48(.{8})"
    rb"\x3a\0\x01\x11\x73" + _sized(0x60, range(1, 65), rb"[\x20-\x7e]") +
    rb"\x3a\0\x01\x11\x74\x58\x20(.{32})"
    rb"\xa0([\x41-\x57]|\x58[\x18-\xff]|\x59[^\0].)",
    re.DOTALL,
)  # fmt: skip
_SIGNATURE_HEAD = b"\x58\x40"
_SIGNATURE_ITEM_BYTES = 66

# What an item says, by how many bytes it has.
_NUMBER = {
    size: struct.Struct(layout).unpack for size, layout in ((1, ">B"), (2, ">xB"), (3, ">xH"), (5, ">xI"), (9, ">xQ"))
}
_SECONDS = {5: struct.Struct(">xI").unpack, 9: struct.Struct(">xd").unpack}


def read(record: RawRecord, bytes_max: int) -> Envelope | Refused:
    """Read the record's value as an envelope, as `envelope.read` does. It never raises."""
    return _read_usual(record, bytes_max) or envelope.read(record, bytes_max)


def _read_usual(record: RawRecord, bytes_max: int) -> Envelope | None:
    value = record.value
    found = _USUAL.match(value)
    if found is None or len(value) > bytes_max or record.unreadable is not None:
        return None
    alg, kid, pairs, device, exp, iat, exp_behind, epoch, seq, boot, software, configuration, head = found.groups()
    exp = exp or exp_behind
    start, end = found.end(), len(value) - _SIGNATURE_ITEM_BYTES
    protected_end = start - len(head) - 1
    size = _NUMBER[len(head)](head)[0]
    if not (
        value[3] == protected_end - 4
        and pairs == (b"\xa7" if exp is None else b"\xa8")
        and end - start == (size if len(head) > 1 else size - 0x40)
        and value[end : end + 2] == _SIGNATURE_HEAD
    ):
        return None
    return Envelope(
        record, 0x1F - alg[0], kid[1:], device[1:].decode(), float(_SECONDS[len(iat)](iat)[0]),
        None if exp is None else float(_SECONDS[len(exp)](exp)[0]), _NUMBER[len(epoch)](epoch)[0],
        _NUMBER[len(seq)](seq)[0], boot, software[1:].decode(), configuration, value[start:end], value[end + 2 :],
        envelope.sig_structure(value[2:protected_end], value[protected_end + 1 : end]),
    )  # fmt: skip
