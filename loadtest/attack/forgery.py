"""What can be sent in a vehicle's name by one who hears all that it says, and has no key of it? Kind by kind."""

from collections import deque
from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import cbor2
import msgspec

from device_sim.chance import Chance
from device_sim.identity import Identity
from device_sim.vehicle import Send
from device_sim.wire import (
    CLAIM_CONFIGURATION,
    CLAIM_ISSUED,
    CLAIM_SEQ,
    LABEL_ALG,
    LABEL_CLAIMS,
    LABEL_KID,
    sign,
    wrap,
)
from ingest.core.verdict import Refusal, Verdict

HEARD_MAX = 1_024  # envelopes that an eavesdropper remembers
FAR = 2**62
SIGNATURE_BYTES = 64


class Forgery(StrEnum):
    """How a message is forged."""

    RANDOM_SIGNATURE = "random_signature"
    STRANGERS_KEY = "strangers_key"
    FAR_NUMBER = "far_number"
    RENUMBERED = "renumbered"
    RESTAMPED = "restamped"
    FLIPPED_HEADER = "flipped_header"
    FLIPPED_PAYLOAD = "flipped_payload"
    FLIPPED_SIGNATURE = "flipped_signature"
    UNKNOWN_KEY = "unknown_key"
    OTHERS_KEY = "others_key"
    OTHER_ALGORITHM = "other_algorithm"
    CUT_SHORT = "cut_short"


class Replay(StrEnum):
    """How a message that was sent before is sent again."""

    AGAIN = "replayed"
    ELSEWHERE = "replayed_elsewhere"


class Loot(msgspec.Struct, frozen=True):
    """An envelope that was overheard, taken apart, and what else an attacker knows of who sent it."""

    number: int  # of the vehicle
    identity: Identity
    chance: Chance
    protected: bytes
    payload: bytes
    signature: bytes

    def header(self, changed: Mapping[int, object] = MappingProxyType({})) -> dict[Any, Any]:
        """Give the header, with some claims changed."""
        header: dict[Any, Any] = cbor2.loads(self.protected)
        return {**header, LABEL_CLAIMS: {**header[LABEL_CLAIMS], **changed}}

    @property
    def next_seq(self) -> int:
        """The number that the vehicle would use next."""
        return int(self.header()[LABEL_CLAIMS][CLAIM_SEQ]) + 1

    def flipped(self, octets: bytes) -> bytes:
        """Flip a bit of it."""
        changed = bytearray(octets)
        changed[self.chance.below(len(octets))] ^= 1 << self.chance.below(8)
        return bytes(changed)


def _whole(protected: bytes, payload: bytes, signature: bytes) -> bytes:
    return wrap([protected, {}, payload, signature])


def _random_signature(loot: Loot) -> bytes:
    protected = cbor2.dumps(loot.header({CLAIM_SEQ: loot.next_seq}))
    return _whole(protected, loot.payload, loot.chance.octets(SIGNATURE_BYTES))


def _strangers_key(loot: Loot) -> bytes:
    return _by_stranger(loot, loot.next_seq)


def _far_number(loot: Loot) -> bytes:
    return _by_stranger(loot, FAR)


def _by_stranger(loot: Loot, seq: int) -> bytes:
    return wrap(sign(cbor2.dumps(loot.header({CLAIM_SEQ: seq})), loot.payload, loot.identity.forger(loot.number)))


def _renumbered(loot: Loot) -> bytes:
    return _whole(cbor2.dumps(loot.header({CLAIM_SEQ: loot.next_seq})), loot.payload, loot.signature)


def _restamped(loot: Loot) -> bytes:
    issued = loot.header()[LABEL_CLAIMS][CLAIM_ISSUED] + 60
    return _whole(cbor2.dumps(loot.header({CLAIM_ISSUED: issued})), loot.payload, loot.signature)


def _flipped_header(loot: Loot) -> bytes:
    """Flip where any bit is as good as another: in the digest of the configuration."""
    configuration = loot.header()[LABEL_CLAIMS][CLAIM_CONFIGURATION]
    protected = loot.protected.replace(configuration, loot.flipped(configuration))
    return _whole(protected, loot.payload, loot.signature)


def _flipped_payload(loot: Loot) -> bytes:
    return _whole(loot.protected, loot.flipped(loot.payload), loot.signature)


