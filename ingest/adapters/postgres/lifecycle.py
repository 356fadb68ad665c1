"""What becomes of a device and its keys after enrolment? What people decide: each act one transaction.

An act is about one vehicle. It locks the rows of the vehicle's devices before it looks at anything that a batch may
change, and raises their key_version: whatever was verified before is verified again.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from ingest.adapters.postgres.audit import Act, Decision, UnfitActError, acting, append
from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.registry import tenant_no
from ingest.core.enrolment import Candidate

LATE_MAX = 2**24  # numbers that a key may still sign after it was retired: as far as a device may leap

_VEHICLE_OF = "select vehicle_no from store.device where device_id = $1"

_LOCK = """
    select d.device_no, d.device_id, d.vehicle_no, v.vehicle_id, s.epoch, s.highest,
           d.decommissioned_at is not null as decommissioned,
           (select r.device_id from store.device r where r.device_no = d.replaced_by) as replaced_by
    from store.device d join store.vehicle v using (vehicle_no) join store.device_state s using (device_no)
    where d.vehicle_no = $1 order by d.device_no for no key update of s"""

_MOVE = "update store.device_state set key_version = key_version + 1 where device_no = any($1)"

_DESCRIBE = """
    select jsonb_build_object(
        'tenant', (select tenant from store.tenant t where t.tenant_no = v.tenant_no),
        'vehicle', v.vehicle_id,
        'devices', (
            select jsonb_object_agg(d.device_id, jsonb_strip_nulls(jsonb_build_object(
                'epoch', s.epoch, 'highest', s.highest, 'accepted', s.accepted, 'key_version', s.key_version,
                'replaced_by', (select r.device_id from store.device r where r.device_no = d.replaced_by),
                'decommissioned_at', d.decommissioned_at,
                'keys', (
                    select jsonb_object_agg(encode(k.kid, 'hex'), jsonb_build_object(
                        'state', k.state, 'epoch_from', k.epoch_from, 'epoch_until', k.epoch_until,
                        'seq_cutoff', k.seq_cutoff, 'cutoff_epoch', k.cutoff_epoch, 'revoked_at', k.revoked_at,
                        'compromised_since', k.compromised_since))
                    from store.device_key k where k.device_no = d.device_no)
            ))) from store.device d join store.device_state s using (device_no) where d.vehicle_no = v.vehicle_no)
    )::text from store.vehicle v where v.vehicle_no = $1"""

_KNOWN_KEY = """
    select device_id, encode(kid, 'hex') as kid from store.device_key join store.device using (device_no)
    where public_key = $1 limit 1"""

_ADD_KEY = """
    insert into store.device_key (device_no, kid, algorithm, public_key, epoch_from) values ($1, $2, $3, $4, $5)"""

# $3: only if it is this very key.
_ACTIVATE = """
    update store.device_key set state = 'active'
    where device_no = $1 and kid = $2 and public_key = coalesce($3, public_key) and state = 'pending'
    and epoch_until is null"""

_STATE = "select state from store.device_key where device_no = $1 and kid = $2"

_KIDS = "select encode(kid, 'hex') from store.device_key where device_no = $1 order by key_no"

_RETIRE = """
    update store.device_key set state = 'retired', cutoff_epoch = $2, seq_cutoff = $3
    where device_no = $1 and state = 'active'"""

_ADD_DEVICE = """
    with added as (
        insert into store.device (device_id, vehicle_no) values ($1, $2) returning device_no
    ), placed as (
        insert into store.device_state (device_no, epoch) select device_no, $3 from added
    )
    select device_no from added"""

_REPLACE = "update store.device set replaced_by = $2 where device_no = $1"

# A statement of its own after the lock, so that it sees how far all that was committed before has come.
_REVOKE = """
    with revoked as (
        update store.device_key set
            state = 'revoked', revoked_at = clock_timestamp(), revoked_why = $3, compromised_since = $4
        where device_no = $1 and ($2::bytea is null or kid = $2) and state <> 'revoked' returning key_no, kid
    ), noted as (
        insert into store.revocation (key_no, topic_nos, partitions, next_offsets, relinks)
        select r.key_no, p.topic_nos, p.partitions, p.next_offsets,
               (select coalesce(max(relink_no) + 1, 0) from store.relink)
        from revoked r cross join (
            select coalesce(array_agg(topic_no), '{}') as topic_nos, coalesce(array_agg(partition), '{}') as partitions,
                   coalesce(array_agg(next_offset), '{}') as next_offsets
            from store.partition_lease
        ) p
    )
    select encode(kid, 'hex') as kid from revoked order by key_no"""

# What is learnt after a revocation: the time can only become an earlier one.
_TAINT = """
    update store.device_key set compromised_since = $3
    where device_no = $1 and ($2::bytea is null or kid = $2) and state = 'revoked'
    and coalesce(compromised_since > $3, true)
    returning encode(kid, 'hex') as kid"""

_DECOMMISSION = "update store.device set decommissioned_at = clock_timestamp() where device_no = $1"

# To the millisecond, as messages are told apart by it; and the transfer before this one, if any.
_INSTANT = """
    select date_trunc('milliseconds', coalesce($2, clock_timestamp())) as at, clock_timestamp() as now,
           (select max(at) from store.vehicle_transfer where vehicle_no = $1) as last"""

_TRANSFER = """
    with had as (
        insert into store.vehicle_transfer (vehicle_no, since, at, tenant_no)
        select vehicle_no, coalesce((select max(at) from store.vehicle_transfer where vehicle_no = $1), '-infinity'),
               $2, tenant_no
        from store.vehicle where vehicle_no = $1
    )
    update store.vehicle set tenant_no = $3 where vehicle_no = $1"""


class _Device(msgspec.Struct, frozen=True):
    """A device under lock."""

    device_no: int
    device_id: str
    vehicle_no: int
    vehicle_id: str
    epoch: int
    highest: int
    decommissioned: bool
    replaced_by: str | None


async def rotate(
    connection: Connection, device_id: str, candidate: Candidate, cutoff: int | None, decision: Decision
) -> int:
    """Give a device a new key, and retire those that it has; returns the last number that they may sign.

    That is `cutoff`; or what the device itself says was the last; or the highest that was accepted.
    """
    async with acting(connection), _change(connection, "rotate", device_id, decision) as device:
        _check_in_service(device)
        _check_meant_for(device, candidate)
        if candidate.epoch != device.epoch:
            raise UnfitActError(
                f"the request is for epoch {candidate.epoch}, and {device_id} is at {device.epoch}: "
                "a higher epoch is another enrolment (`weighbridge devices enrol`)"
            )
        last = _first(cutoff, candidate.last_seq, device.highest)
        _check_cutoff(device, last)
        await _retire(connection, device, last)
        await _add_key(connection, device.device_no, candidate)
        return last


async def activate(connection: Connection, device_id: str, kid: bytes, decision: Decision) -> None:
    """Put a pending key into force."""
    async with acting(connection), _change(connection, "activate", device_id, decision) as device:
        _check_in_service(device)
        if await connection.execute(_ACTIVATE, device.device_no, kid, None) != "UPDATE 1":
            raise UnfitActError(await _explain_not_pending(connection, device, kid))


async def replace(connection: Connection, device_id: str, candidate: Candidate, late: int, decision: Decision) -> int:
    """Put another device into the vehicle; returns the last number that the keys of the old one may sign."""
    async with acting(connection), _change(connection, "replace", device_id, decision) as device:
        _check_in_service(device)
        if await connection.fetchval(_VEHICLE_OF, candidate.device_id) is not None:
            raise UnfitActError(f"device {candidate.device_id} is enrolled already; a new unit has an id of its own")
        _check_vehicle(device, candidate)
        last = device.highest + late
        _check_cutoff(device, last)
        await _retire(connection, device, last)
        new_no = await connection.fetchval(_ADD_DEVICE, candidate.device_id, device.vehicle_no, candidate.epoch)
        await _add_key(connection, new_no, candidate)
        await connection.execute(_REPLACE, device.device_no, new_no)
        return last


async def revoke(
    connection: Connection, device_id: str, kid: bytes | None, compromised_since_us: int | None, decision: Decision
) -> list[str]:
    """Revoke a key, or all keys of a device: nothing more is stored under them, whatever time it claims.

    Returns which those are. Keys that are revoked already may become known as compromised, or as compromised earlier.
    """
    async with acting(connection), _change(connection, "revoke", device_id, decision) as device:
        if compromised_since_us is not None and compromised_since_us > await _now(connection):
            raise UnfitActError("--compromised-since lies in the future")
        revoked = await _revoke(connection, device, kid, decision.reason, compromised_since_us)
        if not revoked and compromised_since_us is not None:
            found = await connection.fetch(_TAINT, device.device_no, kid, compromised_since_us)
            revoked = [row["kid"] for row in found]
        if not revoked:
            raise UnfitActError(await _explain_unrevoked(connection, device, kid))
        return revoked


async def decommission(connection: Connection, device_id: str, decision: Decision) -> list[str]:
    """Take a device out of service for good: what keys it still has are revoked."""
    async with acting(connection), _change(connection, "decommission", device_id, decision) as device:
        if device.decommissioned:
            raise UnfitActError(f"device {device_id} is decommissioned already")
        await connection.execute(_DECOMMISSION, device.device_no)
        return await _revoke(connection, device, None, f"decommissioned: {decision.reason}", None)


async def transfer(connection: Connection, vehicle_id: str, tenant: str, at_us: int | None, decision: Decision) -> int:
    """Give a vehicle to another tenant; returns as from when, in microseconds since 1970 UTC."""
    async with acting(connection):
        found = await connection.fetchrow(
            "select vehicle_no, tenant_no from store.vehicle where vehicle_id = $1", vehicle_id
        )
        if found is None:
            raise UnfitActError(f"there is no vehicle {vehicle_id}; `weighbridge devices list` names the vehicles")
        to = await tenant_no(connection, tenant)
        if to == found["tenant_no"]:
            raise UnfitActError(f"vehicle {vehicle_id} belongs to {tenant} already")
        vehicle_no = found["vehicle_no"]
        devices = [device.device_no for device in await _lock(connection, vehicle_no)]
        before = await _describe(connection, vehicle_no)
        at = await _instant(connection, vehicle_no, at_us)
        await connection.execute(_TRANSFER, vehicle_no, at, to)
        await connection.execute(_MOVE, devices)
        after = {**await _describe(connection, vehicle_no), "at_us": at}
        await append(connection, decision, Act("transfer", vehicle_id, before, after))
        return at


@contextlib.asynccontextmanager
async def _change(connection: Connection, name: str, device_id: str, decision: Decision) -> AsyncIterator[_Device]:
    """Lock a device's vehicle, let the block change it, and write down how it stood before and after."""
    vehicle_no = await connection.fetchval(_VEHICLE_OF, device_id)
    if vehicle_no is None:
        raise UnfitActError(f"no device {device_id} is enrolled; `weighbridge devices list` shows those that are")
    (device,) = [one for one in await _lock(connection, vehicle_no) if one.device_id == device_id]
    before = await _describe(connection, vehicle_no)
    yield device
    await connection.execute(_MOVE, [device.device_no])
    await append(connection, decision, Act(name, device_id, before, await _describe(connection, vehicle_no)))


