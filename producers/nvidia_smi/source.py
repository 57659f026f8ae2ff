"""The GPUs as `nvidia-smi -q -x` shows them, for machines without NVML's library: the same records, less often.

It is expensive (a process and up to some seconds of driver time), so it runs at most every ten seconds, and only while
it is wanted: `NvmlSource.library_missing`.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from producers.discovery import GpuIdentity, Roster, normal_serial, without_shared_serials
from producers.kernel_log import numbered
from producers.nvidia_smi.reading import GpuEvent, GpuReading, Value, decode
from producers.nvidia_smi.run import NvidiaSmi, NvidiaSmiError
from producers.nvml.conditions import Complaints, Conditions, News
from producers.nvml.conditions import Value as Entry
from producers.nvml.counter_table import WORDS
from producers.nvml.counters import counters_record
from producers.nvml.metric_table import COLUMNS, THROTTLE
from producers.source import Origin
from producers.unreadable import Unreadable
from schemas.catalog import Catalog
from schemas.records import GpuCounters, GpuSample, HardwareEvent, Record

INTERVAL_MS = 10_000
COUNTERS_INTERVAL_MS = 30_000
_EARLY_S = 0.5
"""A tick comes now and then a little early after one that was late."""
_WORDS = {"reset": "gpu_reset", "reboot": "node_reboot"}
"""nvidia-smi's short words for what NVML calls otherwise."""
_ENDS = {"driver_unavailable": "driver_recovered", "gpu_lost": "gpu_found", "gpu_unreadable": "gpu_found"}
"""Trouble to the event that says it is over."""
_COUNTERS = tuple(
    item.name
    for item in msgspec.structs.fields(GpuCounters)
    if item.default is not msgspec.NODEFAULT or item.default_factory is not msgspec.NODEFAULT
)
_WORD_COLUMNS = frozenset(row.name for row in WORDS)
_SHOWN_CHARS = 200

Trouble = tuple[str, str]
"""The kind of event, and whose it is: a GPU's name, its PCI address, or empty for the node."""


@dataclass(slots=True, eq=False)
class _Gpu:
    """What is remembered of one GPU between two reads."""

    conditions: Conditions = field(default_factory=Conditions)
    complaints: Complaints = field(default_factory=Complaints)


