"""How does one device come in? By its own request, or by a certificate, for a tenant that is there."""

from ingest.adapters.postgres.audit import Decision, acting
from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.registry import Entry, Imported, import_devices, tenant_no
from ingest.core.certificate import Presented, vouched
from ingest.core.enrolment import Candidate


async def enrol(connection: Connection, candidate: Candidate, tenant: str, decision: Decision) -> Imported:
    """Enrol the device of a candidate, or give it a further key or a higher epoch. Raises ImportProblemsError."""
    async with acting(connection):
        await tenant_no(connection, tenant)
        one = candidate
        bounds = one.valid_from_us, one.valid_until_us
        entry = Entry(one.device_id, tenant, one.vehicle_id, one.epoch, one.kid, one.algorithm, one.public, *bounds)
        return await import_devices(connection, [entry], decision)


async def enrol_certified(
    connection: Connection, presented: Presented, tenant: str, at_s: float, decision: Decision
) -> Imported:
    """Enrol the device whose certificate is presented, if it is good at this time. Raises EnrolmentError as well."""
    async with acting(connection):
        query = "select certificate from store.tenant_ca where tenant_no = $1"
        trusted = await connection.fetch(query, await tenant_no(connection, tenant))
        candidate = vouched(presented, [row["certificate"] for row in trusted], at_s)
        return await enrol(connection, candidate, tenant, decision)
