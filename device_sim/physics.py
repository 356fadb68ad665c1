"""How does an electric vehicle move, spend and charge? Small steps of plain mechanics, by the vehicle's own chance."""

import math
from enum import IntEnum

import msgspec

from device_sim.chance import Chance

STEP_S_MAX = 5.0
STEPS_MAX = 12  # per sample: a vehicle that was silent for an hour is carried over it in twelve strides

_GRAVITY = 9.81
_METRES_PER_DEGREE = 111_320.0
_KMH = 1 / 3.6


class Phase(IntEnum):
    """What the vehicle is about."""

    PARKED = 0
    URBAN = 1
    HIGHWAY = 2
    CHARGING = 3


class Model(msgspec.Struct, frozen=True):
    """What one make of vehicle is like."""

    mass_kg: float
    drag: float  # half air density x drag coefficient x frontal area, kg/m
    battery_kwh: float
    cells: int  # in series
    charge_kw: float
    speed_kmh_max: float
    gear_ratio: float  # motor revolutions per metre


MODELS = (
    Model(690, 0.42, 6.1, 14, 2.2, 80, 5.2),
    Model(1_500, 0.40, 40, 96, 50, 150, 4.6),
    Model(1_900, 0.36, 77, 108, 150, 180, 4.4),
    Model(2_300, 0.38, 105, 198, 270, 220, 4.1),
    Model(12_500, 3.10, 350, 216, 150, 90, 3.3),
)


class Motion(msgspec.Struct, gc=False):
    """Where the vehicle is, and how it is: the state that the next step starts from."""

    phase: int
    phase_left_s: float
    target_ms: float
    speed_ms: float
    acceleration: float
    heading: float
    yaw: float  # radians/s
    latitude: float
    longitude: float
    odometer_m: float
    energy_kwh: float
    power_w: float  # drawn from the battery; negative while it is filled
    battery_c: float
    motor_c: float
    air_c: float


def park(model: Model, chance: Chance) -> Motion:
    """Put a vehicle somewhere on the map, as if found there at a chance moment of its life."""
    latitude = chance.between(-45, 62)
    air_c = 30 - abs(latitude) / 3 + chance.between(-8, 8)
    return Motion(
        phase=Phase.CHARGING if chance.happens(0.1) else Phase.PARKED,
        phase_left_s=chance.between(0, 3),
        target_ms=0,
        speed_ms=0,
        acceleration=0,
        heading=chance.between(0, 360),
        yaw=0,
        latitude=latitude,
        longitude=chance.between(-180, 180),
        odometer_m=chance.between(10e3, 200e6),
        energy_kwh=model.battery_kwh * chance.between(0.3, 0.95),
        power_w=0,
        battery_c=air_c + chance.between(0, 8),
        motor_c=air_c + chance.between(0, 20),
        air_c=air_c,
    )


def charge_percent(motion: Motion, model: Model) -> float:
    """How full the battery is."""
    return 100 * motion.energy_kwh / model.battery_kwh


def voltage(motion: Motion, model: Model) -> float:
    """Give the voltage at the terminals: open-circuit by charge, less what the inner resistance takes."""
    fullness = motion.energy_kwh / model.battery_kwh
    idle = model.cells * (3.3 + 0.85 * fullness)
    return idle - motion.power_w / idle * 0.0006 * model.cells


def advance(motion: Motion, model: Model, chance: Chance, elapsed_s: float) -> None:
    """Let time pass."""
    steps = min(STEPS_MAX, max(1, math.ceil(elapsed_s / STEP_S_MAX)))
    for _ in range(steps):
        _step(motion, model, chance, elapsed_s / steps)


def _step(motion: Motion, model: Model, chance: Chance, step_s: float) -> None:
    motion.phase_left_s -= step_s
    if motion.phase_left_s <= 0:
        _choose(motion, model, chance)
    before_ms = motion.speed_ms
    _accelerate(motion, model, step_s)
    _move(motion, chance, step_s, (before_ms + motion.speed_ms) / 2)
    _spend(motion, model, step_s)
    _warm(motion, model, step_s)


