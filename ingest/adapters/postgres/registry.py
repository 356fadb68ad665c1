"""Who is enrolled? Devices with their keys, vehicles and tenants: taken in from lines of JSON, listed and shown."""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import asyncpg
import msgspec

from ingest.adapters.postgres.audit import Act, Decision, UnfitActError, acting, append
from ingest.adapters.postgres.connection import Connection
from ingest.core.device import Algorithm
from ingest.core.enrolment import EnrolmentError, admit, check_identity, check_name

PROBLEMS_SHOWN_MAX = 20
LIST_ROWS_MAX = 10_000
PORTION_LINES = 50_000  # a few seconds: no statement of an import may take longer, and no other act of a person wait so
BY_PROGRAM = Decision("weighbridge", "enrolment")


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
    """A key that passed the gate, whom it is to speak for, and whose that device is to be."""

    device_id: str
    tenant: str
    vehicle_id: str
    epoch: int
    kid: bytes
    algorithm: Algorithm
    public: bytes
    valid_from_us: int | None = None  # since 1970 UTC; None: without bounds
    valid_until_us: int | None = None
    pending: bool = False  # it is known, and may not sign yet


class ImportProblemsError(Exception):
    """Nothing was imported, or no more than so many lines; the message lists what is wrong, by line."""

    def __init__(self, problems: Sequence[str], lines_done: int = 0) -> None:
        done = f"{lines_done} lines were imported, and then no more" if lines_done else "nothing was imported"
        shown = "\n".join(f"  {problem}" for problem in problems[:PROBLEMS_SHOWN_MAX])
        more = f"\n  and {len(problems) - PROBLEMS_SHOWN_MAX} more" if len(problems) > PROBLEMS_SHOWN_MAX else ""
        super().__init__(f"{done}:\n{shown}{more}")
        self.problems = tuple(problems)


class Imported(msgspec.Struct, frozen=True):
    """What an import did."""

    lines: int
    devices_new: int
    keys_new: int
    epochs_raised: int
    keys_shared: int  # public keys that more than one device has: each device should have its own
    keys_renewed: int = 0  # whose certificate was prolonged
    keys_activated: int = 0  # that had been pending


def read_lines(lines: Iterable[str], *, pending: bool = False) -> list[Entry]:
    """Check every line; raises ImportProblemsError with all the problems at once."""
    entries, problems = [], []
    for line_no, line in enumerate(lines, 1):
        if line.strip():
            try:
                entries.append(_entry(line, pending=pending))
            except (msgspec.DecodeError, EnrolmentError, UnicodeEncodeError) as error:
                problems.append(f"line {line_no}: {error}")
    if problems:
        raise ImportProblemsError(problems)
    return entries


def _entry(line: str, *, pending: bool) -> Entry:
    read = msgspec.json.decode(line, type=Line)
    kid = check_identity(read.device_id, read.vehicle_id, read.epoch, read.kid)
    check_name("tenant", read.tenant)
    algorithm, public = admit(read.alg, read.public_key)
    return Entry(read.device_id, read.tenant, read.vehicle_id, read.epoch, kid, algorithm, public, pending=pending)


