"""Any bytes get one answer: the first that applies, the same each time, alone or among others."""

import itertools
from collections.abc import Callable, Sequence

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import schemas
from device_sim.wire import LABEL_CLAIMS, LABEL_KID
from ingest.core.device import Key, KeyRing, KeyState, Sender
from ingest.core.enrolment import admit
from ingest.core.examine import Examiner
from ingest.core.message import Envelope, Examined, RawRecord, Reading, Refused, Unreadable, Verified
from ingest.core.payload import load
from ingest.core.policy import Policy
from ingest.core.signature import Job, OpenSSL
from ingest.core.verdict import Refusal
from loadtest.mutation import RECEIVED_AT_MS, Specimen, Spoilt, open_workshop, spoil

SEED = 20
SHOP = open_workshop(SEED)
EXAMINER = Examiner(Policy(), load(schemas.read_telemetry()), OpenSSL())
SPECIMEN = SHOP.specimens[0]
SOUND = {specimen.content for specimen in SHOP.specimens}


def ring(state: KeyState = KeyState.ACTIVE) -> KeyRing:
    senders = {}
    for number, one in enumerate(SHOP.identity.registrations(), 1):
        key = Key(number, bytes.fromhex(one.kid), *admit(one.alg, one.public_key), state, 0, None, None)
        senders[one.device_id] = Sender(number, number, 1, 1, {key.kid: key})
    return KeyRing(senders, frozenset())


RING = ring()


def examine(*values: bytes, keys: KeyRing = RING, examiner: Examiner = EXAMINER) -> list[Examined]:
    records = [RawRecord("t", 0, offset, RECEIVED_AT_MS, value) for offset, value in enumerate(values)]
    return examiner.examine(examiner.read(records), keys)


def check(spoilt: Spoilt) -> None:
    """One answer, which says nothing that cannot be shown, and proves nothing that nobody signed."""
    (found,) = examine(spoilt.value)
    match found:
        case Refused(detail=detail):
            assert 0 < len(detail) <= 250
            assert detail.isprintable()
        case Reading(verified=verified) | Unreadable(verified=verified):
            assert spoilt.signed or verified.envelope.signed in SOUND


def test_sound_messages_are_read() -> None:
    found = examine(*[specimen.seal() for specimen in SHOP.specimens])
    assert all(isinstance(one, Reading) for one in found)


def test_whatever_is_spoilt_gets_an_answer() -> None:
    for spoilt in itertools.islice(spoil(SHOP, SEED), 4_000):
        check(spoilt)


@settings(deadline=None)  # time is not what is tested
@given(st.binary(max_size=600))
def test_any_bytes_get_an_answer(value: bytes) -> None:
    check(Spoilt("whole", value, signed=False))
    check(Spoilt("whole", b"\xd2\x84" + value, signed=False))


edits = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 4), st.binary(max_size=12)), min_size=1, max_size=5)


def edited(data: bytes, changes: Sequence[tuple[int, int, bytes]]) -> bytes:
    for at, removed, inserted in changes:
        data = data[:at] + inserted + data[at + removed :]
    return data


@settings(deadline=None)  # time is not what is tested
@given(st.sampled_from(SHOP.specimens[:60]), edits)
def test_a_hostile_envelope_gets_an_answer(specimen: Specimen, changes: list[tuple[int, int, bytes]]) -> None:
    check(Spoilt("whole", edited(specimen.seal(), changes), signed=False))


@settings(deadline=None)  # time is not what is tested
@given(st.sampled_from(SHOP.specimens[:60]), edits)
def test_a_hostile_payload_under_a_true_signature_gets_an_answer(
    specimen: Specimen, changes: list[tuple[int, int, bytes]]
) -> None:
    payload = specimen.payload[:10] + edited(specimen.payload[10:], changes)
    check(Spoilt("payload", Specimen(specimen.signer, specimen.protected, payload).seal(), signed=True))


@settings(deadline=None)  # time is not what is tested
@given(st.sampled_from(SHOP.specimens[:60]), edits)
def test_a_hostile_header_under_a_true_signature_gets_an_answer(
    specimen: Specimen, changes: list[tuple[int, int, bytes]]
) -> None:
    protected = edited(specimen.protected, changes)
    check(Spoilt("header", Specimen(specimen.signer, protected, specimen.payload).seal(), signed=True))


