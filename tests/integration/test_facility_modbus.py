"""Modbus against real servers: TCP and a serial line, several units, what does not answer, what is refused."""

from __future__ import annotations

import json
import random
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymodbus.constants import ExcCodes
from pymodbus.simulator import DataType, SimData, SimDevice
from typer.testing import CliRunner

from infra import cli
from infra.errors import OperatorError
from producers.facility import maps
from producers.facility.modbus import ASK_AGAIN_AFTER, Bus
from producers.facility.points import Answer, DeviceError
from producers.facility.settings import FacilitySettings, ModbusDevice
from producers.facility.source import FacilitySource
from producers.source import Origin
from schemas.catalog import Catalog, load
from schemas.codec import SingleObjectCodec
from schemas.records import FacilitySample, HardwareEvent
from tests.facility_devices import ModbusDevices, free_port, modbus, needs_ipv6, registers, serial_line

pytestmark = pytest.mark.integration

ORIGIN = Origin("site", "rack-7", "node-1", "boot")
COOLER = [215, 331, 182, 244, 1500, 310, 455, 480, 121, 0, 0, 18_500, 2400, 2410, 2390, 2405, 0]
"""The 17 registers of generic_rear_door_cooler, all well: 21.5 °C in, 33.1 °C out, 150 l/min, no alarm bit."""
WELL = {"inlet_temperature_celsius": 21.5, "water_flow_litres_per_minute": 150.0, "heat_removed_watts": 18_500.0}


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


@pytest.fixture
def line() -> Iterator[tuple[str, str]]:
    with serial_line() as ends:
        yield ends


def device(port: int = 502, **fields: Any) -> ModbusDevice:
    given = {"name": "a", "kind": "cooling", "map": "generic_rear_door_cooler", "timeout_s": 0.3, "retries": 0}
    where = {} if "serial" in fields else {"host": "127.0.0.1", "port": port}
    return ModbusDevice.model_validate({**given, **where, **fields})


def read_once(found: ModbusDevice, register_map: maps.RegisterMap | None = None) -> Answer:
    bus = Bus([found])
    try:
        return bus.read(found, register_map or maps.load(found.map))
    finally:
        bus.close()


def values(answer: Answer) -> dict[str, float | None]:
    return {one.name: one.value for one in answer.measured}


def a_map(tmp_path: Path, text: str) -> maps.RegisterMap:
    path = tmp_path / "map.toml"
    path.write_text(f'[map]\ntitle = "Test"\nkind = "pdu"\nsource = "this test"\n{text}')
    return maps.load(str(path))


def plain(*addresses: int, head: str = "gap_words = 50\n") -> str:
    return head + "".join(f'[[register]]\nname = "r{address}"\naddress = {address}\n' for address in addresses)


def test_a_cooler_is_read_over_tcp_in_one_question() -> None:
    with modbus({1: [registers(0, COOLER)]}) as server:
        answer = read_once(device(server.port))

        assert values(answer) | WELL == values(answer)
        assert {one.state for one in answer.measured if one.event} <= {"ok"}
        assert server.questions == [(1, 3, 0, 17)]


def test_a_meter_is_read_as_its_manual_says() -> None:
    floats = {0: 230.5, 6: 4.25, 52: 2950.0, 70: 49.98, 72: 123456.0}
    words = [0] * 76
    for address, value in floats.items():
        words[address : address + 2] = struct.unpack(">HH", struct.pack(">f", value))
    empty = [SimData(0, values=[False] * 8, datatype=DataType.BITS)]
    simulated = SimDevice(1, simdata=(empty, empty, [registers(0, [0])], [registers(0, words)]))
    server = ModbusDevices({}, simulated=[simulated])
    try:
        found = values(read_once(device(server.port, kind="meter", map="eastron_sdm630")))
    finally:
        server.stop()

    assert found["voltage_volts/phase_1"] == 230.5
    assert found["current_amperes/phase_1"] == 4.25
    assert found["power_watts"] == 2950.0
    assert found["frequency_hertz"] == pytest.approx(49.98, abs=1e-3)
    assert found["energy_import_kilowatt_hours"] == 123456.0
    assert [question[1:] for question in server.questions] == [(4, 0, 18), (4, 52, 24)]


