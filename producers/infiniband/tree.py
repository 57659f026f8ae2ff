"""A sysfs tree of InfiniBand devices: `/sys/class/infiniband`, one device of it, or a copy."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from producers.infiniband.port import Port, as_counter
from producers.unreadable import Unreadable

SYSFS = Path("/sys/class/infiniband")
_TREE_DEPTH = 3
_FILE_BYTES = 4096
_PORT = re.compile(r"[0-9]{1,3}")
_PCI = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_NO_COUNTER = "N/A"
"""The kernel's word for a port that does not count."""


def classes(path: Path, depth: int = _TREE_DEPTH) -> Iterator[Path]:
    """Directories that hold devices; a device itself stands for the directory around it."""
    if (path / "ports").is_dir():
        yield path
        return
    inner = _directories(path)
    if any((device / "ports").is_dir() for device in inner):
        yield path
    elif depth:
        for directory in inner:
            if not directory.is_symlink():  # sysfs is full of circles
                yield from classes(directory, depth - 1)


def read_class(
    path: Path,
    ports: list[Port],
    *,
    doing: Callable[[str], None] = lambda _: None,
    virtual: bool = True,
) -> Iterator[Unreadable]:
    """Puts every port of the devices in `path` into `ports`; `doing` hears which one is being read.

    Without `virtual` those that a card lends to virtual machines and containers are left out: they come and go.
    """
    for device in [path] if (path / "ports").is_dir() else _directories(path):
        if virtual or not os.path.lexists(f"{device}/device/physfn"):
            yield from _device(device, ports, doing)


def _directories(path: Path) -> list[Path]:
    """In the order of their numbers: mlx5_2 before mlx5_10."""
    try:
        with os.scandir(path) as entries:
            found = [Path(entry.path) for entry in entries if entry.is_dir()]
    except OSError:
        return []
    return sorted(found, key=lambda entry: _natural(entry.name))


def _natural(name: str) -> list[tuple[str, int]]:
    return [(text, int(digits or 0)) for text, digits in re.findall(r"([^0-9]*)([0-9]*)", name)]


def _device(device: Path, ports: list[Port], doing: Callable[[str], None]) -> Iterator[Unreadable]:
    doing(device.name)
    facts: dict[str, str] = {}
    for name in ("board_id", "hca_type", "fw_ver", "node_guid"):
        yield from _fact(f"{device}/{name}", name, facts, needed=False)
    if pci := _pci(f"{device}/device"):
        facts["pci"] = pci
    for directory in _directories(device / "ports"):
        if not _PORT.fullmatch(directory.name):
            continue
        doing(f"{device.name} port {directory.name}")
        port = Port(place=str(directory), device=device.name, port=int(directory.name), facts=dict(facts))
        for name in ("state", "phys_state", "rate", "link_layer", "lid"):
            yield from _fact(f"{directory}/{name}", name, port.facts, needed=name in {"state", "rate"})
        for group in ("counters", "hw_counters"):
            yield from _counters(f"{directory}/{group}", port)
        ports.append(port)


def _pci(link: str) -> str | None:
    """Where the card sits: the name of what `device` points to."""
    try:
        name = Path(link).readlink().name
    except OSError:
        return None
    return name if _PCI.fullmatch(name) else None


def _fact(path: str, name: str, facts: dict[str, str], *, needed: bool) -> Iterator[Unreadable]:
    try:
        facts[name] = _read(path)
    except FileNotFoundError as error:
        if needed:
            yield Unreadable(place=path, what=f"the port's {name}", reason=_why(error))
    except OSError as error:
        yield Unreadable(place=path, what=name, reason=_why(error))


def _counters(directory: str, port: Port) -> Iterator[Unreadable]:
    try:
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries if entry.is_file())
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            yield Unreadable(place=directory, what="counters", reason=_why(error))
        return
    for name in names:
        path = f"{directory}/{name}"
        port.counters[name] = None
        try:
            text = _read(path)
        except OSError as error:
            yield Unreadable(place=path, what="a counter", reason=_why(error))
            continue
        port.counters[name] = as_counter(text)
        if port.counters[name] is None and not text.startswith(_NO_COUNTER):
            yield Unreadable(place=path, what="a counter", reason=f"found {text[:60]!r}")


def _read(path: str) -> str:
    """A sysfs file is one read. Without a file object it costs a third: a node has hundreds of these files."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, _FILE_BYTES).decode(errors="replace").strip()
    finally:
        os.close(file)


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
