"""What do a vehicle's sensors say now? The four kinds of sample of the telemetry schemas, of its motion."""

from typing import Any

from device_sim.chance import Chance
from device_sim.physics import Model, Motion, Phase, charge_percent, voltage
from device_sim.wire import Sample

VEHICLE_STATE = "weighbridge.telemetry.VehicleState"
BATTERY_CHARGING = "weighbridge.telemetry.BatteryCharging"
DIAGNOSTICS = "weighbridge.telemetry.Diagnostics"
SECURITY_EVENT = "weighbridge.telemetry.SecurityEvent"

_TROUBLE_CODES = ("P0A80", "P0AA6", "P1A10", "U0100", "U0293", "B1342", "C0040", "C0561")
_EVENTS = (  # kind, severity, source, number
    ("AUTHENTICATION_FAILURE", "MEDIUM", "gateway", 0x0101),
    ("FIRMWARE_VERIFICATION_FAILURE", "HIGH", "telematics", 0x0102),
    ("UNEXPECTED_MESSAGE", "LOW", "can-chassis", 0x0203),
    ("BUS_OVERLOAD", "MEDIUM", "can-body", 0x0204),
    ("DIAGNOSTIC_ACCESS_DENIED", "LOW", "obd-port", 0x0305),
    ("DEBUG_PORT_ACCESS", "CRITICAL", "head-unit", 0x0306),
    ("KEY_STORE_FAILURE", "HIGH", "secure-element", 0x0407),
    ("CONFIGURATION_CHANGED", "INFO", "gateway", 0x0408),
)


def observe(motion: Motion, model: Model, chance: Chance, at_us: int) -> Sample:
    """Take one sample, of the kind that happens to be due. The fields are those of the newest schema version."""
    dice = chance.below(100)
    if dice < 70:
        return VEHICLE_STATE, _vehicle_state(motion, model, chance, at_us)
    if dice < 90:
        return BATTERY_CHARGING, _battery_charging(motion, model, chance, at_us)
    if dice < 98:
        return DIAGNOSTICS, _diagnostics(motion, chance, at_us)
    return SECURITY_EVENT, _security_event(chance, at_us)


def _vehicle_state(motion: Motion, model: Model, chance: Chance, at_us: int) -> dict[str, Any]:
    speed = motion.speed_ms
    fix = not chance.happens(0.02)  # a tunnel now and then
    return {
        "recorded_at_us": at_us,
        "speed": speed * 3.6,
        "traveled_distance_m": int(motion.odometer_m),
        "current_gear": 0 if motion.phase in (Phase.PARKED, Phase.CHARGING) and speed == 0 else 1,
        "is_moving": speed > 0,
        "latitude": motion.latitude if fix else None,
        "longitude": motion.longitude if fix else None,
        "altitude": 120 + 40 * (motion.latitude % 1) if fix else None,
        "heading": motion.heading if fix else None,
        "horizontal_accuracy": chance.between(1.5, 8) if fix else None,
        "acceleration_longitudinal": motion.acceleration,
        "acceleration_lateral": motion.yaw * speed,
        "state_of_charge": charge_percent(motion, model),
        "air_temperature": motion.air_c,
        "humidity": 60 - motion.air_c / 2,
        "motor_speed": speed * 60 * model.gear_ratio,
        "motor_temperature": motion.motor_c,
    }


def _battery_charging(motion: Motion, model: Model, chance: Chance, at_us: int) -> dict[str, Any]:
    terminals_v = voltage(motion, model)
    charging = motion.phase == Phase.CHARGING and motion.speed_ms == 0
    filling_kw = -motion.power_w / 1_000
    left_kwh = max(0.0, 0.9 * model.battery_kwh - motion.energy_kwh)
    return {
        "recorded_at_us": at_us,
        "state_of_charge": charge_percent(motion, model),
        "state_of_health": 97.5,
        "current_energy": motion.energy_kwh,
        "current": -motion.power_w / terminals_v,
        "voltage": terminals_v,
        "temperature_average": motion.battery_c,
        "temperature_min": motion.battery_c - chance.between(0, 1.5),
        "temperature_max": motion.battery_c + chance.between(0, 2.5),
        "is_charging": charging,
        "is_charging_cable_connected": charging,
        "charge_limit": 90,
        "charge_power": filling_kw if charging else None,
        "time_to_complete_s": int(3_600 * left_kwh / filling_kw) if charging and filling_kw > 0 else None,
        "evse_id": "XX*WBG*E000042*1" if charging else None,
    }


def _diagnostics(motion: Motion, chance: Chance, at_us: int) -> dict[str, Any]:
    codes = [_TROUBLE_CODES[chance.below(8)]] if chance.happens(0.1) else []
    warmth = int((motion.air_c - 20) * 0.8)
    return {
        "recorded_at_us": at_us,
        "dtc_count": len(codes),
        "dtc_list": codes,
        "low_voltage_battery_voltage": 14.1 if motion.speed_ms > 0 else chance.between(12.2, 12.9),
        "low_voltage_battery_current": chance.between(-8, 12),
        "tire_pressure_1_left": 240 + warmth + chance.below(6),
        "tire_pressure_1_right": 240 + warmth + chance.below(6),
        "tire_pressure_2_left": 250 + warmth + chance.below(6),
        "tire_pressure_2_right": 250 + warmth + chance.below(6),
        "is_service_due": motion.odometer_m % 30e6 > 29.5e6,
        "distance_to_service": 30_000 - motion.odometer_m / 1_000 % 30_000,
    }


def _security_event(chance: Chance, at_us: int) -> dict[str, Any]:
    kind, severity, source, number = _EVENTS[chance.below(len(_EVENTS))]
    return {
        "recorded_at_us": at_us,
        "event": kind,
        "severity": severity,
        "source": source,
        "event_id": number,
        "count": 1 + chance.below(5),
        "detail": "seen by the intrusion detection" if chance.happens(0.5) else None,
    }
