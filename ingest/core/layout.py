"""Are these envelopes laid out as almost all are? Then they are read side by side; any other goes to the strict reader.

In the usual layout all places follow from the heads of a few items. So one walk with numpy, item by item through all
of them at once, finds what stands where and reads the numbers. What many messages say in the same bytes (who sends
them, what that unit runs) is read once. The usual layout is a part of what schemas/envelope.md allows, never more: keys
in the order of their encodings (RFC 8949, 4.2.1), or exp behind iat; the four algorithms; times of 32 bits or float64.
What does not fit need not be wrong: `envelope.read` judges and explains it. What keeps the two from differing is in
decisions/envelope-reader.md.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingest.core import envelope
from ingest.core.message import Envelope, RawRecord, Refused

ABREAST_MIN = 32  # of fewer, the strict reader has read each before they have been walked through
ABREAST_MAX = 2_048
WHOLE_BYTES_MAX = 1_024  # of a longer envelope only both ends are laid beside the others

Octets: TypeAlias = NDArray[np.uint8]
Places: TypeAlias = NDArray[np.intp]
Words: TypeAlias = NDArray[np.uint64]
Fits: TypeAlias = NDArray[np.bool_]
Seconds: TypeAlias = NDArray[np.float64]


def _sized(major: int, sizes: range, item: bytes) -> bytes:
    """Match a string of one of these sizes; the group has the last byte of its head, then what is in it."""
    strings = b"|".join(
        re.escape(bytes((size if size > 23 else major + size,))) + item + b"{%d}" % size for size in sizes
    )
    short, long, last = major + 1, major + 24, sizes[-1]
    return rb"(?:\x%02x(?=[\x18-\x%02x])|(?=[\x%02x-\x%02x]))(" % (long, last, short, major + 23) + strings + b")"


# From the map of the protected header up to the device, and from the boot to the configuration. Heads are in shortest
# form (RFC 8949, 4.2.1).
_WHO = re.compile(
    rb"\xa3\x01([\x26-\x28\x32])"
    rb"\x04" + _sized(0x40, range(1, 33), b".") + rb"\x0f([\xa7\xa8])"
    rb"\x02" + _sized(0x60, range(1, 65), rb"[A-Za-z0-9._:-]"),
    re.DOTALL,
)  # fmt: skip
_UNIT = re.compile(
    rb"\x3a\0\x01\x11\x72\x48(.{8})"
    rb"\x3a\0\x01\x11\x73" + _sized(0x60, range(1, 65), rb"[\x20-\x7e]") +
    rb"\x3a\0\x01\x11\x74\x58\x20(.{32})",
    re.DOTALL,
)  # fmt: skip
_Who = tuple[int, bytes, str, bool]  # alg, kid, device_id, and whether an exp is among the claims
_Unit = tuple[bytes, str, bytes]  # boot, software, configuration

_OPENING, _IAT, _EXP, _EPOCH, _SEQ, _EMPTY_MAP = 0xD2_84_58, 0x06, 0x04, 0x3A_00_01_11_70, 0x3A_00_01_11_71, 0xA0
_UINT32, _UINT64, _FLOAT64, _BYTES, _BYTES_64K = 0x1A, 0x1B, 0xFB, 0x40, 0x59
_WHO_AT = 4
_KID_BEHIND, _DEVICE_BEHIND, _SOFTWARE_BEHIND = 4, 3, 19  # who's beginning, the kid's end, the unit's beginning
_UNIT_ENDS_BEHIND = 39  # the end of the software version
_HEAD_BEHIND = 5  # the beginning of a key of ours
_SIGNATURE_HEAD, _SIGNATURE_ITEM_BYTES = 0x58_40, 66
_BYTES_BEFORE_PAYLOAD_MAX = 263  # for one byte has the length of the protected header
_NO_EXP = np.array(None)
_MARGIN = bytes(1_024)  # no walk goes as far as that: three strings of 257 bytes, five numbers, and what lies between

# Of a head's lower five bits: how many bytes of the argument follow, how many bits of a word are behind these, and the
# least argument in need of them.
_FOLLOW, _SHIFT, _LEAST = np.zeros(32, np.intp), np.zeros(32, np.uint64), np.zeros(32, np.uint64)
_FOLLOW[24:28], _SHIFT[24:28], _LEAST[24:28] = (1, 2, 4, 8), (56, 48, 32, 0), (24, 2**8, 2**16, 2**32)


def read(records: Sequence[RawRecord], bytes_max: int) -> list[Envelope | Refused]:
    """Read the records' values as envelopes, each as `envelope.read` does. It never raises."""
    usual: list[Envelope | None] = [None] * len(records)
    if len(records) >= ABREAST_MIN:
        usual = read_usual(records, bytes_max)
    return [one or envelope.read(record, bytes_max) for one, record in zip(usual, records, strict=True)]


