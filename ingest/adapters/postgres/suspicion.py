"""Who is suspected, and on what evidence? Read, never written."""

from typing import Any

from ingest.adapters.postgres.audit import UnfitActError
from ingest.adapters.postgres.connection import Connection
from ingest.adapters.postgres.ruling import list_proposals

LIST_ROWS_MAX = 10_000
EVIDENCE_ROWS_MAX = 1_000

_SUSPECTS = """
    select device_id, tenant, standing, suspicion, software, held from weighbridge.device
    where standing <> 'trusted' order by suspicion desc, device_id limit $1"""

_DEVICE = """
    select device_id, tenant, vehicle_id, standing, suspicion, software, held
    from weighbridge.device where device_id = $1"""

_ACCUSATIONS = """
    select evidence, weight, before, after, spared, epoch, seq, topic, incarnation, partition, kafka_offset,
           to_char(received_at, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as received_at, encode(digest, 'hex') as digest
    from weighbridge.accusation where device_id = $1 order by accusation.received_at desc limit $2"""

_TRANSITIONS = """
    select before, after, actor, why, to_char(at, 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as at
    from weighbridge.transition where device_id = $1 order by transition.at"""

_HELD = """
    select reason, count(*) as messages, count(*) filter (where envelope is null) as without_bytes
    from weighbridge.held where device_id = $1 group by 1 order by 1"""


async def list_suspects(connection: Connection) -> list[dict[str, Any]]:
    """List the devices that are not simply trusted, at most LIST_ROWS_MAX."""
    return [dict(row) for row in await connection.fetch(_SUSPECTS, LIST_ROWS_MAX)]


async def show_suspect(connection: Connection, device_id: str) -> dict[str, Any]:
    """Show what speaks against a device, what was decided, and what of it is held. Raises UnfitActError."""
    device = await connection.fetchrow(_DEVICE, device_id)
    if device is None:
        raise UnfitActError(f"no device {device_id} is enrolled; `weighbridge devices list` shows those that are")
    evidence = await connection.fetch(_ACCUSATIONS, device_id, EVIDENCE_ROWS_MAX)
    waiting = await connection.fetch(_HELD, device_id)
    return {
        **dict(device),
        "evidence": [dict(row) for row in evidence],
        "transitions": [dict(row) for row in await connection.fetch(_TRANSITIONS, device_id)],
        "proposals": await list_proposals(connection, device_id),
        "waiting": {row["reason"]: row["messages"] for row in waiting},
        "waiting_without_bytes": sum(row["without_bytes"] for row in waiting),
    }
