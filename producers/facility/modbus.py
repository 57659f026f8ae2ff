"""Modbus itself, over TCP or a serial line; the only file that touches `pymodbus`.

One connection per bus, one question at a time on it. A question that was not answered closes the connection: an answer
that comes too late must not be taken for that to the next question (RTU frames carry no number to tell them apart).
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from producers.facility.maps import Function, Register, RegisterMap
from producers.facility.points import Answer, DeviceError, Measured
from producers.facility.registers import Block, decode, decode_block, plan_of
from producers.facility.settings import ModbusDevice

if TYPE_CHECKING:
    from pymodbus.client import ModbusSerialClient, ModbusTcpClient
    from pymodbus.pdu import ModbusPDU

ASK_AGAIN_AFTER = 60
"""Registers that a device refuses are left out for so many readings: firmware may learn them, and maps are mended."""

_ILLEGAL_FUNCTION, _ILLEGAL_ADDRESS, _ILLEGAL_VALUE, _FAILURE = 1, 2, 3, 4
_NOBODY_BEHIND_GATEWAY = {10, 11}
_SPLIT = {_ILLEGAL_ADDRESS, _ILLEGAL_VALUE, _FAILURE}
"""One register that is not there (or is too many) spoils a whole answer: the halves are asked for by themselves."""
_REFUSED = {_ILLEGAL_FUNCTION, _ILLEGAL_ADDRESS, _ILLEGAL_VALUE}
"""These will be refused again; what fails (4) or is busy (5, 6) may work the next time."""
_MEANING = {
    1: "illegal function",
    2: "illegal address",
    3: "illegal value",
    4: "device failure",
    5: "acknowledged, not done yet",
    6: "device busy",
    8: "memory parity error",
    10: "gateway has no path",
    11: "nobody answers behind the gateway",
}
_SILENT_CHARACTERS = 3.5
"""RTU frames are told apart by so much silence (Modbus over Serial Line 1.02, section 2.5.1.1)."""
_LEAST_SILENCE_S = 0.002
_BITS_PER_CHARACTER = 11


class _RefusedError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(_MEANING.get(code, f"exception {code}"))
        self.code = code


@dataclass(slots=True)
class Plan:
    """What a device is asked, as far as it was found out: blocks that work, and registers that it refuses."""

    blocks: tuple[Block, ...]
    refused: dict[str, str] = field(default_factory=dict)
    """The register's name, and how it was refused."""
    worse: bool = False
    """More questions, or fewer answers, than the map by itself would need: worth another try after a while."""
    readings: int = 0


@dataclass(slots=True)
class _Reading:
    """What came of the questions to one device so far."""

    refused: dict[str, str]
    found: dict[str, Measured] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    working: list[Block] = field(default_factory=list)
    """What is to be asked the next time."""
    answered: bool = False
    silent: bool = False

    def take(self, block: Block, words: Sequence[int], refusal: _RefusedError | None, kind: str) -> None:
        """An answer, or a refusal."""
        self.answered = True
        if refusal is None:
            self.found |= {one.name: one for one in decode_block(block, words, kind)}
        else:
            self.unread += [f"{register.name}: {refusal}" for register in block.registers]
        if refusal is not None and refusal.code in _REFUSED:
            self.refused |= {register.name: str(refusal) for register in block.registers}
        else:
            self.working.append(block)

    def leave(self, registers: tuple[Register, ...], function: Function, why: str) -> None:
        """Registers that no answer came for."""
        self.unread += [f"{register.name}: {why}" for register in registers]
        self.working.append(Block(function, registers))


