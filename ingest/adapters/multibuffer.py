"""Do these signatures hold, eight at a time? Intel's multi-buffer library, where the processor has AVX-512 IFMA.

What the library answers wrongly is kept from it, and what is not eight is filled up with a signature that is known to
hold: decisions/verification.md. It keeps nothing between two calls, which release the interpreter's lock.
"""

import ctypes
import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata
from itertools import accumulate, repeat
from pathlib import Path
from typing import TypeAlias

from ingest.core.device import SIGNATURE_BYTES, Algorithm
from ingest.core.signature import Job, OpenSSL
from ingest.core.touchstone import LANES, ORDERS, SOUND, find_fault

PROCESSOR = Path("/proc/cpuinfo")
FLAGS = frozenset(("avx512f", "avx512dq", "avx512bw", "avx512cd", "avx512vl", "avx512ifma", "avx512_vbmi2", "bmi2"))
PACKAGE, LIBRARY = "ipp-crypto", "libcrypto_mb.so.13"
RUNTIME, NEEDED = "intel-cmplr-lib-rt", ("libintlc.so.5", "libirng.so", "libimf.so", "libsvml.so")  # in this order
SHARE = 32 * LANES  # jobs laid out at once: their tables are made once a call, and stay in the nearest cache
STATUS_BITS = 4  # of each lane, the first one's lowest; 0: it holds

_ED25519, _P256 = Algorithm.ED25519, Algorithm.P256  # asked of every job: a member of an enum is slow to name
_L = ORDERS[Algorithm.ED25519].to_bytes(32, "big")
_N_NUMBER = ORDERS[Algorithm.P256]
_N = _N_NUMBER.to_bytes(32, "big")
_ZERO = bytes(32)
_HOLD = [True] * LANES
_FILLING = {job.algorithm: job for job in SOUND}

Call = Callable[..., int]
Table: TypeAlias = "array[int]"  # one entry a lane


class UnavailableError(Exception):
    """The library cannot be used here. Its text says what is missing."""


