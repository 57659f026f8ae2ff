"""Management controllers over a real HTTP service with Redfish documents, and over a stand-in for ipmitool."""

from __future__ import annotations

import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from producers.facility.ipmi import Ipmitool
from producers.facility.points import Answer, DeviceError
from producers.facility.redfish import Redfish
from producers.facility.settings import BmcSettings, FacilitySettings
from producers.facility.source import FacilitySource
from producers.source import Origin
from schemas.catalog import Catalog, load
from schemas.records import FacilitySample, HardwareEvent
from tests.facility_devices import collection, needs_ipv6, new_machine, old_machine, redfish

pytestmark = pytest.mark.integration

ORIGIN = Origin("site", "rack-7", "node-1", "boot")
CHASSIS = "/redfish/v1/Chassis"


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


@pytest.fixture
def password(tmp_path: Path) -> Path:
    path = tmp_path / "password"
    path.write_text("correct horse\n")
    return path


def read_once(url: str, **fields: Any) -> Answer:
    service = Redfish(BmcSettings.model_validate({"url": url, "timeout_s": 2.0, **fields}))
    try:
        return service.read()
    finally:
        service.close()


def said(answer: Answer) -> dict[str, tuple[float | None, str | None]]:
    return {one.name: (one.value, one.state) for one in answer.measured}


OLD = {
    "inlet_temperature_celsius/inlet_temp": (24.0, "ok"),
    "outlet_temperature_celsius/rear": (41.5, "ok"),
    "temperature_celsius/cpu_2": (None, "absent"),
    "fan_speed_rpm/fan_1": (8400.0, "ok"),
    "fan_speed_percent/fan_2": (62.0, "ok"),
    "power_watts": (5120.0, None),
    "power_supply/psu_1": (None, "ok"),
    "power_supply_input_watts/psu_1": (2600.0, None),
    "power_supply_input_volts/psu_1": (230.0, None),
    "power_supply/psu_2": (None, "ok"),
    "power_supply_output_watts/psu_2": (2480.0, None),
    "power_supply/psu_3": (None, "absent"),
}
NEW = {
    "fan_speed_rpm/fan_1": (9100.0, "ok"),
    "fan_speed_percent/fan_1": (45.0, None),
    "fan_speed_percent/fan_2": (44.0, "ok"),
    "inlet_temperature_celsius/inlet_1": (23.0, None),
    "temperature_celsius/hbm_temp": (55.25, None),
    "inlet_temperature_celsius": (23.1, None),
    "outlet_temperature_celsius": (None, None),
    "leak/tray": (None, "ok"),
    "power_supply/psu_1": (None, "ok"),
    "power_supply_input_watts/psu_1": (3100.0, None),
    "power_supply_output_watts/psu_1": (2950.5, None),
    "power_supply_input_volts/psu_1": (229.5, None),
    "power_supply/psu_2": (None, "critical"),
    "power_watts": (6210.5, None),
}


def test_a_machine_with_the_old_documents_is_read_in_two_questions() -> None:
    with redfish(old_machine()) as service:
        bmc = Redfish(BmcSettings(url=service.url))
        first = bmc.read()
        service.asked.clear()
        second = bmc.read()
        bmc.close()

    assert said(first) == said(second) == OLD
    assert first.unread == ()
    assert service.asked == [f"{CHASSIS}/1/Thermal", f"{CHASSIS}/1/Power"]


@needs_ipv6
def test_a_controller_is_read_over_ipv6(password: Path) -> None:
    with redfish(old_machine(), user="reader", password="correct horse", address="::1") as service:
        answer = read_once(service.url, user="reader", password_file=password)

    assert service.url.startswith("http://[::1]:")
    assert said(answer) == OLD


def test_a_machine_with_the_new_documents_is_read() -> None:
    with redfish(new_machine()) as service:
        answer = read_once(service.url)

    assert said(answer) == NEW
    assert answer.unread == ()


def test_a_service_that_can_gives_a_collection_in_one_piece() -> None:
    documents = new_machine()
    documents["/redfish/v1"]["ProtocolFeaturesSupported"] = {"ExpandQuery": {"NoLinks": True}}
    fans = f"{CHASSIS}/BMC_0/ThermalSubsystem/Fans"
    members = [{"@odata.id": f"{fans}/{name}", **documents[f"{fans}/{name}"]} for name in ("F1", "F2")]
    documents[f"{fans}?$expand=.($levels=1)"] = {"Members": members}
    with redfish(documents) as service:
        answer = read_once(service.url)

    assert said(answer) == NEW
    assert f"{fans}/F1" not in service.asked
    # leak detectors and supplies have no such answer: it was tried once, then left
    assert len([path for path in service.asked if "expand" in path]) == 2


