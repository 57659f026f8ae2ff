"""What of a node is watched: every source with its period, and how one source knows what another has found."""

from __future__ import annotations

import contextlib
import queue
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from producers.dcgm.busy import gpu_programs
from producers.discovery import GpuIdentity, InventorySource, Roster
from producers.host.source import HostSource
from producers.infiniband.source import InfiniBandSource
from producers.kernel_log.events import GpuMap
from producers.kernel_log.source import KernelLogSource
from producers.nvidia_smi.source import NvidiaSmiSource
from producers.nvml import Library, Nvml, NvmlCountersSource, NvmlSource, NvmlXidSource
from producers.source import Origin, Reading, Source, Worker, boot_id
from schemas.catalog import Catalog, load
from schemas.records import HardwareEvent, Record

if TYPE_CHECKING:
    from producers.settings import AgentSettings

_INVENTORY_LOOK_MS = 1_000
"""How often the inventory is compared with what was sent."""
_XIDS_MS = 1_000
_SMI_MS = 10_000
_DIAGNOSTICS_LOOK_MS = 5_000
"""How often it is looked whether a diagnostic is due, was asked for, or has ended."""
_SLOW_DEADLINE_S = 10.0
"""For what makes dozens of driver calls."""
_DRIVER_PATIENCE_S = 15.0
"""The inventory waits so long for the driver, then it tells of the node without its GPUs."""
_FIRST_READ_S = 5.0
_GPUS_FILE, _PORTS_FILE = "gpus.json", "infiniband.json"
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
    needed: Callable[[int], bool] = lambda _: True
    """Asked before each read, at its tick: False where it would find nothing, so that its thread may sleep on."""
    listen: Callable[[], Collection[int]] | None = None
    """Asked after a read that gave nothing: descriptors that can be read as soon as there is more. Then the period is
    only the least time between two reads, and without a word from them it is read each 5 s. Empty: by the period.
    """
    shown: Literal["", "once", "twice"] = ""
    """How often `agent --once` reads it: twice where it has rates; not where it tells what happens."""
    ears: Collection[int] = ()
    """What `listen` gave, until the next read."""
    ordered_ms: int = 0
    """The tick of the last read."""
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
    roster = Roster(settings.state_dir / _GPUS_FILE)
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

    born_s = time.monotonic()

    def known() -> Sequence[GpuIdentity] | None:
        return smi.identities() if gpus.stood_in else gpus.identities()

    def here() -> Sequence[GpuIdentity] | None:
        """Without those that are lost: one that was moved is elsewhere by now, and must not be said to be here."""
        lost = {identity.uuid for identity, handle in gpus.handles() or () if handle is None}
        found = known()
        if found is None:  # a driver that hangs at its first question must not hide the node
            return [] if time.monotonic() - born_s > _DRIVER_PATIENCE_S else None
        return [gpu for gpu in found if gpu.uuid not in lost]

    inventory = InventorySource(origin, settings, here)
    watched = [
        Schedule(gpus, settings.interval_ms, deadline_s, shown="twice"),
        Schedule(counters, settings.counters_interval_ms, _SLOW_DEADLINE_S, shown="once"),
        Schedule(xids, _XIDS_MS, deadline_s, needed=lambda _: xids.is_needed),
        Schedule(smi, _SMI_MS, _SMI_DEADLINE_S, needed=lambda _: gpus.library_missing, shown="twice"),
        Schedule(kernel, settings.kernel_log_interval_ms, deadline_s, commits=True, listen=kernel.ears),
        Schedule(inventory, _INVENTORY_LOOK_MS, deadline_s, needed=inventory.is_due, shown="once"),
    ]
    return [*watched, *_host(settings, origin, catalog), *_others(settings, origin, catalog, known)]


def _host(settings: AgentSettings, origin: Origin, catalog: Catalog) -> list[Schedule]:
    watched = []
    if settings.host.enabled:
        host = HostSource(origin, catalog, settings.host, settings.state_dir)
        watched.append(Schedule(host, settings.host.interval_ms, settings.deadline_ms / 1000, shown="twice"))
    if settings.infiniband.enabled:
        ports = InfiniBandSource(origin, catalog, settings.infiniband, settings.state_dir / _PORTS_FILE)
        watched.append(Schedule(ports, settings.infiniband.interval_ms, settings.deadline_ms / 1000, shown="once"))
    return watched


