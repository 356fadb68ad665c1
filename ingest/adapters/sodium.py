"""Do these signatures hold? libsodium for Ed25519, which takes half of what OpenSSL does, on any processor.

It is kept from what it answers otherwise than OpenSSL (decisions/verification.md), and so is all that is not Ed25519.
"""

from collections.abc import Sequence
from importlib import metadata

from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from ingest.core.device import SIGNATURE_BYTES, Algorithm
from ingest.core.signature import Engine, Job, OpenSSL

PACKAGE = "pynacl"
PUBLIC_BYTES = 32  # RFC 8032, 5.1.5: libsodium reads so many, whatever it is given
SMALL_ORDER = frozenset(  # the eight points of small order as RFC 8032, 5.1.2 writes them: multiples of the fourth
    bytes.fromhex(point)
    for point in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    )
)

_ED25519 = Algorithm.ED25519  # asked of every job: a member of an enum is slow to name


class Sodium:
    """The engine for any processor. It asks the reference in libsodium's place where libsodium is not to be asked."""

    def __init__(self, reference: Engine | None = None) -> None:
        self.name = f"sodium {metadata.version(PACKAGE)}"
        self._reference = reference or OpenSSL()

    def check(self, jobs: Sequence[Job]) -> list[bool]:
        """Say of each job, in order, whether its signature holds. Its key has passed ingest.core.enrolment."""
        return [self._holds(job) for job in jobs]

    def _holds(self, job: Job) -> bool:
        if job.algorithm is not _ED25519 or job.signature[:32] in SMALL_ORDER:
            return self._reference.check([job])[0]
        if len(job.public) != PUBLIC_BYTES or len(job.signature) != SIGNATURE_BYTES:
            return False
        try:
            crypto_sign_open(job.signature + job.signed, job.public)
        except BadSignatureError:
            return False
        return True