def read_usual(records: Sequence[RawRecord], bytes_max: int) -> list[Envelope | None]:
    """Read those that are laid out as usual; None for any other, whatever it is."""
    found: list[Envelope | None] = []
    known: dict[bytes, _Who] = {}
    units: dict[bytes, _Unit] = {}
    for at in range(0, len(records), ABREAST_MAX):
        found += _read_abreast(records[at : at + ABREAST_MAX], bytes_max, known, units)
    return found


def _read_abreast(
    records: Sequence[RawRecord], bytes_max: int, known: dict[bytes, _Who], units: dict[bytes, _Unit]
) -> Iterator[Envelope | None]:
    values = [record.value if record.unreadable is None else b"" for record in records]
    for record, value, (fits, who_end, unit_at, unit_end, payload_at, iat, exp, epoch, seq) in zip(
        records, values, _walk(values), strict=True
    ):
        usual = None
        if fits and len(value) <= bytes_max:
            who, unit = value[_WHO_AT:who_end], value[unit_at:unit_end]
            sender, runs = known.get(who) or _note_who(known, who), units.get(unit) or _note_unit(units, unit)
            if sender is not None and runs is not None and sender[3] is (exp is not None):
                (alg, kid, device_id, _), (boot, software, configuration) = sender, runs
                signed = envelope.sig_structure(value[2:unit_end], value[unit_end + 1 : -_SIGNATURE_ITEM_BYTES])
                usual = Envelope(
                    record, alg, kid, device_id, iat, exp, epoch, seq, boot, software, configuration,
                    value[payload_at:-_SIGNATURE_ITEM_BYTES], value[2 - _SIGNATURE_ITEM_BYTES :], signed,
                )  # fmt: skip
        yield usual


def _note_who(known: dict[bytes, _Who], said: bytes) -> _Who | None:
    found = _WHO.fullmatch(said)
    if found is None:
        return None
    alg, kid, claims, device_id = found.groups()
    who = known[said] = 0x1F - alg[0], kid[1:], device_id[1:].decode(), claims == b"\xa8"
    return who


def _note_unit(units: dict[bytes, _Unit], said: bytes) -> _Unit | None:
    found = _UNIT.fullmatch(said)
    if found is None:
        return None
    boot, software, configuration = found.groups()
    unit = units[said] = boot, software[1:].decode(), configuration
    return unit


