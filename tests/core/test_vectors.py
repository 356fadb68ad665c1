"""Do the reader and the verification say of every golden vector what its maker expects?"""

import re

import pytest

from ingest.core.envelope import EXTERNAL_AAD, read
from ingest.core.message import Refused, Verified
from ingest.core.signature import Portable, verify
from ingest.core.verdict import Hold, Refusal, Verdict
from tests.core.vectors import FOLDER, Vector, load_vectors

VECTORS = load_vectors()

DECIDED_HERE = frozenset(
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


def examined(vector: Vector) -> Verified | Refused:
    envelope = read(vector.record(), vector.rules().envelope_bytes_max)
    if isinstance(envelope, Refused):
        return envelope
    (found,) = verify([envelope], VECTORS.ring(envelope.device_id), Portable())
    return found


@pytest.mark.parametrize("vector", VECTORS.vectors, ids=lambda vector: vector.name)
def test_a_vector_is_refused_for_its_reason_or_verified(vector: Vector) -> None:
    found = examined(vector)
    if vector.reason in DECIDED_HERE:
        assert isinstance(found, Refused), vector.why
        assert found.reason == vector.reason, f"{vector.why}: {found.detail}"
    else:
        assert isinstance(found, Verified), f"{vector.why}: {found.detail}"


def test_the_vectors_show_every_reason_that_a_first_message_can_have() -> None:
    several_messages = {"quarantined", "equivocation", "counter_rollback", "rate_limited", "poison"}
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
    assert isinstance(found, Verified)
    assert found.digest.hex() in text
    entry = next(entry for entry in VECTORS.registry if entry.device_id == found.envelope.device_id)
    assert all(line in text for line in entry.public_key.splitlines())
