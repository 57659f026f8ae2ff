"""What NVML says of each GPU, once per tick: the samples of `gpu.samples`, and events where it does not say it.

A value that cannot be read is NaN and reported, never made up: a GPU that is lost or answers nothing, a metric that
fails, a driver that is gone are events, once each. What a GPU does not support is NaN and asked again now and then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pynvml
import structlog

from producers import metrics
from producers.discovery import GpuIdentity, Roster, has_nvidia_gpu, without_shared_serials
from producers.nvml.gpu import Gpu, nothing
from producers.nvml.interface import Answer, Nvml, NvmlError
from producers.nvml.metric_table import COLUMNS, DRIVER_GONE, LOST, THROTTLE, explained
from producers.source import Origin
from schemas.catalog import Catalog
from schemas.records import GpuSample, HardwareEvent, Record

log = structlog.get_logger()

DRIVER_RETRY_S = 30.0
"""How often a driver that is gone, or a GPU that is lost, is asked again."""


class NvmlSource:
    """The GPUs of this node. `read` returns one `GpuSample` (none where the node has no GPU) and what is to report.

    `found` hears of every GPU that the driver lists, each time it is enumerated. Where NVML's library is missing and
    `stand_in` says that another source reads the GPUs, this one says nothing.
    """

    name = "nvml"

    def __init__(
        self,
        origin: Origin,
        catalog: Catalog,
        nvml: Nvml,
        roster: Roster,
        *,
        interval_ms: int = 1000,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
        gpu_on_bus: Callable[[], bool] = has_nvidia_gpu,
        found: Callable[[GpuIdentity], None] = lambda _: None,
        stand_in: Callable[[], bool] = lambda: False,
    ) -> None:
        self.doing = "nothing yet"
        self._origin = origin
        self._catalog = catalog
        self._nvml = nvml
        self._roster = roster
        self._interval_ms = interval_ms
        self._wall_ms = wall_ms
        self._clock = clock
        self._gpu_on_bus = gpu_on_bus
        self._found = found
        self._stand_in = stand_in
        self._gpus = [Gpu(identity) for identity in roster.known]
        self._shown: tuple[tuple[GpuIdentity, Any], ...] = ()
        self._asked = False
        self.library_missing = False
        """There is no NVML on this machine; nvidia-smi may be asked instead."""
        self.stood_in = False
        """There is none, and another source reads the GPUs."""
        self._open = False
        self._reopen_at = -math.inf
        self._driver_event_sent = False
        self._count: int | None = None
        self._mute: set[int] = set()
        """Indexes that were lost before they could say who they are."""
        self._offered = [True] * len(COLUMNS)

    def identities(self) -> Sequence[GpuIdentity] | None:
        """The GPUs known so far, lost ones too; None before the driver was asked for the first time."""
        return [gpu.identity for gpu in self._gpus] if self._asked else None

    def handles(self) -> Sequence[tuple[GpuIdentity, Any]] | None:
        """The GPUs as of the last read, each with what NVML knows it by (None while it is lost), for other sources.

        None before the driver was asked for the first time. They lie still: any thread may ask.
        """
        return self._shown if self._asked else None

    def read(self, now_ms: int) -> Iterable[Record]:
        """One tick."""
        now_s = self._clock()
        events: list[HardwareEvent] = []
        if not self._open and now_s >= self._reopen_at:
            self._open_driver(now_s, now_ms, events)
        rows: list[list[float]] = []
        if self._open:
            try:
                rows = self._read_all(now_s, now_ms, events)
            except NvmlError as error:
                self._lose_driver(error, now_s, now_ms, events)
        self.doing = "nothing"
        self._show()
        self.stood_in = self.library_missing and self._stand_in()
        if not self._gpus or self.stood_in:
            return events
        for state in ("read", "lost", "unreadable"):
            metrics.GPUS.labels(state).set(sum(gpu.state == state for gpu in self._gpus))
        return [*events, self._sample(rows or [nothing() for _ in self._gpus], now_ms)]

    def _show(self) -> None:
        self._shown = tuple((gpu.identity, gpu.handle) for gpu in self._gpus)

    def _open_driver(self, now_s: float, now_ms: int, events: list[HardwareEvent]) -> None:
        self.doing = "opening the driver"
        try:
            self._nvml.open()
            self._open, self.library_missing = True, False
            self._find(now_s, now_ms, events)
        except NvmlError as error:
            self._lose_driver(error, now_s, now_ms, events)
            return
        finally:
            self._asked = True
        if self._driver_event_sent:
            self._driver_event_sent = False
            events.append(self._event("driver_recovered", now_ms, raw="NVML can be initialised again"))

    def _lose_driver(self, error: NvmlError, now_s: float, now_ms: int, events: list[HardwareEvent]) -> None:
        self._reopen_at = now_s + DRIVER_RETRY_S
        for gpu in self._gpus:
            gpu.let_go()
        self._show()  # before NVML goes: nobody shall ask it any more
        if self._open:
            self.doing = "closing the driver"
            self._nvml.close()
            self._open = False
        self.library_missing = error.code == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
        self.stood_in = self.library_missing and self._stand_in()
        if self._driver_event_sent:
            return
        if self.stood_in:
            log.debug("NVML is not on this machine: nvidia-smi is asked instead", nvml=str(error))
            return
        self._driver_event_sent = True
        if self._roster.known or self._gpu_on_bus():
            details = {"error": str(error), "code": str(error.code)}
            events.append(self._event("driver_unavailable", now_ms, details=details, raw=f"NVML: {explained(error)}"))
            log.error("the GPU driver cannot be reached", error=str(error), retry_s=DRIVER_RETRY_S)
        else:
            log.info("this machine has no NVIDIA GPU: events only", nvml=str(error))

    def _find(self, now_s: float, now_ms: int, events: list[HardwareEvent]) -> None:
        """Enumerate the GPUs, and match them with those that are known."""
        self.doing = "enumerating the GPUs"
        count = self._nvml.count()
        if self._count not in (None, count):
            text = f"NVML counts {count} GPUs, it was {self._count}"
            details = {"before": str(self._count), "now": str(count)}
            events.append(self._event("gpu_count_changed", now_ms, details=details, raw=text))
        self._count = count
        found: list[tuple[GpuIdentity, Any]] = []
        mute: dict[int, NvmlError] = {}
        for index in range(count):
            try:
                handle = self._nvml.handle(index)
                found.append((self._nvml.identify(handle, index), handle))
            except NvmlError as error:
                if error.code in DRIVER_GONE:
                    raise
                mute[index] = error
        node = self._origin.node
        unique = without_shared_serials([identity for identity, _ in found])
        handles = {identity.key(node): handle for identity, (_, handle) in zip(unique, found, strict=True)}
        self._roster.meet(unique, node)
        for identity in unique:
            self._found(identity)
        kept = {gpu.identity.key(node): gpu for gpu in self._gpus}
        # other threads look at the list: a new one takes the place of the old
        self._gpus = [kept.get(identity.key(node)) or Gpu(identity) for identity in self._roster.known]
        for gpu, identity in zip(self._gpus, self._roster.known, strict=True):
            gpu.identity, gpu.handle = identity, handles.get(identity.key(node))
            gpu.plan_anew()
            if gpu.handle is None:
                why = str(mute.pop(identity.index, "NVML does not list it any more"))
                self._lose(gpu, why, now_s, now_ms, events)
        for index in mute.keys() - self._mute:
            details = {"index": str(index), "error": str(mute[index])}
            raw = f"NVML: GPU {index}: {mute[index]}"
            events.append(self._event("gpu_lost", now_ms, details=details, raw=raw))
        self._mute = set(mute)

    def _read_all(self, now_s: float, now_ms: int, events: list[HardwareEvent]) -> list[list[float]]:
        self.doing = "counting the GPUs"
        if self._nvml.count() != self._count:
            self._find(now_s, now_ms, events)
        return [self._read_gpu(gpu, now_s, now_ms, events) for gpu in self._gpus]

    def _look_again(self, gpu: Gpu, now_s: float) -> None:
        """Ask for a lost GPU where it was, unless another one answers there."""
        gpu.ask_again = now_s + DRIVER_RETRY_S
        if any(other.handle is not None and other.identity.index == gpu.identity.index for other in self._gpus):
            return
        self.doing = f"looking for the lost GPU {gpu.identity.index} ({gpu.identity.pci})"
        try:
            handle = self._nvml.handle(gpu.identity.index)
            if self._nvml.identify(handle, gpu.identity.index).uuid == gpu.identity.uuid:
                gpu.handle = handle
        except NvmlError as error:
            if error.code in DRIVER_GONE:
                raise

    def _read_gpu(self, gpu: Gpu, now_s: float, now_ms: int, events: list[HardwareEvent]) -> list[float]:
        if gpu.handle is None and now_s >= gpu.ask_again:
            self._look_again(gpu, now_s)
        if gpu.handle is None:
            return nothing()

        def ask(call: str) -> Answer:
            self.doing = f"reading {call} of GPU {gpu.identity.index} ({gpu.identity.pci})"
            return self._nvml.read(gpu.handle, call)

        try:
            row, problems = gpu.read(ask, now_s)
        except NvmlError as error:
            if error.code not in LOST:
                raise
            self._lose(gpu, str(error), now_s, now_ms, events)
            return nothing()
        if problems and all(math.isnan(value) for value in row[:THROTTLE]):
            self._cannot_read(gpu, problems, now_ms, events)
            return row
        if gpu.state in ("lost", "unreadable"):
            text = f"NVML reads {gpu.identity.key(self._origin.node)} again"
            events.append(self._event("gpu_found", now_ms, gpu=gpu.identity, raw=text))
        gpu.state = "read"
        self._tell_problems(gpu, problems, now_s, now_ms, events)
        return row

    def _lose(self, gpu: Gpu, why: str, now_s: float, now_ms: int, events: list[HardwareEvent]) -> None:
        gpu.let_go()
        gpu.ask_again = now_s + DRIVER_RETRY_S
        if gpu.state != "lost":
            name = gpu.identity.key(self._origin.node)
            raw = f"NVML: GPU {gpu.identity.index} ({name}): {why}"
            events.append(self._event("gpu_lost", now_ms, gpu=gpu.identity, details={"error": why}, raw=raw))
        gpu.state = "lost"

    def _cannot_read(self, gpu: Gpu, problems: dict[int, NvmlError], now_ms: int, events: list[HardwareEvent]) -> None:
        if gpu.state != "unreadable":
            gpu.state = "unreadable"
            said = ", ".join(sorted({str(error) for error in problems.values()}))
            raw = f"NVML: nothing of GPU {gpu.identity.index} can be read: {said}"
            events.append(self._event("gpu_unreadable", now_ms, gpu=gpu.identity, details={"error": said}, raw=raw))
        gpu.ask_for_all()

    def _tell_problems(
        self, gpu: Gpu, problems: dict[int, NvmlError], now_s: float, now_ms: int, events: list[HardwareEvent]
    ) -> None:
        new = gpu.news(problems, now_s)
        if not new:
            return
        raw = "; ".join(f"{COLUMNS[metric]}: {explained(problems[metric])}" for metric in new)
        details = {"metrics": ",".join(COLUMNS[metric] for metric in new)}
        events.append(self._event("metric_unreadable", now_ms, gpu=gpu.identity, details=details, raw=f"NVML: {raw}"))

    def _sample(self, rows: list[list[float]], now_ms: int) -> GpuSample:
        reading = [gpu for gpu in self._gpus if gpu.state == "read"]
        if reading:  # else what was offered before the trouble stays, as NaN
            self._offered = [any(gpus) for gpus in zip(*(gpu.offered for gpu in reading), strict=True)]
        columns = {
            name: [row[metric] for row in rows] if self._offered[metric] else []
            for metric, name in enumerate(COLUMNS)
            if metric != THROTTLE
        }
        return GpuSample(
            **self._origin.envelope(tick_ms=now_ms, observed_ms=self._wall_ms(), interval_ms=self._interval_ms),
            gpus=[gpu.identity.key(self._origin.node) for gpu in self._gpus],
            gpu_index=[gpu.identity.index for gpu in self._gpus],
            throttle_reasons=[-1 if math.isnan(row[THROTTLE]) else int(row[THROTTLE]) for row in rows],
            **columns,
        )

    def _event(
        self,
        kind: str,
        now_ms: int,
        *,
        gpu: GpuIdentity | None = None,
        details: dict[str, str] | None = None,
        raw: str,
    ) -> HardwareEvent:
        return self._origin.event(
            self._catalog,
            kind,
            source=self.name,
            event_ms=now_ms,
            observed_ms=self._wall_ms(),
            gpu=gpu.key(self._origin.node) if gpu else None,
            pci=gpu.pci if gpu else None,
            details=details,
            raw=raw,
        )
