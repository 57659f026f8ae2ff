"""What /sys tells of a host's hardware: which disks and interfaces are hardware, links, processor temperatures.

A file that is not there, or cannot be read, is None: sysfs answers EINVAL where a device has no such value now.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_SENSORS = {
    "coretemp": re.compile(r"Package.*"),
    "k10temp": re.compile(r"Tctl|Tdie"),
    "zenpower": re.compile(r"Tctl|Tdie"),
    "cpu_thermal": re.compile(r".*"),
    "soc_thermal": re.compile(r".*"),
    "tegra_bpmp": re.compile(r"(?i).*cpu.*"),
}
"""Drivers of processor sensors, and the label of the sensor that stands for the whole processor.

One per socket is read: those of the cores are below it, and reading each wakes its core.
"""
_ZONES = re.compile(r"x86_pkg_temp|(?i:.*cpu.*|.*tj.?max.*|.*soc.*)")
"""Thermal zones of processors where no such driver is: NVIDIA's Grace, and other Arm machines."""
_HOTTEST, _COLDEST = 150.0, -50.0
"""Degrees Celsius; sensors that say more, or less, are broken."""
_REPRESENTOR = re.compile(r"(?:c[0-9]+)?pf[0-9]+(?:vf|sf)[0-9]+")
_IFF_UP = 1


class Link(NamedTuple):
    """The link of one network interface."""

    up: bool | None
    """Whether it has a link."""
    enabled: bool | None
    """Whether it is switched on."""
    speed_mbps: float | None
    card: str | None = None
    """The port that it is the interface of, whatever it is called: the card's place on its bus and the port's number on
    the card. None for a bond.
    """
    bond: bool = False


def disks(sys: Path, names: Iterable[str]) -> list[str]:
    """Those of the names that are disks: no partition, loop or memory device, and none that lies on other disks."""
    return [name for name in names if "/" not in name and os.path.lexists(f"{sys}/block/{name}/device")]


def interfaces(sys: Path, names: Iterable[str]) -> list[str]:
    """Those of the names that are cards or bonds of cards.

    Left out: the loopback, what containers and virtual machines bring (veth, bridges, tunnels, taps), virtual functions
    and their representors.
    """
    return [
        name for name in names if "/" not in name and name not in {".", ".."} and _is_card(f"{sys}/class/net/{name}")
    ]


def _is_card(path: str) -> bool:
    # a node of containers has hundreds of interfaces: path objects would cost more than the asking
    if not os.path.lexists(f"{path}/device"):
        return os.path.lexists(f"{path}/bonding")
    if os.path.lexists(f"{path}/device/physfn"):
        return False
    return not _REPRESENTOR.fullmatch(_text(Path(path, "phys_port_name")) or "")


def link(sys: Path, name: str) -> Link:
    """The link of an interface."""
    path = sys / "class/net" / name
    flags, state = _text(path / "flags"), _text(path / "operstate")
    enabled = bool(int(flags, 16) & _IFF_UP) if flags and re.fullmatch(r"0x[0-9a-fA-F]{1,8}", flags) else None
    if state == "unknown":  # the driver does not keep it: ask whether there is a carrier
        state = {"1": "up", "0": "down"}.get(_text(path / "carrier") or "")
    up = None if state is None else state in {"up", "dormant"}
    speed = _text(path / "speed") if up else None
    known = speed is not None and re.fullmatch(r"[1-9][0-9]{0,9}", speed) and int(speed) < 2**31 - 1
    return Link(up, enabled, float(speed) if speed and known else None, _card(path), os.path.lexists(path / "bonding"))


def _card(path: Path) -> str | None:
    try:
        return f"{(path / 'device').readlink().name} port {_text(path / 'dev_port') or 0}"
    except OSError:
        return None


def cpu_sensors(sys: Path) -> list[Path]:
    """The files that tell how hot the processors are. To be looked for once: drivers seldom come later."""
    found: list[Path] = []
    for monitor in _listed(sys / "class/hwmon", "hwmon"):
        label = _SENSORS.get(_text(monitor / "name") or "")
        if label is None:
            continue
        inputs = [file for file in _listed(monitor, "temp") if file.name.endswith("_input")]
        labels = {file: _text(file.with_name(file.name.replace("_input", "_label"))) for file in inputs}
        found += [file for file in inputs if label.fullmatch(labels[file] or "")] or inputs
    if not found:
        zones = _listed(sys / "class/thermal", "thermal_zone")
        found = [zone / "temp" for zone in zones if _ZONES.fullmatch(_text(zone / "type") or "")]
    return found


def hottest_celsius(sensors: Iterable[Path]) -> float | None:
    """The hottest of the sensors; None where none says what can be."""
    found = [celsius for file in sensors if (celsius := _celsius(_text(file))) is not None]
    return max(found, default=None)


def _celsius(text: str | None) -> float | None:
    if text is None or not re.fullmatch(r"-?[0-9]{1,9}", text):
        return None
    celsius = int(text) / 1000
    return celsius if _COLDEST <= celsius <= _HOTTEST else None


def _listed(path: Path, prefix: str) -> list[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.name.startswith(prefix))
    except OSError:
        return []


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
