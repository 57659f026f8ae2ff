"""Devices for the tests of `producers.facility`: real Modbus servers, on TCP and on a pty, and a Redfish service."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import pty
import select
import socket
import ssl
import struct
import threading
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pymodbus import FramerType
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from producers.facility.maps import Register

FORMATS = {"u16": "H", "s16": "h", "u32": "I", "s32": "i", "u64": "Q", "s64": "q", "f32": "f", "f64": "d"}


def encode(register: Register, raw: float | int | str) -> list[int]:
    """The registers of a value, written as a device would: by `struct`, not by the code under test."""
    if register.type == "string":
        octets = str(raw).encode("latin-1").ljust(2 * register.size, b"\0")
    elif register.type == "bcd":
        octets = bytes.fromhex(f"{int(raw):0{4 * register.size}d}")
    elif register.type == "bitfield":
        octets = int(raw).to_bytes(2 * register.size, "big")
    elif register.type == "bool":
        octets = struct.pack(">H", int(raw))
    else:
        octets = struct.pack(">" + FORMATS[register.type], raw)
    words = [octets[i : i + 2] for i in range(0, len(octets), 2)]
    if register.word_order == "little" and register.type != "string":
        words.reverse()
    return [int.from_bytes(word, "little" if register.byte_order == "little" else "big") for word in words]


def registers(start: int, values: Sequence[int]) -> SimData:
    """Registers that a server holds; what no such block covers is an illegal address there."""
    return SimData(start, values=list(values), datatype=DataType.REGISTERS)


class ModbusDevices:
    """Devices on one line, served by pymodbus in a thread of its own."""

    def __init__(
        self,
        devices: Mapping[int, Sequence[SimData]],
        *,
        simulated: Sequence[SimDevice] = (),
        address: str = "127.0.0.1",
        port: int = 0,
        path: str | None = None,
    ) -> None:
        self._address = address
        self._devices = [SimDevice(unit, simdata=list(data)) for unit, data in devices.items()] + list(simulated)
        self._units = {one.id for one in self._devices}
        self.port = port or free_port()
        self._path = path
        self.questions: list[tuple[int, int, int, int]] = []
        """Unit, function, address and count of each question that was answered or refused."""
        self.patience = 1_000_000
        """After so many questions it answers none."""
        self._loop = asyncio.new_event_loop()
        self._server: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        ready = threading.Event()
        self._ready = ready
        self._thread.start()
        assert ready.wait(10), "the Modbus server did not start"

    def set(self, unit: int, address: int, values: Sequence[int]) -> None:
        """Change holding registers."""
        setting = self._server.async_setValues(unit, 16, address, list(values))
        asyncio.run_coroutine_threadsafe(setting, self._loop).result(5)

    def stop(self) -> None:
        """Gone, with its connections."""
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._server.shutdown(), self._loop).result(5)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)
            self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._start())
        self._ready.set()
        self._loop.run_forever()

    async def _start(self) -> None:
        options: dict[str, Any] = {"trace_pdu": self._note, "trace_packet": self._mute}
        if self._path:
            self._server = ModbusSerialServer(
                self._devices, port=self._path, framer=FramerType.RTU, baudrate=115200, **options
            )
        else:
            self._server = ModbusTcpServer(self._devices, address=(self._address, self.port), **options)
        await self._server.serve_forever(background=True)

    def _mute(self, sending: bool, packet: bytes) -> bytes:
        """Units that are not on the line say nothing; pymodbus's simulator would say that they failed."""
        unit = packet[0 if self._path else 6] if len(packet) > 6 or self._path else 0
        return b"" if sending and (unit not in self._units or len(self.questions) > self.patience) else packet

    def _note(self, sending: bool, pdu: Any) -> Any:
        if not sending:
            self.questions.append((pdu.dev_id, pdu.function_code, pdu.address, pdu.count))
        return pdu