def _flipped_signature(loot: Loot) -> bytes:
    return _whole(loot.protected, loot.payload, loot.flipped(loot.signature))


def _unknown_key(loot: Loot) -> bytes:
    header = {**loot.header({CLAIM_SEQ: loot.next_seq}), LABEL_KID: loot.chance.octets(16)}
    return wrap(sign(cbor2.dumps(header), loot.payload, loot.identity.forger(loot.number)))


def _others_key(loot: Loot) -> bytes:
    """Sign with the good key of another vehicle, which is somebody's who has turned to crime."""
    other = loot.identity.signer((loot.number + 1) % loot.identity.fleet.vehicles)
    header = {**loot.header({CLAIM_SEQ: loot.next_seq}), LABEL_ALG: other.alg, LABEL_KID: other.kid}
    return wrap(sign(cbor2.dumps(header), loot.payload, other))


def _other_algorithm(loot: Loot) -> bytes:
    """Say that it was signed in the way that the key is not for."""
    alg = -8 if loot.identity.is_p256(loot.number) else -7
    header = {**loot.header({CLAIM_SEQ: loot.next_seq}), LABEL_ALG: alg}
    return _whole(cbor2.dumps(header), loot.payload, loot.chance.octets(SIGNATURE_BYTES))


def _cut_short(loot: Loot) -> bytes:
    return _whole(loot.protected, loot.payload, loot.signature)[:-1]


FORGERIES: Mapping[Forgery, tuple[Callable[[Loot], bytes], Refusal]] = MappingProxyType(
    {
        Forgery.RANDOM_SIGNATURE: (_random_signature, Refusal.BAD_SIGNATURE),
        Forgery.STRANGERS_KEY: (_strangers_key, Refusal.BAD_SIGNATURE),
        Forgery.FAR_NUMBER: (_far_number, Refusal.BAD_SIGNATURE),
        Forgery.RENUMBERED: (_renumbered, Refusal.BAD_SIGNATURE),
        Forgery.RESTAMPED: (_restamped, Refusal.BAD_SIGNATURE),
        Forgery.FLIPPED_HEADER: (_flipped_header, Refusal.BAD_SIGNATURE),
        Forgery.FLIPPED_PAYLOAD: (_flipped_payload, Refusal.BAD_SIGNATURE),
        Forgery.FLIPPED_SIGNATURE: (_flipped_signature, Refusal.BAD_SIGNATURE),
        Forgery.UNKNOWN_KEY: (_unknown_key, Refusal.UNKNOWN_KEY),
        Forgery.OTHERS_KEY: (_others_key, Refusal.WRONG_DEVICE),
        Forgery.OTHER_ALGORITHM: (_other_algorithm, Refusal.ALGORITHM_MISMATCH),
        Forgery.CUT_SHORT: (_cut_short, Refusal.MALFORMED),
    }
)


class Attacker:
    """Hears what vehicles say, and sends in their names."""

    def __init__(self, identity: Identity, chance: Chance) -> None:
        self._identity = identity
        self._chance = chance
        self._heard: deque[Send] = deque(maxlen=HEARD_MAX)

    def hear(self, send: Send) -> None:
        """Remember what was said."""
        self._heard.append(send)

    def forge(self, kind: Forgery) -> Send:
        """Forge a message of one of those who were heard."""
        heard = self._heard[self._chance.below(len(self._heard))]
        make, reason = FORGERIES[kind]
        return Send(heard.device_id, make(self._take_apart(heard)), Verdict.REFUSED, reason, kind)

    def replay(self, kind: Replay) -> Send:
        """Send again what was heard, or send it under another vehicle's key, to where the log has it perhaps."""
        heard = self._heard[self._chance.below(len(self._heard))]
        device_id = heard.device_id
        if kind is Replay.ELSEWHERE:  # of long ago, so that what a vehicle says is judged in the order that it was said
            heard = self._heard[0]
            device_id = self._identity.device_id(self._chance.below(self._identity.fleet.vehicles))
        return Send(device_id, heard.value, Verdict.DUPLICATE, "", kind, heard.group)

    def _take_apart(self, send: Send) -> Loot:
        assert send.value is not None, "vehicles send no tombstones"
        protected, _, payload, signature = cbor2.loads(send.value).value
        number = int(send.device_id.rpartition("-")[2])
        return Loot(number, self._identity, self._chance, protected, payload, signature)
