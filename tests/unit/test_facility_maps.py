"""Register maps: those that ship, and what is said of those that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.commands.facility import app
from producers.facility import maps
from producers.facility.settings import BmcSettings, FacilitySettings, ModbusDevice

HEAD = '[map]\ntitle = "Test"\nkind = "pdu"\nsource = "this test"\n'
GOOD = '\n[[register]]\nname = "power_watts"\naddress = 7\nunit = "watts"\n'


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(maps.MapError) as caught:
        maps.load(str(path))
    return [str(problem).removeprefix(f"{tmp_path}/") for problem in caught.value.problems]


@pytest.mark.parametrize("name", maps.names())
def test_a_map_that_ships_is_good_and_says_where_it_is_from(name: str) -> None:
    found = maps.load(name)

    assert found.registers
    assert found.source
    # who claims a vendor's name has its document
    assert found.source.startswith("none:") == name.startswith("generic_")


def test_the_maps_cover_a_pdu_a_cooler_and_a_meter() -> None:
    assert {maps.load(name).kind for name in maps.names()} == {"pdu", "cooling", "meter"}


def test_numbers_of_a_manual_become_addresses_on_the_wire() -> None:
    found = {register.name: register.address for register in maps.load("eastron_sdm630").registers}

    assert found["voltage_volts/phase_1"] == 0x00
    assert found["power_watts"] == 0x34
    assert found["frequency_hertz"] == 0x46
    assert found["energy_import_kilowatt_hours"] == 0x48


def test_the_orders_of_the_map_hold_where_a_register_has_none_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(
        HEAD
        + 'word_order = "little"\n'
        + GOOD
        + 'word_order = "big"\n'
        + GOOD.replace("power_watts", "other").replace("7", "9")
    )

    first, second = maps.load(str(tmp_path / "my.toml")).registers

    assert (first.word_order, second.word_order, second.byte_order) == ("big", "little", "big")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('type = "u17"\n', "my.toml:10: register 1 (power_watts), type: found 'u17': input should be 'u16'"),
        ("scael = 0.1\n", "my.toml:10: register 1 (power_watts), scael: there is no such key"),
        ("scale = 0\n", "my.toml:10: register 1 (power_watts), scale: found 0: it would make every value the same"),
        ('function = "coil"\n', "my.toml:6: register 1 (power_watts): a coil is one bit"),
        ('type = "string"\n', "my.toml:6: register 1 (power_watts): a string needs words"),
        ("words = 2\n", "my.toml:6: register 1 (power_watts): words is given, but a u16 has 1"),
        ("low_warning = 5\nhigh_warning = 2\n", "my.toml:6: register 1 (power_watts): limits must rise"),
        ('event = "meltdown"\n', "my.toml:10: register 1 (power_watts), event: found 'meltdown'"),
        ('states = { x = "ok" }\n', "my.toml:10: register 1 (power_watts), states.x.[key]: found 'x'"),
        ('type = "bitfield"\n', "my.toml:6: register 1 (power_watts): bits belong to type bitfield"),
        ("\n[[register]]\nname = 'a'\n", "my.toml:11: register 2 (a), address: is missing"),
        ("\n[[register]]\nname = 'Power W'\naddress = 1\n", "my.toml:12: register 2 (Power W), name: found 'Power W'"),
        (GOOD, "my.toml:12: register 2 (power_watts): the name 'power_watts' is that of register 1 too"),
        ("\n[[register]]\nname = 'a'\naddress = 65535\ntype = 'u32'\n", "my.toml:13: register 2 (a): address 65535"),
        ("oops\n", "my.toml:10: is not TOML"),
        ("\n[registers]\n", "my.toml: registers: there is no such key"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_file_line_and_key(tmp_path: Path, more: str, said: str) -> None:
    found = problems(tmp_path, HEAD + GOOD + more)

    assert found[0].startswith(said), found


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, HEAD.replace("pdu", "toaster") + GOOD.replace('watts"\n', 'W"\n', 2) + "bits = 3\n")

    assert [line.split(": ")[0] for line in found] == ["my.toml:3", "my.toml:7", "my.toml:9", "my.toml:10"]
    assert "units are words: watts" in found[2]


def test_an_address_below_the_first_of_the_manual_is_refused(tmp_path: Path) -> None:
    (said,) = problems(tmp_path, HEAD + "base = 40001\n" + GOOD)

    assert said == "my.toml:9: register 1 (power_watts): address 7 lies below base 40001"


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        (HEAD + GOOD, "1 point in 1 question"),
        (HEAD + GOOD + GOOD.replace("7", "9000").replace("power_watts", "energy_joules"), "2 points in 2 questions"),
    ],
)
def test_a_good_map_is_summed_up(tmp_path: Path, text: str, counts: str) -> None:
    path = tmp_path / "my.toml"
    path.write_text(text)
    done = CliRunner().invoke(app, ["check", str(path)])
    assert done.stdout.splitlines()[0] == f"{path}: good: Test; {counts}"


@pytest.mark.parametrize("name", ["nonesuch", "missing.toml", "."])
def test_a_map_that_is_not_there_is_said(name: str) -> None:
    with pytest.raises(maps.MapError, match="eastron_sdm630|no such file|is a directory"):
        maps.load(name)


def test_bytes_that_are_no_text_are_said(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_bytes(b"\xff\xfe")

    with pytest.raises(maps.MapError, match="UTF-8"):
        maps.load(str(tmp_path / "my.toml"))


def test_a_device_is_reached_one_way() -> None:
    with pytest.raises(ValueError, match="host or serial, one of them"):
        ModbusDevice(name="a", kind="pdu", map="m")
    with pytest.raises(ValueError, match="on a serial line it is 1 to 247"):
        ModbusDevice(name="a", kind="pdu", map="m", serial="/dev/ttyS0", unit=0)


def test_two_devices_of_one_name_or_two_speeds_on_one_line_are_refused() -> None:
    first = ModbusDevice(name="a", kind="pdu", map="m", serial="/dev/ttyS0", unit=1)
    with pytest.raises(ValueError, match="named twice: pdu:a"):
        FacilitySettings(devices=(first, first))
    second = ModbusDevice(name="b", kind="pdu", map="m", serial="/dev/ttyS0", unit=2, baud=19200)
    with pytest.raises(ValueError, match="a and b are both on /dev/ttyS0"):
        FacilitySettings(devices=(first, second))


def test_a_password_never_crosses_the_network_in_clear() -> None:
    with pytest.raises(ValueError, match="in clear; use https"):
        BmcSettings(url="http://bmc-17", user="reader", password_file=Path("secret"))
    assert BmcSettings(url="http://127.0.0.1:8000", user="reader", password_file=Path("secret")).verify_tls
    with pytest.raises(ValueError, match="holds a login"):
        BmcSettings(url="https://root:calvin@bmc-17")
    with pytest.raises(ValueError, match="give url"):
        BmcSettings()


def test_a_map_without_registers_is_refused(tmp_path: Path) -> None:
    assert problems(tmp_path, HEAD) == ["my.toml: register: is missing"]
    assert problems(tmp_path, "register = []\n" + HEAD) == [
        "my.toml: register: there is none; give [[register]] tables"
    ]
