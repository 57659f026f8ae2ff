"""A dcgm-exporter that runs on this node: its page as GPU samples and counters, for nodes where NVML is not ours.

What the page does not tell is NaN. An exporter that does not answer, names no GPU or serves an old page is an error
with its remedy: old values are not sent as new ones.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import urllib3

from producers.dcgm.exporter import ExporterReading, Value, decode, targets
from producers.discovery import normal_serial
from producers.source import Origin
from producers.unreadable import Unreadable
from schemas.catalog import Catalog
from schemas.records import GpuCounters, GpuSample, HardwareEvent, Record

if TYPE_CHECKING:
    from producers.dcgm.settings import ExporterSettings

log = structlog.get_logger()

MIB = 1 << 20
_CHUNK_BYTES = 1 << 16
_NO_INDEX = -1


class ExporterError(RuntimeError):
    """A page that could not be read: which, what was found, what to do."""


@dataclass(slots=True, eq=False)
class _Gpu:
    """One GPU of the page and what is remembered of it."""

    name: str
    index: int
    pci: str | None = None
    listed: bool = True
    xid: int | None = None
    """The last XID at the read before."""


class _Row:
    """What one page says of one GPU: its own lines first, then those of its instances."""

    __slots__ = ("counters", "index", "metrics", "pci", "serial", "uuid")

    def __init__(self) -> None:
        self.index: int | None = None
        self.pci: str | None = None
        self.serial: str | None = None
        self.uuid: str | None = None
        self.metrics: dict[str, Value] = {}
        self.counters: dict[str, Value] = {}

    def take(self, reading: ExporterReading, *, instance: bool) -> None:
        self.index = reading.index if self.index is None else self.index
        self.pci = self.pci or reading.pci
        labels = reading.labels
        self.serial = self.serial or normal_serial(labels.get("DCGM_FI_DEV_SERIAL"))
        self.uuid = self.uuid or labels.get("UUID") or labels.get("uuid") or labels.get("gpu_uuid")
        for mine, said in ((self.metrics, reading.metrics), (self.counters, reading.counters)):
            for name, value in said.items():
                if not instance:
                    # pages and lines that repeat a GPU: the last that knows the value
                    if value is not None or name not in mine:
                        mine[name] = value
                elif name in _board_values() and mine.get(name) is None:
                    mine[name] = value


class DcgmExporterSource:
    """The page of a dcgm-exporter. `serial_of` gives the serial behind a UUID, where the page has no serials.

    A GPU keeps its place for as long as the agent runs: one that the page no longer lists is all NaN.
    """

    name = "dcgm_exporter"

    def __init__(
        self,
        origin: Origin,
        catalog: Catalog,
        settings: ExporterSettings,
        *,
        serial_of: Callable[[str], str | None] = lambda _: None,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if settings.url is None:
            raise ValueError("the page of dcgm-exporter is not known: set dcgm_exporter.url")
        self.doing = "nothing"
        self._origin = origin
        self._catalog = catalog
        self._settings = settings
        self._url = settings.url
        self._serial_of = serial_of
        self._wall_ms = wall_ms
        self._clock = clock
        self._pool = urllib3.PoolManager(num_pools=1, maxsize=1, retries=False)
        self._gpus: dict[str, _Gpu] = {}
        self._broken = False
        """That lines of the page cannot be read was told."""
        self._energy: tuple[Mapping[str, Value], float] | None = None
        """The energy each GPU has used, and since when it stands there."""
        self._offered: dict[type[Record], set[str]] = {GpuSample: set(), GpuCounters: set()}

    def close(self) -> None:
        """Let the connection go."""
        self._pool.clear()

    def read(self, now_ms: int) -> Iterable[Record]:
        """One page. Raises `ExporterError`."""
        self.doing = f"asking {self._url}"
        text = self._fetch()
        self.doing = f"reading the page of {self._url}"
        decoded = list(decode(enumerate(text.splitlines(), 1), self._origin.node))
        rows = self._rows([item for item in decoded if isinstance(item, ExporterReading)])
        if not rows:
            shown = f"; it begins with {text.strip()[:80]!r}" if text.strip() else ", it is empty"
            raise ExporterError(
                f"the page {self._url} names no GPU{shown}: the exporter has lost DCGM or the GPUs; see its log, check "
                "that nvidia-dcgm runs, restart the exporter"
            )
        self._check_fresh(rows)
        told: list[Record] = [*self._complaints(decoded, now_ms), *self._presence(rows, now_ms)]
        if self._settings.xid_events:
            told += self._xids(rows, now_ms)
        self.doing = "nothing"
        if self._settings.samples:
            told.append(self._sample(rows, now_ms))
        told.append(self._counters(rows, now_ms))
        return told

    def _fetch(self) -> str:
        """The page. Bounded in time and size, whatever answers."""
        timeout_s = self._settings.timeout_s
        deadline_s = self._clock() + timeout_s
        try:
            response = self._pool.request(
                "GET", self._url, headers=self._headers(), timeout=timeout_s, preload_content=False
            )
            try:
                body = self._body(response, deadline_s)
            except BaseException:
                response.close()  # the rest of it is nothing for the next request
                raise
            response.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise ExporterError(
                f"the page {self._url} cannot be read: {_said(error)}; is dcgm-exporter running (systemctl status "
                "dcgm-exporter) and does it listen there?"
            ) from error
        return body.decode(errors="replace")

    def _body(self, response: urllib3.BaseHTTPResponse, deadline_s: float) -> bytes:
        settings = self._settings
        if response.status != 200:
            raise ExporterError(f"the page {self._url} answers {response.status}: {_remedy(response.status)}")
        body = bytearray()
        while chunk := response.read1(_CHUNK_BYTES):
            body += chunk
            if len(body) > settings.page_mib * MIB:
                raise ExporterError(
                    f"the page {self._url} is longer than {settings.page_mib} MiB: is that a dcgm-exporter? "
                    "Otherwise raise dcgm_exporter.page_mib"
                )
            if self._clock() > deadline_s:
                raise ExporterError(
                    f"the page {self._url} was not complete after {settings.timeout_s:g} s: the exporter or DCGM "
                    "hangs; restart it, or raise dcgm_exporter.timeout_s"
                )
        return bytes(body)

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "text/plain", "Accept-Encoding": "gzip", "User-Agent": "fleetpulse"}
        path = self._settings.authorization_file
        if path is not None:
            try:
                headers["Authorization"] = path.read_text().strip()
            except OSError as error:
                raise ExporterError(
                    f"the exporter's authorization in {path} cannot be read: {error.strerror}; let the agent's user "
                    "read it"
                ) from error
        return headers

    def _rows(self, readings: list[ExporterReading]) -> dict[str, _Row]:
        """What the page says of each GPU, by the GPU's name."""
        by_place: dict[str, _Row] = {}
        for instance in (False, True):  # what is said of the board itself goes first
            for reading in readings:
                labels = reading.labels
                if bool(labels.get("GPU_I_ID")) is not instance or (reading.gpu is None and reading.index is None):
                    continue
                if "nvlink" in labels or "nvswitch" in labels or "cpu" in labels:
                    continue  # one link says nothing of the board
                place = labels.get("UUID") or labels.get("uuid") or labels.get("gpu_uuid") or f"index {reading.index}"
                by_place.setdefault(place, _Row()).take(reading, instance=instance)
        serials = [self._serial(row) for row in by_place.values()]
        named: dict[str, _Row] = {}
        for row, serial in zip(by_place.values(), serials, strict=True):
            # two GPUs of one board may both have the board's serial
            unique = serial if serial and serials.count(serial) == 1 else None
            name = unique or row.uuid or f"{self._origin.node}/{row.pci or row.index}"
            named.setdefault(name, row)
        return named

    def _serial(self, row: _Row) -> str | None:
        return row.serial or (normal_serial(self._serial_of(row.uuid)) if row.uuid else None)

    def _check_fresh(self, rows: Mapping[str, _Row]) -> None:
        """An exporter that lost DCGM may serve its last page for ever; energy is used even by GPUs that idle."""
        now_s = self._clock()
        used = {name: value for name, row in rows.items() if (value := row.counters.get("energy_joules")) is not None}
        if self._energy is None or not used or self._energy[0] != used:
            self._energy = (used, now_s)
        elif now_s - self._energy[1] >= self._settings.frozen_s:
            raise ExporterError(
                f"the page {self._url} is the same for {now_s - self._energy[1]:.0f} s (no GPU has used any energy): "
                "the exporter serves old values; restart nvidia-dcgm and the exporter"
            )

    def _complaints(self, decoded: list[ExporterReading | Unreadable], now_ms: int) -> list[HardwareEvent]:
        broken = [item for item in decoded if isinstance(item, Unreadable)]
        was_broken, self._broken = self._broken, bool(broken)
        if not broken or was_broken:
            return []
        raw = f"{len(broken)} lines of {self._url} cannot be read, the first: {broken[0]}"
        return [self._event("metric_unreadable", now_ms, None, {"lines": str(len(broken))}, raw)]

    def _presence(self, rows: Mapping[str, _Row], now_ms: int) -> list[HardwareEvent]:
        """Keep the list of GPUs. Where nobody else watches them, one that is missing is told."""
        told = []
        for name, row in rows.items():
            gpu = self._gpus.setdefault(name, _Gpu(name, _NO_INDEX))
            gpu.index = _NO_INDEX if row.index is None else row.index
            gpu.pci = row.pci or gpu.pci
            if not gpu.listed:
                told.append(self._event("gpu_found", now_ms, gpu, {}, f"dcgm-exporter lists {name} again"))
            gpu.listed = True
        for gpu in self._gpus.values():
            if gpu.listed and gpu.name not in rows:
                gpu.listed = False
                raw = f"dcgm-exporter no longer lists GPU {gpu.index} ({gpu.name})"
                told.append(self._event("gpu_unreadable", now_ms, gpu, {"error": "not on the page"}, raw))
        return told if self._settings.samples else []

    def _xids(self, rows: Mapping[str, _Row], now_ms: int) -> list[HardwareEvent]:
        """A GPU's last XID is another than before. When the first one that is seen happened nobody knows."""
        told = []
        for name, row in rows.items():
            gpu, said = self._gpus[name], row.counters.get("last_xid")
            if said is None:
                continue
            before, gpu.xid = gpu.xid, int(said)
            if before is None or gpu.xid in {0, before}:
                continue
            entry = self._catalog.entry("xid", gpu.xid)
            event = self._event("xid", now_ms, gpu, {}, f"dcgm-exporter: the last XID of {name} is {gpu.xid}")
            told.append(msgspec.structs.replace(event, code=gpu.xid, severity=entry.severity, action=entry.action))
        return told

    def _sample(self, rows: Mapping[str, _Row], now_ms: int) -> GpuSample:
        columns = self._columns(GpuSample, {name: row.metrics for name, row in rows.items()})
        reasons = [rows[gpu].metrics.get("throttle_reasons") if gpu in rows else None for gpu in self._gpus]
        columns.pop("throttle_reasons", None)
        return GpuSample(
            **self._where(now_ms),
            throttle_reasons=[-1 if value is None else int(value) for value in reasons],
            **columns,
        )

    def _counters(self, rows: Mapping[str, _Row], now_ms: int) -> GpuCounters:
        columns = self._columns(GpuCounters, {name: row.counters for name, row in rows.items()})
        return GpuCounters(**self._where(now_ms), source="dcgm", **columns)

    def _columns(self, kind: type[Record], said: Mapping[str, Mapping[str, Value]]) -> dict[str, Any]:
        """A list for each value that some GPU has or had, in the order of the GPUs."""
        offered = self._offered[kind]
        fields = set(kind.__struct_fields__)
        offered |= {name for values in said.values() for name, value in values.items() if value is not None} & fields
        return {
            name: [math.nan if (value := said.get(gpu, {}).get(name)) is None else float(value) for gpu in self._gpus]
            for name in sorted(offered)
        }

    def _where(self, now_ms: int) -> dict[str, Any]:
        observed_ms = max(now_ms, self._wall_ms())
        return {
            **self._origin.envelope(tick_ms=now_ms, observed_ms=observed_ms, interval_ms=self._settings.interval_ms),
            "gpus": list(self._gpus),
            "gpu_index": [gpu.index for gpu in self._gpus.values()],
        }

    def _event(self, kind: str, now_ms: int, gpu: _Gpu | None, details: dict[str, str], raw: str) -> HardwareEvent:
        return self._origin.event(
            self._catalog,
            kind,
            source=self.name,
            event_ms=now_ms,
            observed_ms=max(now_ms, self._wall_ms()),
            gpu=gpu.name if gpu else None,
            pci=gpu.pci if gpu else None,
            details=details,
            raw=raw,
        )


def _board_values() -> frozenset[str]:
    """What the line of a GPU instance says of the whole board."""
    return frozenset(target.name for target in targets().values() if target.board)


def _remedy(status: int) -> str:
    if status in {401, 403}:
        return "it wants credentials; give them in dcgm_exporter.authorization_file"
    if status == 404:
        return "it is another page; dcgm-exporter's ends in /metrics"
    if 300 <= status < 400:
        return "it is elsewhere; give the address that it leads to"
    return "see the exporter's log, check that nvidia-dcgm runs, restart the exporter"


def _said(error: urllib3.exceptions.HTTPError) -> str:
    """Without the library's own objects in it."""
    return str(error).rpartition(">: ")[2] or type(error).__name__