_STAGE = """
    create temporary table entry (
        line integer, device_id text, tenant text, vehicle_id text, epoch bigint,
        kid bytea, algorithm text, public_key bytea, valid_from timestamptz, valid_until timestamptz,
        pending boolean
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
    union
    select format('device %s: key %s is %s; a new epoch needs a new key',
                  d.device_id, encode(k.kid, 'hex'),
                  case when k.epoch_until <= e.epoch then 'of a closed epoch' else k.state end)
    from entry e join store.device d using (device_id) join store.device_state s using (device_no)
    join store.device_key k using (device_no, kid)
    where s.epoch < e.epoch and k.state in ('retired', 'revoked') or k.epoch_until <= e.epoch
    union
    select format('device %s is at epoch %s; a pending key cannot raise it to %s, or nobody could speak for it',
                  d.device_id, s.epoch, e.epoch)
    from entry e join store.device d using (device_id) join store.device_state s using (device_no)
    where e.pending and e.epoch > s.epoch
    union
    select format('device %s: key %s was revoked as key %s of device %s; make a new pair',
                  e.device_id, encode(e.kid, 'hex'), encode(k.kid, 'hex'), d.device_id)
    from entry e join store.device_key k using (public_key) join store.device d using (device_no)
    where k.state = 'revoked' and (d.device_id, k.kid) <> (e.device_id, e.kid)
    union
    select case when d.replaced_by is null
           then format('device %s is decommissioned; to take it in again, give it a higher epoch', d.device_id)
           else format('device %s was replaced by %s; give this one an id of its own', d.device_id, r.device_id) end
    from entry e join store.device d using (device_id) join store.device_state s using (device_no)
    left join store.device r on r.device_no = d.replaced_by
    left join store.device_key k on k.device_no = d.device_no and k.kid = e.kid
    where (k.kid is null or e.epoch > s.epoch or k.state = 'pending' and not e.pending)
    and (d.replaced_by is not null or d.decommissioned_at is not null and e.epoch = s.epoch)
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

# The next three, in this order: each needs the epoch that the third one ends.
_CLOSE_EPOCHS = """
    insert into store.closed_ledger (device_no, epoch, seen, seen_floor, lowest, highest, accepted)
    select s.device_no, s.epoch, s.seen, s.seen_floor, s.lowest, s.highest, s.accepted
    from (select device_id, max(epoch) as epoch from entry group by 1) e
    join store.device d using (device_id) join store.device_state s using (device_no)
    where e.epoch > s.epoch"""

_END_KEYS = """
    update store.device_key k set epoch_until = e.epoch
    from (select device_id, max(epoch) as epoch, array_agg(kid) as kids from entry group by 1) e
    join store.device d using (device_id) join store.device_state s using (device_no)
    where k.device_no = d.device_no and e.epoch > s.epoch and k.epoch_until is null and k.kid <> all (e.kids)"""

_RAISE_EPOCHS = """
    with taken_in_again as (
        update store.device d set decommissioned_at = null
        from store.device_state s, entry e
        where s.device_no = d.device_no and e.device_id = d.device_id and e.epoch > s.epoch
    )
    update store.device_state s set
        epoch = e.epoch, seen = '{}', seen_floor = 0, lowest = 0, highest = 0, accepted = 0
    from store.device d join (select device_id, max(epoch) as epoch from entry group by 1) e using (device_id)
    where d.device_no = s.device_no and e.epoch > s.epoch
    returning d.device_no, d.device_id"""

_STATES = """
    insert into store.device_state (device_no, epoch)
    select d.device_no, max(e.epoch) from entry e join store.device d using (device_id) group by 1 order by 1
    on conflict do nothing"""

_KEYS = """
    insert into store.device_key (device_no, kid, algorithm, public_key, state, epoch_from, valid_from, valid_until)
    select distinct on (d.device_no, e.kid) d.device_no, e.kid, e.algorithm, e.public_key,
           case when e.pending then 'pending' else 'active' end, e.epoch,
           coalesce(e.valid_from, '-infinity'), coalesce(e.valid_until, 'infinity')
    from entry e join store.device d using (device_id) order by d.device_no, e.kid
    on conflict do nothing returning device_no"""

_ACTIVATE = """
    update store.device_key k set state = 'active'
    from entry e join store.device d using (device_id)
    where k.device_no = d.device_no and k.kid = e.kid and k.state = 'pending' and not e.pending
    returning k.device_no"""

_RENEW = """
    update store.device_key k set valid_until = e.valid_until
    from entry e join store.device d using (device_id)
    where k.device_no = d.device_no and k.kid = e.kid and k.state = 'active' and e.valid_until > k.valid_until
    returning k.device_no"""

_MOVE = "update store.device_state set key_version = key_version + 1 where device_no = any($1)"

_SHARED = """
    select public_key from store.device_key where public_key in (select public_key from entry)
    group by public_key having count(distinct device_no) > 1"""


async def import_devices(
    connection: Connection,
    entries: Sequence[Entry],
    decision: Decision = BY_PROGRAM,
    tell: Callable[[Imported], None] = lambda _: None,
    portion_lines: int = PORTION_LINES,
) -> Imported:
    """Enrol all entries, or none if anything is wrong with one; what is enrolled already, unchanged, is left as it is.

    A new kid adds a key, a pending one that is not to be pending any more comes into force; a higher epoch closes the
    one before, and ends the keys that it does not name again.
    Where there are many, each portion is a transaction, and `tell` hears what was done so far. Only who is interrupted,
    or finds that somebody else has changed the registry since all was checked, has some of it; the same again does the
    rest. Raises ImportProblemsError.
    """
    portions = _portions(entries, portion_lines)
    problems = _torn(entries)
    if len(portions) > 1 or problems:
        for portion in portions:
            problems |= await _check(connection, portion)
    if problems:
        raise ImportProblemsError(sorted(problems))
    done, shared = Imported(0, 0, 0, 0, 0), set[bytes]()
    for portion in portions:
        try:
            did, keys = await _import(connection, portion, decision)
        except ImportProblemsError as error:
            raise ImportProblemsError(error.problems, done.lines) from None
        shared |= keys
        done = _sum(done, did, len(shared))
        tell(done)
    return done


def _portions(entries: Sequence[Entry], portion_lines: int) -> list[Sequence[Entry]]:
    """Cut them where another device begins: what is said of one device is judged together."""
    if len(entries) <= portion_lines:
        return [entries]
    ordered = sorted(entries, key=lambda entry: entry.device_id)
    ends = [0]
    for at in range(1, len(ordered)):
        if at - ends[-1] >= portion_lines and ordered[at].device_id != ordered[at - 1].device_id:
            ends.append(at)
    return [ordered[start:end] for start, end in itertools.pairwise([*ends, len(ordered)])]


def _torn(entries: Sequence[Entry]) -> set[str]:
    """Find the vehicles that are given to several tenants; their devices may be in several portions."""
    tenants: dict[str, str] = {}
    torn = {entry.vehicle_id for entry in entries if tenants.setdefault(entry.vehicle_id, entry.tenant) != entry.tenant}
    return {f"vehicle {vehicle_id} is given to several tenants" for vehicle_id in torn}


async def _check(connection: Connection, entries: Sequence[Entry]) -> set[str]:
    """Say what speaks against a portion as things stand; it is asked again when that is locked."""
    async with connection.transaction():
        await _stage(connection, entries)
        return {row[0] for row in await connection.fetch(_CONFLICTS)}


async def _import(connection: Connection, entries: Sequence[Entry], decision: Decision) -> tuple[Imported, set[bytes]]:
    """Enrol a portion or none of it; returns the public keys of several devices as well."""
    async with acting(connection):
        await _stage(connection, entries)
        await connection.execute(_LOCK_KNOWN)
        conflicts = await connection.fetch(_CONFLICTS)
        if conflicts:
            raise ImportProblemsError([row[0] for row in conflicts])
        await connection.execute(_TENANTS)
        await connection.execute(_VEHICLES)
        devices_new = _count(await connection.execute(_DEVICES))
        raised = await _raise_epochs(connection)
        await connection.execute(_STATES)
        added = await connection.fetch(_KEYS)
        activated = await connection.fetch(_ACTIVATE)
        renewed = await connection.fetch(_RENEW)
        await connection.execute(_MOVE, list({row["device_no"] for row in (*raised, *added, *activated, *renewed)}))
        shared = {row["public_key"] for row in await connection.fetch(_SHARED)}
        done = Imported(len(entries), devices_new, len(added), len(raised), len(shared), len(renewed), len(activated))
        await append(connection, decision, _act(entries, done, sorted(row["device_id"] for row in raised)))
    return done, shared


def _sum(one: Imported, other: Imported, keys_shared: int) -> Imported:
    """Add up what two portions did; a key that devices of both share is one."""
    counts = (a + b for a, b in zip(msgspec.structs.astuple(one), msgspec.structs.astuple(other), strict=True))
    return msgspec.structs.replace(Imported(*counts), keys_shared=keys_shared)


async def _stage(connection: Connection, entries: Sequence[Entry]) -> None:
    await connection.execute(_STAGE)
    records = [
        (line, e.device_id, e.tenant, e.vehicle_id, e.epoch, e.kid, e.algorithm.value, e.public, e.valid_from_us,
         e.valid_until_us, e.pending)
        for line, e in enumerate(entries)
    ]  # fmt: skip
    await connection.copy_records_to_table("entry", records=records)
    await connection.execute("analyze entry")


async def _raise_epochs(connection: Connection) -> list[asyncpg.Record]:
    await connection.execute(_CLOSE_EPOCHS)
    await connection.execute(_END_KEYS)
    return await connection.fetch(_RAISE_EPOCHS)


def _act(entries: Sequence[Entry], done: Imported, raised: Sequence[str]) -> Act:
    """Describe an import by its counts and the digest of what was asked for: it may be a whole fleet's."""
    devices = {entry.device_id for entry in entries}
    subject = devices.pop() if len(devices) == 1 else f"{len(devices)} devices"
    digest = hashlib.sha256(msgspec.json.encode(entries)).hexdigest()
    return Act("enrol", subject, {}, {**msgspec.structs.asdict(done), "sha256": digest, "raised": list(raised)})


async def tenant_no(connection: Connection, tenant: str) -> int:
    """Find a tenant by its name. Raises UnfitActError."""
    found: int | None = await connection.fetchval("select tenant_no from store.tenant where tenant = $1", tenant)
    if found is None:
        raise UnfitActError(f"there is no tenant {tenant!r}: `weighbridge tenants list` shows them, `add` makes one")
    return found


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
        "select encode(kid, 'hex') as kid, algorithm, state, epoch_from, epoch_until, valid_from::text, "
        "valid_until::text, cutoff_epoch, seq_cutoff, revoked_at::text, revoked_why, compromised_since::text, "
        "encode(public_key, 'hex') as public_key "
        "from store.device_key join store.device using (device_no) where device_id = $1 order by key_no",
        device_id,
    )
    gaps = await connection.fetch(
        "select from_seq, to_seq, gaps_exact from weighbridge.gap where device_id = $1 order by from_seq", device_id
    )
    return {**dict(found), "keys": [dict(row) for row in keys], "gaps": [dict(row) for row in gaps]}
