"""How a device or a controller is named in the settings: host, port, URL, over IPv4 and IPv6."""

from __future__ import annotations

from typing import Any

import pytest

from producers.facility.settings import BmcSettings, ModbusDevice, split_host


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("pdu-7.example", "pdu-7.example", None),
        ("pdu-7.example:1502", "pdu-7.example", 1502),
        ("10.0.7.12", "10.0.7.12", None),
        ("10.0.7.12:502", "10.0.7.12", 502),
        ("::1", "::1", None),
        ("[::1]", "::1", None),
        ("[::1]:502", "::1", 502),
        ("fd00:7::12", "fd00:7::12", None),
        ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535),
    ],
)
def test_a_host_may_come_with_its_port(text: str, host: str, port: int | None) -> None:
    assert split_host(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    ["[::1", "[]:502", "[10.0.7.12]:502", "[::1]502", "[::1]:", "host:", ":502", "host:0", "host:65536", "host:x"],
)
def test_a_host_that_is_none_is_refused_with_what_was_found(text: str) -> None:
    with pytest.raises(ValueError, match="found"):
        split_host(text)


def device(**fields: Any) -> ModbusDevice:
    return ModbusDevice.model_validate({"name": "a", "kind": "pdu", "map": "m", **fields})


@pytest.mark.parametrize(
    ("given", "bus"),
    [
        ({"host": "10.0.7.12"}, "10.0.7.12:502"),
        ({"host": "10.0.7.12:1502"}, "10.0.7.12:1502"),
        ({"host": "fd00::7", "port": 1502}, "[fd00::7]:1502"),
        ({"host": "[fd00::7]:1502"}, "[fd00::7]:1502"),
        ({"host": "[fd00::7]:1502", "port": 1502}, "[fd00::7]:1502"),
    ],
)
def test_a_device_is_on_the_same_bus_however_its_host_is_written(given: dict[str, Any], bus: str) -> None:
    assert device(**given).bus == bus


def test_two_ports_for_one_device_are_refused() -> None:
    with pytest.raises(ValueError, match="give the port once"):
        device(host="[fd00::7]:1502", port=502)


@pytest.mark.parametrize("url", ["https://fd00::7", "https://fd00::7/redfish", "https://[fd00::7", "https://bmc:99999"])
def test_a_url_whose_address_or_port_is_none_is_refused_with_how_it_is_written(url: str) -> None:
    with pytest.raises(ValueError, match=r"stands in brackets, as in https://\[fd00::7\]"):
        BmcSettings(url=url)


def test_a_controller_over_the_network_is_named_without_brackets_for_ipmitool() -> None:
    assert BmcSettings(ipmitool=True, host="[fd00::7]").host == "fd00::7"
    with pytest.raises(ValueError, match="leave the port out"):
        BmcSettings(ipmitool=True, host="[fd00::7]:623")
