"""What is a device to one who has read only schemas/envelope.md? cbor2, cryptography, fastavro, no code of ours."""

import io
import json
import secrets
import time
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

import cbor2
import fastavro
import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

SCHEMAS = Path(__file__).parents[2] / "schemas" / "telemetry"
CONTEXT = b"weighbridge/telemetry/v1"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # SEC 2, 2.4.2

PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
Map = dict[Any, Any]


def ed25519_key() -> PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def p256_key() -> PrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


class Stranger(msgspec.Struct, frozen=True):
    """A device with a key of its own making."""

    name: str
    key: PrivateKey
    epoch: int = 1
    key_name: str = "kid"
    vehicle: str = ""

    @property
    def kid(self) -> bytes:
        return f"{self.key_name} {self.name}".encode()[:32]

    @property
    def alg(self) -> int:
        return -8 if isinstance(self.key, ed25519.Ed25519PrivateKey) else -7

    def registration(self, **changed: object) -> dict[str, object]:
        """Give the line for `devices import`."""
        public = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        alg = "EdDSA" if self.alg == -8 else "ES256"
        line = {"device_id": self.name, "tenant": "strangers", "vehicle_id": self.vehicle or f"vehicle of {self.name}"}
        return {**line, "epoch": self.epoch, "kid": self.kid.hex(), "alg": alg, "public_key": public, **changed}

    def request(self, last_seq: int | None = None, **changed: object) -> dict[str, object]:
        """Ask for this key to be enrolled, and prove that it is ours (section 7)."""
        line = self.registration()
        del line["tenant"]
        told = {} if last_seq is None else {"last_seq": last_seq}
        proof = urlsafe_b64encode(self.sign_bytes(self.statement(last_seq))).rstrip(b"=").decode()
        return {**line, "proof": proof, **told, **changed}

    def ask(self, folder: Path, last_seq: int | None = None) -> Path:
        """Write down what it asks for; returns the path."""
        path = folder / f"request-{secrets.token_hex(4)}.json"
        path.write_text(json.dumps(self.request(last_seq)))
        return path

    def renewed(self, **changed: object) -> "Stranger":
        """The same device with another key."""
        return msgspec.structs.replace(self, key=ed25519_key(), key_name="new", **changed)

    def statement(self, last_seq: int | None = None) -> bytes:
        """Give the bytes that a proof signs."""
        line = self.registration()
        said = [self.name, line["vehicle_id"], self.epoch, self.kid, line["alg"], self.raw_public(), last_seq]
        return cbor2.dumps(["weighbridge/enrolment/v1", *said])

    def raw_public(self) -> bytes:
        """Give the public key as it stands in a statement."""
        public = self.key.public_key()
        if isinstance(public, ed25519.Ed25519PublicKey):
            return public.public_bytes_raw()
        return public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]

    def claims(self, seq: int, **changed: object) -> Map:
        """Give the claims; n4=... adds or changes claim 4, m70003=... claim -70003."""
        plain: Map = {2: self.name, 6: time.time(), -70001: self.epoch, -70002: seq, -70003: b"bootboot",
                      -70004: "unit 1.0", -70005: bytes(32)}  # fmt: skip
        return plain | {int(name.replace("m", "-").replace("n", "")): value for name, value in changed.items()}

    def header(self, claims: Map, **changed: object) -> Map:
        """Give the protected header; n1=... changes label 1."""
        return {1: self.alg, 4: self.kid, 15: claims} | {int(name[1:]): value for name, value in changed.items()}

    def sign(self, protected: bytes, payload: bytes, context: bytes = CONTEXT) -> bytes:
        """Sign as RFC 9052, 4.4 says."""
        return self.sign_bytes(cbor2.dumps(["Signature1", protected, context, payload]))

    def sign_bytes(self, signed: bytes) -> bytes:
        """Sign as section 3 says."""
        if isinstance(self.key, ed25519.Ed25519PrivateKey):
            return self.key.sign(signed)
        r, s = decode_dss_signature(self.key.sign(signed, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def seal(self, protected: bytes, payload: bytes, context: bytes = CONTEXT) -> bytes:
        """Make the COSE_Sign1 of these bytes."""
        return tagged(protected, {}, payload, self.sign(protected, payload, context))

    def say(self, seq: int, payload: bytes | None = None, **changed: object) -> bytes:
        """Make an envelope with some claims changed."""
        protected = cbor2.dumps(self.header(self.claims(seq, **changed)))
        return self.seal(protected, PAYLOAD if payload is None else payload)


def tagged(*parts: object) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(18, parts))


def mirrored(envelope: bytes) -> bytes:
    """Give a P-256 signature its other valid form, (r, n - s)."""
    protected, unprotected, payload, signature = cbor2.loads(envelope).value
    s = P256_ORDER - int.from_bytes(signature[32:], "big")
    return tagged(protected, unprotected, payload, signature[:32] + s.to_bytes(32, "big"))


def encode(*samples: tuple[str, Map], version: str = "1.0") -> bytes:
    """Encode samples as an Avro single object."""
    schema = fastavro.parse_schema(json.loads((SCHEMAS / f"telemetry-{version}.avsc").read_text()))
    mark = fastavro.schema.fingerprint(fastavro.schema.to_parsing_canonical_form(schema), "CRC-64-AVRO")
    body = io.BytesIO()
    named = [(f"weighbridge.telemetry.{kind}", fields) for kind, fields in samples]
    fastavro.schemaless_writer(body, schema, {"samples": named})
    return b"\xc3\x01" + bytes.fromhex(mark) + body.getvalue()


def state(**changed: object) -> tuple[str, Map]:
    """Make a sample of how a vehicle moves."""
    plain = {"recorded_at_us": time.time_ns() // 1000, "speed": 88.5, "traveled_distance_m": 1_000, "current_gear": 1,
             "is_moving": True, "state_of_charge": 71.25}  # fmt: skip
    return "VehicleState", plain | changed


PAYLOAD = encode(state())
