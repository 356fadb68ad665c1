"""How does a vehicle misbehave, or someone in its name? Acts by name, each with the verdicts that it deserves.

Each act is a whole little story for one turn: the honest message that it needs comes with it. Whatever is said of a
verdict follows from envelope.md and from the order within the device's own partition, and holds for any prefix of the
story. A number under which something was held is used up; one under which something was refused is not.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType

import cbor2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from device_sim import damage
from device_sim.identity import P256_ORDER
from device_sim.trouble import Act
from device_sim.vehicle import Draft, Send, Turn
from device_sim.wire import LABEL_ALG, MAGIC, header, seal, sign, wrap
from ingest.core.verdict import Hold, Refusal

_DAY_S = 86_400
_MALFORMED_A_TURN = 4
_SEQ_JUMP_MAX = 2**24
_PROOF = 100  # suspicion that two units with one key raise: enough at once
_NONSENSE = 10  # and content that makes none, under a good signature
_GAP_TURNS = 8  # turns of odd numbers only, then as many of the even ones between them
_GAP_BURST = 13  # numbers a turn; 8 x 13 gaps are more than the 64 ranges that a ledger may have


class Fault(StrEnum):
    """A misbehaviour."""

    REPLAY = "replay"
    CROSS_PARTITION_REPLAY = "cross_partition_replay"
    FORGED = "forged"
    TAMPERED = "tampered"
    WRONG_DEVICE_KEY = "wrong_device_key"
    UNKNOWN_DEVICE = "unknown_device"
    UNKNOWN_KEY = "unknown_key"
    CLONE = "clone"
    COUNTER_ROLLBACK = "counter_rollback"
    STALE = "stale"
    FUTURE = "future"
    EXPIRED = "expired"
    MALFORMED = "malformed"
    OVERSIZE = "oversize"
    UNKNOWN_SCHEMA = "unknown_schema"
    INVALID_PAYLOAD = "invalid_payload"
    OUT_OF_RANGE = "out_of_range"
    ALGORITHM_CONFUSION = "algorithm_confusion"
    GAP_BOMBING = "gap_bombing"
    SEQ_JUMP = "seq_jump"
    EPOCH_UNKNOWN = "epoch_unknown"
    DOMAIN_CONFUSION = "domain_confusion"


def replay(turn: Turn) -> Iterator[Send]:
    """Send recorded envelopes again: the newest, and one of an earlier turn."""
    vehicle, draft = turn.vehicle, turn.draft()
    turn.spend()
    value = draft.seal()
    yield turn.accepted(value)
    if vehicle.kept:
        yield turn.duplicate(vehicle.kept)
    for _ in range(1 + vehicle.chance.below(3)):
        yield turn.duplicate(value)
    if not isinstance(draft.signer.key, Ed25519PrivateKey):
        yield turn.duplicate(_mirrored(draft))
    vehicle.kept = value


def _mirrored(draft: Draft) -> bytes:
    """Give the same content its other valid signature: (r, n - s)."""
    parts = sign(cbor2.dumps(_map_of(draft)), draft.payload, draft.signer)
    r, s = parts[3][:32], int.from_bytes(parts[3][32:], "big")
    parts[3] = r + (P256_ORDER - s).to_bytes(32, "big")
    return wrap(parts)


def cross_partition_replay(turn: Turn) -> Iterator[Send]:
    """Produce the same envelope to several partitions: which copy is judged first is nobody's to say."""
    vehicle, value = turn.vehicle, turn.fresh()
    group = vehicle.number << 32 | vehicle.turns
    yield replace(turn.accepted(value), group=group)
    for shift in range(1, 2 + vehicle.chance.below(2)):
        yield replace(turn.duplicate(value), group=group, partition_shift=shift)


def forged(turn: Turn) -> Iterator[Send]:
    """Sign with another key under the vehicle's name and kid, with its next number and with a far one."""
    signer = turn.world.identity.forger(turn.vehicle.number)
    for seq in (turn.vehicle.seq + 1, 2**62):
        yield turn.refused(replace(turn.draft(seq), signer=signer).seal(), Refusal.BAD_SIGNATURE)
    yield turn.honest()