def test_sensors_are_read_where_nothing_else_has_temperatures() -> None:
    chassis = f"{CHASSIS}/1"
    sensors = {
        "Inlet": {"Name": "Inlet", "ReadingType": "Temperature", "Reading": 22.5, "Status": {"Health": "OK"}},
        "Bad": 500,
        "Empty": {"Name": "Outlet", "ReadingType": "Temperature", "Reading": None, "Status": {"State": "Enabled"}},
        "Other": {"Name": "Door", "ReadingType": "Barometric", "Reading": 1},
    }
    documents = {
        "/redfish/v1": {},  # without the links that it should have
        **collection(CHASSIS, {"1": {"Id": "1", "Sensors": {"@odata.id": f"{chassis}/Sensors"}}}),
        **collection(f"{chassis}/Sensors", sensors),
    }
    with redfish(documents) as service:
        answer = read_once(service.url)

    assert said(answer) == {
        "inlet_temperature_celsius/inlet": (22.5, "ok"),
        "outlet_temperature_celsius/outlet": (None, None),
    }
    assert answer.unread == (f"{chassis}/Sensors/Bad: status 500",)


def test_a_document_that_fails_later_leaves_its_points_without_values_and_its_neighbours_alone() -> None:
    documents = new_machine()
    fan = f"{CHASSIS}/BMC_0/ThermalSubsystem/Fans/F1"
    with redfish(documents) as service:
        bmc = Redfish(BmcSettings(url=service.url))
        bmc.read()
        documents[fan] = 500
        answer = bmc.read()
        bmc.close()

    assert said(answer) == NEW | {"fan_speed_rpm/fan_1": (None, None), "fan_speed_percent/fan_1": (None, None)}
    assert answer.unread == (f"{fan}: status 500",)


@pytest.mark.parametrize(
    "broken", [b"<html>not JSON</html>", b"[1, 2]", b'{"Fans": {}, "Temperatures": [null, 3]}', 503]
)
def test_a_broken_document_costs_only_itself(broken: Any) -> None:
    with redfish(old_machine() | {f"{CHASSIS}/1/Thermal": broken}) as service:
        found = said(read_once(service.url))

    assert found == {name: value for name, value in OLD.items() if name.startswith("power")}


def test_each_chassis_has_its_own_fan() -> None:
    documents = old_machine()
    other = {"Id": "HGX 0", "Thermal": {"@odata.id": f"{CHASSIS}/HGX_0/Thermal"}}
    documents |= collection(CHASSIS, {"1": documents[f"{CHASSIS}/1"], "HGX_0": other})
    documents[f"{CHASSIS}/HGX_0/Thermal"] = {"Fans": [{"Name": "Fan 1", "Reading": 5000, "ReadingUnits": "RPM"}]}
    with redfish(documents) as service:
        found = said(read_once(service.url))

    assert found["fan_speed_rpm/1/fan_1"] == (8400.0, "ok")
    assert found["fan_speed_rpm/hgx_0/fan_1"] == (5000.0, None)
    assert found["power_watts/1"] == (5120.0, None)


def test_a_collection_in_pages_is_read_whole() -> None:
    documents = new_machine()
    fans = f"{CHASSIS}/BMC_0/ThermalSubsystem/Fans"
    members = documents[fans]["Members"]
    documents[fans] = {"Members": members[:1], "Members@odata.nextLink": f"{fans}?$skip=1"}
    documents[f"{fans}?$skip=1"] = {"Members": members[1:]}
    with redfish(documents) as service:
        assert said(read_once(service.url)) == NEW


def test_it_logs_in_once_keeps_the_session_and_logs_out(password: Path) -> None:
    with redfish(old_machine(), user="reader", password="correct horse") as service:
        bmc = Redfish(BmcSettings(url=service.url, user="reader", password_file=password))
        for _ in range(3):
            assert said(bmc.read()) == OLD
        assert service.logins == 1
        bmc.close()
        assert service.tokens == set()


