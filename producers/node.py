"""What of a node is watched: every source with its period, and how one source knows what another has found."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from producers.dcgm.busy import gpu_programs
from producers.discovery import GpuIdentity, InventorySource, Roster
from producers.host.source import HostSource
from producers.infiniband.source import InfiniBandSource
from producers.kernel_log.events import GpuMap
from producers.kernel_log.source import KernelLogSource
from producers.nvidia_smi.source import NvidiaSmiSource
from producers.nvml import NvmlSource
from producers.nvml_counters import NvmlCountersSource
from producers.nvml_interface import Nvml
from producers.nvml_library import Library
from producers.nvml_xids import NvmlXidSource
from producers.settings import AgentSettings
from producers.source import Origin, Source, boot_id
from schemas.catalog import Catalog, load
from schemas.records import HardwareEvent, Record

_INVENTORY_LOOK_MS = 1_000
"""How often the inventory is compared with what was sent."""
_XIDS_MS = 1_000
_SMI_MS = 10_000
_DIAGNOSTICS_LOOK_MS = 5_000
"""How often it is looked whether a diagnostic is due, was asked for, or has ended."""
_SLOW_DEADLINE_S = 10.0
"""For what makes dozens of driver calls."""
_TWICE = ("nvml", "nvidia_smi", "nvml_counters", "host", "infiniband")
_ONCE = ("discovery", "dcgm_exporter", "facility")
_SMI_DEADLINE_S = 25.0
"""Beyond the source's own limit for nvidia-smi."""


@dataclass(slots=True, eq=False)
class Schedule:
    """When a source is read, and how it does."""

    source: Source
    period_ms: int
    deadline_s: float
    commits: bool = False
    """A read says that what the one before gave is safe, so it waits until it is: acknowledged, or on disk.
    The first read says where the source begins, so it is ordered at once.
    """
    ordered: bool = False
    """A read is under way, or what it gave has not been taken yet."""
    gave: bool = False
    """The last read gave records."""
    due_ms: int = 0
    """The tick at which it is read next."""
    overdue: bool = False
    """The running read was reported as hanging."""
    failing: bool = False
    """The last read raised an error, which was reported."""
    held_since: float | None = None
    """Since when its reads wait."""


def sources(settings: AgentSettings, origin: Origin, catalog: Catalog, nvml: Nvml | None = None) -> list[Schedule]:
    """The sources of a node with their periods. `nvml` stands in for the real one."""
    deadline_s = settings.deadline_ms / 1000
    names = GpuMap()

    def found(gpu: GpuIdentity) -> None:
        if gpu.pci:
            names.tell(gpu.pci, gpu.key(origin.node))

    library = nvml or Library()
    roster = Roster(settings.state_dir / "gpus.json")
    smi = NvidiaSmiSource(origin, catalog, roster, lambda: gpus.library_missing, found=found)
    gpus = NvmlSource(
        origin,
        catalog,
        library,
        roster,
        interval_ms=settings.interval_ms,
        found=found,
        stand_in=smi.available,
    )
    counters = NvmlCountersSource(origin, catalog, library, gpus.handles, interval_ms=settings.counters_interval_ms)
    kernel = KernelLogSource(
        settings.kernel_logs, origin=origin, catalog=catalog, state=settings.state_dir / "kernel_log.json", gpus=names
    )
    xids = NvmlXidSource(origin, catalog, library, gpus.handles, wanted=lambda: kernel.blind)

    def known() -> Sequence[GpuIdentity] | None:
        return smi.identities() if gpus.library_missing and smi.available() else gpus.identities()

    def here() -> Sequence[GpuIdentity] | None:
        """Without those that are lost: one that was moved is elsewhere by now, and must not be said to be here."""
        lost = {identity.uuid for identity, handle in gpus.handles() or () if handle is None}
        found = known()
        return None if found is None else [gpu for gpu in found if gpu.uuid not in lost]

    watched = [
        Schedule(gpus, settings.interval_ms, deadline_s),
        Schedule(counters, settings.counters_interval_ms, _SLOW_DEADLINE_S),
        Schedule(xids, _XIDS_MS, deadline_s),
        Schedule(smi, _SMI_MS, _SMI_DEADLINE_S),
        Schedule(kernel, settings.kernel_log_interval_ms, deadline_s, commits=True),
        Schedule(InventorySource(origin, settings, here), _INVENTORY_LOOK_MS, deadline_s),
    ]
    return [*watched, *_host(settings, origin, catalog), *_others(settings, origin, catalog, known)]


