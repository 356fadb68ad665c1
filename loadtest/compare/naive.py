"""What would most people write? One loop that takes a message, verifies it, decodes it, and stores 500 at a time.

It is meant to be good of its kind: keys are loaded and kept, the signature covers what it should, rows are written in
one round trip for many, and offsets are committed after them. decisions/performance.md says what it does not check.
"""

import io
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import cbor2
import fastavro
import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from fastavro.schema import fingerprint, to_parsing_canonical_form

from schemas import read_telemetry

ROWS_OF = 500  # messages, written at once
CONTEXT = b"weighbridge/telemetry/v1"
INSERT = """
    insert into reading (device_id, epoch, seq, sample_no, issued_at, received_at, kind, fields)
    values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing"""
TABLE = """
    create table if not exists reading (
        device_id text, epoch bigint, seq bigint, sample_no integer, issued_at timestamptz, received_at timestamptz,
        kind text, fields jsonb, primary key (device_id, epoch, seq, sample_no)
    )"""

Keys = dict[tuple[str, bytes], Any]
Row = tuple[Any, ...]


class Wish(msgspec.Struct, frozen=True):
    """What it is told on its command line."""

    kafka: str
    database: str
    topic: str
    group: str
    messages: int
    registrations: str  # a file
    devices: int  # whose keys it will need


class Done(msgspec.Struct, frozen=True):
    """How it went."""

    messages: int
    seconds: float  # from the first message in hand to the last commit
    cpu_s: float  # its own

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.messages / self.seconds


async def consume(wish: Wish) -> Done:
    """Consume so many messages."""
    keys, schemas = load_keys(wish), load_schemas()
    database = await asyncpg.connect(wish.database)
    consumer = AIOKafkaConsumer(
        wish.topic,
        bootstrap_servers=wish.kafka,
        group_id=wish.group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    try:
        message = await consumer.getone()
        began, began_cpu = time.perf_counter(), time.process_time()
        rows: list[Row] = []
        for taken in range(1, wish.messages + 1):
            rows += read(message, keys, schemas)
            if taken % ROWS_OF == 0 or taken == wish.messages:
                await database.executemany(INSERT, rows)
                await consumer.commit()
                rows = []
            if taken < wish.messages:
                message = await consumer.getone()
        return Done(wish.messages, time.perf_counter() - began, time.process_time() - began_cpu)
    finally:
        await consumer.stop()
        await database.close()


def read(message: Any, keys: Keys, schemas: dict[bytes, Any]) -> list[Row]:  # noqa: ANN401 (aiokafka carries no types)
    """Verify and decode one message; what is not good is left out."""
    protected, _, payload, signature = cbor2.loads(message.value).value
    header = cbor2.loads(protected)
    claims = header[15]
    key = keys.get((claims[2], header[4]))
    if key is None or not verify(key, signature, cbor2.dumps(["Signature1", protected, CONTEXT, payload])):
        return []
    record: Any = fastavro.schemaless_reader(
        io.BytesIO(payload[10:]), schemas[payload[2:10]], None, return_record_name=True
    )
    received_at = datetime.fromtimestamp(message.timestamp / 1000, UTC)
    at = (claims[2], claims[-70001], claims[-70002])
    issued_at = datetime.fromtimestamp(claims[6], UTC)
    return [
        (*at, sample_no, issued_at, received_at, kind, json.dumps(fields))
        for sample_no, (kind, fields) in enumerate(record["samples"])
    ]


def verify(key: Any, signature: bytes, signed: bytes) -> bool:  # noqa: ANN401 (either kind of key)
    """Verify one signature, on the loop."""
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, signed)
        else:
            r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
            key.verify(encode_dss_signature(r, s), signed, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def load_keys(wish: Wish) -> Keys:
    """Load the keys before the first message: with so many devices in memory, it never has to ask."""
    keys: Keys = {}
    with Path(wish.registrations).open("rb") as file:
        for _, line in zip(range(wish.devices), file, strict=False):
            entry = json.loads(line)
            key = load_pem_public_key(entry["public_key"].encode())
            assert isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey), "no other is registered"
            keys[entry["device_id"], bytes.fromhex(entry["kid"])] = key
    return keys


def load_schemas() -> dict[bytes, Any]:
    """Load the schemas, by fingerprint."""
    definitions = [json.loads(text) for text in read_telemetry().values()]
    return {
        bytes.fromhex(fingerprint(to_parsing_canonical_form(one), "CRC-64-AVRO")): fastavro.parse_schema(one)
        for one in definitions
    }


if __name__ == "__main__":
    done = uvloop.run(consume(msgspec.json.decode(sys.argv[1], type=Wish)))
    sys.stdout.write(msgspec.json.encode(done).decode() + "\n")
