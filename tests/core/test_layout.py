"""Is what is laid out as usual read at once, and never otherwise than the strict reader reads it?"""

import itertools
import math
import random
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_sim.fleet import MIXES, Plan, sends
from device_sim.identity import Fleet
from ingest.core import envelope, layout
from ingest.core.layout import ABREAST_MAX, ABREAST_MIN, WHOLE_BYTES_MAX
from ingest.core.message import Envelope, RawRecord, Refused
from tests.core.wire import BOOT, BYTES_MAX, CONFIGURATION, framed

EPOCH, SEQ = b"\x3a\x00\x01\x11\x70", b"\x3a\x00\x01\x11\x71"
PLAIN: dict[int, Any] = {
    2: "vehicle-1", 6: 1_790_000_000, -70001: 1, -70002: 7, -70003: BOOT, -70004: "tcu 4.2", -70005: CONFIGURATION,
}  # fmt: skip


def laid_out(
    claims: dict[int, Any] | None = None, kid: bytes = b"key-1", alg: int = -8, payload: bytes = b"\xc3\x01pay"
) -> bytes:
    """An envelope whose claims stand in the order given, or that of PLAIN."""
    return framed(cbor2.dumps({1: alg, 4: kid, 15: claims or PLAIN}), payload=payload)


def respelt(value: bytes, old: bytes, new: bytes) -> bytes:
    """An envelope with other bytes at one place of its header, whose length is right all the same."""
    header, rest = value[4 : 4 + value[3]], value[4 + value[3] :]
    assert header.count(old) == 1
    changed = header.replace(old, new)
    return value[:3] + bytes((len(changed),)) + changed + rest


def records_of(values: Iterable[bytes]) -> list[RawRecord]:
    return [RawRecord("telemetry.raw", 0, offset, 1_790_000_000_000, value) for offset, value in enumerate(values)]


def abreast(values: Sequence[bytes]) -> list[Envelope | None]:
    """What is read of these side by side, where anything is; it must be what the strict reader reads."""
    records = records_of(values)
    found, strict = layout.read_usual(records, BYTES_MAX), [envelope.read(record, BYTES_MAX) for record in records]
    for usual, read in zip(found, strict, strict=True):
        assert usual is None or repr(usual) == repr(read)  # 1 equals 1.0, and 0.0 equals -0.0
    assert layout.read(records, BYTES_MAX) == strict
    return found


def at_once(value: bytes) -> Envelope | None:
    """What is read of it by itself, if anything is."""
    (found,) = abreast([value])
    return found


def test_what_the_simulated_fleet_sends_is_read_at_once() -> None:
    plan = Plan(Fleet(seed=5, vehicles=40), MIXES["honest"], 1_790_000_000.0)
    assert all(abreast([send.value or b"" for send in itertools.islice(sends(plan), 200)]))


@pytest.mark.parametrize("alg", [-8, -19, -7, -9])
@pytest.mark.parametrize("iat", [1_790_000_000, 1_790_000_000.25, 2**16, 2**32 - 1])
@pytest.mark.parametrize("exp", [None, 1_790_000_600, 1_790_000_600.5])
def test_two_orders_of_claims_are_usual(exp: float | None, iat: float, alg: int) -> None:
    rest = {number: value for number, value in PLAIN.items() if number not in (2, 6)}
    for times in ({4: exp, 6: iat}, {6: iat, 4: exp}):
        said = {number: value for number, value in times.items() if value is not None}
        assert at_once(laid_out({2: "v", **said, **rest}, alg=alg))


@pytest.mark.parametrize("size", [1, 23, 24, 32])
def test_every_length_that_is_allowed_is_read_at_once(size: int) -> None:
    assert at_once(laid_out(kid=bytes(size)))
    assert at_once(laid_out(PLAIN | {2: "x" * 2 * size}))
    assert at_once(laid_out(PLAIN | {-70004: ":" * 2 * size}))
    assert at_once(laid_out(payload=bytes(size * 2_000)))


@pytest.mark.parametrize("number", [0, 1, 23, 24, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63 - 2])
def test_every_size_of_number_is_read_at_once(number: int) -> None:
    assert number == 0 or at_once(laid_out(PLAIN | {-70002: number}))
    assert number >= 2**32 or at_once(laid_out(PLAIN | {-70001: number}))


def test_any_bytes_may_stand_in_a_kid() -> None:
    for kid in (b"\x0f\xa7\x02\x61a\x06", b"\x0f\xa8\x02" * 10, b"\n\n", bytes(range(32))):
        assert at_once(laid_out(kid=kid))


