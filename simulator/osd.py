"""What dock and aircraft push at a fixed rate: partial groups of properties with different keys."""

from collections.abc import Mapping

from simulator import wire
from simulator.devices import Pair

Group = dict[str, object]

OSD_PERIOD = 2.0  # simulated seconds
_LATITUDE, _LONGITUDE = 47.4101, 8.6203


class Osd:
    """One round of osd messages, encoded again only when something in it has changed."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._known: object = None
        self._pushes: list[wire.Push] = []

    def round(self) -> list[tuple[str, bytes]]:
        """Return topic and payload of each message of one round."""
        present = self._fingerprint()
        if present != self._known:
            self._known, self._pushes = present, self._encode()
        return [(push.topic, push.payload()) for push in self._pushes]

    def _fingerprint(self) -> object:
        pair = self._pair
        return pair.condition, pair.mode_code, pair.aircraft_mode_code, pair.is_aircraft_on

    def _encode(self) -> list[wire.Push]:
        pair = self._pair
        dock, aircraft = pair.dock.sn, pair.aircraft.sn
        groups = (surroundings(pair), connections(pair), supply(pair))
        pushes = [wire.Push(dock, "osd", dock, group) for group in groups]
        if pair.is_aircraft_on:
            pushes.append(wire.Push(aircraft, "osd", dock, flight(pair)))
        return pushes


def surroundings(pair: Pair) -> Group:
    """Return the group with the environment and `mode_code`. DJI Cloud API: dock properties."""
    condition = pair.condition
    is_docked = condition.drone_in_dock == 1
    return {
        "network_state": {"type": 2, "quality": 5, "rate": 640.0},
        "drone_charge_state": {"state": 0, "capacity_percent": condition.battery_percent},
        "drone_in_dock": condition.drone_in_dock,
        "rainfall": 0,
        "wind_speed": 1.2,
        "environment_temperature": 17.5,
        "temperature": 23.1,
        "humidity": 51,
        "latitude": _LATITUDE,
        "longitude": _LONGITUDE,
        "height": 431.0,
        "first_power_on": 1_700_000_000_000,
        "position_state": _position(),
        "storage": {"total": 82_045_336, "used": 1_048_576},
        "mode_code": pair.mode_code,
        "cover_state": 0 if is_docked else 1,
        "supplement_light_state": 0,
        "emergency_stop_state": condition.emergency_stop_state,
        "battery_store_mode": 2,
        "alarm_state": 0,
        "sub_device": _sub_device(pair),
        **_GENERATION_KEYS[pair.dock.model_key],
    }


def connections(pair: Pair) -> Group:
    """Return the group with the radio link and the flight task."""
    enhanced = pair.condition.link_workmode
    return {
        "flighttask_step_code": pair.condition.flighttask_step_code,
        "media_file_detail": {"remain_upload": 0},
        "wireless_link": {
            "dongle_number": enhanced,
            "4g_link_state": enhanced,
            "sdr_link_state": 1,
            "link_workmode": enhanced,
            "sdr_quality": 5,
            "4g_quality": 4 * enhanced,
            "4g_uav_quality": 4 * enhanced,
            "4g_gnd_quality": 4 * enhanced,
            "sdr_freq_band": 2.4,
            "4g_freq_band": 2.4,
        },
        "drc_state": 0,
    }


def supply(pair: Pair) -> Group:
    """Return the group with power and jobs; voltages in mV, currents in mA."""
    percent = pair.condition.battery_percent
    group: Group = {
        "job_number": 120,
        "acc_time": 1_859_010,
        "activation_time": 1_699_990_000,
        "working_voltage": 25_440,
        "working_current": 1_120,
        "backup_battery": {"voltage": 26_631, "temperature": 27.4, "switch": 1},
        "drone_battery_maintenance_info": {
            "maintenance_state": 0,
            "maintenance_time_left": 0,
            "heat_state": 0,
            "batteries": [_cell(index, percent) for index in range(2)],
        },
    }
    if pair.dock.model_key == "3-1-0":
        group["electric_supply_voltage"] = 231
    return group


def flight(pair: Pair) -> Group:
    """Return the osd of the aircraft. DJI Cloud API: aircraft properties."""
    percent = pair.condition.battery_percent
    is_docked = pair.condition.drone_in_dock == 1
    return {
        "mode_code": pair.aircraft_mode_code if is_docked else 5,
        "mode_code_reason": 0,
        "battery": {
            "capacity_percent": percent,
            "remain_flight_time": 0,
            "return_home_power": 0,
            "landing_power": 0,
            "batteries": [
                {**_cell(0, percent), "firmware_version": "02.00.20.44", "loop_times": 64}
            ],
        },
        "height": 431.0 if is_docked else 491.0,
        "elevation": 0 if is_docked else 60,
        "latitude": _LATITUDE,
        "longitude": _LONGITUDE,
        "horizontal_speed": 0,
        "vertical_speed": 0,
        "home_distance": 0,
        "storage": {"total": 60_000_000, "used": 1_200_000},
        "position_state": _position(),
        "total_flight_time": 3_600,
        "total_flight_sorties": 12,
    }


def _sub_device(pair: Pair) -> Group:
    return {
        "device_sn": pair.aircraft.sn,
        "device_model_key": pair.aircraft.model_key,
        "device_online_status": int(pair.is_aircraft_on),
        "device_paired": 1,
    }


def _position() -> Group:
    return {"is_calibration": 1, "is_fixed": 2, "quality": 5, "gps_number": 12, "rtk_number": 24}


def _cell(index: int, percent: int) -> Group:
    return {"index": index, "capacity_percent": percent, "voltage": 24_303, "temperature": 22.4}


_NEWER_KEYS: Group = {
    "air_conditioner": {"air_conditioner_state": 0, "switch_time": 0},
    "home_position_is_valid": 1,
    "heading": 12.5,
}
_GENERATION_KEYS: Mapping[str, Group] = {
    "3-1-0": {"putter_state": 0, "air_conditioner_mode": 0},
    "3-2-0": {"putter_state": 0, **_NEWER_KEYS},
    "3-3-0": {
        **_NEWER_KEYS,
        "self_converge_coordinate": {
            "latitude": _LATITUDE,
            "longitude": _LONGITUDE,
            "height": 431.0,
        },
    },
}