async def _lock(connection: Connection, vehicle_no: int) -> list[_Device]:
    return [_Device(**row) for row in await connection.fetch(_LOCK, vehicle_no)]


async def _describe(connection: Connection, vehicle_no: int) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(await connection.fetchval(_DESCRIBE, vehicle_no))
    return found


def _check_in_service(device: _Device) -> None:
    if device.replaced_by is not None:
        raise UnfitActError(f"device {device.device_id} was replaced by {device.replaced_by}")
    if device.decommissioned:
        raise UnfitActError(f"device {device.device_id} is decommissioned; enrol it again with a higher epoch")


def _check_meant_for(device: _Device, candidate: Candidate) -> None:
    if candidate.device_id != device.device_id:
        raise UnfitActError(f"the request is for device {candidate.device_id}, not for {device.device_id}")
    _check_vehicle(device, candidate)


def _check_vehicle(device: _Device, candidate: Candidate) -> None:
    if candidate.vehicle_id != device.vehicle_id:
        raise UnfitActError(
            f"the request is for vehicle {candidate.vehicle_id}; device {device.device_id} is in {device.vehicle_id}"
        )


def _check_cutoff(device: _Device, last: int) -> None:
    """Refuse what would say of accepted numbers that they were somebody else's: then the key is to be revoked."""
    if last < device.highest:
        raise UnfitActError(
            f"number {last} cannot have been the last: {device.highest} was accepted of {device.device_id}. If its key "
            "is in other hands, revoke it; else say what was the last with --cutoff"
        )
    if last > device.highest + LATE_MAX:
        raise UnfitActError(
            f"number {last} is more than {LATE_MAX} above the highest accepted of {device.device_id}, "
            f"which is {device.highest}: say a lower one with --cutoff"
        )


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)


