"""Which keys do these messages name? Read without locks; whether they still hold is seen under them."""

from collections.abc import Iterable

import asyncpg

from ingest.adapters.postgres import queries
from ingest.adapters.postgres.connection import Connection, trouble
from ingest.core.device import Algorithm, Key, KeyRing, KeyState, Sender
from ingest.core.message import Envelope, Refused


async def read_ring(connection: Connection, messages: Iterable[Envelope | Refused]) -> KeyRing:
    """Read the keys of the devices that these messages name. Raises TroubleError."""
    envelopes = [message for message in messages if isinstance(message, Envelope)]
    with trouble("reading keys"):
        found = await connection.fetch(queries.SENDERS, list({envelope.device_id for envelope in envelopes}))
        senders = _senders(found)
        strange = {e.kid for e in envelopes if e.device_id in senders and e.kid not in senders[e.device_id].keys}
        foreign = await connection.fetch(queries.REGISTERED_KIDS, list(strange)) if strange else []
    return KeyRing(senders, frozenset(row["kid"] for row in foreign))


def _senders(found: Iterable[asyncpg.Record]) -> dict[str, Sender]:
    senders: dict[str, Sender] = {}
    for row in found:
        sender = senders.get(row["device_id"])
        if sender is None:
            transfers = tuple((at_ms, tenant_no) for at_ms, tenant_no in row["transfers"] or ())
            sender = Sender(row["device_no"], row["vehicle_no"], row["tenant_no"], row["key_version"], {}, transfers)
            senders[row["device_id"]] = sender
        sender.keys[row["kid"]] = _key(row)
    return senders


def _key(row: asyncpg.Record) -> Key:
    return Key(
        row["key_no"], row["kid"], Algorithm(row["algorithm"]), row["public_key"], KeyState(row["state"]),
        row["valid_from"] // 1000, row["valid_until"] // 1000, row["seq_cutoff"],
        row["epoch_from"], row["epoch_until"],
    )  # fmt: skip