def tampered(turn: Turn) -> Iterator[Send]:
    """Flip one bit on the way: in the header where its shape stays whole, in the payload, or in the signature."""
    chance, draft = turn.vehicle.chance, turn.draft()
    turn.spend()
    value = draft.seal()
    header_at, payload_at = value.index(draft.claims.configuration), value.index(draft.payload)
    for start, length in ((header_at, 32), (payload_at, len(draft.payload)), (len(value) - 64, 64)):
        flipped = bytearray(value)
        flipped[start + chance.below(length)] ^= 1 << chance.below(8)
        yield turn.refused(bytes(flipped), Refusal.BAD_SIGNATURE)
    yield turn.accepted(value)


def wrong_device_key(turn: Turn) -> Iterator[Send]:
    """Sign, as a registered device, for another one."""
    identity, number = turn.world.identity, turn.vehicle.number
    signer = identity.signer((number + 1) % identity.fleet.vehicles)
    yield turn.refused(replace(turn.draft(), signer=signer).seal(), Refusal.WRONG_DEVICE)
    yield turn.honest()


def unknown_device(turn: Turn) -> Iterator[Send]:
    """Speak as a device that nobody registered."""
    identity = turn.world.identity
    stranger = identity.fleet.vehicles + turn.vehicle.number
    draft, device_id = turn.draft(), identity.device_id(stranger)
    claims = replace(draft.claims, device_id=device_id)
    value = seal(claims, draft.payload, identity.signer(stranger))
    yield replace(turn.refused(value, Refusal.UNKNOWN_DEVICE), device_id=device_id)
    yield turn.honest()


def unknown_key(turn: Turn) -> Iterator[Send]:
    """Name a key that nobody has: once signed with the vehicle's own, once with a foreign one."""
    identity, number = turn.world.identity, turn.vehicle.number
    kid = turn.vehicle.chance.octets(16)
    for signer in (identity.signer(number), identity.forger(number)):
        value = replace(turn.draft(), signer=replace(signer, kid=kid)).seal()
        yield turn.refused(value, Refusal.UNKNOWN_KEY)
    yield turn.honest()


def clone(turn: Turn) -> Iterator[Send]:
    """Be two: a copy of the unit in the same boot, or one in its own boot; they meet in a number, or take turns."""
    story = _same_boot
    if turn.vehicle.turns == 0:
        story = (_same_boot, _first_to_use_it, _taking_turns)[turn.vehicle.number % 3]
    yield turn.honest()
    yield from story(turn)


def _same_boot(turn: Turn) -> Iterator[Send]:
    for ago_s in (5, 10):
        value = turn.draft(turn.vehicle.seq, turn.now_s - ago_s).seal()
        yield turn.held(value, Hold.EQUIVOCATION)
        turn.accuse(_PROOF)
        yield turn.duplicate(value)
    yield turn.honest()


def _first_to_use_it(turn: Turn) -> Iterator[Send]:
    ours, theirs = turn.draft(), _copied(turn)
    yield turn.accepted(theirs.seal())
    # The vehicle's boot was accepted before the copy's: the two take turns, which no lost counter does.
    yield turn.held(ours.seal(), Hold.EQUIVOCATION)
    turn.accuse(_PROOF)
    turn.spend()


def _taking_turns(turn: Turn) -> Iterator[Send]:
    theirs = _copied(turn)
    turn.spend()
    yield turn.accepted(theirs.seal())
    turn.accuse(_PROOF)  # the vehicle's next number comes in the boot before the copy's
    yield turn.honest()


def _copied(turn: Turn) -> Draft:
    draft = turn.draft()
    copy_boot = turn.world.identity.boot(turn.vehicle.number, -1)
    return replace(draft, claims=replace(draft.claims, boot=copy_boot))


def counter_rollback(turn: Turn) -> Iterator[Send]:
    """Lose the counter with the power: a new boot begins with old numbers, then finds its way back."""
    for _ in range(3):
        yield turn.honest()
    vehicle = turn.vehicle
    vehicle.boots += 1
    for seq in range(vehicle.seq - 2, vehicle.seq + 1):
        value = turn.draft(seq).seal()
        yield turn.held(value, Hold.COUNTER_ROLLBACK)
    yield turn.duplicate(value)
    yield turn.honest()


