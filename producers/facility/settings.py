"""What can be set about the devices around the nodes. Values only: nothing is read here."""

from __future__ import annotations

from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_LARGEST_SERIAL_UNIT = 247
"""The Modbus serial line guide reserves what is above."""
_HERE = {"localhost", "127.0.0.1", "::1"}
_LARGEST_PORT = 65_535


def split_host(text: str) -> tuple[str, int | None]:
    """Host and port of `host`, `host:502`, `10.0.7.12:502`, `fd00::7`, `[fd00::7]` or `[fd00::7]:502`.

    An IPv6 address is given back without its brackets; the port is None where there is none. Raises `ValueError`.
    """
    host, colon, port = text.partition(":")
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host or rest[:1] not in {"", ":"}:
            raise ValueError(f"found {text!r}; an IPv6 address with a port is [fd00::7]:502")
        colon, port = rest[:1], rest[1:]
    elif ":" in port:  # more than one colon: an address by itself
        host, colon, port = text, "", ""
    if ":" in host:
        try:
            IPv6Address(host)
        except ValueError as error:
            raise ValueError(f"found {text!r}, which is no IPv6 address: {error}") from error
    if not host:
        raise ValueError(f"found {text!r}, which names no host")
    if not colon:
        return host, None
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= _LARGEST_PORT):
        raise ValueError(f"found port {port!r}; it is a number from 1 to {_LARGEST_PORT}, as in 10.0.7.12:502")
    return host, int(port)