@contextmanager
def modbus(devices: Mapping[int, Sequence[SimData]], **where: Any) -> Iterator[ModbusDevices]:
    server = ModbusDevices(devices, **where)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def serial_line() -> Iterator[tuple[str, str]]:
    """The two ends of a serial line: a pair of pseudo-terminals with a wire between them."""
    ends = [pty.openpty() for _ in range(2)]
    for _, slave in ends:
        tty.setraw(slave)
    stop_read, stop_write = os.pipe()
    masters = [master for master, _ in ends]

    def wire() -> None:
        while True:
            ready, _, _ = select.select([*masters, stop_read], [], [])
            if stop_read in ready:
                return
            for master in ready:
                with contextlib.suppress(OSError):
                    os.write(masters[1 - masters.index(master)], os.read(master, 4096))

    thread = threading.Thread(target=wire, daemon=True)
    thread.start()
    try:
        yield os.ttyname(ends[0][1]), os.ttyname(ends[1][1])
    finally:
        os.write(stop_write, b".")
        thread.join(5)
        for descriptor in (*(one for end in ends for one in end), stop_read, stop_write):
            os.close(descriptor)


def _loopback_knows_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _loopback_knows_ipv6(), reason="the loopback of this machine has no IPv6 (::1)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: RedfishService

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.service.asked.append(self.path)
        found = self.service.documents.get(self.path.rstrip("/"))
        if self.path.rstrip("/") != "/redfish/v1" and not self.service.knows(self.headers):
            found = 401
        self._send(found() if callable(found) else found)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._send(*self.service.log_in(body))

    def do_DELETE(self) -> None:
        self.service.tokens.discard(self.headers.get("X-Auth-Token", ""))
        self._send({}, 200)

    def _send(self, found: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        if found is None or isinstance(found, int):
            status, found = found or 404, {"error": {"code": "Base.1.0.GeneralError"}}
        body = found if isinstance(found, bytes) else json.dumps(found).encode()
        with contextlib.suppress(OSError):
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)


