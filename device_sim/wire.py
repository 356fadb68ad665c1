"""What does a device put on the wire? COSE_Sign1 and Avro as envelope.md says, by code that is not the reader's."""

import io
import json
from typing import Any

import cbor2
import fastavro
import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from fastavro.schema import fingerprint, to_parsing_canonical_form

from schemas import read_telemetry

CONTEXT = b"weighbridge/telemetry/v1"  # external_aad: a signature made for another purpose never verifies here
ENVELOPE_BYTES_MAX = 65_536
MAGIC = b"\xc3\x01"  # Avro single-object encoding
VERSIONS = ("1.0", "1.1")

LABEL_ALG, LABEL_KID, LABEL_CLAIMS = 1, 4, 15
CLAIM_DEVICE, CLAIM_EXPIRES, CLAIM_ISSUED = 2, 4, 6
CLAIM_EPOCH, CLAIM_SEQ, CLAIM_BOOT, CLAIM_SOFTWARE, CLAIM_CONFIGURATION = -70001, -70002, -70003, -70004, -70005

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey
Sample = tuple[str, dict[str, Any]]  # the full name of the kind, and its fields

# RFC 6979: without it the same seed would not give the same bytes.
_ECDSA = ECDSA(hashes.SHA256(), deterministic_signing=True)


class Claims(msgspec.Struct, frozen=True, gc=False):
    """What the protected header says of a message, beside the key."""

    device_id: str
    issued_at_s: float
    epoch: int
    seq: int
    boot: bytes
    software: str
    configuration: bytes
    expires_at_s: float | None = None


class Signer(msgspec.Struct, frozen=True, gc=False):
    """A private key and the names that the header gives it. Never shown: its repr has no key."""

    alg: int
    kid: bytes
    key: PrivateKey

    def __repr__(self) -> str:
        return f"Signer(alg={self.alg}, kid={self.kid.hex()})"

    def sign(self, signed: bytes) -> bytes:
        """Sign the bytes of a Sig_structure; P-256 as raw r‖s (RFC 9053, 2.1)."""
        if isinstance(self.key, Ed25519PrivateKey):
            return self.key.sign(signed)
        r, s = decode_dss_signature(self.key.sign(signed, _ECDSA))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


class Schema(msgspec.Struct, frozen=True):
    """A released telemetry schema, ready to write with."""

    version: str
    fingerprint: bytes  # CRC-64-AVRO of the parsing canonical form, little-endian
    definition: dict[str, Any]  # as in the file: bounds and VSS paths are its properties
    parsed: Any

    def encode(self, samples: list[Sample]) -> bytes:
        """Encode the samples as an Avro single object."""
        body = io.BytesIO()
        body.write(MAGIC + self.fingerprint)
        fastavro.schemaless_writer(body, self.parsed, {"samples": samples})
        return body.getvalue()


def load() -> dict[str, Schema]:
    """Read the released schemas, by version, from the files that are the contract."""
    texts = read_telemetry()
    return {version: _schema(version, json.loads(texts[f"telemetry-{version}"])) for version in VERSIONS}


def _schema(version: str, definition: dict[str, Any]) -> Schema:
    mark = fingerprint(to_parsing_canonical_form(definition), "CRC-64-AVRO")
    return Schema(version, bytes.fromhex(mark), definition, fastavro.parse_schema(definition))


def header(claims: Claims, alg: int, kid: bytes) -> dict[Any, Any]:
    """Lay out the protected header as a map, still open to change."""
    said: dict[Any, Any] = {CLAIM_DEVICE: claims.device_id, CLAIM_ISSUED: claims.issued_at_s}
    if claims.expires_at_s is not None:
        said[CLAIM_EXPIRES] = claims.expires_at_s
    said[CLAIM_EPOCH] = claims.epoch
    said[CLAIM_SEQ] = claims.seq
    said[CLAIM_BOOT] = claims.boot
    said[CLAIM_SOFTWARE] = claims.software
    said[CLAIM_CONFIGURATION] = claims.configuration
    return {LABEL_ALG: alg, LABEL_KID: kid, LABEL_CLAIMS: said}


def sign(protected: bytes, payload: bytes, signer: Signer, context: bytes = CONTEXT) -> list[Any]:
    """Sign a protected header and payload; the four parts of the COSE_Sign1 (RFC 9052, 4.4)."""
    signature = signer.sign(cbor2.dumps(["Signature1", protected, context, payload]))
    return [protected, {}, payload, signature]


def wrap(parts: list[Any]) -> bytes:
    """Write the four parts as a tagged COSE_Sign1."""
    return cbor2.dumps(cbor2.CBORTag(18, parts))


def seal(claims: Claims, payload: bytes, signer: Signer, context: bytes = CONTEXT) -> bytes:
    """Make the envelope that an honest device sends."""
    protected = cbor2.dumps(header(claims, signer.alg, signer.kid))
    return wrap(sign(protected, payload, signer, context))
