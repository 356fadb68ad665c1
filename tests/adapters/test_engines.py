"""Do all engines say the same, whatever they are asked, in groups of any size?"""

import hashlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import schemas
from ingest.adapters.multibuffer import SHARE, Multibuffer, _doubles_within, _fit_for_ed25519, _fit_for_p256
from ingest.core.device import Algorithm
from ingest.core.examine import Examiner
from ingest.core.message import Refused
from ingest.core.payload import load
from ingest.core.signature import Engine, Job, OpenSSL
from ingest.core.touchstone import ORDERS, SOUND
from loadtest.duel import fight
from loadtest.forgery import HASHED_BEYOND_N, Forger
from tests.core import wycheproof
from tests.core.vectors import load_vectors

ATTEMPTS = 4_000
VECTORS = load_vectors()
CATALOGUE = load(schemas.read_telemetry())


def spoilt(job: Job) -> Job:
    return Job(job.algorithm, job.public, job.signed + b"!", job.signature)


@pytest.mark.parametrize("alg", ["EdDSA", "ES256"])
def test_a_fast_engine_agrees_with_the_public_vectors_one_by_one_and_all_at_once(rival: Engine, alg: str) -> None:
    found = [
        (wycheproof.job_of(alg, *case.values), case.values[1]) for case in wycheproof.cases(alg) if any(case.values)
    ]
    if not found:
        pytest.skip(f"{wycheproof.FILES[alg]} is not beside this checkout")
    asked = [(job, test["result"] == "valid", test["comment"]) for job, test in found if job]
    assert len(asked) > 100
    for job, valid, comment in asked:
        assert rival.check([job]) == [valid], comment
    assert rival.check([job for job, _, _ in asked]) == [valid for _, valid, _ in asked]


def examined(engine: Engine) -> dict[str, str | None]:
    """Say of each golden vector for what it is refused before it is judged."""
    found: dict[str, str | None] = {}
    for vector in VECTORS.vectors:
        examiner = Examiner(vector.rules(), CATALOGUE, engine)
        (answer,) = examiner.examine(examiner.read([vector.record()]), VECTORS.ring(None))
        found[vector.name] = answer.reason if isinstance(answer, Refused) else None
    return found


def test_fast_and_portable_say_the_same_of_the_golden_vectors(rival: Engine) -> None:
    answers = examined(rival)
    assert answers == examined(OpenSSL())
    assert {"bad_signature", None} < set(answers.values())


def test_fast_and_portable_say_the_same_of_whatever_owners_of_keys_and_forgers_make(rival: Engine) -> None:
    tried, found = fight(rival, OpenSSL(), ATTEMPTS, seed=5)
    assert found is None, str(found)
    assert tried.total() == ATTEMPTS


@pytest.mark.parametrize("sound", SOUND, ids=lambda job: str(job.algorithm))
def test_in_a_group_of_any_size_one_that_is_bad_spoils_nothing(rival: Engine, sound: Job) -> None:
    forger = Forger(seed=1)
    make = forger.eddsa if sound.algorithm is Algorithm.ED25519 else forger.es256
    jobs = [make() for _ in range(17)]
    for size in range(18):
        assert rival.check(jobs[:size]) == [True] * size
        for bad in range(size):
            group = [spoilt(job) if at == bad else job for at, job in enumerate(jobs[:size])]
            assert rival.check(group) == [at != bad for at in range(size)]
            assert rival.check([spoilt(job) if at != bad else job for at, job in enumerate(jobs[:size])]) == [
                at == bad for at in range(size)
            ]


@pytest.mark.parametrize("count", [SHARE - 1, SHARE, SHARE + 1, 2 * SHARE + 3])
def test_of_more_than_is_laid_out_at_once_each_is_answered_for_itself(fast: Multibuffer, count: int) -> None:
    forger = Forger(seed=6)
    sound = [forger.eddsa() for _ in range(count)] + [forger.es256() for _ in range(count)]
    forger.random.shuffle(sound)
    assert fast.check(sound) == [True] * len(sound)
    bad = {forger.random.randrange(len(sound)) for _ in range(40)} | {0, count - 1, count, len(sound) - 1}
    assert fast.check([spoilt(job) if at in bad else job for at, job in enumerate(sound)]) == [
        at not in bad for at in range(len(sound))
    ]
    one = [job for job in sound if job.algorithm is sound[0].algorithm]
    for border in {0, len(one) - 1, *range(SHARE - 1, len(one), SHARE), *range(SHARE, len(one), SHARE)}:
        group = [spoilt(job) if at == border else job for at, job in enumerate(one)]
        assert fast.check(group) == [at != border for at in range(count)]


