"""What goes wrong for honest vehicles? Troubles by name; nothing of it is guilty, so nothing of it may be lost."""

from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType

from device_sim.vehicle import Send, Turn

_DAY_S = 86_400
_LATE_S_MAX = 25 * _DAY_S  # age_s_max is 30 days: five days are left for the run itself
_AHEAD_S_MAX = 18 * 3_600  # clock_ahead_s_max is 24 hours: six are left for a run whose clock outpaces the broker's
_DRIFT = 50e-6  # a poor quartz


class Trouble(StrEnum):
    """What an honest vehicle meets."""

    OFFLINE = "offline"
    CLOCK_DRIFT = "clock_drift"
    REBOOT = "reboot"
    SEQ_GAP = "seq_gap"
    RETRANSMISSION = "retransmission"
    SOFTWARE_UPDATE = "software_update"


Act = Callable[[Turn], Iterator[Send]]


def offline(turn: Turn) -> Iterator[Send]:
    """Be silent, then upload what was stored: up to weeks late, in order, backwards or shuffled, some of it twice."""
    chance, vehicle = turn.vehicle.chance, turn.vehicle
    late_s = (chance.between(60, 3_600), chance.between(3_600, 3 * _DAY_S), _LATE_S_MAX)[chance.below(3)]
    count = 4 + chance.below(20)
    backlog = []
    for left in range(count, 0, -1):
        vehicle.boots += chance.happens(0.1)
        backlog.append(turn.fresh(turn.now_s - late_s * left / count))
    order = chance.below(3)
    if order == 1:
        backlog.reverse()
    elif order == 2:
        backlog.sort(key=lambda _: chance.bits())
    yield from map(turn.accepted, backlog)
    if chance.happens(0.3):  # the upload broke off before it was acknowledged
        yield from map(turn.duplicate, backlog[count // 2 :])


def clock_drift(turn: Turn) -> Iterator[Send]:
    """Have a clock that is off, and runs off further."""
    vehicle = turn.vehicle
    if vehicle.turns == 0:
        vehicle.skew_s = vehicle.chance.between(-2 * _DAY_S, _AHEAD_S_MAX)
    vehicle.skew_s += _DRIFT * turn.world.interval_s
    yield turn.accepted(turn.fresh())


def reboot(turn: Turn) -> Iterator[Send]:
    """Start again: a new boot number, and the counter goes on where it was."""
    turn.vehicle.boots += 1
    yield turn.accepted(turn.fresh())


def seq_gap(turn: Turn) -> Iterator[Send]:
    """Lose some messages before they were sent: their numbers never come."""
    chance = turn.vehicle.chance
    turn.vehicle.seq += 1 + (chance.below(5) if chance.happens(0.8) else chance.below(10_000))
    yield turn.accepted(turn.fresh())


def retransmission(turn: Turn) -> Iterator[Send]:
    """Not hear the acknowledgement, and send the same once more, or twice."""
    value = turn.fresh()
    yield turn.accepted(value)
    for _ in range(1 + turn.vehicle.chance.below(2)):
        yield turn.duplicate(value)


def software_update(turn: Turn) -> Iterator[Send]:
    """Come back from an update with other software, another configuration and perhaps a newer schema."""
    turn.vehicle.updates += 1
    turn.vehicle.boots += 1
    yield turn.accepted(turn.fresh())


ACTS: Mapping[Trouble, Act] = MappingProxyType(
    {
        Trouble.OFFLINE: offline,
        Trouble.CLOCK_DRIFT: clock_drift,
        Trouble.REBOOT: reboot,
        Trouble.SEQ_GAP: seq_gap,
        Trouble.RETRANSMISSION: retransmission,
        Trouble.SOFTWARE_UPDATE: software_update,
    }
)