UNUSUAL = {
    "claims in another order": laid_out(dict(reversed(PLAIN.items()))),
    "exp behind all others": laid_out({**PLAIN, 4: 5}),
    "an algorithm that is not ours": laid_out(alg=-35),
    "a header of more than 255 bytes": laid_out({2: "", 4: 1.5, **PLAIN | {2: "x" * 64, -70004: "x" * 64}}, bytes(32)),
    "a time before 1970": laid_out(PLAIN | {6: -1}),
    "a time of a few seconds": laid_out(PLAIN | {6: 1}),
    "a float64 of a few seconds": laid_out(PLAIN | {6: 1.5}),
    "a float64 of the year 3000": laid_out(PLAIN | {6: 32_503_680_000.5}),
    "an exp of -0.0": laid_out({2: "v", 6: 1_790_000_000, 4: -0.0, **PLAIN}),
    "no payload": laid_out(payload=b""),
}


@pytest.mark.parametrize("value", UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_allowed_and_not_usual_is_left_to_the_strict_reader(value: bytes) -> None:
    assert at_once(value) is None
    (read,) = layout.read(records_of([value]), BYTES_MAX)
    assert isinstance(read, Envelope)


SECONDS = struct.pack(">d", 1_790_000_000.25)
RICH = laid_out({2: "v" * 30, 6: 1_790_000_000.25, 4: 1_790_000_600, **PLAIN | {6: 1_790_000_000.25}}, kid=bytes(24))
WRONG = {
    "iat not a number": RICH.replace(SECONDS, struct.pack(">d", math.nan)),
    "iat infinite": RICH.replace(SECONDS, struct.pack(">d", -math.inf)),
    "iat a signalling NaN": RICH.replace(SECONDS, b"\x7f\xf0" + bytes(5) + b"\x01"),
    "exp a signalling NaN": laid_out({2: "v", 6: 1_790_000_000, 4: 1.5, **PLAIN}).replace(
        struct.pack(">d", 1.5), b"\x7f\xf0" + bytes(5) + b"\x01"
    ),
    "exp infinite": laid_out({2: "v", 6: 1_790_000_000, 4: math.inf, **PLAIN}),
    "two exps": respelt(RICH, b"\x06\xfb", b"\x04\x1a\x6a\xb1\x3b\x80\x06\xfb"),
    "a claim fewer than its map says": respelt(laid_out(), b"\x0f\xa7", b"\x0f\xa8"),
    "a claim more than its map says": respelt(RICH, b"\x0f\xa8", b"\x0f\xa7"),
    "seq 0": laid_out(PLAIN | {-70002: 0}),
    "seq 2^63-1": laid_out(PLAIN | {-70002: 2**63 - 1}),
    "seq 2^63": laid_out(PLAIN | {-70002: 2**63}),
    "epoch 2^32": laid_out(PLAIN | {-70001: 2**32}),
    "an epoch that is not shortest": respelt(laid_out(), EPOCH + b"\x01", EPOCH + b"\x18\x01"),
    "a seq that is not shortest": respelt(laid_out(), SEQ + b"\x07", SEQ + b"\x19\x00\x07"),
    "a kid of 33 bytes": laid_out(kid=bytes(33)),
    "a sub of 65": laid_out(PLAIN | {2: "x" * 65}),
    "a sub with a newline at its end": laid_out(PLAIN | {2: "v\n"}),
    "a software version of 65": laid_out(PLAIN | {-70004: "x" * 65}),
    "a payload length that is not shortest": laid_out().replace(b"\x45\xc3\x01", b"\x58\x05\xc3\x01"),
    "a signature of 63 bytes": framed(cbor2.dumps({1: -8, 4: b"k", 15: PLAIN}), signature=bytes(63)),
    "a byte behind the signature": laid_out() + b"\x00",
    "a short kid with a long head": respelt(laid_out(kid=b"k" * 23), b"\x04\x57", b"\x04\x58\x17"),
    "a kid whose head has a short one behind the long": respelt(laid_out(), b"\x04\x45", b"\x04\x58\x45"),
    "a kid whose long head has no beginning": respelt(laid_out(kid=bytes(24)), b"\x04\x58\x18", b"\x04\x18"),
    "a sub whose head has a short one behind the long": respelt(laid_out(), b"\x02\x69v", b"\x02\x78\x69v"),
    "an envelope of 65,537 bytes": laid_out(payload=bytes(BYTES_MAX + 1 - len(laid_out(payload=b"")) - 2)),
}


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_never_read_at_once(value: bytes) -> None:
    assert at_once(value) is None
    (read,) = layout.read(records_of([value]), BYTES_MAX)
    assert isinstance(read, Refused)


def test_a_record_without_a_value_that_could_be_had_is_not_read() -> None:
    record = RawRecord("telemetry.raw", 0, 0, 0, laid_out(), unreadable="broken")
    assert layout.read_usual([record], BYTES_MAX) == [None]


def lengths(value: bytes) -> Iterator[int]:
    """Where the lengths of an envelope stand that was laid out with a kid, a sub and a payload of usual sizes."""
    yield 3
    yield from (
        found.end() - 1 for found in re.finditer(rb"\x04\x58.|\x02[\x60-\x7f]|\x73[\x60-\x7f]|\xa0\x58.", value)
    )


def test_lengths_that_are_wrong_by_the_same_are_not_read_at_once() -> None:
    value = laid_out(kid=bytes(24), payload=b"\x01" * 40)
    places = list(lengths(value))
    assert len(places) == 5
    for up, down in itertools.permutations(places, 2):
        changed = bytearray(value)
        changed[up] += 1
        changed[down] -= 1
        assert at_once(bytes(changed)) is None


def test_whatever_bit_is_flipped_both_readers_read_the_same() -> None:
    flipped = [
        RICH[:at] + bytes((RICH[at] ^ 1 << bit,)) + RICH[at + 1 :]
        for at, bit in itertools.product(range(len(RICH)), range(8))
    ]
    assert any(found := abreast(flipped))
    assert not all(found)


def test_no_beginning_of_an_envelope_is_read_at_once() -> None:
    assert not any(abreast([RICH[:size] for size in range(len(RICH))]))


def mutations(value: bytes, count: int) -> Iterator[bytes]:
    rng = random.Random(7)
    pieces = [b"\x0f\xa7\x02", b"\x0f\xa8\x02", b"\x06\x1a", b"\x04\x1a", EPOCH, SEQ, b"\xa0\x58", b"\x58\x40", b"\x00"]
    for _ in range(count):
        changed = bytearray(value)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(changed))
            changed[at : at + rng.choice((0, 1, 3, 5))] = rng.choice(
                (rng.choice(pieces), rng.randbytes(rng.randrange(4)))
            )
        yield bytes(changed)


