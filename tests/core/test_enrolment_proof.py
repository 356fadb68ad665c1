"""Is a request believed exactly when the key that it names signed what it says?"""

import base64
import json

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ingest.core.device import Algorithm
from ingest.core.enrolment import Candidate, EnrolmentError
from ingest.core.proof import REQUEST_CHARACTERS_MAX, read_request, statement
from tests.whole.device import Stranger, ed25519_key, p256_key

DEVICE = Stranger("unit-1", ed25519_key(), epoch=3)
OTHER = Stranger("unit-2", ed25519_key(), epoch=3)


def refusal(request: object) -> str:
    with pytest.raises(EnrolmentError) as refused:
        read_request(request if isinstance(request, str) else json.dumps(request))
    return str(refused.value)


@pytest.mark.parametrize("device", [DEVICE, Stranger("unit-1", p256_key())], ids=["Ed25519", "P-256"])
@pytest.mark.parametrize("last_seq", [None, 0, 2**63 - 2])
def test_a_request_signed_by_its_key_is_believed(device: Stranger, last_seq: int | None) -> None:
    algorithm = Algorithm.ED25519 if device.alg == -8 else Algorithm.P256
    assert read_request(json.dumps(device.request(last_seq))) == Candidate(
        "unit-1", "vehicle of unit-1", device.epoch, device.kid, algorithm, device.raw_public(), last_seq
    )


def test_the_statement_is_to_the_byte_what_the_contract_says() -> None:
    candidate = Candidate("unit-1", "vehicle-1", 300, b"\1\2", Algorithm.ED25519, bytes(range(32)), 7)
    assert statement(candidate).hex() == (
        "88" "7818" + b"weighbridge/enrolment/v1".hex() + "66" + b"unit-1".hex() + "69" + b"vehicle-1".hex()
        + "19012c" "420102" "65" + b"EdDSA".hex() + "5820" + bytes(range(32)).hex() + "07"
    )  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"device_id": "unit-2"},
        {"vehicle_id": "another"},
        {"epoch": 4},
        {"kid": "00"},
        {"last_seq": 5},
        {"public_key": OTHER.registration()["public_key"]},
        {"proof": OTHER.request()["proof"]},
        {"proof": base64.urlsafe_b64encode(bytes(64)).decode()},
        {"proof": ""},
        {"proof": "AAAA"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_proof_holds_for_what_was_signed_and_nothing_else(changed: dict[str, object]) -> None:
    assert "the proof does not hold" in refusal(DEVICE.request() | changed)


def test_a_telemetry_signature_is_no_proof_whatever_the_device_was_brought_to_sign() -> None:
    """A statement begins with 88 78, what a message signs with 84 6a: neither can be taken for the other."""
    signed = DEVICE.sign(cbor2.dumps({}), DEVICE.statement(), b"weighbridge/enrolment/v1")
    proof = base64.urlsafe_b64encode(signed).decode()
    assert "the proof does not hold" in refusal(DEVICE.request(proof=proof))


@pytest.mark.parametrize(
    ("changed", "because"),
    [
        ({"proof": "a+b/"}, "the proof does not hold"),
        ({"proof": "not base64"}, "base64url"),
        ({"proof": "é"}, "base64url"),
        ({"proof": "A"}, "base64url"),
        ({"last_seq": -1}, "last_seq"),
        ({"last_seq": 2**63 - 1}, "last_seq"),
        ({"last_seq": 1.5}, "no request"),
        ({"tenant": "mine"}, "tenant"),
        ({"epoch": True}, "no request"),
        ({"epoch": 2**32}, "epoch"),
        ({"device_id": "two words"}, "device_id"),
        ({"kid": ""}, "kid"),
        ({"alg": "none"}, "alg"),
        ({"alg": "ES256"}, "an Ed25519 key"),
    ],
    ids=str,
)
def test_a_request_that_cannot_be_meant_is_refused_with_what_is_wrong(changed: dict[str, object], because: str) -> None:
    assert because in refusal(DEVICE.request() | changed)


@pytest.mark.parametrize("text", ["", "[]", "{}", "\udcff", '{"device_id": "\\ud800"}', "{" * 9_000], ids=range(6))
def test_what_is_no_request_is_refused(text: str) -> None:
    assert "this is no request" in refusal(text)


def test_a_request_has_an_end() -> None:
    assert f"more than {REQUEST_CHARACTERS_MAX}" in refusal(json.dumps(DEVICE.request()) + " " * REQUEST_CHARACTERS_MAX)


def test_a_key_that_may_not_be_registered_is_refused_before_its_proof_is_looked_at() -> None:
    low_order = ed25519.Ed25519PublicKey.from_public_bytes(bytes(32))
    pem = low_order.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert "prime-order" in refusal(DEVICE.request(public_key=pem))
