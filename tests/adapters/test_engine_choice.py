"""Is the fast engine used where it works, and only there, and what becomes of one that is wrong?"""

import asyncio
import hashlib
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop
from click.testing import CliRunner
from structlog.testing import capture_logs

import schemas
from ingest.__main__ import main
from ingest.adapters import multibuffer
from ingest.adapters.memory.log import MemoryLog
from ingest.adapters.multibuffer import FLAGS, LIBRARY, Multibuffer, UnavailableError
from ingest.adapters.postgres.connection import connect
from ingest.adapters.postgres.provenance import Provenance
from ingest.adapters.postgres.registry import import_devices, read_lines
from ingest.adapters.postgres.store import PostgresStore
from ingest.adapters.sodium import Sodium
from ingest.config import EngineChoice
from ingest.core.device import Key, KeyRing, KeyState, Sender
from ingest.core.examine import Examiner
from ingest.core.message import RawRecord
from ingest.core.payload import load
from ingest.core.policy import Policy
from ingest.core.signature import Engine, Job, OpenSSL
from ingest.core.touchstone import IDENTITY_R, LANES, MIXED_R, SOUND, find_fault
from ingest.engines import Watched, open_engine
from ingest.metrics import Metrics
from ingest.ordeal import Charge
from ingest.ports import TroubleError
from ingest.trial import _charge, find_killers
from ingest.worker import Limits, Worker
from tests.simulation.corridor import UntilOffset, kill_nobody
from tests.whole.device import Stranger, ed25519_key, p256_key

CATALOGUE = load(schemas.read_telemetry())
NOW_MS = 1_790_000_000_000

Check = Callable[[Sequence[Job]], list[bool]]


def spoilt(job: Job) -> Job:
    return Job(job.algorithm, job.public, job.signed + b"!", job.signature)


class Variant:
    """An engine that is broken in one way."""

    name = "variant"

    def __init__(self, answer: Callable[[Check, Sequence[Job]], list[bool]]) -> None:
        self._answer = answer

    def check(self, jobs: Sequence[Job]) -> list[bool]:
        return self._answer(OpenSSL().check, jobs)


BROKEN: dict[str, Callable[[Check, Sequence[Job]], list[bool]]] = {
    "says yes": lambda _, jobs: [True] * len(jobs),
    "says no": lambda _, jobs: [False] * len(jobs),
    "one lane is deaf": lambda check, jobs: [ok or at % LANES == 5 for at, ok in enumerate(check(jobs))],
    "one lane is dead": lambda check, jobs: [ok and at % LANES != 6 for at, ok in enumerate(check(jobs))],
    "lanes are turned": lambda check, jobs: check(jobs)[-1:] + check(jobs)[:-1],
    "one spoils all": lambda check, jobs: [all(check(jobs))] * len(jobs),
    "the second group is the first": lambda check, jobs: (check(jobs[:LANES]) * 3)[: len(jobs)],
    "it takes the cofactor": lambda check, jobs: [
        ok or job == MIXED_R for ok, job in zip(check(jobs), jobs, strict=True)
    ],
    "no R of small order": lambda check, jobs: [
        ok and job != IDENTITY_R for ok, job in zip(check(jobs), jobs, strict=True)
    ],
    "the first group is enough": lambda check, jobs: (check(jobs[:LANES]) + [True] * 9)[: len(jobs)],
}


@pytest.mark.parametrize("how", BROKEN)
def test_the_self_test_notices_an_engine_that_is_broken(how: str) -> None:
    assert find_fault(Variant(BROKEN[how])) is not None


def test_the_self_test_finds_nothing_wrong_with_openssl_or_what_stands_before_it() -> None:
    assert find_fault(OpenSSL()) is None
    assert find_fault(Sodium()) is None


LIBRARY_BLIND = """
import ctypes
from ingest.adapters import multibuffer

plain = multibuffer._load

def blind():
    library = plain()
    library.mbx_set_cpu_features(ctypes.c_uint64(1))  # it is told that the processor has nothing
    return library

multibuffer._load = blind
multibuffer.Multibuffer()
"""