def test_a_session_that_ended_is_begun_anew(password: Path) -> None:
    with redfish(old_machine(), user="reader", password="correct horse") as service:
        bmc = Redfish(BmcSettings(url=service.url, user="reader", password_file=password))
        bmc.read()
        service.tokens.clear()
        assert said(bmc.read()) == OLD
        assert service.logins == 2
        bmc.close()


@pytest.mark.parametrize(("auth", "sessions"), [("basic", True), ("session", False)])
def test_the_password_itself_is_sent_where_asked_for_or_where_there_are_no_sessions(
    password: Path, auth: str, sessions: bool
) -> None:
    with redfish(old_machine(), user="reader", password="correct horse", sessions=sessions) as service:
        assert said(read_once(service.url, user="reader", password_file=password, auth=auth)) == OLD
        assert service.logins == 0


def test_a_login_that_is_refused_is_said_without_the_password(password: Path) -> None:
    with redfish(old_machine(), user="reader", password="another") as service:
        with pytest.raises(DeviceError, match="as reader: status 401; check user") as caught:
            read_once(service.url, user="reader", password_file=password)
        with pytest.raises(DeviceError, match="refuses us .401.; set user and password_file"):
            read_once(service.url)

    assert "horse" not in str(caught.value)


def test_a_password_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    said_so = pytest.raises(DeviceError, match="give a file that the agent's user can read")
    with redfish(old_machine(), user="reader", password="x") as service, said_so:
        read_once(service.url, user="reader", password_file=tmp_path / "missing")


def test_a_redirect_does_not_carry_the_login_away(password: Path) -> None:
    with redfish(old_machine(), user="reader", password="correct horse") as service:
        service.documents[CHASSIS] = 302
        with pytest.raises(DeviceError, match="status 302"):
            read_once(service.url, user="reader", password_file=password)


def test_a_certificate_is_verified_unless_told_otherwise(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", *words, *names], check=True, capture_output=True)
    with redfish(old_machine(), certificate=(certificate, key)) as service:
        with pytest.raises(DeviceError, match="cannot be verified; set ca_file, or verify_tls = false"):
            read_once(service.url)
        with pytest.raises(DeviceError, match="there is no such file"):
            read_once(service.url, ca_file=tmp_path / "missing.pem")
        assert said(read_once(service.url, ca_file=certificate)) == OLD
        assert said(read_once(service.url, verify_tls=False)) == OLD


def test_a_controller_that_is_slow_is_read_as_far_as_its_budget_goes() -> None:
    documents = new_machine()
    for path in (f"{CHASSIS}/BMC_0/ThermalSubsystem/Fans/F2", f"{CHASSIS}/BMC_0/ThermalSubsystem/ThermalMetrics"):
        documents[path] = _slowly(documents[path], 0.4)
    with redfish(documents) as service:
        began = time.monotonic()
        answer = read_once(service.url, budget_s=0.3)
        took_s = time.monotonic() - began

    assert said(answer) == {"fan_speed_rpm/fan_1": (9100.0, "ok"), "fan_speed_percent/fan_1": (45.0, None)}
    assert any("budget_s" in one for one in answer.unread)
    assert took_s < 2


def test_a_controller_that_stops_answering_is_left_after_two_tries() -> None:
    documents = new_machine()
    for path in list(documents):
        if path.startswith(f"{CHASSIS}/BMC_0/"):
            documents[path] = _slowly({}, 0.5)
    with redfish(documents) as service, pytest.raises(DeviceError, match="nothing could be read"):
        read_once(service.url, timeout_s=0.15)

    assert len([path for path in service.asked if path.startswith(f"{CHASSIS}/BMC_0/")]) == 2


def _slowly(document: Any, wait_s: float) -> Any:
    def answer() -> Any:
        time.sleep(wait_s)
        return document

    return answer


@pytest.mark.parametrize(
    ("documents", "why"),
    [
        ({}, "status 404; is it a Redfish service"),
        ({"/redfish/v1": {"Chassis": {"@odata.id": CHASSIS}}, CHASSIS: {"Members": []}}, "neither fans nor supplies"),
        ({"/redfish/v1": b"garbage"}, "is not JSON"),
    ],
)
def test_what_is_no_redfish_service_is_said(documents: dict[str, Any], why: str) -> None:
    with redfish(documents) as service, pytest.raises(DeviceError, match=why):
        read_once(service.url)


def test_a_controller_that_is_off_is_said() -> None:
    with pytest.raises(DeviceError, match="connection refused; is Redfish enabled"):
        read_once("http://127.0.0.1:1")


def ipmitool(tmp_path: Path, script: str) -> str:
    path = tmp_path / "ipmitool"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


SDR = """cat <<'END'
Inlet Temp | 05h | ok | 7.1 | 24 degrees C
PS1 Status | C8h | ok | 10.1 | Presence detected, Failure detected
END"""


def test_ipmitool_is_run_with_the_password_in_a_file(tmp_path: Path, password: Path) -> None:
    script = f'echo "$@" > {tmp_path}/arguments; echo $LC_ALL >> {tmp_path}/arguments\n{SDR}'
    settings = BmcSettings(
        ipmitool=True,
        ipmitool_path=ipmitool(tmp_path, script),
        host="10.0.0.17",
        user="reader",
        password_file=password,
    )

    answer = Ipmitool(settings).read()

    assert said(answer)["inlet_temperature_celsius/inlet_temp"] == (24.0, "ok")
    arguments = (tmp_path / "arguments").read_text()
    assert arguments == f"-I lanplus -H 10.0.0.17 -L USER -U reader -f {password} sdr elist\nC\n"


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'Could not open device at /dev/ipmi0 or /dev/ipmi/0' >&2; exit 1", "load ipmi_si and ipmi_devintf"),
        ("echo 'Error: Unable to establish IPMI v2 / RMCP+ session' >&2; exit 1", "check host, user, password_file"),
        ("exit 0", "it printed no sensors"),
        ("sleep 30", "not done after 0.3 s"),
    ],
)
def test_ipmitool_that_fails_is_said_with_what_to_do(tmp_path: Path, script: str, why: str) -> None:
    settings = BmcSettings(
        ipmitool=True,
        ipmitool_path=ipmitool(tmp_path, f"exec {script}" if "sleep" in script else script),
        budget_s=0.3 if "sleep" in script else 10,
    )

    with pytest.raises(DeviceError, match=why):
        Ipmitool(settings).read()