def _choose(motion: Motion, model: Model, chance: Chance) -> None:
    """Decide what to do next: brake for an empty battery, charge, wait, go through town or along a highway."""
    fullness = motion.energy_kwh / model.battery_kwh
    motion.target_ms = 0
    motion.phase_left_s = chance.between(5, 40)
    if fullness < 0.12 or (motion.phase == Phase.CHARGING and fullness < 0.9):
        motion.phase = Phase.CHARGING
    elif motion.speed_ms == 0 and chance.happens(0.05):
        motion.phase = Phase.PARKED
    elif motion.phase == Phase.HIGHWAY or chance.happens(0.12):
        _cruise(motion, model, chance, Phase.URBAN if chance.happens(0.3) else Phase.HIGHWAY)
    elif chance.happens(0.75):
        _cruise(motion, model, chance, Phase.URBAN)
    else:
        motion.phase = Phase.URBAN  # a red light


def _cruise(motion: Motion, model: Model, chance: Chance, phase: Phase) -> None:
    motion.phase = phase
    highway = phase == Phase.HIGHWAY
    wish_kmh = chance.between(80, 130) if highway else chance.between(20, 60)
    motion.target_ms = min(wish_kmh, model.speed_kmh_max) * _KMH
    motion.phase_left_s = chance.between(30, 180) if highway else chance.between(10, 60)


def _accelerate(motion: Motion, model: Model, step_s: float) -> None:
    """Close in on the target speed, no harder than a calm driver and the mass allow."""
    gentle = 1.9 if model.mass_kg < 5_000 else 1.0
    wish = (motion.target_ms - motion.speed_ms) / step_s
    # The faster, the weaker: power is what limits a motor once it turns.
    motion.acceleration = max(-2.6, min(wish, gentle / (1 + motion.speed_ms / 25)))
    motion.speed_ms += motion.acceleration * step_s
    if motion.speed_ms < 0.01 and motion.target_ms == 0:
        motion.speed_ms = 0


def _move(motion: Motion, chance: Chance, step_s: float, mean_ms: float) -> None:
    if mean_ms == 0:
        motion.yaw = 0
        return
    # A turn is held to 2 m/s^2 sideways.
    limit = min(0.5, 2.0 / max(motion.speed_ms, mean_ms, 1))
    motion.yaw = max(-limit, min(limit, 0.7 * motion.yaw + chance.between(-0.3, 0.3) * limit))
    motion.heading = (motion.heading + math.degrees(motion.yaw) * step_s) % 360
    way_m = mean_ms * step_s
    motion.odometer_m += way_m
    direction = math.radians(motion.heading)
    north = way_m * math.cos(direction) / _METRES_PER_DEGREE
    if abs(motion.latitude + north) > 70:  # before the ice: turn round
        motion.heading = (motion.heading + 180) % 360
        return
    motion.latitude += north
    east = way_m * math.sin(direction) / (_METRES_PER_DEGREE * math.cos(math.radians(motion.latitude)))
    motion.longitude = (motion.longitude + east + 180) % 360 - 180


def _spend(motion: Motion, model: Model, step_s: float) -> None:
    """Take from the battery what moving, braking, comfort and charging make of it."""
    speed = motion.speed_ms
    force = model.mass_kg * (motion.acceleration + 0.009 * _GRAVITY * (speed > 0)) + model.drag * speed * speed
    shaft_w = force * speed
    motion.power_w = 450 + (shaft_w / 0.9 if shaft_w > 0 else 0.65 * shaft_w)
    fullness = motion.energy_kwh / model.battery_kwh
    if motion.phase == Phase.CHARGING and speed == 0:
        # The last fifth fills slower and slower.
        motion.power_w = -1_000 * model.charge_kw * min(1, (1.02 - fullness) / 0.22)
    left_kwh = motion.energy_kwh - motion.power_w * step_s / 3.6e6
    motion.energy_kwh = max(0.0, min(model.battery_kwh, left_kwh))


def _warm(motion: Motion, model: Model, step_s: float) -> None:
    """Let losses warm battery and motor, and the air cool them."""
    load = abs(motion.power_w) / (1_000 * model.battery_kwh)
    share = min(1.0, step_s / 1_800)
    motion.battery_c += share * (motion.air_c + 12 * load - motion.battery_c)
    share = min(1.0, step_s / 300)
    motion.motor_c += share * (motion.air_c + 25 * load * (motion.speed_ms > 0) - motion.motor_c)
