"""The properties that devices push on ``osd`` and ``state`` (Cloud API: device properties)."""

from typing import Annotated, ClassVar

import msgspec

from mqtt_bridge.envelope import BigInt, Data, Int, Part, Text

Flag = Annotated[int, msgspec.Meta(ge=0, le=1)] | bool


class Charge(Part, frozen=True):
    """``drone_charge_state`` of a dock, ``battery`` of an aircraft."""

    capacity_percent: Int | None = None


class Battery(Part, frozen=True):
    """One battery of ``drone_battery_maintenance_info``."""

    capacity_percent: Int | None = None


class SubDevice(Part, frozen=True):
    """``sub_device``: the aircraft that a dock knows."""

    device_sn: Text | None = None
    device_online_status: Flag | None = None
    device_paired: Flag | None = None


class WirelessLink(Part, frozen=True):
    """``wireless_link``: 0 SDR only, 1 with 4G enhancement."""

    link_workmode: Int | None = None


class Storage(Part, frozen=True):
    """``storage`` in KB."""

    total: BigInt | None = None
    used: BigInt | None = None


class Maintenance(Part, frozen=True):
    """``drone_battery_maintenance_info``: told while the aircraft is off; 32767 is unreadable."""

    batteries: list[Battery] = []

    @property
    def capacity_percent(self) -> int | None:
        """Of the emptier battery that can be read; else what was told of one that cannot."""
        known = [b.capacity_percent for b in self.batteries if b.capacity_percent is not None]
        readable = [percent for percent in known if 0 <= percent <= 100]
        return min(readable or known, default=None)


class Properties(Data, frozen=True):
    """The properties that we keep, of docks and aircraft alike; each may be missing."""

    documented: ClassVar[frozenset[str]] = frozenset(
        [
            "acc_time",
            "activation_time",
            "air_conditioner",
            "air_conditioner_mode",
            "air_transfer_enable",
            "alarm_state",
            "alternate_land_point",
            "backup_battery",
            "battery_store_mode",
            "cover_state",
            "dongle_infos",
            "drc_state",
            "electric_supply_voltage",
            "elevation",
            "environment_temperature",
            "first_power_on",
            "flysafe_database_version",
            "gear",
            "heading",
            "height",
            "home_distance",
            "home_position_is_valid",
            "horizontal_speed",
            "humidity",
            "job_number",
            "latitude",
            "live_capacity",
            "live_status",
            "longitude",
            "maintain_status",
            "media_file_detail",
            "mode_code_reason",
            "network_state",
            "obstacle_avoidance",
            "payloads",
            "position_state",
            "putter_state",
            "rainfall",
            "rtcm_info",
            "self_converge_coordinate",
            "silent_mode",
            "supplement_light_state",
            "temperature",
            "total_flight_distance",
            "total_flight_sorties",
            "total_flight_time",
            "track_id",
            "user_experience_improvement",
            "vertical_speed",
            "wind_direction",
            "wind_speed",
            "wireless_link_topo",
            "working_current",
            "working_voltage",
            "wpmz_version",
        ]
    )

    firmware_version: Text | None = None
    compatible_status: Flag | None = None
    firmware_upgrade_status: Flag | None = None
    mode_code: Int | None = None
    flighttask_step_code: Int | None = None
    # Any number: one that nobody knows is no reason to go on believing the last.
    drone_in_dock: Int | bool | None = None
    emergency_stop_state: Int | bool | None = None
    drone_charge_state: Charge | None = None
    battery: Charge | None = None
    drone_battery_maintenance_info: Maintenance | None = None
    sub_device: SubDevice | None = None
    wireless_link: WirelessLink | None = None
    storage: Storage | None = None