@pytest.mark.usefixtures("fast")
def test_a_library_that_does_not_work_here_fails_its_self_test() -> None:
    found = subprocess.run([sys.executable, "-c", LIBRARY_BLIND], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "fails its self-test here: it refuses a sound EdDSA signature" in found.stderr


def without_flags(folder: Path, *lacking: str) -> Path:
    path = folder / "cpuinfo"
    path.write_text(f"processor\t: 0\nflags\t\t: fpu {' '.join(FLAGS - set(lacking))} sse\nbugs\t: none\n")
    return path


def test_where_the_processor_lacks_something_it_is_said_what(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(multibuffer, "PROCESSOR", without_flags(tmp_path, "avx512ifma", "avx512f"))
    with pytest.raises(UnavailableError, match=r"^the processor lacks avx512f, avx512ifma$"):
        Multibuffer()
    monkeypatch.setattr(multibuffer, "PROCESSOR", tmp_path / "nothing")
    with pytest.raises(UnavailableError, match=r"cannot be read from .*nothing: No such file"):
        Multibuffer()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PACKAGE", "ipp-of-nobody", "the package ipp-of-nobody is not installed"),
        ("RUNTIME", "rt-of-nobody", "the package rt-of-nobody is not installed"),
        ("LIBRARY", "libcrypto_mb.so.1", r"the package ipp-crypto [\d.]+ has no libcrypto_mb.so.1$"),
        ("NEEDED", (), f"{LIBRARY} cannot be loaded: lib.*: cannot open shared object file"),
    ],
)
def test_where_something_is_not_installed_it_is_said_what(name: str, value: object, said: str) -> None:
    script = f"""
from pathlib import Path
from ingest.adapters import multibuffer
multibuffer._require_processor = lambda: None
multibuffer.{name} = {value!r}
try:
    multibuffer.Multibuffer()
except multibuffer.UnavailableError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    if "ipp-crypto is not installed" in found.stdout:
        pytest.skip("ipp-crypto is not installed")
    assert re.search(said, found.stdout.strip()), found.stdout


def test_auto_falls_back_and_tells_and_who_insists_is_told_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(multibuffer, "PROCESSOR", without_flags(tmp_path, "avx512ifma"))
    with capture_logs() as journal:
        engine = open_engine(EngineChoice.AUTO)
    assert isinstance(engine, Watched)
    assert isinstance(engine.fast, Sodium)
    assert [(line["event"], line["engine"], line["why"]) for line in journal] == [
        ("engine", Sodium().name, "the processor lacks avx512ifma")
    ]
    with pytest.raises(UnavailableError):
        open_engine(EngineChoice.MULTIBUFFER)
    environ = {"WEIGHBRIDGE_KAFKA": "127.0.0.1:1", "WEIGHBRIDGE_DATABASE": "postgresql://w@127.0.0.1:1/w"}
    for arguments, more in ((["--engine", "multibuffer"], {}), ([], {"WEIGHBRIDGE_ENGINE": "multibuffer"})):
        said = CliRunner().invoke(main, ["worker", *arguments], env=environ | more)
        assert said.exit_code == 1
        assert "there is no multibuffer engine here: the processor lacks avx512ifma; portable works" in said.output


def test_who_asks_for_the_portable_engine_gets_libsodium_watched() -> None:
    engine = open_engine(EngineChoice.PORTABLE)
    assert isinstance(engine, Watched)
    assert isinstance(engine.fast, Sodium)
    assert re.fullmatch(r"sodium \d+\.\d+\.\d+", engine.name)
    assert engine.check(SOUND) == [True, True]


def test_where_libsodium_fails_its_test_openssl_has_it_all_and_it_is_said_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("ingest.adapters.sodium.SMALL_ORDER", frozenset[bytes]())
    monkeypatch.setattr(multibuffer, "PROCESSOR", without_flags(tmp_path, "avx512ifma"))
    with capture_logs() as journal:
        engines = [open_engine(EngineChoice.PORTABLE), open_engine(EngineChoice.AUTO)]
    assert [type(engine) for engine in engines] == [OpenSSL, OpenSSL]
    why = f"{Sodium().name} fails its self-test here: it refuses a sound EdDSA signature"
    assert [(line["engine"], line["why"]) for line in journal] == [
        ("openssl", f"it was asked for; {why}"),
        ("openssl", f"the processor lacks avx512ifma; {why}"),
    ]


def test_where_it_works_it_is_chosen_and_watched(fast: Multibuffer) -> None:
    for choice in (EngineChoice.AUTO, EngineChoice.MULTIBUFFER):
        engine = open_engine(choice)
        assert isinstance(engine, Watched)
        assert isinstance(engine.fast, Multibuffer)
        assert engine.name == fast.name
        assert engine.check(SOUND) == [True, True]


class Liar:
    """An engine that is right so many times, and then says the opposite."""

    name = "liar"

    def __init__(self, right: int = 0) -> None:
        self.right = right
        self.asked = 0

    def check(self, jobs: Sequence[Job]) -> list[bool]:
        answers = OpenSSL().check(jobs)
        lies = [self.asked + at >= self.right for at in range(len(jobs))]
        self.asked += len(jobs)
        return [holds is not lie for holds, lie in zip(answers, lies, strict=True)]


class Counting:
    """The portable engine, which remembers how often it was asked."""

    name = "counting"

    def __init__(self) -> None:
        self.asked = 0

    def check(self, jobs: Sequence[Job]) -> list[bool]:
        self.asked += len(jobs)
        return OpenSSL().check(jobs)


def test_an_even_share_of_the_checks_is_repeated_however_they_are_cut() -> None:
    reference = Counting()
    engine = Watched(Liar(right=1_000), reference, repeat_every=7)
    for size in (1, 2, 3, 50, 0, 6, 7, 8, 343):
        engine.check([SOUND[0]] * size)
    assert reference.asked == 420 / 7
    assert engine.name == "liar"


@pytest.mark.parametrize("job", [SOUND[0], spoilt(SOUND[0]), SOUND[1], spoilt(SOUND[1])])
def test_one_contradiction_stops_it_for_good_and_loudly(job: Job) -> None:
    liar = Liar(right=10)
    engine = Watched(liar, OpenSSL(), repeat_every=1)
    metrics = Metrics("0.1.0", engine.name)
    metrics.watch(engine)
    truth = OpenSSL().check([job])
    with capture_logs() as journal:
        assert engine.check([job] * 10) == truth * 10
        assert "weighbridge_engine_stopped 0.0" in metrics.render().decode()
        assert engine.check([job] * 5) == truth * 5, "not even this answer is the liar's"
        assert engine.check([job] * 5) == truth * 5
    assert liar.asked == 15, "it is never asked again"
    assert engine.name == "openssl"
    assert "weighbridge_engine_stopped 1.0" in metrics.render().decode()
    (event,) = journal
    assert (event["event"], event["log_level"]) == ("engine_stopped", "error")
    assert (event["engine"], event["instead"], event["holds"]) == ("liar", "openssl", truth[0])
    assert event["signed_sha256"] == hashlib.sha256(job.signed).hexdigest()


class Patient(UntilOffset):
    """Remembers the troubles on the way."""

    def __init__(self, end: int) -> None:
        super().__init__(end)
        self.errors: list[str] = []

    def trouble(self, partition: int, error: TroubleError) -> None:  # noqa: ARG002 (the observer's shape)
        self.errors.append(str(error))


async def fetch(database: str, query: str) -> list[tuple[Any, ...]]:
    connection = await connect(database, "test")
    rows = await connection.fetch(query)
    await connection.close()
    return [tuple(row) for row in rows]


@pytest.mark.real
async def test_what_a_stopped_engine_said_is_not_kept_and_is_examined_again(store_database: str) -> None:
    device = Stranger("one", ed25519_key())
    connection = await connect(store_database, "test")
    await import_devices(connection, read_lines([json.dumps(device.registration())]))
    await connection.close()
    records = [RawRecord("t", 0, at, NOW_MS, device.say(at + 1, n6=NOW_MS // 1_000)) for at in range(12)]
    engine = Watched(Liar(right=6), OpenSSL(), repeat_every=1)
    store = PostgresStore(store_database, lambda: Provenance("test", engine.name, Policy(), CATALOGUE.schemas))
    observer = Patient(len(records))
    examiner = Examiner(Policy(), CATALOGUE, engine)
    worker = Worker("t", MemoryLog({0: records}, 4), store, examiner, kill_nobody, observer, Limits())
    await asyncio.wait_for(worker.tend(0, observer.stopping), 60)
    kept = await fetch(store_database, "select kafka_offset, engine from weighbridge.message order by kafka_offset")
    assert kept == [(at, "liar" if at < 4 else "openssl") for at in range(12)]
    assert observer.errors == ["an engine was stopped: what it said is not kept, and will be examined again"]


def test_a_child_makes_the_same_engine_again(rival: Engine) -> None:
    devices = Stranger("one", ed25519_key()), Stranger("two", p256_key())
    senders = {
        entry.device_id: Sender(
            number,
            number,
            1,
            1,
            {entry.kid: Key(number, entry.kid, entry.algorithm, entry.public, KeyState.ACTIVE, 0, None, None)},
        )
        for number, entry in enumerate(read_lines(json.dumps(device.registration()) for device in devices), 1)
    }
    examiner = Examiner(Policy(), CATALOGUE, Watched(rival))
    charge = msgspec.msgpack.decode(_charge(examiner, KeyRing({}, frozenset())), type=Charge)
    made = [pkgutil.resolve_name(name) for name in (charge.engine, charge.fast or "")]
    assert made == [Watched, type(rival)]
    records = [RawRecord("t", 0, at, NOW_MS, devices[at % 2].say(at + 1)) for at in range(20)]
    assert uvloop.run(find_killers(examiner, examiner.read(records), KeyRing(senders, frozenset()))) == frozenset()