def test_coils_and_discrete_inputs_are_read(tmp_path: Path) -> None:
    bit = '[[register]]\nname = "{0}"\naddress = {1}\nfunction = "{2}"\ntype = "bool"\n'
    bit += 'states = {{ 0 = "ok", 1 = "critical" }}\n'
    asked = a_map(tmp_path, bit.format("pump", 3, "coil") + bit.format("leak", 9, "discrete"))
    coils = [SimData(0, values=[False, False, False, True] + [False] * 12, datatype=DataType.BITS)]
    inputs = [SimData(0, values=[False] * 16, datatype=DataType.BITS)]
    simulated = SimDevice(1, simdata=(coils, inputs, [registers(0, [0])], [registers(0, [0])]))
    server = ModbusDevices({}, simulated=[simulated])
    try:
        answer = read_once(device(server.port), asked)
    finally:
        server.stop()

    assert {one.name: one.state for one in answer.measured} == {"pump": "critical", "leak": "ok"}


def test_units_on_one_serial_line_are_read_one_after_the_other(line: tuple[str, str]) -> None:
    here, there = line
    with modbus({3: [registers(0, COOLER)], 4: [registers(0, [300, *COOLER[1:]])]}, path=there) as server:
        units = [device(name=f"u{unit}", serial=here, unit=unit, baud=115200) for unit in (3, 4)]
        bus = Bus(units)

        answers = [values(bus.read(unit, maps.load(unit.map))) for unit in units for _ in range(2)]
        bus.close()

        assert [found["inlet_temperature_celsius"] for found in answers] == [21.5, 21.5, 30.0, 30.0]
        assert [question[0] for question in server.questions] == [3, 3, 4, 4]


def test_a_unit_that_does_not_answer_is_an_event_once_and_its_neighbour_goes_on(
    line: tuple[str, str], catalog: Catalog
) -> None:
    here, there = line
    with modbus({3: [registers(0, COOLER)]}, path=there):
        devices = tuple(device(name=f"u{unit}", serial=here, unit=unit, baud=115200) for unit in (9, 3))
        source = FacilitySource(ORIGIN, catalog, FacilitySettings(devices=devices))

        records = [record for tick in range(3) for record in source.read(tick * 10_000)]
        source.close()

    events = [record for record in records if isinstance(record, HardwareEvent)]
    samples = [record for record in records if isinstance(record, FacilitySample)]
    assert [(event.kind, event.details["component"]) for event in events] == [("device_unreachable", "cooling:u9")]
    assert "unit 9" in events[0].raw
    assert "check the unit id, baud and parity" in events[0].raw
    assert [sample.device for sample in samples] == ["cooling:u3"] * 3


def test_an_answer_of_one_unit_that_comes_too_late_is_not_taken_for_that_of_the_next(line: tuple[str, str]) -> None:
    here, there = line

    async def slowly(*_: Any) -> None:
        time.sleep(0.5)  # noqa: ASYNC251 - the whole line hangs, as a slow device makes it

    slow = SimDevice(3, simdata=[registers(0, [111] * 17)], action=slowly)
    quick = SimDevice(4, simdata=[registers(0, COOLER)])
    server = ModbusDevices({}, simulated=[slow, quick], path=there)
    units = [device(name=f"u{unit}", serial=here, unit=unit, baud=115200) for unit in (3, 4)]
    bus = Bus(units)
    try:
        with pytest.raises(DeviceError, match="no answer within 0.3 s"):
            bus.read(units[0], maps.load(units[0].map))
        found: dict[str, float | None] = {}
        for _ in range(3):
            try:
                found = values(bus.read(units[1], maps.load(units[1].map)))
                break
            except DeviceError:
                continue
    finally:
        bus.close()
        server.stop()

    assert found["inlet_temperature_celsius"] == 21.5