class Multibuffer:
    """The engine for processors with AVX-512 IFMA. Raises UnavailableError where it cannot be, or fails its test."""

    def __init__(self) -> None:
        _require_processor()
        library = _load()
        self.name = f"multibuffer {metadata.version(PACKAGE)}"
        self._ed25519 = _function(library, "mbx_ed25519_verify_mb8", 5)
        self._p256 = _function(library, "mbx_nistp256_ecdsa_verify_mb8", 7)
        self._p256_multiply = _function(library, "mbx_nistp256_ecpublic_key_mb8", 5)
        self._portable = OpenSSL()
        fault = find_fault(self)
        if fault:
            raise UnavailableError(f"{self.name} fails its self-test here: {fault}")

    def check(self, jobs: Sequence[Job]) -> list[bool]:
        """Say of each job, in order, whether its signature holds. Its key has passed ingest.core.enrolment."""
        answers = [False] * len(jobs)
        for fit, ask in ((_fit_for_ed25519, self._ask_ed25519), (_fit_for_p256, self._ask_p256)):
            asked = fit(jobs)
            for at, holds in zip(asked, ask(_fill([jobs[at] for at in asked])), strict=False):
                answers[at] = holds
        return answers

    def _ask_ed25519(self, jobs: Sequence[Job]) -> list[bool]:
        """Ask for r, s, message, its length and the key: crypto_mb/ed25519.h."""
        lanes, answers = min(len(jobs), SHARE), list[bool]()
        signatures, keys = _Lanes(64, lanes), _Lanes(32, lanes)
        r, s, key = signatures.table(), signatures.table(32), keys.table()
        for share in _shares(jobs):
            signatures.lay([job.signature for job in share])
            keys.lay([job.public for job in share])
            signed = [job.signed for job in share]
            messages, lengths = array("B", b"".join([*signed, b"\0"])), array("I", map(len, signed))
            message = array("Q", accumulate(lengths, initial=messages.buffer_info()[0]))
            groups = _groups(len(share), r, s, message, lengths, key)
            answers += _answers(len(share), map(self._ed25519, *groups))
        return answers

    def _ask_p256(self, jobs: Sequence[Job]) -> list[bool]:
        """Ask for r, s, hash, and the key's x, y (little-endian) and z (none: affine): crypto_mb/ec_nistp256.h."""
        lanes, answers = min(len(jobs), SHARE), list[bool]()
        signatures, hashes, keys = _Lanes(64, lanes), _Lanes(32, lanes), _Lanes(64, lanes)
        tables = signatures.table(), signatures.table(32), hashes.table(), keys.table(32), keys.table()
        for share in _shares(jobs):
            signatures.lay([job.signature for job in share])
            hashes.lay([_hash(job.signed) for job in share])
            keys.lay([job.public[::-1] for job in share])  # now y, x
            groups = _groups(len(share), *tables)
            answers += _answers(len(share), map(self._p256, *groups, repeat(None), repeat(None)))
        refused = [at for at, holds in enumerate(answers) if not holds]
        for at, doubtful in zip(refused, self._doubt([jobs[at] for at in refused]), strict=True):
            answers[at] = doubtful and self._portable.check([jobs[at]]) == [True]
        return answers

    def _doubt(self, refused: list[Job]) -> list[bool]:
        """Say of which refusals the library is not to be believed: it may be wrong where it adds a point to itself.

        It does within u2·Q for one u2, and at the end where Q = e/r·G; only who makes a key for the message meets it.
        """
        jobs = _fill(refused)
        inverses = _invert([int.from_bytes(job.signature[:32], "big") for job in jobs])
        hashes = [int.from_bytes(_hash(job.signed), "big") for job in jobs]
        xs, ys, scalars = (_Lanes(32, len(jobs)) for _ in range(3))
        scalars.lay([(e * r % _N_NUMBER).to_bytes(32, "little") for e, r in zip(hashes, inverses, strict=True)])
        tables = xs.table(), ys.table(), scalars.table()
        for x, y, scalar in zip(*_groups(len(jobs), *tables), strict=True):
            self._p256_multiply(x, y, None, scalar, None)
        return [_doubles_within(job) or job.public[31::-1] == x for job, x in zip(refused, xs.parts(), strict=False)]


class _Lanes:
    """What the library reads or writes of each lane: parts of one size, side by side in memory that stays in place."""

    def __init__(self, size: int, count: int) -> None:
        self._size, self._content = size, array("B", bytes(size * count))

    def table(self, first: int = 0) -> Table:
        """Name the address of each lane's part, or of what stands so many bytes behind it."""
        start, size = self._content.buffer_info()
        return array("Q", range(start + first, start + size, self._size))

    def lay(self, parts: Sequence[bytes]) -> None:
        """Lay these into the first lanes. Raises ValueError if they are of another size."""
        memoryview(self._content)[: self._size * len(parts)] = b"".join(parts)

    def parts(self) -> Iterator[bytes]:
        """Give back what each lane has."""
        content, size = self._content.tobytes(), self._size
        return (content[at : at + size] for at in range(0, len(content), size))


def _fit_for_ed25519(jobs: Sequence[Job]) -> list[int]:
    """Keep from the library what it would take for well formed: it accepts s + L (RFC 8032, 5.1.7 does not).

    One byte tells of nearly every s: what is less than 2^252 is less than L.
    """
    return [
        at
        for at, job in enumerate(jobs)
        if job.algorithm is _ED25519
        and len(job.public) == 32
        and len(job.signature) == SIGNATURE_BYTES
        and (job.signature[63] < 16 or job.signature[:31:-1] < _L)
    ]


def _fit_for_p256(jobs: Sequence[Job]) -> list[int]:
    """Keep from the library what is out of range: r and s lie in 1 .. n-1 (FIPS 186-5, 6.4.2)."""
    return [
        at
        for at, job in enumerate(jobs)
        if job.algorithm is _P256
        and len(job.public) == 64
        and len(job.signature) == SIGNATURE_BYTES
        and _ZERO < job.signature[:32] < _N
        and _ZERO < job.signature[32:] < _N
    ]


