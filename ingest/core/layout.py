"""Is this envelope laid out as almost all are? One expression then reads it whole; any other goes to the strict reader.

The expression matches a part of what schemas/envelope.md allows, never more: keys in the order of their encodings
(RFC 8949, 4.2.1), or exp behind iat; the four algorithms; times of 32 bits or float64. What does not match need not be
wrong: `envelope.read` judges and explains it. What keeps the two from differing is in decisions/envelope-reader.md.
"""

import math
import re
import struct

from ingest.core import envelope
from ingest.core.message import Envelope, RawRecord, Refused

# Heads are in shortest form (RFC 8949, 4.2.1). Every repetition has a small bound, and but for the kid's each ends at a
# byte that it cannot contain: no value, however long or hostile, takes more than a few microseconds.
_TIME = rb"(\xfb.{8}|\x1a(?!\0\0).{4})"
_UINT32 = rb"[\x00-\x17]|\x18[\x18-\xff]|\x19[^\0].|\x1a(?!\0\0).{4}"
_TEXT = rb"([\x61-\x77]|\x78[\x18-\x40])"  # the head of 1 to 64 bytes
_USUAL = re.compile(
    rb"\xd2\x84\x58.\xa3"
    rb"\x01([\x26-\x28\x32])"
    rb"\x04([\x41-\x57]|\x58[\x18-\x20])(.{1,32}?)"
    rb"\x0f([\xa7\xa8])"
    rb"\x02" + _TEXT + rb"([A-Za-z0-9._:-]{1,64})"
    rb"(?:\x04" + _TIME + rb")?\x06" + _TIME + rb"(?:\x04" + _TIME + rb")?"
    rb"\x3a\0\x01\x11\x70(" + _UINT32 + rb")"
    rb"\x3a\0\x01\x11\x71((?!\0)(?:" + _UINT32 + rb"|\x1b(?!\0{4}|\x7f\xff{7})[\x00-\x7f].{7}))"
    rb"\x3a\0\x01\x11\x72\x48(.{8})"
    rb"\x3a\0\x01\x11\x73" + _TEXT + rb"([\x20-\x7e]{1,64})"
    rb"\x3a\0\x01\x11\x74\x58\x20(.{32})"
    rb"\xa0([\x40-\x57]|\x58[\x18-\xff]|\x59[^\0].)",
    re.DOTALL,
)
_SIGNATURE_HEAD = b"\x58\x40"
_SIGNATURE_ITEM_BYTES = 66
_SECONDS = struct.Struct(">xd").unpack


def read(record: RawRecord, bytes_max: int) -> Envelope | Refused:
    """Read the record's value as an envelope, as `envelope.read` does. It never raises."""
    return _read_usual(record, bytes_max) or envelope.read(record, bytes_max)


def _read_usual(record: RawRecord, bytes_max: int) -> Envelope | None:
    value = record.value
    found = _USUAL.match(value)
    if found is None or len(value) > bytes_max or record.unreadable is not None:
        return None
    (
        alg, kid_head, kid, pairs, device_head, device, exp, iat, exp_behind, epoch, seq, boot, software_head,
        software, configuration, payload_head,
    ) = found.groups()  # fmt: skip
    start, end = found.end(), len(value) - _SIGNATURE_ITEM_BYTES
    protected_end = start - len(payload_head) - 1
    if not (
        value[3] == protected_end - 4
        and len(kid) == _argument(kid_head)
        and len(device) == _argument(device_head)
        and len(software) == _argument(software_head)
        and pairs[0] - 0xA7 == (exp is not None) + (exp_behind is not None)
        and end - start == _argument(payload_head)
        and value[end : end + 2] == _SIGNATURE_HEAD
    ):
        return None
    exp = exp or exp_behind
    issued_at_s, expires_at_s = _seconds(iat), None if exp is None else _seconds(exp)
    if not (math.isfinite(issued_at_s) and math.isfinite(expires_at_s or 0.0)):
        return None
    return Envelope(
        record, 0x1F - alg[0], kid, device.decode("ascii"), issued_at_s, expires_at_s, _argument(epoch), _argument(seq),
        boot, software.decode("ascii"), configuration, value[start:end], value[end + 2 :],
        envelope.sig_structure(value[2:protected_end], value[protected_end + 1 : end]),
    )  # fmt: skip


def _argument(head: bytes) -> int:
    return head[0] & 31 if len(head) == 1 else int.from_bytes(head[1:], "big")


def _seconds(item: bytes) -> float:
    return float(int.from_bytes(item[1:], "big")) if len(item) == 5 else _SECONDS(item)[0]
