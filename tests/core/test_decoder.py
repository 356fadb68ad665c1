"""Is the text of a reader what the decision page shows, and does it know names, bounds and bytes only as it may?"""

import re
import struct
from pathlib import Path

import pytest

from ingest.core.decoder import BodyError, make_sample, write
from ingest.core.schema import Array, Field, Flag, Number, Record, Text, Type, Width
from ingest.core.verdict import Refusal

PAGE = Path(__file__).parents[2] / "decisions" / "avro-profile.md"


def field(name: str, described: Type, *, nullable: bool = False) -> Field:
    return Field(name, described, nullable, None)


EXAMPLE = Record(
    "Example",
    (
        field("recorded_at_us", Number(Width.LONG, 0, 4_102_444_800_000_000, "us")),
        field("gear", Number(Width.INT, -1, 8, None)),
        field("is_moving", Flag()),
        field("heading", Number(Width.DOUBLE, 0, 360, "degrees"), nullable=True),
        field("note", Text(16), nullable=True),
    ),
)


def read(kind: Record, body: bytes) -> tuple[object, int]:
    return make_sample(kind, [field.name for field in kind.fields])(body, 0)


def test_the_decision_page_shows_the_text_as_it_is_written() -> None:
    shown = re.search(r"```python\n(.*?)\n```", PAGE.read_text(), re.DOTALL)
    assert shown is not None
    assert shown[1] == write(EXAMPLE.fields, "(v0, v1, v2, v3, v4,)")
    compile(shown[1], "the page", "exec")


def test_names_are_no_part_of_the_text_of_a_kind() -> None:
    text = write(EXAMPLE.fields, "(v0,)")
    assert not any(field.name in text for field in EXAMPLE.fields)


def test_values_come_in_the_order_of_the_names_that_were_asked_for() -> None:
    read_example = make_sample(EXAMPLE, ("recorded_at_us", "is_moving", "added_later", "gear", "heading", "note"))
    assert read_example(b"\x02\x04\x01\x00\x00", 0) == ((1, True, None, 2, None, None), 5)


@pytest.mark.parametrize("heading", [None, 12.5, -0.0, 360.0])
@pytest.mark.parametrize("note", [None, "", "x", "x" * 16])
def test_what_is_null_changes_nothing_beside_it(heading: float | None, note: str | None) -> None:
    body = b"\x02\x04\x01" + (b"\x00" if heading is None else b"\x02" + struct.pack("<d", heading))
    body += b"\x00" if note is None else bytes((2, 2 * len(note))) + note.encode()
    assert read(EXAMPLE, body) == ((1, 2, True, heading, note), len(body))
    assert read(EXAMPLE, body + bytes(30)) == ((1, 2, True, heading, note), len(body))


@pytest.mark.parametrize("size", range(1, 10))
def test_a_time_is_read_in_any_number_of_bytes_and_at_the_very_end(size: int) -> None:
    kind = Record("Wide", (field("recorded_at_us", Number(Width.LONG, -(2**63), 2**63 - 1, None)),))
    for number in (128 ** (size - 1), 128**size - 1):  # zig-zag: the odd ones are negative
        body = bytes((number >> 7 * place & 0x7F) | 0x80 * (place < size - 1) for place in range(size))
        for tail in (b"", bytes(9)):
            assert read(kind, body + tail) == (((number >> 1) ^ -(number & 1),), size)


def test_the_first_fault_is_the_one_that_is_named() -> None:
    """However the fields around it are read: in one go, or one by one."""
    beyond, late = struct.pack("<d", 400.0), b"\x02\x04\x02\x02"
    for body in (late + beyond, late + beyond[:4], b"\x02\x04\x02\x07"):
        with pytest.raises(BodyError, match=r"Example\.is_moving is a boolean of 2"):
            read(EXAMPLE, body)
    with pytest.raises(BodyError, match=r"Example\.heading is 400\.0; its schema allows 0 to 360 degrees") as raised:
        read(EXAMPLE, b"\x02\x04\x01\x02" + beyond + b"\x07")
    assert raised.value.reason is Refusal.OUT_OF_RANGE


def test_a_bound_that_no_float_equals_stays_what_it_is() -> None:
    kind = Record("Fine", (field("level", Number(Width.DOUBLE, 0, 2**53 + 3, None)),))
    assert read(kind, struct.pack("<d", 2.0**53 + 2)) == ((2.0**53 + 2,), 8)
    with pytest.raises(BodyError, match="9007199254740995"):
        read(kind, struct.pack("<d", 2.0**53 + 4))  # to which the bound would be rounded


def test_records_within_a_sample_have_their_values_by_name() -> None:
    part = Record("Part", (field("on", Flag()), field("off", Flag(), nullable=True)))
    kind = Record("Whole", (field("parts", Array(part, 3)), field("part", part, nullable=True)))
    body = b"\x04" + b"\x01\x00" + b"\x00\x02\x01" + b"\x00" + b"\x02\x01\x00"
    first, second = {"on": True, "off": None}, {"on": False, "off": True}
    assert read(kind, body) == (([first, second], first), len(body))
