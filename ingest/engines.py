"""Which engine checks the signatures here? Chosen at the start by what is there and what it can, never by hope."""

import hashlib
import secrets
from collections.abc import Sequence

import structlog

from ingest.adapters.multibuffer import Multibuffer, UnavailableError
from ingest.adapters.sodium import Sodium
from ingest.config import EngineChoice
from ingest.core.signature import Engine, Job, OpenSSL
from ingest.core.touchstone import find_fault

REPEAT_EVERY = 256  # checks: 0.4 µs of OpenSSL to each


class Watched:
    """A fast engine whose answers are asked for again now and then. Contradicted once, it is never asked again."""

    def __init__(self, fast: Engine, reference: Engine | None = None, repeat_every: int = REPEAT_EVERY) -> None:
        self.fast = fast
        self._reference = reference or OpenSSL()
        self._trusted = fast
        self._repeat_every = repeat_every
        self._ahead = secrets.randbelow(repeat_every)  # nobody knows which checks are repeated

    @property
    def name(self) -> str:
        """Who answers now: after a contradiction another than before."""
        return self._trusted.name

    def check(self, jobs: Sequence[Job]) -> list[bool]:
        """Say of each job, in order, whether its signature holds."""
        if self._trusted is self._reference:
            return self._reference.check(jobs)
        answers = self.fast.check(jobs)
        repeated = range(self._ahead, len(jobs), self._repeat_every)
        self._ahead = (self._ahead - len(jobs)) % self._repeat_every
        for at, holds in zip(repeated, self._reference.check([jobs[at] for at in repeated]), strict=True):
            if answers[at] is not holds:
                self._stop(jobs[at], holds=holds)
                return self._reference.check(jobs)
        return answers

    def _stop(self, job: Job, *, holds: bool) -> None:
        self._trusted = self._reference
        structlog.get_logger().error(
            "engine_stopped",
            engine=self.fast.name,
            instead=self._reference.name,
            holds=holds,
            algorithm=job.algorithm,
            public=job.public.hex(),
            signature=job.signature.hex(),
            signed_sha256=hashlib.sha256(job.signed).hexdigest(),
        )


def open_engine(choice: EngineChoice) -> Engine:
    """Make the engine that was asked for. Raises UnavailableError if it was asked for by name and cannot be had."""
    engine, why = _open(choice)
    structlog.get_logger().info("engine", engine=engine.name, why=why)
    return engine


def _open(choice: EngineChoice) -> tuple[Engine, str]:
    if choice is EngineChoice.OPENSSL:
        return OpenSSL(), "it was asked for"
    if choice is EngineChoice.PORTABLE:
        return _open_portable("it was asked for")
    try:
        return Watched(Multibuffer()), "the processor is fit for it, and it passed its test"
    except UnavailableError as error:
        if choice is EngineChoice.MULTIBUFFER:
            raise
        return _open_portable(str(error))


def _open_portable(why: str) -> tuple[Engine, str]:
    """Take libsodium if it passes its test, and OpenSSL alone if not; both have the same OpenSSL, which keeps keys."""
    reference = OpenSSL()
    sodium = Sodium(reference)
    if fault := find_fault(sodium):
        return reference, f"{why}; {sodium.name} fails its self-test here: {fault}"
    return Watched(sodium, reference), why