def _host(settings: AgentSettings, origin: Origin, catalog: Catalog) -> list[Schedule]:
    watched = []
    if settings.host.enabled:
        host = HostSource(origin, catalog, settings.host, settings.state_dir)
        watched.append(Schedule(host, settings.host.interval_ms, settings.deadline_ms / 1000))
    if settings.infiniband.enabled:
        ports = InfiniBandSource(origin, catalog, settings.infiniband, settings.state_dir / "infiniband.json")
        watched.append(Schedule(ports, settings.infiniband.interval_ms, settings.deadline_ms / 1000))
    return watched


def _others(
    settings: AgentSettings,
    origin: Origin,
    catalog: Catalog,
    identities: Callable[[], Sequence[GpuIdentity] | None],
) -> list[Schedule]:
    """What only some nodes have; its libraries are imported where it is there, which keeps the agent small."""
    watched = []

    def of(what: Callable[[GpuIdentity], Any], wanted: Any) -> str | None:
        return next((gpu.key(origin.node) for gpu in identities() or () if what(gpu) == wanted), None)

    if settings.dcgm_exporter.url:
        from producers.dcgm.exporter_source import DcgmExporterSource

        exporter = DcgmExporterSource(
            origin, catalog, settings.dcgm_exporter, serial_of=lambda uuid: of(lambda gpu: gpu.uuid, uuid)
        )
        watched.append(Schedule(exporter, settings.dcgm_exporter.interval_ms, settings.dcgm_exporter.timeout_s + 5))
    from producers.dcgm.diagnostics_source import DiagnosticsSource

    diagnostics = DiagnosticsSource(
        origin,
        catalog,
        settings.dcgm_diag,
        settings.state_dir / "dcgm_diag",
        busy=gpu_programs,
        gpu_of=lambda index: of(lambda gpu: gpu.index, index),
    )
    watched.append(Schedule(diagnostics, _DIAGNOSTICS_LOOK_MS, _SMI_DEADLINE_S))
    if settings.facility.devices or settings.facility.bmcs:
        from producers.facility.source import FacilitySource

        facility = FacilitySource(origin, catalog, settings.facility)
        watched.append(Schedule(facility, settings.facility.period_ms, facility.deadline_s))
    return watched


def collect_once(settings: AgentSettings, *, nvml: Nvml | None = None, pause_s: float = 1.0) -> list[Record]:
    """What the sources say of this node now; without Kafka, and nothing is kept.

    Takes `pause_s`: a rate needs two readings, and the second is what is returned. What is behind a network (facility
    devices, a DCGM exporter) is read once. The kernel log and diagnostics are left out: they tell what happens, not
    how it is. Raises nothing for a source that fails: that is one of the records.
    """
    catalog = load(settings.catalog)
    origin = Origin(settings.site, settings.rack, settings.node, boot_id())
    with TemporaryDirectory() as nowhere:
        settings = settings.model_copy(update={"state_dir": Path(nowhere)})
        every = {one.source.name: one.source for one in sources(settings, origin, catalog, nvml)}
        first = {name: _read(every[name], origin, catalog) for name in _TWICE if name in every}
        time.sleep(pause_s)
        records: list[Record] = []
        for name in (*first, *_ONCE):
            if name not in every:
                continue
            again = _read(every[name], origin, catalog)
            told = [record for record in first.get(name, ()) if isinstance(record, HardwareEvent)]
            # what says something only now and then has said it the first time
            records += told + (
                again if any(not isinstance(r, HardwareEvent) for r in again) else first.get(name, again)
            )
    return list({id(record): record for record in records}.values())


def _read(source: Source, origin: Origin, catalog: Catalog) -> list[Record]:
    now_ms = time.time_ns() // 1_000_000
    try:
        return list(source.read(now_ms))
    except Exception as error:  # noqa: BLE001 - whatever a source raises, the others are shown
        text = f"{source.name}: {error}"
        return [
            origin.event(catalog, "source_failed", source=source.name, event_ms=now_ms, observed_ms=now_ms, raw=text)
        ]
