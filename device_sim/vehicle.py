"""What does a vehicle say next, and what verdict does it deserve? Its memory is a few numbers."""

from enum import StrEnum

import msgspec
from msgspec.structs import replace

from device_sim.chance import Chance
from device_sim.identity import FIRST, Identity, Papers
from device_sim.physics import MODELS, Motion, advance, park
from device_sim.sampling import observe
from device_sim.wire import VERSIONS, Claims, Sample, Schema, Signer, seal
from ingest.core.verdict import Hold, Refusal, Verdict

SAMPLES_MAX = 60
QUARANTINED_FROM = 100  # suspicion, as the policy has it by default
SUSPICION_LESS_PER_H = 10
_SEQ_START_MAX = 2**20  # a device that comes to us has a past; well below seq_jump_max


class Vehicle(msgspec.Struct, gc=False):
    """One vehicle's memory: a few numbers."""

    number: int
    chance: Chance
    motion: Motion
    seq: int  # the highest number that it has used
    seen_at_s: float  # when its motion was last advanced
    skew_s: float = 0.0  # how far its clock is off
    turns: int = 0
    boots: int = 0
    updates: int = 0
    kept: bytes = b""  # an envelope that a replay waits for
    suspicion: int = 0  # what it has given us cause for, by our own policy's default weights
    accused_at_s: float = 0.0
    quarantined: bool = False
    papers: Papers = FIRST


class Draft(msgspec.Struct, frozen=True, gc=False):
    """A message that is not sealed yet: what an honest device would say."""

    claims: Claims
    payload: bytes
    signer: Signer

    def seal(self) -> bytes:
        """Make its envelope."""
        return seal(self.claims, self.payload, self.signer)


class Lived(msgspec.Struct, frozen=True, gc=False):
    """What the truth of a message rests on, where people decide about its vehicle while it is on its way."""

    number: int  # the vehicle
    deed: int  # which of the deeds upon the vehicle comes next
    issued_at_s: float
    otherwise: tuple[Verdict, str] | None = None  # what it deserves if it is judged after that deed
    received_at_ms: int = 0  # by the broker, once it has landed


class Send(msgspec.Struct, frozen=True, gc=False):
    """One message to produce, and the verdict that it deserves."""

    device_id: str  # the record's key
    value: bytes | None
    verdict: Verdict
    reason: str  # "" if the verdict has none
    cause: str  # the misbehaviour or honest trouble behind it, or "honest"
    group: int | None = None  # sends of one group may exchange their verdicts
    partition_shift: int = 0  # how many partitions away from the key's own
    lived: Lived | None = None


class World(msgspec.Struct, frozen=True):
    """What all vehicles of a run share."""

    identity: Identity
    schemas: dict[str, Schema]
    start_s: float
    interval_s: float  # from one turn of a vehicle to its next
    samples_max: int