class _Walk:
    """Goes from item to item in all envelopes at once, and notes which do not fit.

    In those it goes on all the same, into whatever lies behind them.
    """

    def __init__(self, octets: Octets, begins: Places) -> None:
        self._octets = octets
        self._words = np.ndarray(len(octets) - 7, ">u8", octets, strides=(1,))  # eight bytes from each place on
        self.at = begins
        self.fits = np.ones(len(begins), np.bool_)

    def octet(self) -> Octets:
        """Read the next byte."""
        return self._octets[self.at]

    def word(self, behind: int = 0) -> Words:
        """Read eight bytes as a number."""
        return self._words[self.at + behind].astype(np.uint64)

    def string(self, behind: int) -> None:
        """Go behind a string that begins so many bytes further. What it is, and how long it may be, others will see."""
        self.at = self.at + behind
        size = (self.octet() & 31).astype(np.intp)
        self.at = self.at + np.where(size == 24, self._octets[self.at + 1].astype(np.intp) + 2, size + 1)

    def number(self, key: int) -> Words:
        """Go behind an unsigned integer and its key."""
        opening, behind = self.word(), self.word(_HEAD_BEHIND + 1)
        head = opening >> 16 & 0xFF
        info = (head & 31).astype(np.intp)
        value = np.where(info < 24, head, behind >> _SHIFT[info])
        self.fits &= (opening >> 24 == key) & (head <= _UINT64) & (value >= _LEAST[info])
        self.at = self.at + _HEAD_BEHIND + 1 + _FOLLOW[info]
        return value

    def time(self) -> Seconds:
        """Go behind a time. A float64 that begins with 41 is finite: it lies from 36 hours to 272 years after 1970."""
        head, behind = self.octet(), self.word(1)
        is_float = head == _FLOAT64
        fits = np.where(is_float, behind >> 56 == 0x41, (head == _UINT32) & (behind >> 48 != 0))
        self.fits &= fits
        self.at = self.at + np.where(is_float, 9, 5)
        sound = np.where(fits, behind, 0)  # there are NaNs that complain of being looked at
        return np.where(is_float, sound.view(np.float64), sound >> 32)

    def exp(self) -> Seconds:
        """Go behind an exp where there is one; gives NaN where there is none."""
        present = self.octet() == _EXP
        if not present.any():
            return np.full(len(present), np.nan)
        at, fits = self.at, self.fits.copy()
        self.at = at + 1
        seconds = self.time()
        self.at, self.fits = np.where(present, self.at, at), np.where(present, self.fits, fits)
        return np.where(present, seconds, np.nan)

    def payload(self) -> Places:
        """Go behind an empty map and the head of a byte string that is not empty; gives the size of the string."""
        word = self.word()
        head = word >> 48 & 0xFF
        info = (head & 31).astype(np.intp)
        size = np.where(info < 24, head & 31, word << 16 >> _SHIFT[info])
        self.fits &= (word >> 56 == _EMPTY_MAP) & (head > _BYTES) & (head <= _BYTES_64K) & (size >= _LEAST[info])
        self.at = self.at + 2 + _FOLLOW[info]
        return size.astype(np.intp)


def _walk(values: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
    """Say of each envelope whether it fits, as far as can be seen without knowing who sends it and what that unit runs.

    Then where these two end, begin and end, where the payload begins, and the numbers: iat, exp, epoch, seq. Where it
    fits, each place is behind the one before it, and the last of them is in its place; so all of them are its own.
    """
    lengths = np.fromiter(map(len, values), np.intp, len(values))
    parts = values if lengths.max() <= WHOLE_BYTES_MAX else [_both_ends(value) for value in values]
    sizes = np.fromiter(map(len, parts), np.intp, len(parts))
    ends = sizes.cumsum()
    begins = ends - sizes
    walk = _Walk(np.frombuffer(b"".join([*parts, _MARGIN]), np.uint8), begins)

    opening = walk.word()
    walk.at = begins + _WHO_AT
    walk.string(_KID_BEHIND)
    walk.string(_DEVICE_BEHIND)
    who_end = walk.at - begins
    before = walk.exp()
    walk.fits &= (opening >> 40 == _OPENING) & (walk.octet() == _IAT)
    walk.at = walk.at + 1
    iat, behind = walk.time(), walk.exp()
    epoch, seq = walk.number(_EPOCH), walk.number(_SEQ)
    unit_at = walk.at - begins
    walk.string(_SOFTWARE_BEHIND)
    walk.at = walk.at + _UNIT_ENDS_BEHIND
    unit_end = walk.at - begins
    size = walk.payload()
    payload_at, walk.at = walk.at - begins, ends - _SIGNATURE_ITEM_BYTES

    fits = walk.fits & (opening >> 32 & 0xFF == (unit_end - _WHO_AT).astype(np.uint64))
    fits &= np.isnan(before) | np.isnan(behind)
    fits &= (epoch <= envelope.EPOCH_MAX) & (seq > 0) & (seq <= envelope.SEQ_MAX)
    fits &= (payload_at + size == lengths - _SIGNATURE_ITEM_BYTES) & (walk.word() >> 48 == _SIGNATURE_HEAD)
    exp = np.fmin(before, behind)
    columns = fits, who_end, unit_at, unit_end, payload_at, iat, np.where(np.isnan(exp), _NO_EXP, exp), epoch, seq
    return zip(*[column.tolist() for column in columns], strict=True)


def _both_ends(value: bytes) -> bytes:
    if len(value) <= WHOLE_BYTES_MAX:
        return value
    return value[:_BYTES_BEFORE_PAYLOAD_MAX] + value[-_SIGNATURE_ITEM_BYTES:]
