"""Redfish documents into points. Pure, and never raises: services leave out, null and misspell what they like.

Both generations of the schemas are read: Thermal and Power (one document each, deprecated since 2020.4, still the only
ones of most machines in the field) and ThermalSubsystem, PowerSubsystem and Sensors (a document per part).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from producers.facility.points import ABSENT, CRITICAL, OK, WARNING, Measured, finite, slug, temperature_name, word

Document = Mapping[str, Any]

_HEALTH = {"ok": OK, "warning": WARNING, "critical": CRITICAL}
_SENSORS: dict[str, tuple[str, str, str]] = {
    # ReadingType: the point's name, its unit, the event it raises
    "rotational": ("fan_speed_rpm", "rpm", "fan_failed"),
    "power": ("power_watts", "watts", "power_alarm"),
    "voltage": ("voltage_volts", "volts", "power_alarm"),
    "current": ("current_amperes", "amperes", "power_alarm"),
    "energykwh": ("energy_kilowatt_hours", "kilowatt_hours", "power_alarm"),
    "frequency": ("frequency_hertz", "hertz", "power_alarm"),
    "humidity": ("humidity_percent", "percent", "cooling_alarm"),
    "liquidflowlpm": ("liquid_flow_litres_per_minute", "litres_per_minute", "cooling_alarm"),
    "liquidflow": ("liquid_flow_litres_per_second", "litres_per_second", "cooling_alarm"),
    "airflow": ("air_flow_cubic_feet_per_minute", "cubic_feet_per_minute", "cooling_alarm"),
    "airflowcmm": ("air_flow_cubic_metres_per_minute", "cubic_metres_per_minute", "cooling_alarm"),
    "pressurekpa": ("pressure_kilopascals", "kilopascals", "cooling_alarm"),
    "pressurepa": ("pressure_pascals", "pascals", "cooling_alarm"),
}
"""Reading types of the Sensor schema with the units that it fixes for them; others are not about power or cooling."""
_INPUT_LOST = {"lossofinput", "outofrange"}


def mapping(value: object) -> Document:
    """An object of the document; an empty one where there is something else."""
    return value if isinstance(value, Mapping) else {}


def listed(value: object) -> list[Document]:
    """The objects of a list; what is none is left out."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def link(value: object) -> str:
    """Where a reference points, within the same service; empty where it points elsewhere or nowhere."""
    path = mapping(value).get("@odata.id")
    # an address of another host would be sent our login
    return path if isinstance(path, str) and path.startswith("/") and not path.startswith("//") else ""


def state(status: object) -> str | None:
    """ok, warning, critical, absent or the service's own word; None where it does not say."""
    where = word(text(mapping(status), "State"))
    if where == ABSENT:
        return ABSENT
    health = _HEALTH.get(text(mapping(status), "Health").lower())
    if health is None and where not in {"unnamed", "enabled"}:
        return where
    return health


def text(document: Document, *names: str, default: str = "") -> str:
    """The first of several members that holds text."""
    for name in names:
        found = document.get(name)
        if isinstance(found, str) and found.strip():
            return found.strip()
    return default


def thermal(document: Document) -> Iterator[Measured]:
    """Fans and temperatures of a Thermal document."""
    for index, one in enumerate(listed(document.get("Fans"))):
        name = slug(text(one, "Name", "FanName", "MemberId", default=f"fan_{index + 1}"))
        value = finite(one.get("Reading", one.get("ReadingRPM")))
        percent = text(one, "ReadingUnits").lower() == "percent"
        base, unit = ("fan_speed_percent", "percent") if percent else ("fan_speed_rpm", "rpm")
        yield Measured(f"{base}/{name}", unit, value, state(one.get("Status")), "fan_failed")
    for index, one in enumerate(listed(document.get("Temperatures"))):
        name = text(one, "Name", "MemberId", default=f"temperature_{index + 1}")
        yield Measured(
            temperature_name(name, text(one, "PhysicalContext")),
            "celsius",
            finite(one.get("ReadingCelsius")),
            state(one.get("Status")),
            "cooling_alarm",
        )