def stale(turn: Turn) -> Iterator[Send]:
    """Report what was issued more than 30 days ago."""
    age_s = turn.vehicle.chance.between(31 * _DAY_S, 400 * _DAY_S)
    return _held_and_again(turn, _issued(turn, turn.now_s - age_s), Hold.STALE)


def future(turn: Turn) -> Iterator[Send]:
    """Report what will be issued days, or thousands of years, from now."""
    ahead_s = turn.vehicle.chance.between(2 * _DAY_S, 30 * _DAY_S) if turn.vehicle.turns % 8 else 2**40
    return _held_and_again(turn, _issued(turn, turn.now_s + ahead_s), Hold.CLOCK_FUTURE)


def _issued(turn: Turn, at_s: float) -> Draft:
    draft = turn.draft()
    return replace(draft, claims=replace(draft.claims, issued_at_s=at_s))


def _held_and_again(turn: Turn, draft: Draft, reason: Hold) -> Iterator[Send]:
    """Be held under the vehicle's next number, be sent again, and go on with the number after that."""
    turn.vehicle.seq = max(turn.vehicle.seq, draft.claims.seq)
    value = draft.seal()
    yield turn.held(value, reason)
    yield turn.duplicate(value)
    yield turn.honest()


def expired(turn: Turn) -> Iterator[Send]:
    """Arrive after the time that the message itself names as its end."""
    draft = _issued(turn, turn.now_s - 3_600)
    ended_s = int(turn.world.start_s) - 600 - turn.vehicle.chance.below(30 * _DAY_S)
    value = replace(draft, claims=replace(draft.claims, expires_at_s=ended_s)).seal()
    return _refused_and_again(turn, value, Refusal.EXPIRED)


def _refused_and_again(turn: Turn, value: bytes, reason: Refusal) -> Iterator[Send]:
    """Be refused, twice for the same reason, and leave no trace: the vehicle may use the number."""
    yield turn.refused(value, reason)
    yield turn.refused(value, reason)
    yield turn.honest()


def malformed(turn: Turn) -> Iterator[Send]:
    """Send what no reader may take for an envelope."""
    first = turn.vehicle.chance.below(len(damage.ENVELOPES))
    for kind in range(first, first + _MALFORMED_A_TURN):
        damaged = damage.ENVELOPES[kind % len(damage.ENVELOPES)](turn.draft())
        yield turn.refused(damaged, Refusal.MALFORMED)
    yield turn.honest()


def oversize(turn: Turn) -> Iterator[Send]:
    """Send one byte too many."""
    yield turn.refused(damage.oversize(turn.draft()), Refusal.OVERSIZE)
    yield turn.honest()


def unknown_schema(turn: Turn) -> Iterator[Send]:
    """Write with a schema that is not known here."""
    draft = turn.draft()
    payload = MAGIC + turn.vehicle.chance.octets(8) + draft.payload[10:]
    return _held_and_again(turn, replace(draft, payload=payload), Hold.SCHEMA_UNKNOWN)


def invalid_payload(turn: Turn) -> Iterator[Send]:
    """Sign a payload that is not what its schema says."""
    draft, chance = turn.draft(), turn.vehicle.chance
    kind = chance.below(len(damage.PAYLOADS) + 1)
    if kind < len(damage.PAYLOADS):
        payload = damage.PAYLOADS[kind](draft.payload)
    else:
        payload = damage.overfill(turn.schema(), int(turn.now_s * 1e6))
    turn.accuse(_NONSENSE)
    return _refused_and_again(turn, replace(draft, payload=payload).seal(), Refusal.INVALID_PAYLOAD)


def out_of_range(turn: Turn) -> Iterator[Send]:
    """Sign a value that its signal cannot have."""
    samples = turn.samples(turn.now_s)
    samples[-1] = damage.exceed(samples[-1], turn.vehicle.chance.bits())
    draft = turn.say(samples, turn.vehicle.seq + 1, turn.now_s)
    turn.accuse(_NONSENSE)
    return _refused_and_again(turn, draft.seal(), Refusal.OUT_OF_RANGE)


