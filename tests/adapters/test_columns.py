"""Does the store have a place for everything that the released schemas say, and do the views show what they promise?"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, assert_never

import pytest

import schemas
from ingest.adapters.postgres.connection import connect
from ingest.adapters.postgres.provenance import table_of
from ingest.core.payload import load
from ingest.core.schema import Array, Choice, Field, Flag, Number, Record, Text, Type, Width

pytestmark = pytest.mark.real

Columns = dict[str, str]  # type by name, as PostgreSQL writes it, with "not null" behind it
Relations = dict[str, Columns]
Pick = Callable[..., Any]  # min or max

# In the order of the versions: what the first has, and who is newer, tells what may be null.
VERSIONS = load(schemas.read_telemetry()).schemas

COMMON = {
    "device_no": "bigint not null",
    "epoch": "bigint not null",
    "seq": "bigint not null",
    "sample_no": "smallint not null",
    "issued_at": "timestamp with time zone not null",
    "recorded_at": "timestamp with time zone not null",
}
VERDICT = [
    "topic", "partition", "kafka_offset", "verdict", "reason", "device_id", "epoch", "seq", "received_at",
    "incarnation",
]  # fmt: skip
BATCH = [
    "topic", "partition", "from_offset", "to_offset", "accepted", "duplicate", "held", "refused", "skipped",
    "committed_at", "worker", "incarnation",
]  # fmt: skip
PROVENANCE = {
    "device_id", "tenant", "vehicle_id", "kid", "algorithm", "epoch", "seq", "boot", "issued_at", "received_at",
    "time_quality", "topic", "partition", "kafka_offset", "schema", "software", "configuration", "digest", "envelope",
    "build", "policy_digest",
}  # fmt: skip


@pytest.fixture
async def relations(store_database: str) -> Relations:
    """Every table and view, by its full name."""
    connection = await connect(store_database, "test")
    rows = await connection.fetch(
        """
        select n.nspname || '.' || c.relname as relation, a.attname as name,
               format_type(a.atttypid, a.atttypmod) || case when a.attnotnull then ' not null' else '' end as type
        from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
        where n.nspname in ('store', 'weighbridge') and a.attnum > 0 and not a.attisdropped and not c.relispartition
          and c.relkind in ('r', 'p', 'v')
        order by c.oid, a.attnum
        """
    )
    await connection.close()
    found: Relations = defaultdict(dict)
    for row in rows:
        found[row["relation"]][row["name"]] = row["type"]
    return found


def kinds() -> dict[str, list[Record]]:
    """Give each kind of sample in each version that has it."""
    found: dict[str, list[Record]] = defaultdict(list)
    for version in VERSIONS:
        for kind in version.kinds:
            found[kind.name].append(kind)
    return found


def fitting(versions: list[Record]) -> Columns:
    """Give the columns that fit the fields of a kind: null where a version allows it, or does not have the field."""
    fields: dict[str, list[Field]] = defaultdict(list)
    for version in versions:
        for field in version.fields[1:]:
            fields[field.name].append(field)
    return COMMON | {name: fit(same, in_all=len(same) == len(versions)) for name, same in fields.items()}


def fit(same: list[Field], *, in_all: bool) -> str:
    (types,) = {column_type(field.type) for field in same}
    return types if any(field.nullable for field in same) or not in_all else f"{types} not null"


def column_type(described: Type) -> str:
    match described:
        case Flag():
            return "boolean"
        case Number(width=Width.FLOAT | Width.DOUBLE):
            return "double precision"
        case Number(minimum=minimum, maximum=maximum):
            limits = (("smallint", 2**15), ("integer", 2**31), ("bigint", 2**63))
            return next(name for name, limit in limits if -limit <= minimum and maximum < limit)
        case Text() | Choice():
            return "text"
        case Array(items=items):
            return f"{column_type(items)}[]"
        case Record():
            raise AssertionError("no column fits a record; give its fields columns of their own")
        case _:
            assert_never(described)


async def test_each_kind_of_sample_has_a_table_with_a_fitting_column_for_each_field(relations: Relations) -> None:
    expected = {f"store.{table_of(kind)}": fitting(versions) for kind, versions in kinds().items()}
    assert {name: relations[name] for name in expected} == expected


async def test_each_kind_of_sample_has_a_view_that_shows_its_table_and_names_the_device(relations: Relations) -> None:
    for kind in kinds():
        shown, kept = relations[f"weighbridge.{table_of(kind)}"], relations[f"store.{table_of(kind)}"]
        assert list(shown) == ["device_id", *kept]
        assert {name: shown[name] for name in kept} == {
            name: said.removesuffix(" not null") for name, said in kept.items()
        }


async def test_the_views_have_the_columns_that_they_promise(relations: Relations) -> None:
    assert list(relations["weighbridge.verdict"]) == VERDICT
    assert list(relations["weighbridge.batch"]) == BATCH
    assert relations["weighbridge.message"].keys() >= PROVENANCE


@pytest.mark.parametrize("end", [min, max])
async def test_the_extremes_of_each_field_come_back_as_they_were_written(store_database: str, end: Pick) -> None:
    connection = await connect(store_database, "test")
    for kind, versions in kinds().items():
        newest = versions[-1]
        said = {field.name: extreme(field.type, end) for field in newest.fields}
        names = ["recorded_at", *list(said)[1:]]
        row = (1, 2**32 - 1, 2**63 - 2, 1_023, 0, *said.values())
        await connection.copy_records_to_table(
            table_of(kind), records=[row], columns=[*list(COMMON)[:5], *names], schema_name="store"
        )
        found = await connection.fetchrow(f"select {', '.join(names)} from store.{table_of(kind)}")  # noqa: S608 (our names)
        assert found is not None
        assert dict(found) == dict(zip(names, said.values(), strict=True))
    await connection.close()


def extreme(described: Type, end: Pick) -> object:
    """Give the least or the greatest value that a field may have."""
    match described:
        case Flag():
            return end((False, True))
        case Number(minimum=minimum, maximum=maximum):
            return end(minimum, maximum)
        case Text(length_max=length_max):
            return end("", "\U0010ffff" * length_max)
        case Choice(symbols=symbols):
            return end(symbols)
        case Array(items=items, items_max=items_max):
            return end([], [extreme(items, end)] * items_max)
        case Record():
            raise AssertionError("no column fits a record")
        case _:
            assert_never(described)
