"""How do samples that were read at once become rows? As columns, in the binary form of COPY (PostgreSQL 15, "COPY").

Nothing here is done for each of them: a value goes from the payload to the row without being an object of its own.
"""

import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ingest.adapters.postgres.connection import POSTGRES_EPOCH_US
from ingest.core.message import Lot
from ingest.ports import UnkeepableError

Drawing = tuple[int, int, int, int, int]  # of a sample: its place in its lot, and device_no, epoch, seq, issued_at

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # without flags or extension
TRAILER = b"\xff\xff"
NULL = -1  # bytes
ROWS_AT_ONCE = 512  # at most 120 kB: what is larger comes from the system page by page, which takes longer than this
_TIME = "timestamptz"
_EMPTY = {"text[]": struct.pack(">iii", 0, 0, 25)}  # arrays: dimensions, nulls, and the type of what is not in them
_FORMS = {"bool": "?", "int2": ">i2", "int4": ">i4", "int8": ">i8", "float4": ">f4", "float8": ">f8", _TIME: ">i8"}

Values: TypeAlias = NDArray[Any]
_Column: TypeAlias = Values | tuple[()] | None  # (): an empty array in all rows; None: null in all


async def stream(drawn: Mapping[Lot, Sequence[Drawing]], types: Sequence[str]) -> AsyncIterator[bytes]:
    """Give what COPY is to read for samples of one kind: rows.SAMPLE and the kind's own columns, of these types.

    Raises UnkeepableError for a value that its column cannot have.
    """
    yield SIGNATURE
    alike: dict[tuple[tuple[()] | bool | None, ...], list[Lot]] = defaultdict(list)
    for lot in drawn:
        alike[tuple([isinstance(column, np.ndarray) or column for column in lot.columns])].append(lot)
    for lots in alike.values():
        columns = _columns(lots, [drawn[lot] for lot in lots])
        blank = _blank(columns, types)
        for at in range(0, sum([len(drawn[lot]) for lot in lots]), ROWS_AT_ONCE):
            part = [c[at : at + ROWS_AT_ONCE] if isinstance(c, np.ndarray) else c for c in columns]
            yield _lay(part, types, blank)
    yield TRAILER


def _columns(lots: Sequence[Lot], found: Sequence[Sequence[Drawing]]) -> list[_Column]:
    """Bring lots together that have values in the same columns; by device, for these are neighbours in the index."""
    heads = [np.fromiter(chain.from_iterable(one), np.int64).reshape(len(one), -1) for one in found]
    head = np.concatenate(heads)
    order = np.argsort(head[:, 1], kind="stable")
    _, device_no, epoch, seq, issued_at = head[order].T
    values = [
        np.concatenate([column[at[:, 0]] for column, at in zip(parts, heads, strict=True)])[order]
        if isinstance(parts[0], np.ndarray)
        else parts[0]
        for parts in zip(*[lot.columns for lot in lots], strict=True)
    ]
    return [device_no, epoch, seq, np.zeros_like(seq), issued_at, *values]


def _blank(columns: Sequence[_Column], types: Sequence[str]) -> Values:
    """Make a tuple that lacks nothing but its values: the number of its fields, and before each of them its size."""
    layout, sizes = [("fields", ">i2")], []
    for number, (column, name) in enumerate(zip(columns, types, strict=True)):
        form = _form(column, name)
        layout += [(f"size{number}", ">i4"), (f"value{number}", form)]
        sizes.append(NULL if column is None else np.dtype(form).itemsize)
    blank = np.zeros(1, layout)
    blank["fields"] = len(columns)
    for number, (column, name) in enumerate(zip(columns, types, strict=True)):
        blank[f"size{number}"] = sizes[number]
        if isinstance(column, tuple):
            blank[f"value{number}"] = np.void(_EMPTY[name])
    return blank


def _form(column: _Column, name: str) -> str:
    """Say what a value looks like in a column of this type."""
    if column is None:
        return "V0"
    if isinstance(column, tuple) and name in _EMPTY:
        return f"V{len(_EMPTY[name])}"
    if isinstance(column, np.ndarray) and name in _FORMS:
        return _FORMS[name]
    raise UnkeepableError(f"PostgreSQL: a column for something else is of type {name}")


def _lay(columns: Sequence[_Column], types: Sequence[str], blank: Values) -> bytes:
    """Lay columns side by side."""
    count = next(len(column) for column in columns if isinstance(column, np.ndarray))
    tuples = bytearray(blank.tobytes() * count)
    rows = np.frombuffer(tuples, blank.dtype)
    for number, (column, name) in enumerate(zip(columns, types, strict=True)):
        if isinstance(column, np.ndarray):
            value = column - POSTGRES_EPOCH_US if name == _TIME else column
            cells = rows[f"value{number}"]
            cells[:] = value
            same = cells.dtype.kind == value.dtype.kind and cells.itemsize == value.itemsize
            if not (same or (cells == value).all()) or (name == _TIME and (value > column).any()):
                raise UnkeepableError(f"PostgreSQL: a value does not fit its column, which is of type {name}")
    return bytes(tuples)
