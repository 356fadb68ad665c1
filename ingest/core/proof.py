"""Does whoever asks for a key to be registered hold its private half? The new key signs what is asked for.

Requests and the bytes of the statement are in schemas/envelope.md, 7. No other kind of message of ours begins with the
same bytes, so a device cannot be brought to sign a statement by accident.
"""

import base64
import binascii

import cbor2
import msgspec

from ingest.core.enrolment import Candidate, EnrolmentError, admit, check_identity
from ingest.core.envelope import SEQ_MAX
from ingest.core.signature import Job, OpenSSL

CONTEXT = "weighbridge/enrolment/v1"
REQUEST_CHARACTERS_MAX = 8_192


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device, or who makes it, asks to be registered: one JSON object."""

    device_id: str
    vehicle_id: str
    epoch: int
    kid: str  # hexadecimal, 1..32 bytes
    alg: str
    public_key: str  # SubjectPublicKeyInfo, PEM
    proof: str  # signature of the statement, base64url without padding
    last_seq: int | None = None  # the last number under the key before this one


def read_request(text: str) -> Candidate:
    """Check a request and its proof. Raises EnrolmentError."""
    if len(text) > REQUEST_CHARACTERS_MAX:
        raise EnrolmentError(f"this is no request: it has more than {REQUEST_CHARACTERS_MAX} characters")
    try:
        request = msgspec.json.decode(text, type=Request)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise EnrolmentError(f"this is no request, one JSON object: {error}") from None
    if request.last_seq is not None and not 0 <= request.last_seq <= SEQ_MAX:
        raise EnrolmentError(f"last_seq {request.last_seq}: 0 to 2^63-2")
    kid = check_identity(request.device_id, request.vehicle_id, request.epoch, request.kid)
    algorithm, public = admit(request.alg, request.public_key)
    candidate = Candidate(
        request.device_id, request.vehicle_id, request.epoch, kid, algorithm, public, request.last_seq
    )
    if not OpenSSL().check([Job(algorithm, public, statement(candidate), _decode(request.proof))])[0]:
        raise EnrolmentError(
            "the proof does not hold: it must be a signature by the new key over what this very request says; "
            "let the device that has the key make a new request"
        )
    return candidate


def statement(candidate: Candidate) -> bytes:
    """Give the bytes that the new key signs: one array in the deterministic encoding of RFC 8949, 4.2.1."""
    one = candidate
    content = [CONTEXT, one.device_id, one.vehicle_id, one.epoch, one.kid, str(one.algorithm), one.public, one.last_seq]
    return cbor2.dumps(content, canonical=True)


def _decode(proof: str) -> bytes:
    try:
        return base64.b64decode(proof.encode("ascii") + b"=" * (-len(proof) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise EnrolmentError("the proof is not base64url") from None
