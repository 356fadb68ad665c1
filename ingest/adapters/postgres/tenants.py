"""Whose are the devices? Tenants, and the authorities that each of them answers for."""

import hashlib
from typing import Any

from ingest.adapters.postgres.audit import Act, Decision, UnfitActError, acting, append
from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.registry import tenant_no

_TENANTS = """
    select t.tenant, count(d.device_no) as devices, count(distinct v.vehicle_no) as vehicles,
           (select coalesce(array_agg(encode(fingerprint, 'hex') order by trusted_at), '{}')
            from store.tenant_ca a where a.tenant_no = t.tenant_no) as authorities
    from store.tenant t left join store.vehicle v using (tenant_no) left join store.device d using (vehicle_no)
    group by t.tenant_no order by t.tenant"""
_ADD = "insert into store.tenant (tenant) values ($1) on conflict do nothing"
_TRUST = """
    insert into store.tenant_ca (tenant_no, fingerprint, certificate) values ($1, $2, $3) on conflict do nothing"""
_DISTRUST = "delete from store.tenant_ca where tenant_no = $1 and encode(fingerprint, 'hex') = $2"


async def list_tenants(connection: Connection) -> list[dict[str, Any]]:
    """List all tenants, with the fingerprints of the authorities that they trust."""
    return [dict(row) for row in await connection.fetch(_TENANTS)]


async def add_tenant(connection: Connection, tenant: str, decision: Decision) -> None:
    """Make a tenant that owns nothing yet."""
    async with acting(connection):
        if await connection.execute(_ADD, tenant) != "INSERT 0 1":
            raise UnfitActError(f"there is a tenant {tenant} already")
        await append(connection, decision, Act("add tenant", tenant, {}, {}))


async def trust(connection: Connection, tenant: str, authority: bytes, decision: Decision) -> str:
    """Let devices be enrolled by certificates under this authority (DER); returns its fingerprint."""
    fingerprint = hashlib.sha256(authority)
    async with acting(connection):
        number = await tenant_no(connection, tenant)
        if await connection.execute(_TRUST, number, fingerprint.digest(), authority) != "INSERT 0 1":
            raise UnfitActError(f"tenant {tenant} trusts {fingerprint.hexdigest()} already")
        await append(connection, decision, Act("trust", tenant, {}, {"authority": fingerprint.hexdigest()}))
    return fingerprint.hexdigest()


async def distrust(connection: Connection, tenant: str, fingerprint: str, decision: Decision) -> None:
    """Enrol no more devices by certificates under this authority; those that are enrolled stay."""
    async with acting(connection):
        if await connection.execute(_DISTRUST, await tenant_no(connection, tenant), fingerprint) != "DELETE 1":
            raise UnfitActError(f"tenant {tenant} trusts no authority {fingerprint}; see `weighbridge tenants list`")
        await append(connection, decision, Act("distrust", tenant, {"authority": fingerprint}, {}))
