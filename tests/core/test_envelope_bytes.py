"""Does the reader answer any bytes at all, and never read two things in the same bytes?"""

from typing import Any

import cbor2
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.core.envelope import EXTERNAL_AAD
from ingest.core.message import Refused
from tests.core.wire import (
    CLAIMS,
    ENVELOPE,
    HEADER,
    accepted,
    envelope,
    framed,
    malformed,
    read_value,
)


def test_every_beginning_of_an_envelope_is_malformed() -> None:
    value = envelope(n4=1.5)
    for size in range(len(value)):
        malformed(value[:size])


def test_no_single_byte_changed_makes_the_reader_raise_or_forget_what_it_read() -> None:
    for at in range(len(ENVELOPE)):
        for byte in range(256):
            check_whatever(ENVELOPE[:at] + bytes((byte,)) + ENVELOPE[at + 1 :])


def check_whatever(value: bytes) -> None:
    """Any bytes are malformed, or exactly what a canonical encoder makes of what was read of them."""
    found = read_value(value)
    if isinstance(found, Refused):
        malformed(value)
        return
    tagged = cbor2.loads(value)
    header = cbor2.loads(tagged.value[0])
    assert cbor2.dumps(tagged) == value
    assert cbor2.dumps(header) == tagged.value[0]
    assert header[15][-70002] == found.seq
    assert found.signed == cbor2.dumps(["Signature1", tagged.value[0], EXTERNAL_AAD, tagged.value[2]])


@settings(deadline=None)  # time is not what is tested
@given(st.binary(max_size=400))
def test_any_bytes_get_an_answer(value: bytes) -> None:
    check_whatever(value)
    check_whatever(b"\xd2\x84" + value)
    check_whatever(framed(value))
    check_whatever(framed(b"\xa3\x01\x27\x04\x41k\x0f" + value))


@settings(deadline=None)  # time is not what is tested
@given(
    st.lists(st.tuples(st.integers(0, len(ENVELOPE)), st.integers(0, 3), st.binary(max_size=9)), min_size=1, max_size=4)
)
def test_any_mutation_of_an_envelope_gets_an_answer(edits: list[tuple[int, int, bytes]]) -> None:
    value = envelope(n4=1.5)
    for at, removed, inserted in edits:
        value = value[:at] + inserted + value[at + removed :]
    check_whatever(value)


any_number = st.integers(-(2**64), 2**64 - 1)
any_value = st.one_of(any_number, st.floats(), st.binary(max_size=40), st.text(max_size=70), st.booleans(), st.none())
any_map = st.dictionaries(st.one_of(st.sampled_from([*CLAIMS, 4]), any_number), any_value, max_size=9)


@settings(deadline=None)  # time is not what is tested
@given(any_map, st.one_of(any_number, any_value), any_value)
def test_any_values_in_the_right_places_get_an_answer(claims: dict[int, Any], alg: object, kid: object) -> None:
    check_whatever(framed(cbor2.dumps({1: alg, 4: kid, 15: CLAIMS | claims})))
    check_whatever(framed(cbor2.dumps({**HEADER, 15: claims})))


@settings(deadline=None)  # time is not what is tested
@given(
    st.fixed_dictionaries(
        {
            2: st.text("ABCxyz019._:-", min_size=1, max_size=64),
            6: any_number | st.floats(allow_nan=False, allow_infinity=False),
            -70001: st.integers(0, 2**32 - 1),
            -70002: st.integers(1, 2**63 - 2),
            -70003: st.binary(min_size=8, max_size=8),
            -70004: st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=64),
            -70005: st.binary(min_size=32, max_size=32),
        },
        optional={4: any_number | st.floats(allow_nan=False, allow_infinity=False)},
    ),
    st.binary(min_size=1, max_size=32),
    st.binary(max_size=300),
)
def test_whatever_keeps_the_rules_is_read(claims: dict[int, Any], kid: bytes, payload: bytes) -> None:
    value = framed(cbor2.dumps({1: -7, 4: kid, 15: claims}), payload=payload)
    found = accepted(value)
    check_whatever(value)
    exp = float(claims[4]) if 4 in claims else None
    assert (found.kid, found.device_id, found.payload) == (kid, claims[2], payload)
    assert (found.issued_at_s, found.expires_at_s) == (float(claims[6]), exp)
    assert (found.epoch, found.seq, found.boot) == (claims[-70001], claims[-70002], claims[-70003])