def test_a_message_is_answered_alone_as_among_others_and_in_their_order() -> None:
    values = [spoilt.value for spoilt in itertools.islice(spoil(SHOP, SEED + 1), 500)]
    together = examine(*values)
    alone = [examine(value)[0] for value in values]
    assert [describe(one) for one in together] == [describe(one) for one in alone]
    assert [record_of(one).offset for one in together] == list(range(500))
    assert examine(*values) == together


def describe(found: Examined) -> tuple[object, ...]:
    match found:
        case Refused(reached=reached, reason=reason, detail=detail):
            return type(reached), reason, detail
        case Reading(verified=verified, schema=schema, samples=samples):
            return verified.digest, schema, samples
        case Unreadable(verified=verified, schema=schema):
            return verified.digest, schema


def record_of(found: Examined) -> RawRecord:
    return found.record if isinstance(found, Refused) else found.verified.record


# From the first that is asked to the last; each has all the faults that come after its own as well.
Spoil = Callable[[Specimen], Specimen]


def with_label(label: int, value: object) -> Spoil:
    return lambda specimen: reheaded(specimen, {label: value}, {})


def with_claim(claim: int, value: object) -> Spoil:
    return lambda specimen: reheaded(specimen, {}, {claim: value})


def reheaded(specimen: Specimen, labels: dict[int, object], claims: dict[int, object]) -> Specimen:
    header = cbor2.loads(specimen.protected)
    said = header[LABEL_CLAIMS] | claims
    return Specimen(specimen.signer, cbor2.dumps(header | labels | {LABEL_CLAIMS: said}), specimen.payload)


def with_body(body: bytes) -> Spoil:
    return lambda specimen: Specimen(specimen.signer, specimen.protected, specimen.payload[:10] + body)


FAULTS: list[tuple[Refusal, Spoil]] = [
    (Refusal.UNKNOWN_DEVICE, with_claim(2, "nobody")),
    (Refusal.UNKNOWN_KEY, with_label(LABEL_KID, b"no key of mine")),
    (Refusal.ALGORITHM_MISMATCH, with_label(1, -257)),
    (Refusal.EXPIRED, with_claim(4, 1_000_000_000)),
    (Refusal.INVALID_PAYLOAD, with_body(b"\x02\x7f")),
]


@pytest.mark.parametrize("first", range(len(FAULTS)), ids=[str(reason) for reason, _ in FAULTS])
@pytest.mark.parametrize("signed", [True, False])
def test_of_several_faults_the_first_gives_the_reason(first: int, *, signed: bool) -> None:
    specimen = SPECIMEN
    for _, spoil_one in FAULTS[first:]:
        specimen = spoil_one(specimen)
    (found,) = examine(specimen.seal() if signed else specimen.seal()[:-8] + bytes(8))
    assert isinstance(found, Refused)
    reason, needs_no_signature = FAULTS[first][0], first < 3
    assert found.reason is (reason if signed or needs_no_signature else Refusal.BAD_SIGNATURE)
    assert isinstance(found.reached, Envelope if needs_no_signature or not signed else Verified)


def test_size_is_asked_before_shape_and_a_revoked_key_before_its_signature() -> None:
    (found,) = examine(bytes(65_537))
    assert isinstance(found, Refused)
    assert found.reason is Refusal.OVERSIZE
    (found,) = examine(SPECIMEN.seal()[:-8] + bytes(8), keys=ring(KeyState.REVOKED))
    assert isinstance(found, Refused)
    assert found.reason is Refusal.KEY_REVOKED


class Counting:
    """An engine that remembers how much it was asked in each call."""

    name = "counting"

    def __init__(self) -> None:
        self.asked: list[int] = []

    def check(self, jobs: Sequence[Job]) -> list[bool]:
        self.asked.append(len(jobs))
        return OpenSSL().check(jobs)


def test_a_batch_is_one_call_to_the_engine_and_only_for_what_names_a_key() -> None:
    engine = Counting()
    stranger = with_claim(2, "nobody")(SPECIMEN).seal()
    found = examine(
        SPECIMEN.seal(), b"", stranger, SPECIMEN.seal(), examiner=Examiner(EXAMINER.policy, EXAMINER.catalogue, engine)
    )
    assert engine.asked == [2]
    assert [type(one) for one in found] == [Reading, Refused, Refused, Reading]
