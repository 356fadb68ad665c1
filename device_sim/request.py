"""How does a device ask for a key to be registered, and prove that it has it? As envelope.md, section 7 says."""

from base64 import urlsafe_b64encode

import cbor2
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from device_sim.identity import Identity, Papers
from device_sim.wire import PrivateKey

CONTEXT = "weighbridge/enrolment/v1"


def write_request(identity: Identity, number: int, papers: Papers, last_seq: int | None = None) -> str:
    """Ask for the key of these papers; `last_seq` is the last number under the key before it."""
    one, signer = identity.registration(number, papers), identity.signer(number, papers)
    said = [one.device_id, one.vehicle_id, one.epoch, signer.kid, one.alg, _raw_public(signer.key), last_seq]
    proof = urlsafe_b64encode(signer.sign(cbor2.dumps([CONTEXT, *said], canonical=True))).rstrip(b"=").decode()
    asked = {**msgspec.structs.asdict(one), "proof": proof}
    del asked["tenant"]  # whose it is to be, says the person who enrols it
    if last_seq is not None:
        asked["last_seq"] = last_seq
    return msgspec.json.encode(asked).decode()


def _raw_public(key: PrivateKey) -> bytes:
    if isinstance(key, Ed25519PrivateKey):
        return key.public_key().public_bytes_raw()
    return key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]  # x‖y (SEC 1, 2.3.3)
