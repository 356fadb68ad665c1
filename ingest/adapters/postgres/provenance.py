"""How was a verdict reached? By which code, engine, policy and schemas; written down once, and named by a number."""

from collections.abc import Iterable

import msgspec

from ingest.adapters.postgres import queries, rows
from ingest.adapters.postgres.connection import Connection
from ingest.core.policy import Policy
from ingest.core.schema import Schema, fields_of


class Provenance(msgspec.Struct, frozen=True):
    """What every verdict of this process records of how it was reached."""

    build: str
    engine: str
    policy: Policy
    schemas: tuple[Schema, ...]


class Stamp(msgspec.Struct, frozen=True):
    """What the rows of one ownership have in common."""

    topic_no: int
    partition: int
    owner_epoch: int
    judged_by: int
    worker: str


async def sign(connection: Connection, known: Provenance) -> int:
    """Write down how this process judges, so that each verdict can say so with one number."""
    for schema in known.schemas:
        await connection.execute(queries.SCHEMA, rows.signed(schema.fingerprint), schema.name, schema.text)
    us = known.build, known.engine, known.policy.digest()
    await connection.execute(queries.JUDGED_BY_EXISTS, *us, msgspec.json.encode(known.policy).decode())
    judged_by: int = await connection.fetchval(queries.JUDGED_BY, *us)
    return judged_by


def table_of(kind: str) -> str:
    """Name the table of a kind of sample: VehicleState is kept in vehicle_state."""
    return "".join("_" + char.lower() if char.isupper() else char for char in kind).lstrip("_")


def columns_of(schemas: Iterable[Schema]) -> dict[str, tuple[str, ...]]:
    """List each kind's columns after the common ones, the last of which is the first field: when it was recorded."""
    return {kind: names[1:] for kind, names in fields_of(schemas).items()}
