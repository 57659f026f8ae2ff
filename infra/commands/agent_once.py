"""`fleetpulse agent --once --print`: what this node would send, as a page for a human or as JSON lines."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from infra import observe
from infra.settings import Settings
from producers.settings import AgentSettings
from producers.source import Envelope
from schemas.catalog.metrics import metrics
from schemas.records import (
    FacilitySample,
    GpuCounters,
    GpuSample,
    HardwareEvent,
    InventoryRecord,
    NodeSample,
    Record,
)

_UNITS = {
    "celsius": "°C",
    "watts": "W",
    "mhz": "MHz",
    "percent": "%",
    "bytes": "bytes",
    "bytes_per_second": "bytes/s",
    "mbps": "Mbit/s",
    "gbps": "Gbit/s",
    "us": "µs",
    "joules": "J",
    "s": "s",
}
_OF_BYTES = frozenset({"bytes", "bytes_per_second", "B", "B/s"})
_SIZES = ("", "k", "M", "G", "T", "P")
_NOT_READ = "-"
_SEVERITIES = {"critical": "bold red", "warning": "yellow", "info": "dim"}
_GPUS_ACROSS = 8
"""More do not fit on a screen; the rest stands below."""
_ENVELOPE = frozenset({*Envelope.__annotations__, "source", "gpus", "gpu_index"})


def run(settings: Settings) -> None:
    """Read every source and print what it says; a value that was not read is a dash, in JSON null."""
    from producers.node import collect_once

    as_json = settings.observe.json_lines
    # the page shows what goes wrong; the log would say it twice
    observe.configure_logging("agent", level=settings.observe.level if as_json else "CRITICAL", json_lines=as_json)
    records = collect_once(settings.agent)
    if as_json:
        for record in records:
            line = {"record": type(record).__name__, **msgspec.to_builtins(record)}
            sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
        sys.stdout.buffer.flush()
        return
    Console(highlight=False).print(page(records, settings.agent))


def page(records: Sequence[Record], settings: AgentSettings) -> Group:
    """All records of one reading, put in order for a reader: what is wrong first."""
    about = f"What the agent would send of node {settings.node}, rack {settings.rack}, site {settings.site}."
    parts: list[RenderableType] = [Text(about)]
    for kind, show in _SHOWN.items():
        parts += show([record for record in records if isinstance(record, kind)])
    silent = [name for name, shows in _SOUGHT.items() if not any(map(shows, records))]
    if silent:
        parts.append(Text(f"Nothing was found of: {', '.join(silent)}.", style="dim"))
    if "rack" not in settings.model_fields_set:
        parts.append(Text("The rack is not set: records are kept by rack, so set agent.rack (and agent.site)."))
    parts.append(
        Text(
            "Kernel messages and diagnostics are sent when they happen; `fleetpulse doctor` says whether this user may "
            "read them. `fleetpulse agent --once --print --json` prints the records themselves."
        )
    )
    return Group(*parts)


def _events(events: Sequence[HardwareEvent]) -> Iterator[RenderableType]:
    if not events:
        return
    table = _table("What is wrong, or was just found", "source", "event", "what it says")
    for event in sorted(events, key=lambda one: list(_SEVERITIES).index(one.severity)):
        table.add_row(event.source, Text(event.kind, _SEVERITIES[event.severity]), event.raw)
    yield table


def _gpus(samples: Sequence[GpuSample]) -> Iterator[RenderableType]:
    for sample in samples:
        rows = {name: getattr(sample, name) for name in metrics()}
        read = {name: values for name, values in rows.items() if _any_read(values)}
        yield from _by_gpu("GPUs now → gpu.samples", sample.gpus, sample.gpu_index, read, _metric_unit)
        if missing := sorted(rows.keys() - read.keys()):
            yield Text(f"Not offered here, or not read: {', '.join(missing)}.", style="dim")


def _counters(readings: Sequence[GpuCounters]) -> Iterator[RenderableType]:
    for reading in readings:
        rows = {name: values for name, values in _fields(reading).items() if isinstance(values, list)}
        flat = {name: values for name, values in rows.items() if values and not isinstance(values[0], list)}
        read = {name: values for name, values in flat.items() if _any_read(values)}
        title = f"GPUs over their life → gpu.counters, by {reading.source}"
        yield from _by_gpu(title, reading.gpus, reading.gpu_index, read, _unit)
        links = reading.nvlink_link_active
        if any(links):
            up = [f"{sum(one == 1 for one in gpu)} of {len(gpu)}" for gpu in links]
            yield Text(f"NVLink links up, by GPU: {', '.join(up)}.")


def _nodes(samples: Sequence[NodeSample]) -> Iterator[RenderableType]:
    for sample in samples:
        values = {name: value for name, value in _fields(sample).items() if not isinstance(value, list)}
        table = _table(f"The node, by {sample.source} → node.samples", "", "now", "unit")
        for name, value in values.items():
            if value is not None:
                table.add_row(_plain(name), _number(value, _unit(name)), _shown_unit(_unit(name)))
        if table.row_count:
            yield table
        for title, parts in (("Disks", sample.disks), ("Networks", sample.networks), ("Fabric ports", sample.ports)):
            if parts:
                yield _parts(title, parts)


def _devices(samples: Sequence[FacilitySample]) -> Iterator[RenderableType]:
    for sample in samples:
        table = _table(f"{sample.device}, by {sample.source} → facility.samples", "", "now", "unit")
        for point in sample.points:
            state = point.state or ""
            shown = _number(point.value, "") if point.value is not None else state or _NOT_READ
            table.add_row(point.name, shown, point.unit if point.value is not None else "")
        yield table


def _inventory(found: Sequence[InventoryRecord]) -> Iterator[RenderableType]:
    if not found:
        return
    table = _table("What is here → fleet.inventory", "component", "where", "product", "PCI", "driver", "VBIOS")
    for one in found:
        where = f"rack {one.rack}, node {one.node}" + (f", index {one.gpu_index}" if one.gpu_index is not None else "")
        row = (one.sku, one.pci, one.driver_version, one.vbios_version)
        table.add_row(one.component, where, *(value or _NOT_READ for value in row))
    yield table


_SHOWN: Mapping[type[Record], Callable[[Any], Iterable[RenderableType]]] = {
    HardwareEvent: _events,
    GpuSample: _gpus,
    GpuCounters: _counters,
    NodeSample: _nodes,
    FacilitySample: _devices,
    InventoryRecord: _inventory,
}
_SOUGHT: Mapping[str, Callable[[Record], bool]] = {
    "GPUs (no NVIDIA driver, or no GPU)": lambda record: isinstance(record, GpuSample),
    "InfiniBand and RoCE ports (no such card, or no driver for it)": lambda record: (
        isinstance(record, NodeSample) and bool(record.ports)
    ),
    "PDUs, cooling and management controllers (agent.facility names them)": lambda record: isinstance(
        record, FacilitySample
    ),
}
"""What a node may lack, and which record shows that it does not."""


def _by_gpu(
    title: str,
    gpus: Sequence[str],
    indexes: Sequence[int],
    rows: Mapping[str, Sequence[Any]],
    unit: Callable[[str], str],
) -> Iterator[RenderableType]:
    """Metrics down, GPUs across; what is the same on all GPUs stands once, and what is 0 on all in one sentence."""
    same = {name: values[0] for name, values in rows.items() if len(values) > 1 and len(set(map(str, values))) == 1}
    zero = [_plain(name) for name, value in same.items() if value == 0]
    if shared := {name: value for name, value in same.items() if value != 0}:
        table = _table(f"{title}: the same on all {len(gpus)} GPUs", "", "each", "unit")
        for name, value in shared.items():
            table.add_row(_plain(name), _number(value, unit(name)), _shown_unit(unit(name)))
        yield table
    differs = {name: values for name, values in rows.items() if name not in same}
    for first in range(0, len(gpus) if differs else 0, _GPUS_ACROSS):
        here = slice(first, first + _GPUS_ACROSS)
        table = _table(title, "", *(f"GPU {index}" for index in indexes[here]), "unit")
        for name, values in differs.items():
            shown = (_number(value, unit(name)) for value in values[here])
            table.add_row(_plain(name), *shown, _shown_unit(unit(name)))
        yield table
    if zero:
        yield Text(f"0 on every GPU: {', '.join(zero)}.", style="dim")


def _parts(title: str, parts: Sequence[Record]) -> Panel | Table:
    """Disks, networks or ports: one row each, the columns of which something was read."""
    rows = [_fields(part) for part in parts]
    names = [name for name in rows[0] if any(row[name] not in (None, "", {}, []) for row in rows)]
    table = _table(title, *(_heading(name) for name in names))
    for row in rows:
        table.add_row(*(_cell(name, row[name]) for name in names))
    return table


def _cell(name: str, value: Any) -> str:
    if isinstance(value, dict):
        return f"{len(value)} read"
    return _number(value, _unit(name))


def _heading(name: str) -> str:
    unit = _shown_unit(_unit(name))
    return _plain(name) + (f"\n{unit}" if unit else "")


def _fields(record: Record) -> dict[str, Any]:
    return {name: value for name, value in msgspec.structs.asdict(record).items() if name not in _ENVELOPE}


def _any_read(values: Sequence[Any]) -> bool:
    return any(value is not None and not (isinstance(value, float) and math.isnan(value)) for value in values)


def _metric_unit(name: str) -> str:
    return metrics()[name].unit


def _unit(name: str) -> str:
    """The unit at the end of a metric's name."""
    return next((unit for unit in sorted(_UNITS, key=len, reverse=True) if name.endswith(f"_{unit}")), "")


def _plain(name: str) -> str:
    unit = _unit(name)
    return (name.removesuffix(f"_{unit}") if unit else name).replace("_", " ")


def _shown_unit(unit: str) -> str:
    return _UNITS.get(unit, unit)


def _number(value: Any, unit: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return _NOT_READ
    if not isinstance(value, (int, float)):
        return str(value)
    if unit in _OF_BYTES and abs(value) >= 1000:
        size, step = float(value), 0
        while abs(size) >= 1000 and step < len(_SIZES) - 1:
            size, step = size / 1000, step + 1
        return f"{size:.1f} {_SIZES[step]}"
    return f"{value:,.1f}".removesuffix(".0")


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", show_lines=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right" if column != "what it says" else "left")
    return table
