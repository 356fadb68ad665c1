"""Does an engine give the answers that are known? Asked before it is trusted, in every lane that it may have."""

from collections.abc import Iterator

from msgspec.structs import replace

from ingest.core.device import Algorithm
from ingest.core.signature import Engine, Job

LANES = 8  # as many as any engine here has
GROUPS = 2
ORDERS = {  # of the groups that the algorithms compute in: RFC 8032, 5.1 (L) and SP 800-186, 3.2.1.3 (n)
    Algorithm.ED25519: 2**252 + 27742317777372353535851937790883648493,
    Algorithm.P256: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
}

# RFC 8032, 7.1, test 1, and RFC 6979, A.2.5, SHA-256 of "sample".
SOUND = (
    Job(
        Algorithm.ED25519,
        bytes.fromhex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"),
        b"",
        bytes.fromhex(
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
            "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
        ),
    ),
    Job(
        Algorithm.P256,
        bytes.fromhex(
            "60fed4ba255a9d31c961eb74c6356d68c049b8923b61fa6ce669622e60f29fb6"
            "7903fe1008b8bc99a41ae9e95628bc64f2f1b20c2d7e9f5177a3c294d4462299"
        ),
        b"sample",
        bytes.fromhex(
            "efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716"
            "f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8"
        ),
    ),
)

# By the key of that first test, of its empty message, what only a key's owner can make: R is the identity, which holds
# (RFC 8032, 5.1.7), though some libraries refuse it; and R with a point of order 8 added, which must not hold, though
# it does where both sides are multiplied by the cofactor.
IDENTITY_R = replace(
    SOUND[0],
    signature=bytes.fromhex(
        "0100000000000000000000000000000000000000000000000000000000000000"
        "756cf9b1d6f0d7a979b9d2af3dc2bc1294ec7cb6daa20eaff534c024fc57920f"
    ),
)
MIXED_R = replace(
    SOUND[0],
    signature=bytes.fromhex(
        "030ebbcd7da06a0d1188bbe47275208b96c9d32e6e750955a7609d8010ba9222"
        "e25b9bae75c348d1d42d150e72d918eab1d68c3d0b9e7fa86c9ae98bb6b5fd0a"
    ),
)


def find_fault(engine: Engine) -> str | None:
    """Say what the engine gets wrong, if anything: what is sound and refused, or what is not and passes."""
    for job in (*SOUND, IDENTITY_R):
        for count in (1, GROUPS * LANES + 1):
            if engine.check([job] * count) != [True] * count:
                return f"it refuses a sound {job.algorithm} signature"
    for job in SOUND:
        for words, spoilt in _spoil(job):
            for lane in range(GROUPS * LANES):
                expected = [at != lane for at in range(GROUPS * LANES)]
                if engine.check([job if sound else spoilt for sound in expected]) != expected:
                    return f"with {words} of {job.algorithm} in lane {lane} it does not answer as it must"
    return None


def _spoil(job: Job) -> Iterator[tuple[str, Job]]:
    """Spoil each part of a signature's job once, and write the signature in its other form, where that is refused."""
    r, s = job.signature[:32], job.signature[32:]
    yield "another message", replace(job, signed=job.signed + b"!")
    yield "another r", replace(job, signature=bytes([r[0] ^ 1]) + r[1:] + s)
    yield "another s", replace(job, signature=r + bytes([s[0] ^ 1]) + s[1:])
    yield "no signature", replace(job, signature=bytes(64))
    if job.algorithm is Algorithm.ED25519:
        other = int.from_bytes(s, "little") + ORDERS[job.algorithm]
        yield "s beyond the order", replace(job, signature=r + other.to_bytes(32, "little"))
        yield "r of mixed order", MIXED_R
    else:
        yield "s of the order", replace(job, signature=r + ORDERS[job.algorithm].to_bytes(32, "big"))
