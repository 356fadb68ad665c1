"""Who is enrolled? Devices with their keys, vehicles and tenants: taken in from lines of JSON, listed and shown."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from ingest.adapters.postgres.connection import Connection
from ingest.core.device import Algorithm
from ingest.core.enrolment import EnrolmentError, admit

PROBLEMS_SHOWN_MAX = 20
LOCK = 0x656E726F6C  # "enrol": one import at a time, or two could each take the other's device for new
LIST_ROWS_MAX = 10_000


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of `weighbridge devices import`."""

    device_id: str
    tenant: str
    vehicle_id: str
    epoch: int
    kid: str  # hexadecimal, 1..32 bytes
    alg: Literal["EdDSA", "ES256"]
    public_key: str  # SubjectPublicKeyInfo, PEM


class Entry(msgspec.Struct, frozen=True):
    """A line whose key passed the gate."""

    device_id: str
    tenant: str
    vehicle_id: str
    epoch: int
    kid: bytes
    algorithm: Algorithm
    public: bytes


class ImportProblemsError(Exception):
    """Nothing was imported; the message lists what is wrong, by line."""

    def __init__(self, problems: Sequence[str]) -> None:
        shown = "\n".join(f"  {problem}" for problem in problems[:PROBLEMS_SHOWN_MAX])
        more = f"\n  and {len(problems) - PROBLEMS_SHOWN_MAX} more" if len(problems) > PROBLEMS_SHOWN_MAX else ""
        super().__init__(f"nothing was imported:\n{shown}{more}")


class Imported(msgspec.Struct, frozen=True):
    """What an import did."""

    lines: int
    devices_new: int
    keys_new: int
    epochs_raised: int
    keys_shared: int  # public keys that more than one device has: each device should have its own


def read_lines(lines: Iterable[str]) -> list[Entry]:
    """Check every line; raises ImportProblemsError with all the problems at once."""
    entries, problems = [], []
    for line_no, line in enumerate(lines, 1):
        if line.strip():
            try:
                entries.append(_entry(line))
            except (msgspec.DecodeError, EnrolmentError, ValueError) as error:
                problems.append(f"line {line_no}: {error}")
    if problems:
        raise ImportProblemsError(problems)
    return entries


def _entry(line: str) -> Entry:
    read = msgspec.json.decode(line, type=Line)
    check_identity(read)
    algorithm, public = admit(read.alg, read.public_key)
    return Entry(read.device_id, read.tenant, read.vehicle_id, read.epoch, bytes.fromhex(read.kid), algorithm, public)


def check_identity(line: Line) -> None:
    """Refuse names that no envelope could carry (schemas/envelope.md, claims)."""
    if not 1 <= len(line.device_id) <= 64 or not set(line.device_id) <= DEVICE_ID_CHARS:
        raise ValueError(f"device_id {line.device_id[:80]!r}: 1 to 64 characters of A-Z a-z 0-9 . _ : -")
    for name, text in (("tenant", line.tenant), ("vehicle_id", line.vehicle_id)):
        if not (1 <= len(text) <= 64 and text.isascii() and text.isprintable()):
            raise ValueError(f"{name} {text[:80]!r}: 1 to 64 printable ASCII characters")
    if not 0 <= line.epoch < 2**32:
        raise ValueError(f"epoch {line.epoch}: 0 to 4294967295")
    try:
        kid = bytes.fromhex(line.kid)
    except ValueError:
        kid = b""
    if not 1 <= len(kid) <= 32:
        raise ValueError(f"kid {line.kid[:80]!r}: 1 to 32 bytes, written as hexadecimal digits")


DEVICE_ID_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-")

_STAGE = """
    create temporary table entry (
        line integer, device_id text, tenant text, vehicle_id text, epoch bigint,
        kid bytea, algorithm text, public_key bytea
    ) on commit drop"""

_CONFLICTS = """
    select format('device %s is of vehicle %s; to move it is not an import', d.device_id, v.vehicle_id)
    from entry e join store.device d using (device_id) join store.vehicle v using (vehicle_no)
    where v.vehicle_id <> e.vehicle_id
    union
    select format('vehicle %s belongs to tenant %s, not %s', v.vehicle_id, t.tenant, e.tenant)
    from entry e join store.vehicle v using (vehicle_id) join store.tenant t using (tenant_no)
    where t.tenant <> e.tenant
    union
    select format('vehicle %s is given to several tenants', vehicle_id) from entry
    group by vehicle_id having count(distinct tenant) > 1
    union
    select format('device %s is given several vehicles or epochs', device_id) from entry
    group by device_id having count(distinct (vehicle_id, epoch)) > 1
    union
    select format('device %s: kid %s is another key; a new key needs a new kid', e.device_id, encode(e.kid, 'hex'))
    from entry e join store.device d using (device_id) join store.device_key k using (device_no, kid)
    where (k.public_key, k.algorithm) <> (e.public_key, e.algorithm)
    union
    select format('device %s: kid %s is given several keys', device_id, encode(kid, 'hex')) from entry
    group by device_id, kid having count(distinct (public_key, algorithm)) > 1
    union
    select format('device %s is at epoch %s; %s would take it back', d.device_id, s.epoch, e.epoch)
    from entry e join store.device d using (device_id) join store.device_state s using (device_no)
    where s.epoch > e.epoch
    order by 1"""