def test_of_ed25519_the_library_is_asked_of_every_s_below_the_order_and_of_no_other() -> None:
    order = ORDERS[Algorithm.ED25519]
    below = [0, 1, 2**252 - 1, 2**252, order - 1]
    beyond = [order, order + 1, 2**253 - 1, 2**253, 2**255, 2**256 - 1]
    jobs = [
        Job(Algorithm.ED25519, SOUND[0].public, b"", SOUND[0].signature[:32] + s.to_bytes(32, "little"))
        for s in (*below, *beyond)
    ]
    assert _fit_for_ed25519(jobs) == list(range(len(below)))


def test_of_p256_the_library_is_asked_of_every_r_and_s_from_1_to_below_the_order_and_of_no_other() -> None:
    order = ORDERS[Algorithm.P256]
    public = next(job.public for job in SOUND if job.algorithm is Algorithm.P256)
    within = [(1, 1), (1, order - 1), (order - 1, 1), (2**255, order - 1)]
    beyond = [pair for out in (0, order, order + 1, 2**256 - 1) for pair in ((out, 1), (1, out))]
    jobs = [
        Job(Algorithm.P256, public, b"", r.to_bytes(32, "big") + s.to_bytes(32, "big")) for r, s in (*within, *beyond)
    ]
    assert _fit_for_p256(jobs) == list(range(len(within)))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])  # time is not what is tested
@given(st.sampled_from(SOUND), st.binary(max_size=66), st.binary(max_size=40), st.binary(max_size=66))
def test_a_fast_engine_never_raises(rival: Engine, sound: Job, public: bytes, signed: bytes, signature: bytes) -> None:
    jobs = [
        Job(sound.algorithm, public, signed, signature),
        Job(sound.algorithm, sound.public, signed, signature),
        Job(sound.algorithm, sound.public, signed, signature[:1] * 64),
        Job(sound.algorithm, public, sound.signed, sound.signature),
    ]
    assert rival.check(jobs) == [False] * 4


def test_messages_that_are_empty_are_messages(rival: Engine) -> None:
    assert rival.check([SOUND[0]] * 8) == [True] * 8
    assert rival.check([SOUND[0], spoilt(SOUND[0])] * 4) == [True, False] * 4


def test_algorithms_may_be_mixed_and_what_is_no_signature_is_refused_among_them(rival: Engine) -> None:
    forger = Forger(seed=2)
    jobs, expected = [], []
    for at in range(60):
        sound = forger.any()
        bad = [
            Job(sound.algorithm, sound.public, sound.signed, sound.signature[:63]),
            Job(sound.algorithm, sound.public, sound.signed, sound.signature + b"\0"),
            Job(sound.algorithm, sound.public + b"\0", sound.signed, sound.signature),
            Job(sound.algorithm, b"", sound.signed, sound.signature),
            Job(sound.algorithm, sound.public, sound.signed, b""),
        ]
        jobs += [sound, bad[at % 5]]
        expected += [True, False]
    assert rival.check(jobs) == OpenSSL().check(jobs) == expected
    assert rival.check([]) == []


def test_a_signature_over_a_hash_beyond_the_order_holds(rival: Engine) -> None:
    assert int.from_bytes(hashlib.sha256(HASHED_BEYOND_N).digest(), "big") > ORDERS[Algorithm.P256]
    jobs = [Forger(seed).es256(HASHED_BEYOND_N) for seed in range(9)]
    assert rival.check(jobs) == OpenSSL().check(jobs) == [True] * 9


def unreduced(signed: bytes) -> bytes:
    return hashlib.sha256(signed).digest()


def only_within(_engine: Multibuffer, refused: list[Job]) -> list[bool]:
    return [_doubles_within(job) for job in refused]


def no_doubt(_job: Job) -> bool:
    return False


@pytest.mark.parametrize(
    ("fence", "instead", "kind"),
    [
        ("_L", b"\xff" * 33, "EdDSA: s and some L"),
        ("_hash", unreduced, "ES256: hash beyond n"),
        ("Multibuffer._doubt", only_within, "ES256: a point and itself"),
        ("_doubles_within", no_doubt, "ES256: u2 is -2"),
    ],
)
def test_without_its_fence_the_library_is_wrong_and_the_duel_finds_it(
    fast: Multibuffer, monkeypatch: pytest.MonkeyPatch, fence: str, instead: object, kind: str
) -> None:
    monkeypatch.setattr(f"ingest.adapters.multibuffer.{fence}", instead)
    _, found = fight(fast, OpenSSL(), ATTEMPTS, seed=5)
    assert found is not None
    assert found.attempt.kind == kind
