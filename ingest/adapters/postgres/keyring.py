"""Which keys do these messages name? Read without locks; whether they still hold is seen under them."""

from collections.abc import Collection, Iterable

import asyncpg

from ingest.adapters.postgres import queries
from ingest.adapters.postgres.connection import Connection, trouble
from ingest.core.device import Algorithm, Key, KeyRing, KeyState, Sender
from ingest.core.message import Envelope, Refused
from ingest.ports import TroubleError

_ALGORITHMS = {algorithm.value: algorithm for algorithm in Algorithm}  # to call an enum takes ten times as long
_STATES = {state.value: state for state in KeyState}


class Keyring:
    """What one process has read of the registry; as good as new, for it is dropped when the registry has moved.

    It keeps at most `senders_max` (about 1 kB each): of a million devices as many as of ten thousand; oldest out first.
    Who is not registered is asked for each time.
    """

    def __init__(self, senders_max: int = 8_192) -> None:
        self._senders: dict[str, Sender] = {}
        self._version = -1  # of the registry, when the first of them was read
        self._senders_max = senders_max

    async def read(self, connection: Connection, messages: Iterable[Envelope | Refused]) -> KeyRing:
        """Give the keys of the devices that these messages name. Raises TroubleError."""
        named = {(message.device_id, message.kid) for message in messages if isinstance(message, Envelope)}
        with trouble("reading keys"):
            senders = await self._find(connection, {device_id for device_id, _ in named})
            strange = {kid for name, kid in named if (known := senders.get(name)) and kid not in known.keys}
            foreign = await connection.fetch(queries.REGISTERED_KIDS, list(strange)) if strange else []
        return KeyRing(senders, frozenset(row["kid"] for row in foreign))

    async def _find(self, connection: Connection, asked: Collection[str]) -> dict[str, Sender]:
        version = await connection.fetchval(queries.REGISTRY_VERSION)
        if version is None:
            raise TroubleError("PostgreSQL: store.registry has lost its row; put it back with a version never used")
        if version != self._version:
            self._senders.clear()
            self._version = version
        senders = {device_id: self._senders[device_id] for device_id in asked if device_id in self._senders}
        missing = [device_id for device_id in asked if device_id not in senders]
        if missing:
            found = _senders(await connection.fetch(queries.SENDERS, missing))
            if version == self._version:  # nobody who has read a later one meanwhile would be given what is older
                self._keep(found)
            senders |= found
        return senders

    def forget(self) -> None:
        """Drop everything: a database that was away may have come back as it once was, with numbers used again."""
        self._version = -1

    def _keep(self, found: dict[str, Sender]) -> None:
        self._senders |= found
        while len(self._senders) > self._senders_max:
            del self._senders[next(iter(self._senders))]


def _senders(found: Iterable[asyncpg.Record]) -> dict[str, Sender]:
    senders: dict[str, Sender] = {}
    for row in found:
        sender = senders.get(row["device_id"])
        if sender is None:
            sender = Sender(row["device_no"], row["vehicle_no"], row["tenant_no"], row["key_version"], {})
            senders[row["device_id"]] = sender
        sender.keys[row["kid"]] = _key(row)
    return senders


def _key(row: asyncpg.Record) -> Key:
    cutoff = None if row["seq_cutoff"] is None else (row["cutoff_epoch"], row["seq_cutoff"])
    return Key(
        row["key_no"], row["kid"], _ALGORITHMS[row["algorithm"]], row["public_key"], _STATES[row["state"]],
        row["valid_from"] // 1000, row["valid_until"] // 1000, cutoff, row["epoch_from"],
        row["epoch_until"],
    )  # fmt: skip
