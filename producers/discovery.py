"""What is installed in this node: which GPUs, where, and that as inventory records.

Identity is the serial, not the slot. The roster of known GPUs is kept on disk: a GPU that vanishes while the agent is
down, or over a reboot, is missed all the same, until another GPU sits in its slot.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from producers.source import Origin
from schemas.ids import gpu_id, node_id
from schemas.records import InventoryRecord, Record

if TYPE_CHECKING:
    from producers.settings import AgentSettings

log = structlog.get_logger()

_NO_SERIAL = re.compile(r"0*|\[?n/a\]?|unknown.*", re.IGNORECASE)
_NVIDIA = "0x10de"
_DISPLAY_CLASS = "0x03"
"""PCI base class 03: display controllers, which data-centre GPUs are too (0x030200, 3D controller)."""


class GpuIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Who a GPU is and where it sits, as its driver says."""

    index: int
    serial: str | None = None
    uuid: str | None = None
    pci: str | None = None
    sku: str | None = None
    driver_version: str | None = None
    vbios_version: str | None = None
    module: int | None = None
    nvlink_domain: str | None = None
    board_part_number: str | None = None
    inforom_version: str | None = None
    """Of the whole image, such as `G520.0200.00.05`."""

    def key(self, node: str) -> str:
        """Its name in `GpuSample.gpus`: the serial, else the UUID, else its slot."""
        return self.serial or self.uuid or f"{node}/{self.pci or 'unknown'}"


def normal_serial(text: str | None) -> str | None:
    """A board serial, None for what boards without one say (`0`, `N/A`)."""
    return None if text is None or _NO_SERIAL.fullmatch(text.strip()) else text.strip()


def without_shared_serials(identities: Sequence[GpuIdentity]) -> list[GpuIdentity]:
    """Two GPUs on one board may report the board's serial both; then the UUID has to tell them apart."""
    seen = Counter(identity.serial for identity in identities if identity.serial)
    return [
        msgspec.structs.replace(identity, serial=None) if identity.serial and seen[identity.serial] > 1 else identity
        for identity in identities
    ]


def has_nvidia_gpu(devices: Path = Path("/sys/bus/pci/devices")) -> bool:
    """Whether the PCI bus shows an NVIDIA GPU, with or without a driver."""

    def starts(path: Path, prefix: str) -> bool:
        try:
            return path.read_text().startswith(prefix)
        except OSError:
            return False

    return any(
        starts(device / "vendor", _NVIDIA) and starts(device / "class", _DISPLAY_CLASS) for device in devices.glob("*")
    )


class Roster:
    """The GPUs this node is known to have, kept in `path` (None: in memory only)."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.known: list[GpuIdentity] = []
        if path is not None and path.exists():
            try:
                self.known = msgspec.json.decode(path.read_bytes(), type=list[GpuIdentity])
            except (msgspec.DecodeError, OSError) as error:
                log.warning("the list of known GPUs cannot be read and begins anew", path=str(path), error=str(error))

    def meet(self, present: Sequence[GpuIdentity], node: str) -> list[GpuIdentity]:
        """Take in what is present now. Returns the known GPUs that are missing; they stay known.

        A missing GPU whose slot another one has taken was replaced: it is forgotten.
        """
        keys = {identity.key(node) for identity in present}
        slots = {identity.pci for identity in present if identity.pci}
        missing = [old for old in self.known if old.key(node) not in keys and old.pci not in slots]
        merged = sorted([*present, *missing], key=lambda identity: (identity.index, identity.key(node)))
        if merged != self.known:
            self.known = merged
            self._save()
        return missing

    def _save(self) -> None:
        if self._path is None:
            return
        try:
            temporary = self._path.with_suffix(".new")
            temporary.write_bytes(msgspec.json.encode(self.known))
            temporary.replace(self._path)
        except OSError as error:
            log.warning("the list of known GPUs cannot be kept", path=str(self._path), error=str(error))


def inventory(
    origin: Origin, settings: AgentSettings, gpus: Sequence[GpuIdentity], seen_ms: int
) -> list[InventoryRecord]:
    """One record for the node and one for each GPU. What the settings declare goes before what was discovered."""
    domain = settings.nvlink_domain or next((gpu.nvlink_domain for gpu in gpus if gpu.nvlink_domain), None)
    node = InventoryRecord(
        component=node_id(origin.node),
        kind="node",
        site=origin.site,
        rack=origin.rack,
        node=origin.node,
        slot=settings.slot,
        nvlink_domain=domain,
        leaf_switch=settings.leaf_switch,
        pdu=settings.pdu,
        chassis_serial=_chassis_serial(),
        driver_version=next((gpu.driver_version for gpu in gpus if gpu.driver_version), None),
        source="discovered",
        seen_ms=seen_ms,
    )
    return [
        node,
        *(
            InventoryRecord(
                component=gpu_id(gpu.key(origin.node)),
                kind="gpu",
                site=origin.site,
                rack=origin.rack,
                node=origin.node,
                slot=gpu.module,
                gpu_index=gpu.index,
                gpu_uuid=gpu.uuid,
                gpu_serial=gpu.serial,
                pci=gpu.pci,
                # a node that is a domain by itself (HGX) has no fabric id: the node's name serves
                nvlink_domain=settings.nvlink_domain or gpu.nvlink_domain or origin.node,
                leaf_switch=settings.leaf_switch,
                pdu=settings.pdu,
                sku=gpu.sku,
                driver_version=gpu.driver_version,
                vbios_version=gpu.vbios_version,
                board_part_number=gpu.board_part_number,
                inforom_version=gpu.inforom_version,
                source="discovered",
                seen_ms=seen_ms,
            )
            for gpu in gpus
        ),
    ]


class InventorySource:
    """The node's inventory: at the start, whenever it changes, and again each `inventory_interval_s`.

    It asks no driver, so it cannot hang: `gpus` gives what the NVML source has found so far.
    """

    name = "discovery"
    doing = "putting the inventory together"

    def __init__(
        self, origin: Origin, settings: AgentSettings, gpus: Callable[[], Sequence[GpuIdentity] | None]
    ) -> None:
        self._origin = origin
        self._settings = settings
        self._gpus = gpus
        self._sent: list[GpuIdentity] | None = None
        self._sent_ms = 0

    def is_due(self, now_ms: int) -> bool:
        """Whether a read would have something to say."""
        found = self._gpus()
        if found is None:  # the driver was not asked yet
            return False
        age_ms = now_ms - self._sent_ms
        return list(found) != self._sent or not 0 <= age_ms < self._settings.inventory_interval_s * 1000

    def read(self, now_ms: int) -> Iterable[Record]:
        """All records when they are due, else none."""
        found = self._gpus()
        if found is None or not self.is_due(now_ms):
            return []
        self._sent, self._sent_ms = list(found), now_ms
        return inventory(self._origin, self._settings, self._sent, now_ms)


def _chassis_serial(path: Path = Path("/sys/class/dmi/id/chassis_serial")) -> str | None:
    try:
        return normal_serial(path.read_text())
    except OSError:  # only root may read it
        return None
