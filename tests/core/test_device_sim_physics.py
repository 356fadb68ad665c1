"""Does a simulated vehicle move, spend and charge as one could?"""

from itertools import pairwise
from pathlib import Path

import pytest

from device_sim.chance import Chance
from device_sim.physics import MODELS, Model, Motion, Phase, advance, charge_percent, park, voltage

CYCLES = Path(__file__).parents[3] / "shared" / "data" / "drive_cycles"
HOUR_S = 3_600


def copy(motion: Motion) -> Motion:
    return Motion(**{name: getattr(motion, name) for name in Motion.__struct_fields__})


def driven(model: Model, seed: int, seconds: int, step_s: float = 1.0) -> list[Motion]:
    chance = Chance(seed)
    motion = park(model, chance)
    states = [copy(motion)]
    for _ in range(int(seconds / step_s)):
        advance(motion, model, chance, step_s)
        states.append(copy(motion))
    return states


@pytest.mark.parametrize("model", MODELS, ids=lambda model: f"{model.mass_kg:.0f}kg")
def test_speed_and_acceleration_are_those_of_a_road_vehicle(model: Model) -> None:
    for before, after in pairwise(driven(model, 11, HOUR_S)):
        assert 0 <= after.speed_ms * 3.6 <= model.speed_kmh_max
        assert -3 <= after.speed_ms - before.speed_ms <= 2
        assert abs(after.yaw * after.speed_ms) <= 2.01


@pytest.mark.parametrize("seed", range(5))
def test_the_odometer_is_the_integral_of_speed(seed: int) -> None:
    states = driven(MODELS[1], seed, HOUR_S)
    way_m = sum((before.speed_ms + after.speed_ms) / 2 for before, after in pairwise(states))
    assert states[-1].odometer_m - states[0].odometer_m == pytest.approx(way_m, abs=1)


def test_driving_empties_the_battery_by_what_such_vehicles_use() -> None:
    states = driven(MODELS[2], 4, 3 * HOUR_S)
    spent_kwh = way_km = 0.0
    for before, after in pairwise(states):
        if after.phase in (Phase.URBAN, Phase.HIGHWAY):
            spent_kwh += before.energy_kwh - after.energy_kwh
            way_km += (after.odometer_m - before.odometer_m) / 1_000
    assert way_km > 50
    assert 10 < 100 * spent_kwh / way_km < 30


def test_an_empty_battery_is_charged_standing_still_and_drives_on() -> None:
    model, chance = MODELS[1], Chance(8)
    motion = park(model, chance)
    motion.energy_kwh = 0.11 * model.battery_kwh
    phases, fullest = [], 0.0
    for _ in range(3 * HOUR_S):
        before = motion.energy_kwh
        advance(motion, model, chance, 1.0)
        phases.append(Phase(motion.phase))
        fullest = max(fullest, charge_percent(motion, model))
        if motion.phase == Phase.CHARGING and motion.speed_ms == 0:
            assert motion.energy_kwh > before
    assert Phase.CHARGING in phases
    assert phases[-1] != Phase.CHARGING
    assert fullest > 89


@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_stride_everything_stays_in_bounds(seed: int) -> None:
    for model in MODELS:
        for motion in driven(model, seed, 40 * HOUR_S, step_s=377.0):
            assert 0 <= charge_percent(motion, model) <= 100
            assert 0 < voltage(motion, model) < 2_000
            assert -80 < motion.battery_c < 90
            assert -80 < motion.motor_c < 200
            assert -90 < motion.latitude < 90
            assert -180 <= motion.longitude <= 180
            assert 0 <= motion.heading < 360


def mean_moving_kmh(speeds_kmh: list[float]) -> float:
    moving = [speed for speed in speeds_kmh if speed > 0.5]
    return sum(moving) / len(moving)


def test_speeds_lie_between_those_of_the_measured_city_and_highway_cycles() -> None:
    if not CYCLES.is_dir():
        pytest.skip("the drive cycles are not at hand")
    ours = [s.speed_ms * 3.6 for seed in range(6) for s in driven(MODELS[2], seed, 2 * HOUR_S)]
    city, highway = (
        [float(line.split(",")[1]) * 3.6 for line in (CYCLES / name).read_text().splitlines()[1:]]
        for name in ("udds.csv", "us06.csv")
    )
    assert mean_moving_kmh(city) * 0.8 < mean_moving_kmh(ours) < mean_moving_kmh(highway) * 1.2
