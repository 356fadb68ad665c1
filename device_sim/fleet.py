"""Who sends what, and when? A whole fleet in time order, from a seed and a start time."""

from collections.abc import Iterator, Mapping
from itertools import count as count_up
from math import gcd
from types import MappingProxyType

import msgspec

from device_sim import fault, trouble
from device_sim.fault import Fault
from device_sim.identity import Fleet, Identity
from device_sim.lifecycle import Lives, Part
from device_sim.trouble import Act, Trouble
from device_sim.vehicle import SAMPLES_MAX, Send, Turn, Vehicle, World, build
from device_sim.wire import load

FLAT_OUT = 5_000  # messages/s of simulated time when none is asked for: rather behind the broker's clock than ahead
TURNS_CALM = 4  # a troubled vehicle has its trouble every fourth turn, and is an ordinary one in between

Cause = Trouble | Fault | Part


class Mix(msgspec.Struct, frozen=True):
    """Which share of the vehicles has which trouble or misbehaviour; each that is named has at least one vehicle."""

    shares: Mapping[Cause, float]


_TROUBLES: dict[Cause, float] = dict.fromkeys(Trouble, 0.03)
# A gap bomber sends a dozen messages a turn, so that fewer of them do.
_FAULTS: dict[Cause, float] = {**dict.fromkeys(Fault, 0.003), Fault.GAP_BOMBING: 0.0005}

MIXES: Mapping[str, Mix] = MappingProxyType({"honest": Mix(_TROUBLES), "everything": Mix({**_TROUBLES, **_FAULTS})})


class Plan(msgspec.Struct, frozen=True):
    """A run of a fleet. The same plan gives the same envelopes."""

    fleet: Fleet
    mix: Mix
    start_s: float  # seconds since 1970 UTC; near the broker's clock, or the truth would not be true
    rate: float = 0  # messages/s of simulated time; 0 for FLAT_OUT
    samples_max: int = SAMPLES_MAX  # per message

    def roles(self) -> list[tuple[int, Cause]]:
        """Deal out the troubles: each with the rank at which its share of the vehicles ends."""
        end, roles = 0, []
        for cause, share in self.mix.shares.items():
            end += max(1, round(share * self.fleet.vehicles))
            roles.append((end, cause))
        if end > self.fleet.vehicles:
            raise ValueError(
                f"{self.fleet.vehicles} vehicles cannot play all {len(roles)} parts of this mix: "
                f"take at least {end}, or the mix 'honest'"
            )
        return roles


class _Cast:
    """Knows each vehicle's part. The parts are dealt by rank, so that the seed chooses who plays them."""

    def __init__(self, plan: Plan) -> None:
        self._roles = plan.roles()
        self._vehicles = plan.fleet.vehicles
        self._stride = _coprime(self._vehicles, 0.382)
        self._shift = plan.fleet.seed * 7_919

    def cause(self, number: int) -> Cause | None:
        """Tell the vehicle's trouble, if it has one."""
        rank = (number * self._stride + self._shift) % self._vehicles
        return next((cause for end, cause in self._roles if rank < end), None)


def sends(plan: Plan, lives: Lives | None = None) -> Iterator[Send]:
    """Give all sends in order, without end: who takes them decides how many. Raises ValueError if the mix cannot be.

    Where people decide about vehicles in the meantime, `lives` is how the vehicles learn of it.
    """
    interval_s = plan.fleet.vehicles / (plan.rate or FLAT_OUT)
    world = World(Identity(plan.fleet), load(), plan.start_s, interval_s, plan.samples_max)
    return _play(plan, world, _Cast(plan), lives or Lives(world.identity))


def _play(plan: Plan, world: World, cast: _Cast, lives: Lives) -> Iterator[Send]:
    rate = plan.rate or FLAT_OUT
    vehicles: dict[int, tuple[Vehicle, Cause | None]] = {}
    stride = _coprime(plan.fleet.vehicles, 0.618)
    sent = 0
    for turn_no in count_up():
        number = turn_no * stride % plan.fleet.vehicles
        if number not in vehicles:
            vehicles[number] = build(world, number), cast.cause(number)
        vehicle, cause = vehicles[number]
        for send in _act(Turn(world, vehicle, plan.start_s + sent / rate, cause), lives):
            yield send
            sent += 1
        vehicle.turns += 1


def _act(turn: Turn, lives: Lives) -> Iterator[Send]:
    act: Act | None = None
    match turn.cause:
        case Part():
            return lives.play(turn, turn.cause)
        case Trouble():
            act = trouble.ACTS[turn.cause]
        case Fault():
            act = fault.ACTS[turn.cause]
    if act is None or not _due(turn):
        return iter((turn.honest(),))
    return act(turn)


def _due(turn: Turn) -> bool:
    if turn.cause in (Trouble.CLOCK_DRIFT, Fault.GAP_BOMBING):
        return True  # a state rather than an event
    return turn.vehicle.turns % TURNS_CALM == 0


def _coprime(vehicles: int, share: float) -> int:
    """Find a stride that visits every vehicle once a round, neighbours far apart."""
    stride = max(1, int(vehicles * share))
    while gcd(stride, vehicles) != 1:
        stride += 1
    return stride