def _others(
    settings: AgentSettings,
    origin: Origin,
    catalog: Catalog,
    identities: Callable[[], Sequence[GpuIdentity] | None],
) -> list[Schedule]:
    """What only some nodes have. Libraries for it are imported where it is there, which keeps the agent small."""
    watched = []

    def of(what: Callable[[GpuIdentity], Any], wanted: Any) -> str | None:
        return next((gpu.key(origin.node) for gpu in identities() or () if what(gpu) == wanted), None)

    if settings.dcgm_exporter.url:
        from producers.dcgm.exporter_source import DcgmExporterSource

        exporter = DcgmExporterSource(
            origin, catalog, settings.dcgm_exporter, serial_of=lambda uuid: of(lambda gpu: gpu.uuid, uuid)
        )
        watched.append(
            Schedule(exporter, settings.dcgm_exporter.interval_ms, settings.dcgm_exporter.timeout_s + 5, shown="once")
        )
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
        watched.append(Schedule(facility, settings.facility.period_ms, facility.deadline_s, shown="once"))
    return watched


def collect_once(settings: AgentSettings, *, nvml: Nvml | None = None, pause_s: float = 1.0) -> list[Record]:
    """What the sources say of this node now; without Kafka, and nothing is kept.

    Takes `pause_s`: a rate needs two readings, and the second is what is returned. What is behind a network (facility
    devices, a DCGM exporter) is read once. The kernel log and diagnostics are left out: they tell what happens, not
    how it is. A source that fails, or does not answer within its deadline, is one of the records.
    """
    catalog = load(settings.catalog)
    origin = Origin(settings.site, settings.rack, settings.node, boot_id())
    records: list[Record] = []
    with TemporaryDirectory() as folder:
        for name in (_GPUS_FILE, _PORTS_FILE):  # what the agent knows to be here, so that what is missing shows
            with contextlib.suppress(OSError):
                shutil.copy(settings.state_dir / name, folder)
        settings = settings.model_copy(update={"state_dir": Path(folder)})
        shown = [one for one in sources(settings, origin, catalog, nvml) if one.shown]
        first = {one.source.name: _Look(one).read(origin, catalog) for one in shown if one.shown == "twice"}
        time.sleep(pause_s)
        for schedule in shown:
            before = first.get(schedule.source.name)
            if before is None:
                look = _Look(schedule).read(origin, catalog)
                records += look.records
            elif before.hangs:
                look = before
                records += look.records
            else:
                look = _Look(schedule).read(origin, catalog)
                told = [record for record in before.records if isinstance(record, HardwareEvent)]
                # what says something only now and then has said it the first time
                says = any(not isinstance(record, HardwareEvent) for record in look.records)
                records += [*told, *look.records] if says else [*before.records, *look.records]
            if not look.hangs and (close := getattr(schedule.source, "close", None)):
                close()
    return records


@dataclass(slots=True, eq=False)
class _Look:
    """One read of a source, for as long as its deadline."""

    schedule: Schedule
    records: list[Record] = field(default_factory=list)
    hangs: bool = False

    def read(self, origin: Origin, catalog: Catalog) -> _Look:
        """Read; what goes wrong becomes a record."""
        source = self.schedule.source
        now_ms = time.time_ns() // 1_000_000
        answers: queue.SimpleQueue[Reading] = queue.SimpleQueue()
        worker = Worker(source, answers.put)
        worker.order(now_ms)
        # the first read of a process may open a driver, or import a library
        patience_s = max(self.schedule.deadline_s, _FIRST_READ_S)
        wrong = ""
        try:
            reading = answers.get(timeout=patience_s)
            self.records = reading.records
            if reading.error is not None:
                wrong = str(reading.error)
            worker.close(1.0)
        except queue.Empty:
            self.hangs, wrong = True, f"no answer within {patience_s:g} s: {source.doing}"
        if wrong:
            raw = f"{source.name}: {wrong}"
            failed = origin.event(
                catalog, "source_failed", source=source.name, event_ms=now_ms, observed_ms=now_ms, raw=raw
            )
            self.records = [*self.records, failed]
        return self