def test_one_register_that_is_not_there_does_not_lose_its_neighbours(tmp_path: Path) -> None:
    asked = a_map(tmp_path, plain(*range(10)))
    with modbus({1: [registers(0, [7] * 5), registers(6, [8] * 4)]}) as server:
        found = device(server.port)
        bus = Bus([found])
        first = bus.read(found, asked)
        cost = len(server.questions)
        second = bus.read(found, asked)
        cost_again = len(server.questions) - cost
        bus.close()

    expected = {f"r{i}": 7.0 for i in range(5)} | {"r5": None} | {f"r{i}": 8.0 for i in range(6, 10)}
    assert values(first) == values(second) == expected
    assert first.unread == second.unread == ("r5: illegal address",)
    assert cost <= 9  # bisected, not asked one by one
    assert cost_again <= 4  # and what was learnt is kept


def test_a_hole_that_nobody_asked_for_costs_nothing_but_questions(tmp_path: Path) -> None:
    asked = a_map(tmp_path, plain(0, 1, 8, 9))
    with modbus({1: [registers(0, [1, 2]), registers(8, [3, 4])]}) as server:
        answer = read_once(device(server.port), asked)

    assert values(answer) == {"r0": 1.0, "r1": 2.0, "r8": 3.0, "r9": 4.0}
    assert answer.unread == ()


def test_a_device_that_failed_for_a_moment_is_asked_in_one_question_again(tmp_path: Path) -> None:
    failing = [True]

    async def fails(*_: Any) -> ExcCodes | None:
        return ExcCodes.DEVICE_FAILURE if failing and failing.pop() else None

    asked = a_map(tmp_path, plain(*range(4)))
    server = ModbusDevices({}, simulated=[SimDevice(1, simdata=[registers(0, [5] * 4)], action=fails)])
    found = device(server.port)
    bus = Bus([found])
    try:
        for _ in range(ASK_AGAIN_AFTER + 2):
            assert values(bus.read(found, asked)) == {f"r{i}": 5.0 for i in range(4)}
    finally:
        bus.close()
        server.stop()

    assert [question[2:] for question in server.questions[:3]] == [(0, 4), (0, 2), (2, 2)]
    assert server.questions[-1][2:] == (0, 4)


def test_a_refused_register_is_asked_for_again_after_a_while(tmp_path: Path) -> None:
    asked = a_map(tmp_path, plain(0, 5))
    port = free_port()
    found = device(port)
    bus = Bus([found])
    with modbus({1: [registers(0, [1])]}, port=port):
        before = [values(bus.read(found, asked))["r5"] for _ in range(2)]
    with modbus({1: [registers(0, [1] * 6)]}, port=port):
        after = [_until_read(bus, found, asked)["r5"] for _ in range(ASK_AGAIN_AFTER)]
        bus.close()

    assert before == [None, None]
    assert after[0] is None
    assert after[-1] == 1.0


def _until_read(bus: Bus, found: ModbusDevice, asked: maps.RegisterMap) -> dict[str, float | None]:
    for _ in range(3):
        try:
            return values(bus.read(found, asked))
        except DeviceError:
            continue
    raise AssertionError("the device never answered")


def test_a_device_that_is_restarted_is_read_again(catalog: Catalog) -> None:
    port = free_port()
    settings = FacilitySettings(devices=(device(port, retries=1),), period_ms=1000)
    source = FacilitySource(ORIGIN, catalog, settings)
    told: list[tuple[int, str]] = []
    samples: list[int] = []

    def tick(second: int) -> None:
        for record in source.read(second * 1000):
            if isinstance(record, HardwareEvent):
                told.append((second, record.kind))
            elif isinstance(record, FacilitySample):
                samples.append(second)

    with modbus({1: [registers(0, COOLER)]}, port=port):
        tick(0)
        tick(1)
    for second in range(2, 12):
        tick(second)
    with modbus({1: [registers(0, COOLER)]}, port=port):
        for second in range(12, 20):
            tick(second)
    source.close()

    assert [kind for _, kind in told] == ["device_unreachable", "device_recovered"]
    assert told[0][0] == 2
    assert 12 <= told[1][0] <= 17  # it was asked ever more rarely: at 2, 3, 5, 9 and 17
    assert samples[:2] == [0, 1]
    assert samples[-1] == 19


