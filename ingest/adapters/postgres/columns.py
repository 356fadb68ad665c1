"""How do samples that were read at once become rows? As columns, in the binary form of COPY (PostgreSQL 15, "COPY").

Nothing here is done for each of them: a value goes from the payload to the row without being an object of its own.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingest.adapters.postgres.connection import POSTGRES_EPOCH_US
from ingest.core.message import Lot
from ingest.ports import UnkeepableError

Place = tuple[int, int, int, int, int]  # of a sample in its lot, and of its message: device_no, epoch, seq, issued_at

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # without flags or extension
TRAILER = b"\xff\xff"
NULL = -1  # bytes
ROWS_AT_ONCE = 512  # at most 120 kB: what is larger comes from the system page by page, which takes longer than this
_TIME = "timestamptz"
_FORMS = {"bool": "?", "int2": ">i2", "int4": ">i4", "int8": ">i8", "float4": ">f4", "float8": ">f8", _TIME: ">i8"}

Values: TypeAlias = NDArray[Any]
_Column: TypeAlias = Values | None  # None: null in all rows


async def stream(drawn: Mapping[Lot, Sequence[Place]], types: Sequence[str]) -> AsyncIterator[bytes]:
    """Give what COPY is to read for samples of one kind: rows.SAMPLE and the kind's own columns, of these types.

    Raises UnkeepableError for a value that its column cannot have.
    """
    yield SIGNATURE
    alike: dict[tuple[bool, ...], list[Lot]] = defaultdict(list)
    for lot in drawn:
        alike[tuple([column is None for column in lot.columns])].append(lot)
    for lots in alike.values():
        columns = _columns(lots, [drawn[lot] for lot in lots])
        blank = _blank(columns, types)
        for at in range(0, sum([len(drawn[lot]) for lot in lots]), ROWS_AT_ONCE):
            yield _lay([None if column is None else column[at : at + ROWS_AT_ONCE] for column in columns], types, blank)
    yield TRAILER


def _columns(lots: Sequence[Lot], places: Sequence[Sequence[Place]]) -> list[_Column]:
    """Bring lots together that have values in the same columns; by device, for these are neighbours in the index."""
    heads = [np.fromiter(chain.from_iterable(found), np.int64).reshape(len(found), -1) for found in places]
    head = np.concatenate(heads)
    order = np.argsort(head[:, 1], kind="stable")
    _, device_no, epoch, seq, issued_at = head[order].T
    values = [
        None if parts[0] is None else np.concatenate([c[at[:, 0]] for c, at in zip(parts, heads, strict=True)])[order]
        for parts in zip(*[lot.columns for lot in lots], strict=True)
    ]
    return [device_no, epoch, seq, np.zeros_like(seq), issued_at, *values]


def _blank(columns: Sequence[_Column], types: Sequence[str]) -> Values:
    """Make a tuple that lacks nothing but its values: the number of its fields, and before each of them its size."""
    layout = [("fields", ">i2")]
    for number, (column, name) in enumerate(zip(columns, types, strict=True)):
        layout.append((f"size{number}", ">i4"))
        if column is not None:
            if name not in _FORMS:
                raise UnkeepableError(f"PostgreSQL: a column for numbers is of type {name}")
            layout.append((f"value{number}", _FORMS[name]))
    blank = np.zeros(1, layout)
    blank["fields"] = len(columns)
    for number, column in enumerate(columns):
        blank[f"size{number}"] = NULL if column is None else blank.dtype[f"value{number}"].itemsize
    return blank


def _lay(columns: Sequence[_Column], types: Sequence[str], blank: Values) -> bytes:
    """Lay columns side by side."""
    count = next(len(column) for column in columns if column is not None)
    tuples = bytearray(blank.tobytes() * count)
    rows = np.frombuffer(tuples, blank.dtype)
    for number, (column, name) in enumerate(zip(columns, types, strict=True)):
        if column is not None:
            value = column - POSTGRES_EPOCH_US if name == _TIME else column
            cells = rows[f"value{number}"]
            cells[:] = value
            same = cells.dtype.kind == value.dtype.kind and cells.itemsize == value.itemsize
            if not (same or (cells == value).all()) or (name == _TIME and (value > column).any()):
                raise UnkeepableError(f"PostgreSQL: a value does not fit its column, which is of type {name}")
    return bytes(tuples)
