"""Who is vehicle number n? Everything that names or proves it, derived from a seed and never stored."""

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from device_sim.wire import PrivateKey, Signer

KEYS_MAX = 8_192  # signers kept at hand: at most about 20 MB; the others are derived again when they are needed

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # SEC 2, 2.4.2
_ED25519_LABELS = (-8, -8, -8, -19)
_P256_LABELS = (-7, -7, -7, -9)
_VIN_ALPHABET = "0123456789ABCDEFGHJKLMNPRSTUVWXYZ"
_VIN_VALUES = dict(zip("0123456789ABCDEFGHJKLMNPRSTUVWXYZ", map(int, "012345678912345678123457923456789"), strict=True))
_VIN_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)


class Fleet(msgspec.Struct, frozen=True):
    """Which vehicles: a seed, how many, and which run of them this is.

    Counters begin anew with each run, and a store remembers them: run a seed twice against one store and the second
    run is held as a rollback, as it should be. Another `run` makes other devices of the same seed.
    """

    seed: int
    vehicles: int
    run: int = 0
    kind: str = "tcu"
    p256_share: float = 0.5


class Papers(msgspec.Struct, frozen=True):
    """What the registry has given to a vehicle since the beginning of the run."""

    unit: int = 0  # how many units have been replaced
    keys: int = 0  # how many further keys the unit has had
    epochs: int = 0  # and how many further epochs

    @property
    def purpose(self) -> tuple[object, ...]:
        """Tell apart what is derived for the keys of one vehicle."""
        return (self.unit, self.keys) if self.unit or self.keys else ()


FIRST = Papers()


class Registration(msgspec.Struct, frozen=True):
    """One line of the file that `weighbridge devices import` reads."""

    device_id: str
    tenant: str
    vehicle_id: str
    epoch: int
    kid: str
    alg: str
    public_key: str


class Identity:
    """Says who is who in a fleet. Keeps only the signers that were used last."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet: Final = fleet
        self.signer: Final = lru_cache(maxsize=KEYS_MAX)(self._signer)
        self._root = f"weighbridge simulator|{fleet.kind}|{fleet.seed}|{fleet.run}|".encode()
        self._stem = f"{fleet.kind}-{fleet.seed}" + (f".{fleet.run}" if fleet.run else "")

    def derive(self, number: int, *purpose: object) -> bytes:
        """Derive 32 bytes for one purpose of one vehicle."""
        return hashlib.sha256(self._root + "|".join(map(str, (number, *purpose))).encode()).digest()

    def device_id(self, number: int, papers: Papers = FIRST) -> str:
        """Name the device; a number beyond the fleet names a device that nobody registered."""
        return f"{self._stem}-{number:06d}" + (f".{papers.unit}" if papers.unit else "")

    def tenant(self, number: int) -> str:
        """Name the owner."""
        return f"tenant-{1 + number % 4}"

    def epoch(self, number: int, papers: Papers = FIRST) -> int:
        """Tell which incarnation of the device the registry knows."""
        return 1 + number % 3 + papers.epochs

    def kid(self, number: int, papers: Papers = FIRST) -> bytes:
        """Name the key; from 1 to 32 bytes are allowed, and all lengths from 8 occur."""
        return self.derive(number, "kid", *papers.purpose)[: 8 + number % 25]

    def is_p256(self, number: int) -> bool:
        """Tell whether the device signs with P-256 rather than Ed25519."""
        return self.derive(number, "algorithm")[0] < 256 * self.fleet.p256_share

    def _signer(self, number: int, papers: Papers = FIRST) -> Signer:
        labels = _P256_LABELS if self.is_p256(number) else _ED25519_LABELS
        return Signer(labels[number % 4], self.kid(number, papers), self._key(number, "key", *papers.purpose))

    def forger(self, number: int) -> Signer:
        """Give what an attacker has who knows everything of a device but its key."""
        true = self.signer(number)
        return Signer(true.alg, true.kid, self._key(number, "forged key"))

    def _key(self, number: int, *purpose: object) -> PrivateKey:
        secret = self.derive(number, *purpose)
        if not self.is_p256(number):
            return Ed25519PrivateKey.from_private_bytes(secret)
        return derive_private_key(1 + int.from_bytes(secret, "big") % (P256_ORDER - 1), SECP256R1())

    def boot(self, number: int, boots: int) -> bytes:
        """Give the random number of one boot."""
        return self.derive(number, "boot", boots)[:8]

    def software(self, number: int, updates: int) -> str:
        """Tell which software the device runs after so many updates."""
        return f"tcu-{4 + number % 2}.{number % 7 + updates}.{number % 3}"

    def configuration(self, number: int, updates: int) -> bytes:
        """Give the digest of the configuration that the vehicle runs after so many updates."""
        return self.derive(number, "configuration", updates)

    def vehicle_id(self, number: int) -> str:
        """Give the vehicle a VIN: 17 characters with a valid check digit (49 CFR 565.15)."""
        plant = _base33(int.from_bytes(self.derive(0, "plant")[:4], "big") % 33**6, 6)
        characters = f"XWB{plant[:5]}0T{plant[5]}{_base33(number, 6)}"
        remainder = sum(_VIN_VALUES[c] * w for c, w in zip(characters, _VIN_WEIGHTS, strict=True)) % 11
        return f"{characters[:8]}{'0123456789X'[remainder]}{characters[9:]}"

    def registrations(self) -> Iterator[Registration]:
        """Give the registry's line for each vehicle."""
        return (self.registration(number) for number in range(self.fleet.vehicles))

    def registration(self, number: int, papers: Papers = FIRST) -> Registration:
        """Say what the registry is to know of a device with these papers."""
        public = self._key(number, "key", *papers.purpose).public_key()
        return Registration(
            device_id=self.device_id(number, papers),
            tenant=self.tenant(number),
            vehicle_id=self.vehicle_id(number),
            epoch=self.epoch(number, papers),
            kid=self.kid(number, papers).hex(),
            alg="ES256" if self.is_p256(number) else "EdDSA",
            public_key=public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        )


def _base33(number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, 33)
        digits = _VIN_ALPHABET[digit] + digits
    return digits
