"""Does the whole corridor, from the bytes to the verdict, say of every golden vector what its maker expects?"""

import re

import pytest

import schemas
from ingest.core.device import Device, Standing
from ingest.core.envelope import EXTERNAL_AAD
from ingest.core.examine import Examiner
from ingest.core.judge import Past, judge
from ingest.core.message import Envelope, Examined, Reading, Refused, Verified
from ingest.core.outcome import span_of
from ingest.core.payload import load
from ingest.core.signature import OpenSSL
from ingest.core.verdict import Hold, Refusal, Verdict
from tests.core.vectors import FOLDER, Vector, load_vectors

VECTORS = load_vectors()
CATALOGUE = load(schemas.read_telemetry())

UNPROVEN = frozenset(
    (
        Refusal.OVERSIZE,
        Refusal.MALFORMED,
        Refusal.UNKNOWN_DEVICE,
        Refusal.WRONG_DEVICE,
        Refusal.UNKNOWN_KEY,
        Refusal.ALGORITHM_MISMATCH,
        Refusal.KEY_REVOKED,
        Refusal.KEY_NOT_VALID,
        Refusal.BAD_SIGNATURE,
    )
)


def examined(vector: Vector) -> Examined:
    examiner = Examiner(vector.rules(), CATALOGUE, OpenSSL())
    (message,) = examiner.read([vector.record()])
    device_id = message.device_id if isinstance(message, Envelope) else None
    (found,) = examiner.examine([message], VECTORS.ring(device_id))
    return found


def weigh(vector: Vector) -> tuple[Verdict, str]:
    """Judge a vector as the first message of its device."""
    epochs = VECTORS.epochs()
    devices = {
        sender.device_no: Device(sender.device_no, Standing.TRUSTED, sender.key_version, epochs[device_id], 0, (), {})
        for device_id, sender in VECTORS.ring(None).senders.items()
    }
    outcome = judge([examined(vector)], Past(devices, {}), vector.rules(), span_of([vector.record()], 0))
    (found,) = outcome.counts
    return found


@pytest.mark.parametrize("vector", VECTORS.vectors, ids=lambda vector: vector.name)
def test_a_vector_gets_the_verdict_and_reason_that_it_deserves(vector: Vector) -> None:
    assert weigh(vector) == (vector.verdict, vector.reason or ""), vector.why


@pytest.mark.parametrize("vector", VECTORS.vectors, ids=lambda vector: vector.name)
def test_a_vector_names_a_culprit_only_when_its_signature_holds(vector: Vector) -> None:
    found = examined(vector)
    proven = not isinstance(found, Refused) or isinstance(found.reached, Verified)
    assert proven == (vector.reason not in UNPROVEN), vector.why


def test_the_vectors_show_every_reason_that_a_first_message_can_have() -> None:
    several_messages = {"quarantined", "equivocation", "counter_rollback", "rate_limited", "poison", "lapsed"}
    assert {vector.reason for vector in VECTORS.vectors if vector.reason} == {*Refusal, *Hold} - several_messages


def test_the_vectors_are_named_once_and_say_why() -> None:
    names = [vector.name for vector in VECTORS.vectors]
    assert len(set(names)) == len(names)
    assert all(vector.why for vector in VECTORS.vectors)
    assert all((vector.reason is None) == (vector.verdict is Verdict.ACCEPTED) for vector in VECTORS.vectors)
    assert VECTORS.external_aad.encode() == EXTERNAL_AAD


def test_no_private_key_is_among_the_vectors() -> None:
    for path in FOLDER.glob("*.json"):
        assert not re.search("PRIVATE KEY", path.read_text())


def test_the_worked_example_of_the_contract_is_a_vector_down_to_its_digest_and_key() -> None:
    text = (FOLDER.parent / "envelope.md").read_text()
    lines = text.split("```hex", 1)[1].split("```", 1)[0].splitlines()
    value = bytes.fromhex("".join(line.split("#")[0] for line in lines))
    vector = next(vector for vector in VECTORS.vectors if vector.name == "accepted-eddsa")
    assert value.hex() == vector.envelope
    found = examined(vector)
    assert isinstance(found, Reading)
    assert found.verified.digest.hex() in text
    entry = next(entry for entry in VECTORS.registry if entry.device_id == found.verified.envelope.device_id)
    assert all(line in text for line in entry.public_key.splitlines())
