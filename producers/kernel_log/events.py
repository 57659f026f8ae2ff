"""What the kernel log says about a GPU: the event that a line decodes to, and who sits at which PCI address."""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from schemas.catalog.nvlink5 import Branch, branch_of

_NO_SERIAL = re.compile(r"0*|N/?A|unknown", re.IGNORECASE)


class KernelEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One hardware event of a kernel log. What the line does not tell, or tells in a strange way, is None."""

    line: int
    """Number of the (first) physical line, from 1."""
    kind: str
    """A key of `schemas/catalog/events.toml`, or xid, sxid."""
    code: int | None = None
    """The XID or SXid."""
    pci: str | None = None
    """`0000:91:00`: lower case, no function."""
    link: int | None = None
    """NVLink or NVSwitch link number."""
    gpu: str | None = None
    """Serial of the GPU at `pci` (UUID where no serial is known), as far as told until this line."""
    event_ms: int | None = None
    """Event time, UTC milliseconds."""
    details: dict[str, str] = {}
    """What else was understood; `variant` is the catalogue's refinement of the code."""
    raw: str
    boot_id: str | None = None
    """Where the line itself carries it (journald)."""


@lru_cache(maxsize=4096)
def normal_pci(text: str) -> str | None:
    """`0000:91:00` of a PCI address with or without `PCI:`, domain and function; None where it is none."""
    parts = text.strip().removeprefix("PCI:").partition(".")[0].split(":")
    if len(parts) == 2:
        parts.insert(0, "0")
    if len(parts) != 3 or not all(1 <= len(part) <= 8 for part in parts):
        return None
    try:
        domain, bus, device = (int(part, 16) for part in parts)
    except ValueError:
        return None
    return f"{domain:04x}:{bus:02x}:{device:02x}" if bus <= 0xFF and device <= 0xFF else None


class GpuMap:
    """Which GPU sits at a PCI address: what somebody told us, else the serial, else the UUID that the log named.

    About 300 bytes a GPU.
    """

    def __init__(self) -> None:
        self.branch: Branch | None = None
        """Of the driver that runs them, where somebody told us: it decides what NVLink registers mean."""
        self._told: dict[str, str] = {}
        self._serials: dict[str, str] = {}
        self._uuids: dict[str, str] = {}

    def tell(self, pci: str, gpu: str) -> None:
        """What a better source knows, such as NVML: it beats the log."""
        if address := normal_pci(pci):
            self._told[address] = gpu

    def tell_driver(self, version: str) -> None:
        """The driver's version, such as `570.86.15`. Raises `ValueError` where it is none."""
        self.branch = branch_of(version)

    def learn(self, pci: str | None, *, uuid: str | None = None, serial: str | None = None) -> None:
        """What a line said; another UUID at the same address is another GPU, whose serial is not known yet."""
        if pci is None:
            return
        if uuid:
            if self._uuids.get(pci, uuid) != uuid:
                self._serials.pop(pci, None)
                self._told.pop(pci, None)
            self._uuids[pci] = uuid
        if serial and not _NO_SERIAL.fullmatch(serial):
            self._serials[pci] = serial

    def gpu_at(self, pci: str | None) -> str | None:
        """Serial (or UUID) of the GPU at an address in normal form."""
        if pci is None:
            return None
        return self._told.get(pci) or self._serials.get(pci) or self._uuids.get(pci)