@pytest.mark.parametrize("payload", [b"\xc3\x01pay", bytes(2_000)], ids=["small", "large"])
def test_whatever_is_changed_both_readers_read_the_same(payload: bytes) -> None:
    rich = laid_out({2: "v" * 30, 6: 1_790_000_000.25, 4: 1_790_000_600, **PLAIN}, bytes(24), payload=payload)
    assert any(abreast(list(mutations(rich, 10_000))))


def test_nobody_is_read_otherwise_for_who_lies_beside_him() -> None:
    values = [RICH, laid_out(), laid_out(payload=bytes(WHOLE_BYTES_MAX)), *UNUSUAL.values(), *WRONG.values(), b""]
    alone = {value: at_once(value) is not None for value in values}
    rng = random.Random(3)
    for length in (2, ABREAST_MIN, 3 * ABREAST_MAX):
        chosen = rng.choices(values, k=length)
        assert [found is not None for found in abreast(chosen)] == [alone[value] for value in chosen]


def test_no_walk_goes_beyond_what_lies_behind_the_last() -> None:
    longest = bytearray(1_000)  # it begins as an envelope; then each item is as long as a walk can take it for
    at = 8
    for heads, step in (
        (b"\x58\xff", 257 + 3), (b"\x58\xff", 257), (b"\x04\xfb", 10), (b"\x06\xfb", 10), (b"\x04\xfb", 10),
        (EPOCH + b"\x1b", 14), (SEQ + b"\x1b", 14 + 19), (b"\x58\xff", 257 + 39),
    ):  # fmt: skip
        longest[at : at + len(heads)] = heads
        at += step
    assert at > 850
    for size in range(len(longest)):
        assert abreast([laid_out(), bytes(longest[:size])])[1] is None


time = st.integers(0, 2**32 + 5) | st.floats(allow_nan=False, allow_infinity=False)


@settings(deadline=None)  # time is not what is tested
@given(
    st.lists(st.sampled_from(list(PLAIN)), unique=True, max_size=2),
    st.fixed_dictionaries(
        {
            2: st.text("ABCxyz019._:-", min_size=1, max_size=64),
            4: st.none() | time,
            6: time,
            -70001: st.integers(0, 2**32 - 1),
            -70002: st.integers(1, 2**63 - 2),
            -70003: st.binary(min_size=8, max_size=8),
            -70004: st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=64),
            -70005: st.binary(min_size=32, max_size=32),
        }
    ),
    st.binary(min_size=1, max_size=32),
    st.binary(max_size=300),
)
def test_whatever_keeps_the_rules_is_read_the_same(
    first: list[int], claims: dict[int, Any], kid: bytes, payload: bytes
) -> None:
    order = [*first, *(number for number in claims if number not in first)]
    value = laid_out({n: claims[n] for n in order if claims[n] is not None}, kid, payload=payload)
    assert at_once(value) or isinstance(envelope.read(RawRecord("t", 0, 0, 0, value), BYTES_MAX), Envelope)