async def _retire(connection: Connection, device: _Device, last: int) -> None:
    await connection.execute(_RETIRE, device.device_no, device.epoch, last)


async def _add_key(connection: Connection, device_no: int, candidate: Candidate) -> None:
    """Give a device a new key, or put the one into force that it was to have."""
    one = candidate
    if await connection.execute(_ACTIVATE, device_no, one.kid, one.public) == "UPDATE 1":
        return
    known = await connection.fetchrow(_KNOWN_KEY, one.public)
    if known is not None:
        raise UnfitActError(
            f"this public key is enrolled as key {known['kid']} of device {known['device_id']}; make a new pair"
        )
    added = await connection.execute(
        _ADD_KEY + " on conflict do nothing", device_no, one.kid, one.algorithm.value, one.public, one.epoch
    )
    if added != "INSERT 0 1":
        raise UnfitActError(f"kid {one.kid.hex()} is another key of device {one.device_id}; a new key needs a new kid")


async def _revoke(
    connection: Connection, device: _Device, kid: bytes | None, why: str, compromised_since_us: int | None
) -> list[str]:
    found = await connection.fetch(_REVOKE, device.device_no, kid, why, compromised_since_us)
    return [row["kid"] for row in found]


async def _explain_unrevoked(connection: Connection, device: _Device, kid: bytes | None) -> str:
    if kid is None:
        return f"every key of device {device.device_id} is revoked already"
    return await _explain_unknown(connection, device, kid) or f"key {kid.hex()} is revoked already"