def power(document: Document) -> Iterator[Measured]:
    """Power supplies and the power drawn, of a Power document."""
    controls = listed(document.get("PowerControl"))
    for index, one in enumerate(controls):
        name = "power_watts" if len(controls) == 1 else f"power_watts/{slug(text(one, 'Name', default=str(index + 1)))}"
        yield Measured(name, "watts", finite(one.get("PowerConsumedWatts")), state(one.get("Status")), "power_alarm")
    for index, one in enumerate(listed(document.get("PowerSupplies"))):
        name = slug(text(one, "Name", "MemberId", default=f"psu_{index + 1}"))
        yield _supply(name, one)
        taken, given = one.get("PowerInputWatts"), one.get("PowerOutputWatts", one.get("LastPowerOutputWatts"))
        yield from _supply_values(name, taken, given, one.get("LineInputVoltage"))


def fan(document: Document) -> Iterator[Measured]:
    """One Fan of a ThermalSubsystem."""
    name = slug(text(document, "Name", "Id"))
    speed = mapping(document.get("SpeedPercent"))
    health = state(document.get("Status"))
    rpm = finite(speed.get("SpeedRPM"))
    if rpm is not None:
        yield Measured(f"fan_speed_rpm/{name}", "rpm", rpm, health, "fan_failed")
        health = None  # told once
    percent = finite(speed.get("Reading"))
    if percent is not None or rpm is None:
        event = "fan_failed" if rpm is None else ""
        yield Measured(f"fan_speed_percent/{name}", "percent", percent, health, event)


def thermal_metrics(document: Document) -> Iterator[Measured]:
    """The temperatures of a ThermalMetrics document: a list of all, and a summary by place."""
    for index, one in enumerate(listed(document.get("TemperatureReadingsCelsius"))):
        source = text(one, "DataSourceUri").rsplit("/", 1)[-1]
        name = text(one, "DeviceName", default=source or f"temperature_{index + 1}")
        place = temperature_name(name, text(one, "PhysicalContext"))
        yield Measured(place, "celsius", finite(one.get("Reading")))
    summary = mapping(document.get("TemperatureSummaryCelsius"))
    for place, name in (("Intake", "inlet_temperature_celsius"), ("Exhaust", "outlet_temperature_celsius")):
        if summary.get(place) is not None:
            yield Measured(name, "celsius", finite(mapping(summary[place]).get("Reading")))


def power_supply(document: Document, metrics: Document | None) -> Iterator[Measured]:
    """One PowerSupply of a PowerSubsystem, with its Metrics where they could be read."""
    name = slug(text(document, "Name", "Id"))
    yield _supply(name, document)
    if metrics is not None:
        keys = ("InputPowerWatts", "OutputPowerWatts", "InputVoltage")
        taken, given, volts = (mapping(metrics.get(key)).get("Reading") for key in keys)
        yield from _supply_values(name, taken, given, volts)


def environment(document: Document) -> Iterator[Measured]:
    """The power drawn, of a chassis' EnvironmentMetrics."""
    if document.get("PowerWatts") is not None:
        yield Measured("power_watts", "watts", finite(mapping(document["PowerWatts"]).get("Reading")))


def leak_detector(document: Document) -> Iterator[Measured]:
    """One LeakDetector of a liquid-cooled chassis."""
    found = _HEALTH.get(text(document, "DetectorState").lower(), state(document.get("Status")))
    yield Measured(f"leak/{slug(text(document, 'Name', 'Id'))}", "", None, found, "leak_detected")


def sensor(document: Document) -> Iterator[Measured]:
    """One Sensor, where it is about power or cooling."""
    name = text(document, "Name", "Id")
    value, health = finite(document.get("Reading")), state(document.get("Status"))
    kind = text(document, "ReadingType").lower()
    if kind == "temperature":
        place = temperature_name(name, text(document, "PhysicalContext"))
        yield Measured(place, "celsius", value, health, "cooling_alarm")
    elif kind in _SENSORS:
        base, unit, event = _SENSORS[kind]
        yield Measured(f"{base}/{slug(name)}", unit, value, health, event)


def _supply(name: str, document: Document) -> Measured:
    health = state(document.get("Status"))
    if text(document, "LineInputStatus").lower() in _INPUT_LOST and health in {OK, WARNING, None}:
        health = CRITICAL  # a supply without input gives nothing, whatever it thinks of its own health
    return Measured(f"power_supply/{name}", "", None, health, "psu_failed")


def _supply_values(name: str, taken: object, given: object, volts: object) -> Iterator[Measured]:
    for base, unit, value in (
        ("power_supply_input_watts", "watts", taken),
        ("power_supply_output_watts", "watts", given),
        ("power_supply_input_volts", "volts", volts),
    ):
        if (number := finite(value)) is not None:
            yield Measured(f"{base}/{name}", unit, number)