def test_a_leak_is_told_once_and_its_end_too(catalog: Catalog) -> None:
    with modbus({1: [registers(0, COOLER)]}) as server:
        settings = FacilitySettings(devices=(device(server.port, rack="rack-8"),))
        source = FacilitySource(ORIGIN, catalog, settings)
        told: list[HardwareEvent] = []
        for tick in range(12):
            if tick in {3, 7}:
                server.set(1, 16, [0b1 if tick == 3 else 0b0])
            told += [record for record in source.read(tick * 10_000) if isinstance(record, HardwareEvent)]
        source.close()

    leak, over = told
    assert (leak.kind, leak.event_ms, leak.severity, leak.action) == (
        "leak_detected",
        30_000,
        "critical",
        "check_hardware",
    )
    assert leak.details | {"component": "cooling:a", "point": "leak", "state": "critical"} == leak.details
    assert leak.rack == "rack-8"
    assert (over.kind, over.details["kind"], over.severity) == ("device_alarm_cleared", "leak_detected", "info")


def test_the_sample_can_be_sent_and_says_what_was_read(catalog: Catalog) -> None:
    with modbus({1: [registers(0, [32768, *COOLER[1:]])]}) as server:
        source = FacilitySource(
            ORIGIN, catalog, FacilitySettings(devices=(device(server.port),)), wall_ms=lambda: 10_123
        )
        (sample,) = source.read(10_000)
        source.close()

    codec = SingleObjectCodec()
    assert isinstance(sample, FacilitySample)
    assert codec.decode(codec.encode(sample), FacilitySample) == sample
    assert (sample.source, sample.device, sample.device_kind) == ("modbus", "cooling:a", "cooling")
    assert (sample.rack, sample.tick_ms, sample.observed_ms, sample.interval_ms) == ("rack-7", 10_000, 10_123, 10_000)
    points = {point.name: point for point in sample.points}
    assert points["inlet_temperature_celsius"].value is None  # 0x8000: the probe is not connected
    assert (points["outlet_temperature_celsius"].value, points["outlet_temperature_celsius"].unit) == (33.1, "celsius")
    assert (points["leak"].value, points["leak"].unit, points["leak"].state) == (0.0, "", "ok")


def test_a_wrong_map_is_the_trouble_of_its_device_alone(catalog: Catalog, tmp_path: Path) -> None:
    with modbus({1: [registers(0, COOLER)]}) as server:
        wrong = device(server.port, name="wrong", map=str(tmp_path / "missing.toml"))
        source = FacilitySource(ORIGIN, catalog, FacilitySettings(devices=(wrong, device(server.port))))
        event, sample = source.read(0)
        source.close()

    assert isinstance(event, HardwareEvent)
    assert (event.kind, event.details["component"]) == ("device_unreachable", "cooling:wrong")
    assert "missing.toml: cannot be read: no such file" in event.raw
    assert isinstance(sample, FacilitySample)
    assert sample.device == "cooling:a"


def test_points_that_a_device_refuses_are_told_once(catalog: Catalog) -> None:
    with modbus({1: [registers(0, COOLER[:16])]}) as server:
        source = FacilitySource(ORIGIN, catalog, FacilitySettings(devices=(device(server.port),)))
        told = [
            record for tick in range(4) for record in source.read(tick * 10_000) if isinstance(record, HardwareEvent)
        ]
        source.close()

    assert [event.kind for event in told] == ["metric_unreadable"]
    assert "alarms: illegal address" in told[0].raw