async def _explain_not_pending(connection: Connection, device: _Device, kid: bytes) -> str:
    state = await connection.fetchval(_STATE, device.device_no, kid)
    ended = f"key {kid.hex()} is of a closed epoch; {device.device_id} is at {device.epoch}"
    not_pending = f"key {kid.hex()} is {state}; only a pending key can be put into force"
    return await _explain_unknown(connection, device, kid) or (ended if state == "pending" else not_pending)


async def _explain_unknown(connection: Connection, device: _Device, kid: bytes) -> str | None:
    kids = [row[0] for row in await connection.fetch(_KIDS, device.device_no)]
    return None if kid.hex() in kids else f"device {device.device_id} has no key {kid.hex()}; it has {', '.join(kids)}"


async def _now(connection: Connection) -> int:
    now: int = await connection.fetchval("select clock_timestamp()")
    return now


async def _instant(connection: Connection, vehicle_no: int, at_us: int | None) -> int:
    """Decide when a transfer took place: not to come, and not before the one before."""
    found = await connection.fetchrow(_INSTANT, vehicle_no, at_us)
    assert found is not None, "a select without a from has a row"
    at: int = found["at"]
    if at > found["now"]:
        raise UnfitActError("--at lies in the future: enter a transfer when it has taken place")
    if found["last"] is not None and at <= found["last"]:
        raise UnfitActError("--at is not after the vehicle's last transfer: transfers are entered in their order")
    return at