def test_ipmitool_steps_in_where_redfish_does_not_answer(tmp_path: Path, catalog: Catalog) -> None:
    bmc = BmcSettings(
        url="http://127.0.0.1:1", ipmitool=True, ipmitool_path=ipmitool(tmp_path, SDR), of_node="node-17", rack="rack-9"
    )
    source = FacilitySource(ORIGIN, catalog, FacilitySettings(bmcs=(bmc,)))

    sample, event = source.read(0)
    source.close()

    assert isinstance(sample, FacilitySample)
    assert (sample.source, sample.device, sample.of_node, sample.rack) == (
        "ipmitool",
        "bmc:node-17",
        "node-17",
        "rack-9",
    )
    assert isinstance(event, HardwareEvent)
    assert (event.kind, event.details["point"], event.details["of_node"]) == (
        "psu_failed",
        "power_supply/ps1_status",
        "node-17",
    )


def test_a_supply_that_fails_and_one_that_is_pulled_are_told_once_each(catalog: Catalog) -> None:
    documents = old_machine()
    supplies = documents[f"{CHASSIS}/1/Power"]["PowerSupplies"]
    told: list[tuple[int, str, str, str]] = []
    with redfish(documents) as service:
        source = FacilitySource(ORIGIN, catalog, FacilitySettings(bmcs=(BmcSettings(url=service.url),)))
        for tick in range(12):
            if tick == 3:
                supplies[0]["Status"] = {"State": "Enabled", "Health": "Critical"}
                supplies[1]["Status"] = {"State": "Absent"}
            if tick == 6:
                supplies[0]["Status"] = {"State": "Enabled", "Health": "OK"}
            for record in source.read(tick * 10_000):
                if isinstance(record, HardwareEvent):
                    assert record.details["component"] == "bmc:node-1"
                    assert record.source == "facility"
                    told.append((tick, record.kind, record.details["point"], record.action))
        source.close()

    assert told == [
        (3, "psu_failed", "power_supply/psu_1", "replace"),
        (3, "psu_failed", "power_supply/psu_2", "check_hardware"),
        (8, "device_alarm_cleared", "power_supply/psu_1", "none"),
    ]