_LOCK_KNOWN = """
    select s.device_no from store.device_state s join store.device d using (device_no)
    where d.device_id in (select device_id from entry) order by s.device_no for no key update of s"""

_TENANTS = "insert into store.tenant (tenant) select distinct tenant from entry order by 1 on conflict do nothing"

_VEHICLES = """
    insert into store.vehicle (vehicle_id, tenant_no)
    select distinct e.vehicle_id, t.tenant_no from entry e join store.tenant t using (tenant) order by 1
    on conflict do nothing"""

_DEVICES = """
    insert into store.device (device_id, vehicle_no)
    select e.device_id, v.vehicle_no from (select device_id, vehicle_id, min(line) as line from entry group by 1, 2) e
    join store.vehicle v using (vehicle_id) order by e.line
    on conflict do nothing"""

_CLOSE_EPOCHS = """
    insert into store.closed_ledger (device_no, epoch, seen, seen_floor, lowest, highest, accepted)
    select s.device_no, s.epoch, s.seen, s.seen_floor, s.lowest, s.highest, s.accepted
    from store.device_state s join store.device d using (device_no)
    where exists (select from entry e where e.device_id = d.device_id and e.epoch > s.epoch)"""

_RAISE_EPOCHS = """
    update store.device_state s set
        epoch = e.epoch, seen = '{}', seen_floor = 0, lowest = 0, highest = 0, accepted = 0
    from store.device d join (select device_id, max(epoch) as epoch from entry group by 1) e using (device_id)
    where d.device_no = s.device_no and e.epoch > s.epoch"""

_STATES = """
    insert into store.device_state (device_no, epoch)
    select d.device_no, max(e.epoch) from entry e join store.device d using (device_id) group by 1 order by 1
    on conflict do nothing"""

_KEYS = """
    with added as (
        insert into store.device_key (device_no, kid, algorithm, public_key)
        select distinct on (d.device_no, e.kid) d.device_no, e.kid, e.algorithm, e.public_key
        from entry e join store.device d using (device_id) order by d.device_no, e.kid
        on conflict do nothing returning device_no
    ), moved as (
        update store.device_state set key_version = key_version + 1 where device_no in (select device_no from added)
    )
    select count(*) from added"""

_SHARED = """
    select count(*) from (
        select public_key from store.device_key where public_key in (select public_key from entry)
        group by public_key having count(distinct device_no) > 1
    ) shared"""


async def import_devices(connection: Connection, entries: Sequence[Entry]) -> Imported:
    """Enrol all entries or none; what is enrolled already, unchanged, is left as it is.

    A new kid adds a key; a higher epoch closes the one before. Raises ImportProblemsError.
    """
    async with connection.transaction():
        await connection.execute("select pg_advisory_xact_lock($1)", LOCK)
        await connection.execute(_STAGE)
        records = [
            (line, e.device_id, e.tenant, e.vehicle_id, e.epoch, e.kid, e.algorithm.value, e.public)
            for line, e in enumerate(entries)
        ]
        await connection.copy_records_to_table("entry", records=records)
        await connection.execute("analyze entry")
        await connection.execute(_LOCK_KNOWN)
        conflicts = await connection.fetch(_CONFLICTS)
        if conflicts:
            raise ImportProblemsError([row[0] for row in conflicts])
        await connection.execute(_TENANTS)
        await connection.execute(_VEHICLES)
        devices_new = _count(await connection.execute(_DEVICES))
        raised = _count(await connection.execute(_CLOSE_EPOCHS))
        await connection.execute(_RAISE_EPOCHS)
        await connection.execute(_STATES)
        keys_new = await connection.fetchval(_KEYS)
        return Imported(len(entries), devices_new, keys_new, raised, await connection.fetchval(_SHARED))


def _count(status: str) -> int:
    return int(status.rsplit(" ", 1)[1])


async def list_devices(connection: Connection, tenant: str | None) -> list[dict[str, Any]]:
    """List devices in the order of their ids, at most LIST_ROWS_MAX."""
    found = await connection.fetch(
        "select device_id, tenant, vehicle_id, standing, epoch, highest, accepted, missing, held "
        "from weighbridge.device where $1::text is null or tenant = $1 order by device_id limit $2",
        tenant,
        LIST_ROWS_MAX,
    )
    return [dict(row) for row in found]


async def show_device(connection: Connection, device_id: str) -> dict[str, Any] | None:
    """Show one device with its keys and the numbers that are missing; None when it is not enrolled."""
    found = await connection.fetchrow("select * from weighbridge.device where device_id = $1", device_id)
    if found is None:
        return None
    keys = await connection.fetch(
        "select encode(kid, 'hex') as kid, algorithm, state, seq_cutoff, encode(public_key, 'hex') as public_key "
        "from store.device_key join store.device using (device_no) where device_id = $1 order by key_no",
        device_id,
    )
    gaps = await connection.fetch(
        "select from_seq, to_seq, gaps_exact from weighbridge.gap where device_id = $1 order by from_seq", device_id
    )
    return {**dict(found), "keys": [dict(row) for row in keys], "gaps": [dict(row) for row in gaps]}