class NvidiaSmiSource:
    """The GPUs by nvidia-smi: a `GpuSample` each time, a `GpuCounters` now and then, and what is to report.

    Silent while it is not `wanted` or the program is not there. `found` hears of every GPU in each report.
    """

    name = "nvidia_smi"

    def __init__(
        self,
        origin: Origin,
        catalog: Catalog,
        roster: Roster,
        wanted: Callable[[], bool],
        *,
        smi: NvidiaSmi | None = None,
        interval_ms: int = INTERVAL_MS,
        counters_interval_ms: int = COUNTERS_INTERVAL_MS,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
        found: Callable[[GpuIdentity], None] = lambda _: None,
    ) -> None:
        self.doing = "nothing yet"
        self._origin = origin
        self._catalog = catalog
        self._roster = roster
        self._wanted = wanted
        self._smi = smi or NvidiaSmi()
        self._interval_ms = interval_ms
        self._counters_interval_ms = counters_interval_ms
        self._wall_ms = wall_ms
        self._clock = clock
        self._found = found
        self._asked_at = -math.inf
        self._counters_at = -math.inf
        self._identities: list[GpuIdentity] | None = None
        self._gpus: dict[str, _Gpu] = {}
        self._standing: set[Trouble] = set()
        self._offered: dict[str, frozenset[str]] = {}

    def available(self) -> bool:
        """Whether nvidia-smi is there, so that this source can stand in for NVML."""
        return self._smi.available()

    def identities(self) -> Sequence[GpuIdentity] | None:
        """The GPUs known so far, lost ones too; None until nvidia-smi has told them."""
        return self._identities

    def read(self, now_ms: int) -> Iterable[Record]:
        """One report. Raises `NvidiaSmiError` where there is none."""
        now_s = self._clock()
        if not self._wanted() or not self._smi.available():
            return []
        if now_s - self._asked_at < self._interval_ms / 1000 - _EARLY_S:
            return []
        self._asked_at = now_s
        self.doing = "running nvidia-smi -q -x"
        try:
            output, code = self._smi.query()
            self.doing = "reading what nvidia-smi printed"
            return self._report(output, code, now_s, now_ms)
        finally:
            self.doing = "nothing"

    def _report(self, output: bytes, code: int, now_s: float, now_ms: int) -> list[Record]:
        decoded = list(decode(numbered(io.BytesIO(output)), self._origin.node))
        readings = [item for item in decoded if isinstance(item, GpuReading)]
        troubles = [item for item in decoded if isinstance(item, GpuEvent)]
        broken = [item for item in decoded if isinstance(item, Unreadable)]
        if not readings and not troubles:
            begins = output[:_SHOWN_CHARS].decode(errors="replace").strip()
            raise NvidiaSmiError(
                f"nvidia-smi -q -x gave no report (exit code {code}); it begins {begins!r}; "
                "run it by hand: it and the driver must be of the same version, and the agent's user may run it"
            )
        node = self._origin.node
        known = {gpu.pci: gpu for gpu in self._roster.known if gpu.pci}
        identities = without_shared_serials(
            [_recognised(identity_of(index, reading), reading, known) for index, reading in enumerate(readings)]
        )
        of = {identity.key(node): reading for identity, reading in zip(identities, readings, strict=True)}
        missing = self._roster.meet(identities, node)
        for identity in identities:
            self._found(identity)
        self._identities = list(self._roster.known)
        self._gpus = {gpu.key(node): self._gpus.get(gpu.key(node)) or _Gpu() for gpu in self._roster.known}
        whole = code == 0 and not broken and not troubles
        records: list[Record] = [*self._troubles(troubles, missing if whole else [], of, now_ms)]
        rows = [(gpu, of.get(gpu.key(node))) for gpu in self._roster.known]
        if not rows:
            return records
        self._learn_what_is_offered(readings)
        for gpu, reading in rows:
            if reading is not None and not reading.lost:
                records += self._news(gpu, reading, now_s, now_ms)
        records.append(self._sample(rows, now_ms))
        if self._offered and now_s - self._counters_at >= self._counters_interval_ms / 1000 - _EARLY_S:
            self._counters_at = now_s
            records.append(self._counters(rows, now_ms))
        return records

    def _troubles(
        self,
        told: Sequence[GpuEvent],
        missing: Sequence[GpuIdentity],
        read: Mapping[str, GpuReading],
        now_ms: int,
    ) -> Iterable[HardwareEvent]:
        """What began and what is over since the last report."""
        node = self._origin.node
        at = {gpu.pci: gpu for gpu in self._roster.known}
        now: dict[Trouble, HardwareEvent] = {}
        for trouble in told:
            gpu = at.get(trouble.pci) if trouble.pci else None
            whose = gpu.key(node) if gpu else trouble.gpu or trouble.pci or trouble.details.get("index", "")
            now[trouble.kind, whose] = self._event(
                trouble.kind, now_ms, gpu=whose if gpu or trouble.gpu else None, pci=trouble.pci,
                details=trouble.details, raw=trouble.raw,
            )  # fmt: skip
        for gpu in missing:
            raw = f"GPU {gpu.index} ({gpu.key(node)}): nvidia-smi does not list it any more"
            now["gpu_lost", gpu.key(node)] = self._event(
                "gpu_lost", now_ms, gpu=gpu.key(node), pci=gpu.pci, details={"error": "not listed"}, raw=raw
            )
        yield from (event for trouble, event in now.items() if trouble not in self._standing)
        well = {name for name, reading in read.items() if not reading.lost}
        for kind, whose in sorted(self._standing - now.keys()):
            if (whose in well) if whose else bool(well):
                self._standing.discard((kind, whose))
                if kind in _ENDS:
                    raw = f"nvidia-smi reads {whose or 'the GPUs'} again"
                    yield self._event(_ENDS[kind], now_ms, gpu=whose or None, raw=raw)
        self._standing |= now.keys()

    def _news(self, gpu: GpuIdentity, reading: GpuReading, now_s: float, now_ms: int) -> Iterable[HardwareEvent]:
        state = self._gpus[gpu.key(self._origin.node)]
        columns = {*COLUMNS, *_COUNTERS}
        problems = {name: text for name, text in reading.unreadable.items() if name in columns}
        values = {name: entry(value) for name, value in _slow(reading).items()}
        news: list[News] = [*state.conditions.update(values), *state.complaints.update(problems, now_s)]
        for item in news:
            yield item.event(
                self._origin, self._catalog, gpu, source=self.name, event_ms=now_ms, observed_ms=self._wall_ms()
            )

    def _learn_what_is_offered(self, readings: Sequence[GpuReading]) -> None:
        good = [reading for reading in readings if not reading.lost and reading.cut is None]
        if good:  # else what was offered before the trouble stays, as NaN
            self._offered = {
                "metrics": frozenset().union(*(_told(reading.metrics, reading) for reading in good)),
                "counters": frozenset().union(*(_told(_slow(reading), reading) for reading in good)),
            }

    def _sample(self, rows: Sequence[tuple[GpuIdentity, GpuReading | None]], now_ms: int) -> GpuSample:
        offered = self._offered.get("metrics", frozenset())
        metrics = [{} if reading is None or reading.lost else reading.metrics for _, reading in rows]
        throttle = COLUMNS[THROTTLE]
        columns: dict[str, list[float]] = {
            name: [_number(values.get(name)) for values in metrics] if name in offered else []
            for name in COLUMNS
            if name != throttle
        }
        return GpuSample(
            **self._origin.envelope(tick_ms=now_ms, observed_ms=self._wall_ms(), interval_ms=self._interval_ms),
            gpus=[gpu.key(self._origin.node) for gpu, _ in rows],
            gpu_index=[gpu.index for gpu, _ in rows],
            throttle_reasons=[bits if isinstance(bits := values.get(throttle), int) else -1 for values in metrics],
            **columns,
        )

    def _counters(self, rows: Sequence[tuple[GpuIdentity, GpuReading | None]], now_ms: int) -> GpuCounters:
        slow = [{} if reading is None or reading.lost else _slow(reading) for _, reading in rows]
        columns: dict[str, list[Any]] = {}
        for name in sorted(self._offered["counters"]):
            nothing = None if name in _WORD_COLUMNS else math.nan
            values = [entry(row.get(name)) for row in slow]
            columns[name] = [nothing if value is None else value for value in values]
        return counters_record(
            self._origin,
            [gpu for gpu, _ in rows],
            columns,
            source=self.name,
            tick_ms=now_ms,
            observed_ms=self._wall_ms(),
            interval_ms=self._counters_interval_ms,
        )

    def _event(
        self,
        kind: str,
        now_ms: int,
        *,
        gpu: str | None,
        pci: str | None = None,
        details: Mapping[str, str] | None = None,
        raw: str,
    ) -> HardwareEvent:
        return self._origin.event(
            self._catalog,
            kind,
            source=self.name,
            event_ms=now_ms,
            observed_ms=self._wall_ms(),
            gpu=gpu,
            pci=pci,
            details=details,
            raw=raw,
        )