class Bus:
    """One line and the devices on it. Used by one thread at a time."""

    def __init__(self, devices: Sequence[ModbusDevice], *, sleep: Callable[[float], None] = time.sleep) -> None:
        """`devices` share the line; the most patient of them says how long an answer may take."""
        first = devices[0]
        self.name = first.bus
        self._line = first
        self._timeout_s = max(device.timeout_s for device in devices)
        self._retries = max(device.retries for device in devices)
        self._client: ModbusTcpClient | ModbusSerialClient | None = None
        self._sleep = sleep
        self._plans: dict[str, tuple[RegisterMap, Plan]] = {}

    def read(self, device: ModbusDevice, register_map: RegisterMap) -> Answer:
        """Everything that the map names. Raises `DeviceError` where the device gives no answer at all."""
        known = self._plan(device, register_map)
        reading = _Reading(refused=dict(known.refused))
        reading.unread += [f"{name}: {why}" for name, why in known.refused.items()]
        for block in known.blocks:
            if reading.silent:  # it answered before and stopped: what is left has to wait, for the sake of the bus
                reading.leave(block.registers, block.function, "it stopped answering")
                continue
            left = list(block.registers)
            try:
                for part, words, refusal in self._ask_apart(device, block):
                    reading.take(part, words, refusal, device.kind)
                    left = left[len(part.registers) :]
            except DeviceError as error:
                self.close()
                if not reading.answered:
                    raise
                reading.silent = True
                reading.leave(tuple(left), block.function, str(error))
        if not reading.found:
            why = reading.unread[0].partition(": ")[2] if reading.unread else "it has none"
            raise DeviceError(
                f"asking {_called(device)}: it refuses every register of the map ({why}); is it the map of this "
                "device, and its base right?"
            )
        known.worse = known.worse or bool(reading.refused) or len(reading.working) != len(known.blocks)
        known.blocks, known.refused = tuple(reading.working), reading.refused
        return Answer(tuple(_in_order(register_map, reading.found, device.kind)), tuple(reading.unread))

    def close(self) -> None:
        """Let go of the line."""
        client, self._client = self._client, None
        if client is not None:
            client.close()  # type: ignore[no-untyped-call]

    def _plan(self, device: ModbusDevice, register_map: RegisterMap) -> Plan:
        known = self._plans.get(device.name)
        if known is None or known[0] is not register_map or known[1].readings >= ASK_AGAIN_AFTER:
            known = self._plans[device.name] = (register_map, Plan(plan_of(register_map)))
        known[1].readings += 1 if known[1].worse else 0
        return known[1]

    def _ask_apart(
        self, device: ModbusDevice, block: Block
    ) -> Iterator[tuple[Block, Sequence[int], _RefusedError | None]]:
        """The block's answer, or those of its parts; a single register that is refused comes with its refusal."""
        try:
            yield block, self._ask(device, block), None
        except _RefusedError as refusal:
            if len(block.registers) == 1 or refusal.code not in _SPLIT:
                yield block, (), refusal
                return
            for half in block.halves():
                yield from self._ask_apart(device, half)

    def _ask(self, device: ModbusDevice, block: Block) -> list[int]:
        from pymodbus.exceptions import ModbusException

        client = self._connected()
        ask = {
            "holding": client.read_holding_registers,
            "input": client.read_input_registers,
            "coil": client.read_coils,
            "discrete": client.read_discrete_inputs,
        }[block.function]
        if self._line.serial is not None:
            character_s = _BITS_PER_CHARACTER / self._line.baud
            self._sleep(max(_LEAST_SILENCE_S, _SILENT_CHARACTERS * character_s))
        try:
            answer: ModbusPDU = ask(block.address, count=block.count, device_id=device.unit)
        except ModbusException as error:
            self.close()
            raise DeviceError(_no_answer(device, self._timeout_s, self._retries)) from error
        except OSError as error:
            self.close()
            raise DeviceError(f"asking {_called(device)}: {_reason(error)}") from error
        except Exception as error:
            # what pymodbus makes of a frame that is none differs by the frame: struct.error, IndexError, …
            self.close()
            raise DeviceError(f"asking {_called(device)}: its answer is no Modbus: {error!r}") from error
        if answer.isError():
            code = int(getattr(answer, "exception_code", 0))
            if code in _NOBODY_BEHIND_GATEWAY:
                raise DeviceError(f"asking {_called(device)}: {_MEANING[code]}; is the unit id right, and is it on?")
            raise _RefusedError(code)
        bits = block.function in {"coil", "discrete"}
        words = [int(one) for one in (answer.bits if bits else answer.registers)]
        if len(words) < block.count or (not bits and len(words) != block.count):
            self.close()
            raise DeviceError(
                f"asking {_called(device)} for {block.count} registers from {block.address}: it gave {len(words)}; "
                "two devices with one unit id on the bus would do that"
            )
        return words

    def _connected(self) -> ModbusTcpClient | ModbusSerialClient:
        if self._client is not None and self._client.is_socket_open():
            return self._client
        self.close()
        logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)  # what fails is said once, and by us
        line = self._line
        self._client = self._serial(line.serial) if line.serial is not None else self._tcp()
        return self._client

    def _tcp(self) -> ModbusTcpClient:
        from pymodbus import FramerType
        from pymodbus.client import ModbusTcpClient

        line = self._line
        host = line.host or ""
        framer = FramerType.RTU if line.framing == "rtu" else FramerType.SOCKET
        client = ModbusTcpClient(host, port=line.port, framer=framer, timeout=self._timeout_s, retries=self._retries)
        try:
            # connected here, because the client's own connect() keeps the reason to itself
            client.socket = socket.create_connection((host, line.port), timeout=self._timeout_s)
        except OSError as error:
            raise DeviceError(
                f"connecting to {line.bus}: {_reason(error)}; is the device on, Modbus enabled on it, and the "
                "address right?"
            ) from error
        return client

    def _serial(self, path: str) -> ModbusSerialClient:
        from pymodbus.client import ModbusSerialClient

        line = self._line
        try:
            # opened once before, because the client's own connect() keeps the reason to itself
            os.close(os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK))
        except OSError as error:
            remedy = {
                errno.ENOENT: "is the adapter plugged in?",
                errno.EACCES: "let the agent's user use it: usermod -aG dialout USER",
                errno.EBUSY: "another program has it",
            }.get(error.errno or 0, "is it a serial device?")
            raise DeviceError(f"opening {path}: {_reason(error)}; {remedy}") from error
        try:
            client = ModbusSerialClient(
                path,
                baudrate=line.baud,
                parity=line.parity,
                stopbits=line.stop_bits,
                timeout=self._timeout_s,
                retries=self._retries,
            )
        except RuntimeError as error:
            raise DeviceError(f"opening {path}: pyserial is not installed; pip install pyserial") from error
        if not client.connect():
            raise DeviceError(f"opening {path}: it is in use by another program, or is no serial device")
        return client


def _in_order(register_map: RegisterMap, found: dict[str, Measured], kind: str) -> Iterator[Measured]:
    """The points in the order of the map; what was not read is there without a value."""
    for register in register_map.registers:
        yield from (found.get(one.name, one) for one in decode(register, None, kind))


def _called(device: ModbusDevice) -> str:
    return f"unit {device.unit} at {device.bus}"


def _no_answer(device: ModbusDevice, timeout_s: float, retries: int) -> str:
    if device.serial is not None:
        mend = "check the unit id, baud and parity, both wires (A and B may be swapped) and the bus's termination"
    else:
        mend = "check the unit id, and that no other client holds the device's only connection"
    return f"asking {_called(device)}: no answer within {timeout_s:g} s, {retries + 1} times; {mend}"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()