def test_a_device_that_stops_answering_half_way_keeps_what_it_said(tmp_path: Path) -> None:
    asked = a_map(tmp_path, plain(0, 20, 40, head="gap_words = 0\n"))
    with modbus({1: [registers(0, [5] * 50)]}) as server:
        server.patience = 1
        found = device(server.port)
        bus = Bus([found])
        cut = bus.read(found, asked)
        server.patience = 1_000_000
        whole = bus.read(found, asked)
        bus.close()

    assert values(cut) == {"r0": 5.0, "r20": None, "r40": None}
    assert cut.unread[0].startswith("r20: asking unit 1 at 127.0.0.1:")
    assert cut.unread[1] == "r40: it stopped answering"
    assert values(whole) == {"r0": 5.0, "r20": 5.0, "r40": 5.0}
    assert whole.unread == ()


def test_a_device_that_stops_answering_while_a_block_is_split_is_asked_for_the_rest_later(tmp_path: Path) -> None:
    asked = a_map(tmp_path, plain(*range(8)))
    with modbus({1: [registers(0, [5] * 6), registers(7, [6])]}) as server:
        server.patience = 2
        found = device(server.port)
        bus = Bus([found])
        cut = bus.read(found, asked)
        server.patience = 1_000_000
        whole = bus.read(found, asked)
        before = len(server.questions)
        again = bus.read(found, asked)
        bus.close()

    assert values(cut) == {f"r{i}": 5.0 if i < 4 else None for i in range(8)}
    assert [one.split(":")[0] for one in cut.unread] == ["r4", "r5", "r6", "r7"]
    assert values(whole) == values(again) == {f"r{i}": 5.0 for i in range(6)} | {"r6": None, "r7": 6.0}
    assert [question[2:] for question in server.questions[before:]] == [(0, 4), (4, 2), (7, 1)]


def test_a_device_that_refuses_everything_was_not_read(catalog: Catalog) -> None:
    with modbus({1: [registers(1000, [0])]}) as server:
        source = FacilitySource(ORIGIN, catalog, FacilitySettings(devices=(device(server.port),)))
        (told,) = [record for tick in range(3) for record in source.read(tick * 10_000)]
        source.close()

    assert isinstance(told, HardwareEvent)
    assert told.kind == "device_unreachable"
    assert "it refuses every register of the map (illegal address); is it the map of this device" in told.raw


def test_one_dead_bus_does_not_hold_up_the_others(catalog: Catalog) -> None:
    with modbus({1: [registers(0, COOLER)]}) as server, modbus({99: [registers(0, [0])]}) as mute:
        dead = tuple(device(mute.port, name=f"dead{i}", unit=i, timeout_s=0.4) for i in range(2, 4))
        source = FacilitySource(ORIGIN, catalog, FacilitySettings(devices=(*dead, device(server.port))))
        began = time.monotonic()
        seen: list[str] = []
        watch = threading.Timer(0.2, lambda: seen.append(source.doing))
        watch.start()
        records = list(source.read(0))
        took_s = time.monotonic() - began
        watch.join()
        source.close()

    assert [type(record).__name__ for record in records] == ["HardwareEvent", "HardwareEvent", "FacilitySample"]
    assert took_s < source.deadline_s
    assert seen == ["asking cooling:dead2"]
    assert source.doing == "asking nobody"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"port": 1}, "connecting to 127.0.0.1:1: connection refused; is the device on"),
        ({"serial": "/dev/nonexistent"}, "opening /dev/nonexistent: no such file or directory; is the adapter plugged"),
        ({"serial": "/dev/null"}, "opening /dev/null: it is in use by another program, or is no serial device"),
    ],
)
def test_what_cannot_be_reached_is_said_with_what_to_do(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(DeviceError) as caught:
        read_once(device(**fields))

    assert said in str(caught.value)


def test_a_device_that_answers_nonsense_is_never_more_than_unreachable() -> None:
    chance = random.Random(7)

    class Nonsense(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while question := self.request.recv(256):
                good = bytes([3, 34]) + b"".join(word.to_bytes(2, "big") for word in COOLER)
                body = bytearray(good if chance.random() < 0.5 else chance.randbytes(chance.randrange(1, 40)))
                for _ in range(chance.randrange(3)):
                    body[chance.randrange(len(body))] = chance.randrange(256)
                size = len(body) + 1 if chance.random() < 0.8 else chance.randrange(300)
                self.request.sendall(question[:4] + size.to_bytes(2, "big") + question[6:7] + bytes(body))

    outcomes = {"answers": 0, "errors": 0}
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Nonsense) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        found = device(server.server_address[1], timeout_s=0.02)
        bus = Bus([found])
        asked = maps.load(found.map)
        for _ in range(150):
            try:
                assert len(bus.read(found, asked).measured) == 19
                outcomes["answers"] += 1
            except DeviceError:
                outcomes["errors"] += 1
        bus.close()
        server.shutdown()

    assert min(outcomes.values()) > 10, outcomes


def test_a_service_that_is_no_modbus_gives_no_values() -> None:
    class Chatter(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(256)
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 20)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Chatter) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        with pytest.raises(DeviceError):
            read_once(device(server.server_address[1]))
        server.shutdown()