class RedfishService:
    """A Redfish service over `documents`: path to a document, a status, or a function that gives one of them."""

    def __init__(
        self,
        documents: dict[str, Any],
        *,
        user: str = "",
        password: str = "",
        sessions: bool = True,
        certificate: tuple[Path, Path] | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        self.documents = documents
        self.asked: list[str] = []
        self.tokens: set[str] = set()
        self.logins = 0
        self._user, self._password, self._sessions = user, password, sessions
        handler = type("Handler", (_Answers,), {"service": self})
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = type("Server", (ThreadingHTTPServer,), {"address_family": family})
        self._server = kind((address, 0), handler)
        self._server.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        host = f"[{address}]" if ":" in address else address
        self.url = f"{'https' if certificate else 'http'}://{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def knows(self, headers: Any) -> bool:
        basic = "Basic " + base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
        return not self._user or headers.get("X-Auth-Token") in self.tokens or headers.get("Authorization") == basic

    def log_in(self, body: Any) -> tuple[Any, int, dict[str, str]]:
        if not self._sessions or body != {"UserName": self._user, "Password": self._password}:
            return {}, 401 if self._sessions else 405, {}
        self.logins += 1
        token = f"token-{self.logins}"
        self.tokens.add(token)
        return {}, 201, {"X-Auth-Token": token, "Location": f"/redfish/v1/SessionService/Sessions/{self.logins}"}

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@contextmanager
def redfish(documents: dict[str, Any], **how: Any) -> Iterator[RedfishService]:
    service = RedfishService(documents, **how)
    try:
        yield service
    finally:
        service.stop()


def collection(path: str, members: Mapping[str, Any]) -> dict[str, Any]:
    """A collection and its members, each at its own path."""
    links = [{"@odata.id": f"{path}/{name}"} for name in members]
    own = {f"{path}/{name}": document for name, document in members.items()}
    return {path: {"Name": "Collection", "Members@odata.count": len(links), "Members": links}, **own}


def old_machine() -> dict[str, Any]:
    """A machine of the generation with Thermal and Power."""
    chassis = "/redfish/v1/Chassis/1"
    good = {"State": "Enabled", "Health": "OK"}
    return {
        "/redfish/v1": {
            "Id": "RootService",
            "RedfishVersion": "1.6.0",
            "Chassis": {"@odata.id": "/redfish/v1/Chassis"},
        },
        **collection(
            "/redfish/v1/Chassis",
            {
                "1": {
                    "Id": "1",
                    "ChassisType": "RackMount",
                    "Thermal": {"@odata.id": f"{chassis}/Thermal"},
                    "Power": {"@odata.id": f"{chassis}/Power"},
                }
            },
        ),
        f"{chassis}/Thermal": {
            "Temperatures": [
                {"Name": "Inlet Temp", "PhysicalContext": "Intake", "ReadingCelsius": 24, "Status": dict(good)},
                {"Name": "Rear", "PhysicalContext": "Exhaust", "ReadingCelsius": 41.5, "Status": dict(good)},
                {"Name": "CPU 2", "PhysicalContext": "CPU", "ReadingCelsius": None, "Status": {"State": "Absent"}},
            ],
            "Fans": [
                {"Name": "Fan 1", "Reading": 8400, "ReadingUnits": "RPM", "Status": dict(good)},
                {"FanName": "Fan 2", "Reading": 62, "ReadingUnits": "Percent", "Status": dict(good)},
            ],
        },
        f"{chassis}/Power": {
            "PowerControl": [{"Name": "System Power Control", "PowerConsumedWatts": 5120}],
            "PowerSupplies": [
                {"Name": "PSU 1", "PowerInputWatts": 2600, "LineInputVoltage": 230, "Status": dict(good)},
                {"Name": "PSU 2", "PowerOutputWatts": 2480, "LineInputVoltage": None, "Status": dict(good)},
                {"Name": "PSU 3", "Status": {"State": "Absent", "Health": None}},
            ],
        },
    }


def new_machine() -> dict[str, Any]:
    """A machine of the generation with a document per part, cooled by liquid."""
    chassis = "/redfish/v1/Chassis/BMC_0"
    good = {"State": "Enabled", "Health": "OK"}
    here: Callable[[str], dict[str, str]] = lambda path: {"@odata.id": f"{chassis}/{path}"}  # noqa: E731
    return {
        "/redfish/v1": {
            "Id": "RootService",
            "RedfishVersion": "1.17.0",
            "Chassis": {"@odata.id": "/redfish/v1/Chassis"},
        },
        **collection(
            "/redfish/v1/Chassis",
            {
                "BMC_0": {
                    "Id": "BMC_0",
                    "ThermalSubsystem": here("ThermalSubsystem"),
                    "PowerSubsystem": here("PowerSubsystem"),
                    "EnvironmentMetrics": here("EnvironmentMetrics"),
                    "Sensors": here("Sensors"),
                }
            },
        ),
        f"{chassis}/EnvironmentMetrics": {"PowerWatts": {"Reading": 6210.5}},
        f"{chassis}/ThermalSubsystem": {
            "Fans": here("ThermalSubsystem/Fans"),
            "ThermalMetrics": here("ThermalSubsystem/ThermalMetrics"),
            "LeakDetection": here("ThermalSubsystem/LeakDetection"),
        },
        f"{chassis}/ThermalSubsystem/ThermalMetrics": {
            "TemperatureSummaryCelsius": {"Intake": {"Reading": 23.1}, "Exhaust": {"Reading": None}},
            "TemperatureReadingsCelsius": [
                {"Reading": 23.0, "DeviceName": "Inlet 1", "PhysicalContext": "Intake"},
                {"Reading": 55.25, "DataSourceUri": f"{chassis}/Sensors/HBM_Temp"},
            ],
        },
        **collection(
            f"{chassis}/ThermalSubsystem/Fans",
            {
                "F1": {"Name": "Fan 1", "SpeedPercent": {"Reading": 45, "SpeedRPM": 9100}, "Status": dict(good)},
                "F2": {"Name": "Fan 2", "SpeedPercent": {"Reading": 44}, "Status": dict(good)},
            },
        ),
        f"{chassis}/ThermalSubsystem/LeakDetection": {"LeakDetectors": here("ThermalSubsystem/LeakDetection/Leak")},
        **collection(
            f"{chassis}/ThermalSubsystem/LeakDetection/Leak",
            {"Tray": {"Name": "Tray", "DetectorState": "OK", "Status": dict(good)}},
        ),
        f"{chassis}/PowerSubsystem": {"PowerSupplies": here("PowerSubsystem/PowerSupplies")},
        **collection(
            f"{chassis}/PowerSubsystem/PowerSupplies",
            {
                "1": {
                    "Name": "PSU 1",
                    "Status": dict(good),
                    "LineInputStatus": "Normal",
                    "Metrics": here("PowerSubsystem/PowerSupplies/1/Metrics"),
                },
                "2": {"Name": "PSU 2", "Status": dict(good), "LineInputStatus": "LossOfInput"},
            },
        ),
        f"{chassis}/PowerSubsystem/PowerSupplies/1/Metrics": {
            "InputPowerWatts": {"Reading": 3100},
            "OutputPowerWatts": {"Reading": 2950.5},
            "InputVoltage": {"Reading": 229.5},
        },
    }
