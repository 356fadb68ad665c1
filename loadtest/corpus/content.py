"""How is each kind of message written? From the draft that an honest vehicle would send, one function for each.

A scenario that needs another content adds a word to `Content` and a function here; nothing else has to know.
"""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

from msgspec.structs import replace

from device_sim import damage
from device_sim.identity import Identity
from device_sim.vehicle import Draft, Turn, Vehicle, World, build
from device_sim.wire import MAGIC, Sample, load, seal
from loadtest.corpus.order import Content, Order

RATE = 5_000.0  # messages/s by the vehicles' clocks; the last one is signed when the corpus is made
DAY_S = 86_400

Write = Callable[[Turn, Draft], bytes]


def write(order: Order, made_at_s: float, start: int, stop: int) -> Iterator[bytes]:
    """Write the messages from number `start` to before `stop`. Each stretch can be written apart from the others."""
    world = World(Identity(order.fleet), load(), made_at_s, 1.0, order.samples)
    vehicles: dict[int, Vehicle] = {}
    say = WRITERS[order.content]
    for index in range(start, stop):
        turns, number = divmod(index, order.devices)
        vehicle = vehicles.get(number)
        if vehicle is None:
            vehicle = vehicles[number] = build(world, number)
            vehicle.seq += turns
        turn = Turn(world, vehicle, made_at_s - (order.messages - index) / RATE)
        yield say(turn, turn.say(_samples(turn, order.samples), vehicle.seq + 1, turn.now_s))
        turn.spend()


def _samples(turn: Turn, count: int) -> list[Sample]:
    """Look at the sensors until there are so many; a vehicle by itself takes as many as is its habit."""
    taken: list[Sample] = []
    while len(taken) < count:
        taken += turn.samples(turn.now_s)
    return taken[:count]


def _honest(_turn: Turn, draft: Draft) -> bytes:
    return draft.seal()


def _forged(turn: Turn, draft: Draft) -> bytes:
    return replace(draft, signer=turn.world.identity.forger(turn.vehicle.number)).seal()


def _malformed(_turn: Turn, draft: Draft) -> bytes:
    """Be whole but for one byte too many: all of it has to be read before that is known."""
    return draft.seal() + b"\0"


def _oversize(_turn: Turn, draft: Draft) -> bytes:
    return damage.oversize(draft)


def _unknown_device(turn: Turn, draft: Draft) -> bytes:
    identity = turn.world.identity
    stranger = identity.device_id(identity.fleet.vehicles + turn.vehicle.number)
    return seal(replace(draft.claims, device_id=stranger), draft.payload, draft.signer)


def _unknown_key(turn: Turn, draft: Draft) -> bytes:
    return replace(draft, signer=replace(draft.signer, kid=turn.vehicle.chance.octets(16))).seal()


def _wrong_device(turn: Turn, draft: Draft) -> bytes:
    identity = turn.world.identity
    return replace(draft, signer=identity.signer((turn.vehicle.number + 1) % identity.fleet.vehicles)).seal()


def _algorithm_mismatch(_turn: Turn, draft: Draft) -> bytes:
    other = -7 if draft.signer.alg in (-8, -19) else -8
    return replace(draft, signer=replace(draft.signer, alg=other)).seal()


def _expired(turn: Turn, draft: Draft) -> bytes:
    return replace(draft, claims=replace(draft.claims, expires_at_s=int(turn.now_s) - 3_600)).seal()


def _epoch_unknown(_turn: Turn, draft: Draft) -> bytes:
    return replace(draft, claims=replace(draft.claims, epoch=draft.claims.epoch + 1)).seal()


def _invalid_payload(_turn: Turn, draft: Draft) -> bytes:
    """Be decodable but for one byte too many."""
    return replace(draft, payload=draft.payload + b"\0").seal()


def _out_of_range(turn: Turn, draft: Draft) -> bytes:
    samples = turn.samples(turn.now_s)
    samples[-1] = damage.exceed(samples[-1], turn.vehicle.chance.bits())
    return turn.say(samples, draft.claims.seq, turn.now_s).seal()


def _schema_unknown(_turn: Turn, draft: Draft) -> bytes:
    return replace(draft, payload=MAGIC + b"unknown!" + draft.payload[10:]).seal()


def _clock_future(_turn: Turn, draft: Draft) -> bytes:
    return replace(draft, claims=replace(draft.claims, issued_at_s=draft.claims.issued_at_s + 30 * DAY_S)).seal()


def _stale(_turn: Turn, draft: Draft) -> bytes:
    return replace(draft, claims=replace(draft.claims, issued_at_s=draft.claims.issued_at_s - 40 * DAY_S)).seal()


def _seq_jump(_turn: Turn, draft: Draft) -> bytes:
    return replace(draft, claims=replace(draft.claims, seq=draft.claims.seq + 2**40)).seal()


def _equivocation(_turn: Turn, draft: Draft) -> bytes:
    """Say something else under the number that the honest message has."""
    return replace(draft, claims=replace(draft.claims, issued_at_s=draft.claims.issued_at_s - 1)).seal()


def _counter_rollback(turn: Turn, draft: Draft) -> bytes:
    """Say something else under that number, in a new boot."""
    boot = turn.world.identity.boot(turn.vehicle.number, 1)
    return replace(draft, claims=replace(draft.claims, boot=boot)).seal()


WRITERS: Mapping[Content, Write] = MappingProxyType(
    {
        Content.HONEST: _honest,
        Content.FORGED: _forged,
        Content.MALFORMED: _malformed,
        Content.OVERSIZE: _oversize,
        Content.UNKNOWN_DEVICE: _unknown_device,
        Content.UNKNOWN_KEY: _unknown_key,
        Content.WRONG_DEVICE: _wrong_device,
        Content.ALGORITHM_MISMATCH: _algorithm_mismatch,
        Content.EXPIRED: _expired,
        Content.EPOCH_UNKNOWN: _epoch_unknown,
        Content.INVALID_PAYLOAD: _invalid_payload,
        Content.OUT_OF_RANGE: _out_of_range,
        Content.SCHEMA_UNKNOWN: _schema_unknown,
        Content.CLOCK_FUTURE: _clock_future,
        Content.STALE: _stale,
        Content.SEQ_JUMP: _seq_jump,
        Content.EQUIVOCATION: _equivocation,
        Content.COUNTER_ROLLBACK: _counter_rollback,
    }
)