def test_the_command_reads_a_device_for_commissioning(line: tuple[str, str]) -> None:
    here, there = line
    words = ["--map", "generic_rear_door_cooler", "--serial", here, "--unit", "3", "--baud", "115200"]
    with modbus({3: [registers(0, COOLER)]}, path=there):
        shown = CliRunner().invoke(cli.app, ["facility", "read", *words], env={"COLUMNS": "120"})
        machine = CliRunner().invoke(cli.app, cli.hoist(["facility", "read", *words, "--json"]))

    assert shown.exit_code == 0, shown.output
    row = next(row for row in shown.output.splitlines() if "heat_removed_watts" in row)
    assert "18,500" in row
    assert "watts" in row
    found = {point["name"]: point["value"] for point in json.loads(machine.stdout)["points"]}
    assert found | WELL == found


@needs_ipv6
@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_a_device_is_read_over_ipv6(host: str) -> None:
    with modbus({1: [registers(0, COOLER)]}, address="::1") as server:
        found = values(read_once(device(server.port, host=host)))
    assert found | WELL == found


@needs_ipv6
def test_the_command_reads_over_ipv6_and_names_the_address_as_it_was_given() -> None:
    words = ["facility", "read", "--map", "generic_rear_door_cooler", "--host"]
    with modbus({1: [registers(0, COOLER)]}, address="::1") as server:
        where = f"[::1]:{server.port}"
        there = CliRunner().invoke(cli.app, [*words, where])
    gone = CliRunner().invoke(cli.app, [*words, where])

    assert there.exit_code == 0
    assert f"unit 1 at {where}" in there.stdout
    assert isinstance(gone.exception, OperatorError)
    assert f"connecting to {where}: connection refused" in str(gone.exception)


def test_the_command_reads_over_tcp_and_says_what_could_not_be_read() -> None:
    with modbus({1: [registers(0, COOLER[:16])]}) as server:
        words = ["facility", "read", "--map", "generic_rear_door_cooler", "--host", f"127.0.0.1:{server.port}"]
        done = CliRunner().invoke(cli.app, words)

    assert done.exit_code == 1
    assert "could not be read: alarms: illegal address" in done.stderr


def test_the_command_checks_a_map(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text('[map]\ntitle = "Test"\nkind = "pdu"\nsource = "x"\n[[register]]\nname = "a"\naddress = "7"\n')

    wrong = CliRunner().invoke(cli.app, ["facility", "check", str(path)])
    good = CliRunner().invoke(cli.app, ["facility", "check", "eastron_sdm630"])

    assert wrong.exit_code == 1
    assert f"{path}:7: register 1 (a), address: found '7'" in wrong.stderr
    assert good.exit_code == 0
    assert "15 points in 2 questions" in good.stdout