def algorithm_confusion(turn: Turn) -> Iterator[Send]:
    """Sign with the true key, but label it as the other algorithm's, or only where nobody signed for it."""
    draft = turn.draft()
    other = -7 if isinstance(draft.signer.key, Ed25519PrivateKey) else -8
    relabelled = replace(draft, signer=replace(draft.signer, alg=other)).seal()
    yield turn.refused(relabelled, Refusal.ALGORITHM_MISMATCH)
    bare = _map_of(draft)
    del bare[LABEL_ALG]
    parts = sign(cbor2.dumps(bare), draft.payload, draft.signer)
    parts[1] = {LABEL_ALG: draft.signer.alg}
    yield turn.refused(wrap(parts), Refusal.MALFORMED)
    yield turn.honest()


def _map_of(draft: Draft) -> dict[object, object]:
    return header(draft.claims, draft.signer.alg, draft.signer.kid)


def gap_bombing(turn: Turn) -> Iterator[Send]:
    """Use every other number, to blow the ledger up; later all those between. Each is new, so each is accepted."""
    vehicle = turn.vehicle
    lap, round_no = divmod(vehicle.turns % (2 * _GAP_TURNS), _GAP_TURNS)
    for number in range(round_no * _GAP_BURST, (round_no + 1) * _GAP_BURST):
        yield turn.accepted(turn.draft(vehicle.seq + 1 + 2 * number + lap).seal())
    if lap == 1 and round_no == _GAP_TURNS - 1:
        vehicle.seq += 2 * _GAP_TURNS * _GAP_BURST


def seq_jump(turn: Turn) -> Iterator[Send]:
    """Leap further ahead than the policy allows; then exactly as far as it allows."""
    yield turn.honest()
    vehicle = turn.vehicle
    limit = vehicle.seq + _SEQ_JUMP_MAX
    for seq in (limit + 1, limit + 2 + vehicle.chance.below(2**61)):
        value = turn.draft(seq).seal()
        yield turn.held(value, Hold.SEQ_JUMP)
        yield turn.duplicate(value)
    yield turn.accepted(turn.draft(limit).seal())
    vehicle.seq = limit + 1  # that number stays with what is held under it


def epoch_unknown(turn: Turn) -> Iterator[Send]:
    """Claim an incarnation that the registry has not given out."""
    draft, chance = turn.draft(), turn.vehicle.chance
    epoch = draft.claims.epoch + 1 + chance.below(3) if chance.happens(0.5) else 2**32 - 1
    claims = replace(draft.claims, epoch=epoch)
    return _held_and_again(turn, replace(draft, claims=claims), Hold.EPOCH_UNKNOWN)


def domain_confusion(turn: Turn) -> Iterator[Send]:
    """Present what the device signed for another purpose."""
    for context in (b"", b"weighbridge/telemetry/v2"):
        draft = turn.draft()
        yield turn.refused(seal(draft.claims, draft.payload, draft.signer, context), Refusal.BAD_SIGNATURE)
    yield turn.honest()


ACTS: Mapping[Fault, Act] = MappingProxyType(
    {
        Fault.REPLAY: replay,
        Fault.CROSS_PARTITION_REPLAY: cross_partition_replay,
        Fault.FORGED: forged,
        Fault.TAMPERED: tampered,
        Fault.WRONG_DEVICE_KEY: wrong_device_key,
        Fault.UNKNOWN_DEVICE: unknown_device,
        Fault.UNKNOWN_KEY: unknown_key,
        Fault.CLONE: clone,
        Fault.COUNTER_ROLLBACK: counter_rollback,
        Fault.STALE: stale,
        Fault.FUTURE: future,
        Fault.EXPIRED: expired,
        Fault.MALFORMED: malformed,
        Fault.OVERSIZE: oversize,
        Fault.UNKNOWN_SCHEMA: unknown_schema,
        Fault.INVALID_PAYLOAD: invalid_payload,
        Fault.OUT_OF_RANGE: out_of_range,
        Fault.ALGORITHM_CONFUSION: algorithm_confusion,
        Fault.GAP_BOMBING: gap_bombing,
        Fault.SEQ_JUMP: seq_jump,
        Fault.EPOCH_UNKNOWN: epoch_unknown,
        Fault.DOMAIN_CONFUSION: domain_confusion,
    }
)
