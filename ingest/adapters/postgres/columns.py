"""How do columns become rows? Side by side, in the binary form of COPY (PostgreSQL 15, "COPY"), with numpy.

Nothing here is done row by row: a value comes to its place without being an object of its own.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from ingest.adapters.postgres.connection import POSTGRES_EPOCH_US
from ingest.ports import UnkeepableError

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # without flags or extension
TRAILER = b"\xff\xff"
ROWS_AT_ONCE = 512  # side by side
BYTES_AT_ONCE = 120_000  # and a row: what is larger comes from the system page by page, and that takes longest

_NULL = -1  # bytes
_TIME = "timestamptz"
_EMPTY = {"text[]": struct.pack(">iii", 0, 0, 25)}  # arrays: dimensions, nulls, and the type of what is not in them
_FORMS = {"bool": "?", "int2": ">i2", "int4": ">i4", "int8": ">i8", "float4": ">f4", "float8": ">f8", _TIME: ">i8"}
_LAYOUTS_MAX = 256  # kept, some 2 kB each

Values: TypeAlias = NDArray[Any]


class Behind(msgspec.Struct, frozen=True, eq=False):
    """A last column of which only the sizes are known here, in bytes: each value is put behind its row later."""

    sizes: Values


Column: TypeAlias = Values | Behind | tuple[()] | None  # (): an empty array in all rows; None: null in all


class _Cell(msgspec.Struct, frozen=True):
    """What a value looks like in a row, what its size is if that is the same in all, and what stands there before."""

    form: str
    size: int
    content: bytes = b""


def lay(columns: Sequence[Column], types: Sequence[str], more: int = 0) -> Values:
    """Lay columns of these types side by side: rows which have so many more fields, to be put behind them.

    Raises UnkeepableError for a value that its column cannot have.
    """
    layout, blank = _blank(tuple([_cell(column, name) for column, name in zip(columns, types, strict=True)]), more)
    count = next(len(column) for column in columns if isinstance(column, np.ndarray))
    rows = np.frombuffer(bytearray(blank * count), layout)
    for number, (column, name) in enumerate(zip(columns, types, strict=True)):
        if isinstance(column, Behind):
            rows[f"size{number}"] = column.sizes
        elif isinstance(column, np.ndarray):
            _fill(rows[f"value{number}"], column, name)
    return rows


def _fill(cells: Values, column: Values, name: str) -> None:
    value = column - POSTGRES_EPOCH_US if name == _TIME else column
    cells[:] = value
    same = cells.dtype.kind == value.dtype.kind and cells.itemsize == value.itemsize
    if not (same or (cells == value).all()) or (name == _TIME and (value > column).any()):
        raise UnkeepableError(f"PostgreSQL: a value does not fit its column, which is of type {name}")


def _cell(column: Column, name: str) -> _Cell:
    if column is None or isinstance(column, Behind):
        return _Cell("V0", _NULL)
    if isinstance(column, tuple) and name in _EMPTY:
        return _Cell(f"V{len(_EMPTY[name])}", len(_EMPTY[name]), _EMPTY[name])
    if isinstance(column, np.ndarray):
        octets = column.dtype.kind == "V"
        if octets and name == "bytea":
            return _Cell(column.dtype.str, column.itemsize)
        if not octets and name in _FORMS:
            return _Cell(_FORMS[name], np.dtype(_FORMS[name]).itemsize)
    raise UnkeepableError(f"PostgreSQL: a column for something else is of type {name}")


@lru_cache(_LAYOUTS_MAX)
def _blank(cells: Sequence[_Cell], more: int) -> tuple[np.dtype[Any], bytes]:
    """Make a row that lacks nothing but its values: the number of its fields, and before each of them its size."""
    layout = [("fields", ">i2")]
    for number, cell in enumerate(cells):
        layout += [(f"size{number}", ">i4"), (f"value{number}", cell.form)]
    blank = np.zeros(1, layout)
    blank["fields"] = len(cells) + more
    for number, cell in enumerate(cells):
        blank[f"size{number}"] = cell.size
        if cell.content:
            blank[f"value{number}"] = np.void(cell.content)
    return blank.dtype, blank.tobytes()