def identity_of(index: int, reading: GpuReading) -> GpuIdentity:
    """Who a GPU is, as NVML would say it; `index` is its place in the report, which is the driver's order."""
    who = reading.identity
    cluster = _text(who["fabric_cluster"])
    clique = who["fabric_clique"]
    joined = entry(reading.state["fabric_state"]) == "completed" and cluster and clique is not None
    return GpuIdentity(
        index=index,
        serial=normal_serial(_text(who["serial"])),
        uuid=_text(who["uuid"]),
        pci=reading.pci,
        sku=_text(who["name"]),
        driver_version=_text(who["driver_version"]),
        vbios_version=_text(who["vbios_version"]),
        module=int(module) if isinstance(module := who["module_id"], int | float) else None,
        nvlink_domain=f"{cluster.replace('-', '').lower()}.{clique}" if joined and cluster else None,
        board_part_number=_text(who["board_part_number"]),
        inforom_version=_text(who["inforom_image_version"]),
    )


def _recognised(found: GpuIdentity, reading: GpuReading, known: Mapping[str, GpuIdentity]) -> GpuIdentity:
    """Who it is, by its slot where its report is broken and does not say enough."""
    before = known.get(found.pci or "")
    if before is None or (reading.cut is None and not reading.lost):
        return found
    stranger = not reading.lost and found.serial not in (None, before.serial)
    return found if stranger else msgspec.structs.replace(before, index=found.index)


def entry(value: Value) -> Entry:
    """A value of nvidia-smi as `gpu.counters` has it: flags are 1 and 0, words lower case with underscores."""
    if isinstance(value, str):
        word = "_".join(value.lower().split())
        return _WORDS.get(word, word)
    return None if value is None else float(value)


def _slow(reading: GpuReading) -> dict[str, Value]:
    """What of a reading belongs into `gpu.counters`."""
    every = {**reading.counters, **reading.limits, **reading.state}
    return {name: every[name] for name in _COUNTERS if name in every}


def _told(values: Mapping[str, Value], reading: GpuReading) -> frozenset[str]:
    return frozenset(name for name, value in values.items() if value is not None or name in reading.unreadable)


def _number(value: Value) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _text(value: Value) -> str | None:
    return value if isinstance(value, str) else None