class Turn(msgspec.Struct, frozen=True, gc=False):
    """A vehicle's moment to send. A draft has the next number; `spend` uses the number up."""

    world: World
    vehicle: Vehicle
    now_s: float
    cause: StrEnum | None = None

    def draft(self, seq: int | None = None, at_s: float | None = None) -> Draft:
        """Say something new: under the next number and now, unless told otherwise."""
        vehicle = self.vehicle
        at_s = (self.now_s if at_s is None else at_s) + vehicle.skew_s
        return self.say(self.samples(at_s), vehicle.seq + 1 if seq is None else seq, at_s)

    def say(self, samples: list[Sample], seq: int, at_s: float) -> Draft:
        """Say these samples."""
        payload, vehicle = self.schema().encode(samples), self.vehicle
        return Draft(self.claims(seq, at_s), payload, self.world.identity.signer(vehicle.number, vehicle.papers))

    def claims(self, seq: int, at_s: float) -> Claims:
        """Fill in the header."""
        identity, vehicle, number = self.world.identity, self.vehicle, self.vehicle.number
        return Claims(
            device_id=self.device_id,
            issued_at_s=int(at_s) if number % 2 else at_s,
            epoch=identity.epoch(number, vehicle.papers),
            seq=seq,
            boot=identity.boot(number, vehicle.boots),
            software=identity.software(number, vehicle.updates),
            configuration=identity.configuration(number, vehicle.updates),
            # Some devices let their messages expire; never so soon that a slow upload would matter.
            expires_at_s=int(at_s) + 45 * 86_400 if number % 10 == 3 else None,
        )

    def schema(self) -> Schema:
        """Choose the schema version that the device's software writes."""
        return self.world.schemas[VERSIONS[(self.vehicle.number + self.vehicle.updates) % 2]]

    def samples(self, at_s: float) -> list[Sample]:
        """Advance the vehicle to now and look at its sensors a few times on the way."""
        vehicle = self.vehicle
        count = min(_samples_usual(vehicle.number), self.world.samples_max)
        elapsed_s = max(self.now_s - vehicle.seen_at_s, 0.1)
        vehicle.seen_at_s = self.now_s
        model = MODELS[vehicle.number % len(MODELS)]
        taken = []
        for left in range(count - 1, -1, -1):
            advance(vehicle.motion, model, vehicle.chance, elapsed_s / count)
            at_us = int((at_s - left * elapsed_s / count) * 1e6)
            taken.append(observe(vehicle.motion, model, vehicle.chance, at_us))
        return taken

    def spend(self) -> None:
        """Use up the next number: something was accepted or held under it."""
        self.vehicle.seq += 1

    def fresh(self, at_s: float | None = None) -> bytes:
        """Say something new under the next number, and use it up."""
        value = self.draft(at_s=at_s).seal()
        self.spend()
        return value

    def honest(self) -> Send:
        """Send something new and true, as any vehicle does most of the time."""
        return replace(self.accepted(self.fresh()), cause="honest")

    def accepted(self, value: bytes) -> Send:
        """Send a message that deserves to be accepted, if its device is trusted."""
        if self.vehicle.quarantined:
            return self.send(value, Verdict.HELD, Hold.QUARANTINED)
        return self.send(value, Verdict.ACCEPTED)

    def duplicate(self, value: bytes) -> Send:
        """Send again what was accepted or held."""
        return self.send(value, Verdict.DUPLICATE)

    def held(self, value: bytes, reason: Hold) -> Send:
        """Send a message that deserves to be held."""
        return self.send(value, Verdict.HELD, reason)

    def refused(self, value: bytes | None, reason: Refusal) -> Send:
        """Send a message that deserves to be refused."""
        return self.send(value, Verdict.REFUSED, reason)

    def accuse(self, weight: int) -> None:
        """Give cause for suspicion with what is sent next: from a measure on, what follows is held."""
        vehicle = self.vehicle
        passed = int((self.now_s - vehicle.accused_at_s) * SUSPICION_LESS_PER_H // 3_600)
        vehicle.suspicion = max(0, vehicle.suspicion - passed) + weight
        vehicle.accused_at_s = self.now_s
        vehicle.quarantined |= vehicle.suspicion >= QUARANTINED_FROM

    def send(self, value: bytes | None, verdict: Verdict, reason: Hold | Refusal | None = None) -> Send:
        """Send under the vehicle's own key."""
        return Send(self.device_id, value, verdict, reason or "", self.cause or "honest")

    @property
    def device_id(self) -> str:
        """The name of the vehicle's device."""
        return self.world.identity.device_id(self.vehicle.number, self.vehicle.papers)


def _samples_usual(number: int) -> int:
    """Tell how many samples a vehicle puts into a message: half put one, most others a few, some up to 60."""
    spread = number * 2_654_435_761 >> 7
    sort = spread % 16
    if sort == 0:
        return 11 + (spread >> 4) % (SAMPLES_MAX - 10)
    return 2 + (spread >> 4) % 9 if sort < 8 else 1


def build(world: World, number: int) -> Vehicle:
    """Build a vehicle as it is at the start of the run."""
    chance = Chance(int.from_bytes(world.identity.derive(number, "chance")[:8], "big"))
    motion = park(MODELS[number % len(MODELS)], chance)
    start_s = world.start_s - world.interval_s
    return Vehicle(number, chance, motion, seq=chance.below(_SEQ_START_MAX), seen_at_s=start_s)
