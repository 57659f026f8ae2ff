"""What controllers print and send, as points: ipmitool's text, Redfish documents of both generations, and garbage."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.facility import redfish_documents as documents
from producers.facility.alarms import CLEAR_AFTER, Alarms
from producers.facility.ipmi import Ipmitool, parse
from producers.facility.points import DeviceError, Measured, distinct, slug
from producers.facility.redfish_session import Session
from producers.facility.settings import BmcSettings
from producers.standing import REPEAT_S

SDR = """\
Inlet Temp       | 05h | ok  |  7.1 | 24 degrees C
Exhaust Temp     | 01h | nc  |  7.1 | 61 degrees C
GPU1 Temp        | 0Eh | ucr |  3.1 | 91 degrees C
GPU2 Temp        | 0Fh | ns  |  3.2 | Disabled
Fan1A RPM        | 30h | ok  |  7.1 | 8400 RPM
Fan2A RPM        | 31h | lcr |  7.1 | 0 RPM
Current 1        | 6Ah | ok  | 10.1 | 1.40 Amps
Voltage 1        | 6Dh | ok  | 10.1 | 230 Volts
Pwr Consumption  | 77h | ok  |  7.1 | 1.12e+03 Watts
CPU Usage        | FDh | ok  |  7.1 | 12 percent
PS1 Status       | C8h | ok  | 10.1 | Presence detected
PS2 Status       | C9h | ok  | 10.2 | Presence detected, Failure detected
PS3 Status       | CAh | ok  | 10.3 | Presence detected, Power Supply AC lost
PS4 Status       | CBh | ok  | 10.4 | Presence detected, Predictive failure
PS5 Status       | CCh | ns  | 10.5 | No Reading
Fan Redundancy   | 75h | ok  |  7.1 | Redundancy Lost
Leak Rope        | D1h | ok  | 30.1 | State Asserted
Intrusion        | 73h | ok  |  7.1 |
Could not send request
"""
SENSOR = """\
Inlet Temp       | 24.000     | degrees C  | ok    | na        | -7.000    | 3.000     | 42.000    | 47.000    | na
FAN1             | 8400.000   | RPM        | ok    | 280.000   | 420.000   | na        | na        | 35560.000 | na
FAN2             | na         | RPM        | na    | 280.000   | 420.000   | na        | na        | 35560.000 | na
FAN3             | 0.000      | RPM        | nr    | 280.000   | 420.000   | na        | na        | 35560.000 | na
PS1 Status       | 0x1        | discrete   | 0x0100| na        | na        | na        | na        | na        | na
PS2 Status       | 0x0        | discrete   | 0x0380| na        | na        | na        | na        | na        | na
PS3 Status       | na         | discrete   | na    | na        | na        | na        | na        | na        | na
Chassis Intru    | 0x0        | discrete   | 0x0000| na        | na        | na        | na        | na        | na
"""


def said(text: str) -> dict[str, tuple[float | None, str | None, str]]:
    return {one.name: (one.value, one.state, one.event) for one in parse(text.splitlines())}


def test_ipmitool_sdr_is_read() -> None:
    assert said(SDR) == {
        "inlet_temperature_celsius/inlet_temp": (24.0, "ok", "cooling_alarm"),
        "outlet_temperature_celsius/exhaust_temp": (61.0, "warning", "cooling_alarm"),
        "temperature_celsius/gpu1_temp": (91.0, "critical", "cooling_alarm"),
        "fan_speed_rpm/fan1a_rpm": (8400.0, "ok", "fan_failed"),
        "fan_speed_rpm/fan2a_rpm": (0.0, "critical", "fan_failed"),
        "current_amperes/current_1": (1.4, "ok", "power_alarm"),
        "voltage_volts/voltage_1": (230.0, "ok", "power_alarm"),
        "power_watts/pwr_consumption": (1120.0, "ok", "power_alarm"),
        "level_percent/cpu_usage": (12.0, "ok", ""),
        "power_supply/ps1_status": (None, "ok", "psu_failed"),
        "power_supply/ps2_status": (None, "critical", "psu_failed"),
        "power_supply/ps3_status": (None, "critical", "psu_failed"),
        "power_supply/ps4_status": (None, "warning", "psu_failed"),
        "state/fan_redundancy": (None, "warning", "fan_failed"),
        "leak/leak_rope": (None, "critical", "leak_detected"),
    }


def test_ipmitool_sensor_is_read() -> None:
    assert said(SENSOR) == {
        "inlet_temperature_celsius/inlet_temp": (24.0, "ok", "cooling_alarm"),
        "fan_speed_rpm/fan1": (8400.0, "ok", "fan_failed"),
        "fan_speed_rpm/fan2": (None, None, "fan_failed"),
        "fan_speed_rpm/fan3": (0.0, "critical", "fan_failed"),
        "power_supply/ps1_status": (None, "ok", "psu_failed"),
        "power_supply/ps2_status": (None, "critical", "psu_failed"),
    }


@pytest.mark.parametrize("text", [SDR, SENSOR])
def test_line_ends_of_another_system_change_nothing(text: str) -> None:
    assert said(text.replace("\n", "\r\n")) == said(text)


@given(st.text(st.sampled_from("Fan1|x \n0.9-RPMdegrs Cokna\t|"), max_size=300))
def test_garbage_from_ipmitool_is_never_an_error_and_loses_no_neighbour(text: str) -> None:
    found = said(f"{text}\nInlet Probe | 05h | ok | 7.1 | 24 degrees C\n")

    assert found["inlet_temperature_celsius/inlet_probe"] == (24.0, "ok", "cooling_alarm")


def test_a_sensor_that_says_nothing_now_is_known_by_what_it_said_before() -> None:
    lines = iter(["Fan1 | 30h | ok | 7.1 | 8400 RPM\n", "Fan1 | 30h | ns | 7.1 | No Reading\n"])

    def run(command: list[str], _: float) -> subprocess.CompletedProcess[bytes]:
        return subprocess.CompletedProcess(command, 0, next(lines).encode(), b"")

    tool = Ipmitool(BmcSettings(ipmitool=True), run=run)

    assert tool.read().measured == (Measured("fan_speed_rpm/fan1", "rpm", 8400.0, "ok", "fan_failed"),)
    assert tool.read().measured == (Measured("fan_speed_rpm/fan1", "rpm", None, None, "fan_failed"),)


KEYS = re.findall(
    r"\w+",
    "Name Status State Health Fans Temperatures Reading ReadingUnits PowerControl PowerSupplies PowerConsumedWatts "
    "SpeedPercent SpeedRPM TemperatureReadingsCelsius TemperatureSummaryCelsius Intake InputPowerWatts ReadingType "
    "DetectorState PowerWatts LineInputStatus PhysicalContext",
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.floats(allow_nan=True), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=20,
)
READERS: list[Any] = [
    documents.thermal,
    documents.power,
    documents.fan,
    documents.thermal_metrics,
    documents.environment,
    documents.leak_detector,
    documents.sensor,
    lambda document: documents.power_supply(document, document),
]


@given(JSON)
def test_a_document_of_any_shape_is_never_an_error(document: Any) -> None:
    for reader in READERS:
        for measured in reader(documents.mapping(document)):
            assert measured.name
            assert measured.value is None or measured.value == measured.value


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ({"State": "Enabled", "Health": "OK"}, "ok"),
        ({"State": "Enabled", "Health": "Warning"}, "warning"),
        ({"Health": "Critical"}, "critical"),
        ({"State": "Absent", "Health": None}, "absent"),
        ({"State": "StandbyOffline"}, "standby_offline"),
        ({"State": "Enabled"}, None),
        ({}, None),
        (None, None),
        ("OK", None),
    ],
)
def test_a_status_becomes_a_state(status: Any, state: str | None) -> None:
    assert documents.state(status) == state


@pytest.mark.parametrize("target", ["https://evil.example/redfish", "//evil.example/x", "", None, 7])
def test_a_link_out_of_the_service_is_not_followed(target: Any) -> None:
    assert documents.link({"@odata.id": target}) == ""


def test_a_supply_without_input_has_failed_whatever_it_says_of_its_health() -> None:
    healthy = {"Name": "PSU 2", "Status": {"State": "Enabled", "Health": "OK"}, "LineInputStatus": "LossOfInput"}

    (supply,) = documents.power_supply(healthy, None)

    assert supply == Measured("power_supply/psu_2", "", None, "critical", "psu_failed")


@pytest.mark.parametrize(
    ("kind", "units", "name"),
    [
        ("Temperature", "Cel", "inlet_temperature_celsius/front_1"),
        ("Rotational", "RPM", "fan_speed_rpm/front_1"),
        ("LiquidFlowLPM", "L/min", "liquid_flow_litres_per_minute/front_1"),
        ("Power", "W", "power_watts/front_1"),
    ],
)
def test_a_sensor_is_named_by_what_it_reads(kind: str, units: str, name: str) -> None:
    sensor = {
        "Name": "Front 1",
        "ReadingType": kind,
        "ReadingUnits": units,
        "Reading": 21.5,
        "PhysicalContext": "Intake",
    }

    (measured,) = documents.sensor(sensor)

    assert (measured.name, measured.value) == (name, 21.5)


def test_parts_of_one_name_stay_apart() -> None:
    measured = distinct([Measured("fan/a", value=1), Measured("fan/a", value=2), Measured("fan/a_2", value=3)])

    assert [one.name for one in measured] == ["fan/a", "fan/a_2", "fan/a_2_2"]


def test_names_are_words() -> None:
    assert slug(" Fan #3 (rear) ") == "fan_3_rear"
    assert slug("***") == "unnamed"


def states(alarms: Alarms, *given_states: str | None, at_s: float = 0) -> list[str]:
    told: list[str] = []
    for state in given_states:
        changes = alarms.update([Measured("fan/1", state=state, event="fan_failed")], at_s)
        told += ["over" if change.ended else str(change.measured.state) for change in changes]
    return told


def test_an_alarm_is_told_when_it_begins_and_when_it_gets_worse() -> None:
    assert states(Alarms(), "ok", "warning", "warning", "critical", "warning", "critical") == ["warning", "critical"]


def test_an_alarm_is_over_after_some_good_readings_in_a_row() -> None:
    good = ["ok"] * CLEAR_AFTER

    assert states(Alarms(), "critical", "ok", "critical", *good[1:], "critical", *good) == ["critical", "over"]


def test_a_value_that_is_not_read_neither_raises_an_alarm_nor_ends_one() -> None:
    assert states(Alarms(), None, "critical", *[None] * 9) == ["critical"]


def test_an_empty_bay_is_no_trouble_and_a_part_that_was_pulled_is() -> None:
    assert states(Alarms(), "absent", "absent") == []
    assert states(Alarms(), "ok", "absent", "absent") == ["absent"]


def test_an_alarm_that_stands_is_told_again_before_its_fault_would_end() -> None:
    alarms = Alarms()

    assert states(alarms, "critical") == ["critical"]
    assert states(alarms, "critical", at_s=REPEAT_S - 1) == []
    assert states(alarms, "critical", "critical", at_s=REPEAT_S) == ["critical"]


def test_an_agent_without_devices_does_not_pay_for_their_libraries() -> None:
    libraries = "('pymodbus', 'serial', 'urllib3')"
    script = f"import sys, producers.facility.source; print([m for m in {libraries} if m in sys.modules])"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file or directory"), (b"\xff\xfe", "it is not UTF-8 text")]
)
def test_a_password_that_cannot_be_read_is_told_in_words(tmp_path: Path, content: bytes | None, why: str) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    session = Session(BmcSettings(url="https://127.0.0.1:1", user="reader", password_file=path))
    with pytest.raises(DeviceError) as caught:
        session.get("/redfish/v1")
    assert str(caught.value) == (
        f"reading the password of reader from {path}: {why}; give a file that the agent's user can read"
    )


def test_ipmitool_that_is_not_there_is_said_with_what_to_do() -> None:
    with pytest.raises(DeviceError, match="no such program; install ipmitool"):
        Ipmitool(BmcSettings(ipmitool=True, ipmitool_path="/nonexistent/ipmitool")).read()