def joined(host: str, port: int) -> str:
    """`host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModbusDevice(_Settings):
    """One device that speaks Modbus, over the network (`host`) or a serial line (`serial`)."""

    name: str = Field(min_length=1, description="Its name: the component is pdu:NAME, cooling:NAME or meter:NAME.")
    kind: Literal["pdu", "cooling", "meter"] = Field(description="What it is.")
    map: str = Field(min_length=1, description="Its registers: the name of a map that ships, or the path of a file.")
    host: str | None = Field(
        default=None,
        min_length=1,
        description="Host name or address, for Modbus over TCP; an IPv6 address with or without brackets.",
    )
    port: int = Field(default=502, ge=1, le=65535, description="TCP port.")
    framing: Literal["tcp", "rtu"] = Field(
        default="tcp", description="rtu: a serial server that passes RTU frames through TCP as they are."
    )
    serial: str | None = Field(default=None, min_length=1, description="Serial device, such as /dev/ttyUSB0.")
    baud: int = Field(default=9600, ge=300, le=921_600, description="Bits per second of the serial line.")
    parity: Literal["N", "E", "O"] = Field(default="N", description="Parity of the serial line: none, even, odd.")
    stop_bits: Literal[1, 2] = Field(default=1, description="Stop bits of the serial line.")
    unit: int = Field(default=1, ge=0, le=255, description="Its unit id (also called slave address) on that bus.")
    rack: str | None = Field(default=None, description="The rack it stands in; the agent's own if not given.")
    timeout_s: float = Field(default=1.0, gt=0, le=30, description="How long one answer may take.")
    retries: int = Field(default=1, ge=0, le=5, description="How often a question without an answer is asked again.")

    @model_validator(mode="before")
    @classmethod
    def _port_in_host(cls, given: Any) -> Any:
        """`host = "[fd00::7]:502"` is host and port."""
        if not isinstance(given, dict) or not isinstance(given.get("host"), str) or not given["host"]:
            return given
        host, port = split_host(given["host"])
        if port is not None and given.get("port", port) != port:
            raise ValueError(f"host is {given['host']!r} and port is {given['port']}: give the port once")
        return {**given, "host": host} | ({} if port is None else {"port": port})

    @model_validator(mode="after")
    def _one_way(self) -> ModbusDevice:
        if (self.host is None) == (self.serial is None):
            raise ValueError(f"device {self.name}: give host or serial, one of them")
        if self.serial is not None and not 1 <= self.unit <= _LARGEST_SERIAL_UNIT:
            raise ValueError(f"device {self.name}: unit is {self.unit}; on a serial line it is 1 to 247")
        return self

    @property
    def bus(self) -> str:
        """Which line it is on: devices with the same one are asked one after the other, over one connection."""
        return self.serial if self.serial is not None else joined(self.host or "", self.port)


class BmcSettings(_Settings):
    """One management controller: Redfish (`url`), `ipmitool`, or both: then ipmitool where Redfish fails."""

    of_node: str | None = Field(
        default=None, min_length=1, description="The node it manages; the agent's own if not given."
    )
    url: str | None = Field(default=None, description="Redfish: https://host or https://host:port.")
    auth: Literal["session", "basic"] = Field(
        default="session", description="How to log in to Redfish; basic sends the password with each request."
    )
    user: str | None = Field(default=None, min_length=1, description="Login; none: ask without one.")
    password_file: Path | None = Field(default=None, description="A file that holds the password of `user`.")
    verify_tls: bool = Field(
        default=True, description="Refuse a certificate that cannot be verified; false accepts every one."
    )
    ca_file: Path | None = Field(default=None, description="Certificates to verify with, where not the system's (PEM).")
    ipmitool: bool = Field(default=False, description="Use ipmitool; beside `url`: where Redfish does not answer.")
    ipmitool_path: str = Field(default="ipmitool", min_length=1, description="The program.")
    host: str | None = Field(
        default=None,
        min_length=1,
        description="For ipmitool: the name or address to ask over the network; this machine's own controller if not "
        "given.",
    )
    privilege: Literal["USER", "OPERATOR", "ADMINISTRATOR"] = Field(
        default="USER", description="For ipmitool over the network: reading sensors needs no more than USER."
    )
    rack: str | None = Field(default=None, description="The rack that node is in; the agent's own if not given.")
    timeout_s: float = Field(default=5.0, gt=0, le=120, description="How long one answer may take.")
    budget_s: float = Field(
        default=25.0, gt=0, le=600, description="How long one reading may take; what is not read by then is left out."
    )

    @field_validator("host")
    @classmethod
    def _plain_host(cls, host: str | None) -> str | None:
        """An IPv6 address without its brackets, as ipmitool wants it."""
        if host is None:
            return None
        plain, port = split_host(host)
        if port is not None:
            raise ValueError(f"host is {host!r}: ipmitool asks the port of IPMI, 623; leave the port out")
        return plain

    @model_validator(mode="after")
    def _reachable(self) -> BmcSettings:
        if self.url is None and not self.ipmitool:
            raise ValueError("give url (Redfish), ipmitool = true, or both")
        if (self.user is None) != (self.password_file is None):
            raise ValueError("give user and password_file together, or neither")
        if self.url is not None:
            try:
                parts = urlsplit(self.url)
                parts.port  # noqa: B018 - raises where there is none
            except ValueError as error:
                raise ValueError(
                    f"url is {self.url!r}: {error}; an IPv6 address stands in brackets, as in https://[fd00::7]"
                ) from error
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ValueError(f"url is {self.url!r}; it begins with https:// and names a host")
            if parts.username or parts.password:
                raise ValueError("url holds a login; give user and password_file instead")
            if parts.scheme == "http" and self.user is not None and parts.hostname not in _HERE:
                raise ValueError(f"url is {self.url!r}: the password would cross the network in clear; use https://")
        return self


class FacilitySettings(_Settings):
    """The devices around the nodes that one agent reads."""

    period_ms: int = Field(default=10_000, ge=1000, le=3_600_000, description="How often devices are read.")
    devices: tuple[ModbusDevice, ...] = Field(default=(), description="PDUs, coolers and meters.")
    bmcs: tuple[BmcSettings, ...] = Field(default=(), description="Management controllers.")

    @model_validator(mode="after")
    def _no_two_alike(self) -> FacilitySettings:
        names = [f"{device.kind}:{device.name}" for device in self.devices]
        names += [f"bmc:{bmc.of_node}" for bmc in self.bmcs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"named twice: {', '.join(twice)}")
        lines: dict[str, tuple[str, tuple[object, ...]]] = {}
        for device in self.devices:
            line = (device.framing, device.baud, device.parity, device.stop_bits)
            name, other = lines.setdefault(device.bus, (device.name, line))
            if line != other:
                raise ValueError(
                    f"{name} and {device.name} are both on {device.bus}, with different baud, parity, stop_bits or "
                    "framing; one line has one of each"
                )
        return self