def _doubles_within(job: Job) -> bool:
    """Say whether u2 is n-2: with windows of four bits, a multiplication by it ends with the sum of -Q and -Q."""
    r, s = int.from_bytes(job.signature[:32], "big"), int.from_bytes(job.signature[32:], "big")
    return (r + 2 * s) % _N_NUMBER == 0


def _hash(signed: bytes) -> bytes:
    """Reduce the hash modulo n: the library refuses what is not (one message in four billion)."""
    digest = hashlib.sha256(signed).digest()
    return digest if digest < _N else (int.from_bytes(digest, "big") - _N_NUMBER).to_bytes(32, "big")


def _fill(jobs: list[Job]) -> list[Job]:
    """Fill the last group up with what holds."""
    return jobs + [_FILLING[jobs[0].algorithm]] * (-len(jobs) % LANES) if jobs else []


def _invert(numbers: Sequence[int]) -> list[int]:
    """Invert all of these modulo n, for the price of one inversion and three products each (P. L. Montgomery, 1987)."""
    before = list(accumulate(numbers, lambda product, number: product * number % _N_NUMBER, initial=1))
    inverse, inverses = pow(before.pop(), -1, _N_NUMBER), []
    for number in reversed(numbers):
        inverses.append(inverse * before.pop() % _N_NUMBER)
        inverse = inverse * number % _N_NUMBER
    return inverses[::-1]


def _shares(jobs: Sequence[Job]) -> Iterator[Sequence[Job]]:
    """Cut these into what is laid out at once."""
    return (jobs[at : at + SHARE] for at in range(0, len(jobs), SHARE))


def _groups(count: int, *tables: Table) -> list[range]:
    """Say for each table where the entries of each eight lanes begin; the tables outlive the calls."""
    starts = [(table.buffer_info()[0], table.itemsize) for table in tables]
    return [range(start, start + count * size, LANES * size) for start, size in starts]


def _answers(count: int, statuses: Iterable[int]) -> list[bool]:
    """Take the statuses apart, of which each speaks of eight lanes."""
    answers: list[bool] = []
    for status in statuses:
        answers += [not status >> bit & 15 for bit in range(0, LANES * STATUS_BITS, STATUS_BITS)] if status else _HOLD
    assert len(answers) == count, f"the library answered {len(answers)} times, and was asked {count} times"
    return answers


def _require_processor() -> None:
    try:
        text = PROCESSOR.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UnavailableError(f"what the processor has cannot be read from {PROCESSOR}: {error.strerror}") from None
    has = next((line.split(":", 1)[1].split() for line in text.splitlines() if line.startswith("flags")), [])
    if missing := FLAGS - set(has):
        raise UnavailableError(f"the processor lacks {', '.join(sorted(missing))}")


def _load() -> ctypes.CDLL:
    """Load the library after those that it names; not for all to see: one of them has its own idea of libm."""
    for name in NEEDED:
        _open(_find(RUNTIME, name))
    return _open(_find(PACKAGE, LIBRARY))


def _find(package: str, name: str) -> Path:
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise UnavailableError(f"the package {package} is not installed") from None
    for file in files:
        if file.name == name:
            return Path(str(file.locate()))
    raise UnavailableError(f"the package {package} {metadata.version(package)} has no {name}")


def _open(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:  # libcrypto.so.3 is the system's to give
        raise UnavailableError(f"{path.name} cannot be loaded: {error}") from None


def _function(library: ctypes.CDLL, name: str, parameters: int) -> Call:
    try:
        function = library[name]
    except AttributeError:
        raise UnavailableError(f"{LIBRARY} has no {name}") from None
    function.argtypes, function.restype = [ctypes.c_void_p] * parameters, ctypes.c_uint32
    return function
