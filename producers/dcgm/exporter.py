"""A page of dcgm-exporter, one reading per GPU (and MIG instance, NVLink, NVSwitch, CPU) that it tells of.

Pages may follow each other: a capture of several scrapes, or standard input. A line that cannot be read costs only
itself. DCGM's blanks (not supported, no data, no permission) are None, never a number.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

import msgspec
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from producers.discovery import normal_serial
from producers.kernel_log import normal_pci
from producers.unreadable import Unreadable
from schemas.ids import gpu_id, node_id

Value = int | float | bool | None

INT32_BLANKS = range(0x7FFFFFF0, 0x80000000)
INT64_BLANK = 9.2233e18
FP64_BLANKS = range(2**47, 2**47 + 16)
"""DCGM's dcgm_structs.h: blank, not found, not supported, not permitted, and room for more. The int64 ones begin at
0x7ffffffffffffff0, the very end of what can be counted; printed as a float they lose their last digits."""
_STRING_BLANK = "<<<"
"""`<<<NULL>>>`, `<<<NOT_SUPPORTED>>>`: the same in labels."""
_LINE_CHARS = 1 << 16
_HELD = 1000
"""So many unreadable lines wait for the first one of DCGM's."""
_DEFINITION = re.compile(r"DCGM_\w+ *, *(?:gauge|counter|label|histogram|summary) *,", re.IGNORECASE)
"""A line of the exporter's own list of fields: no value, and no fault either."""
_WHERE = {
    "gpu", "UUID", "uuid", "gpu_uuid", "device", "modelName", "model_name", "Hostname", "hostname", "pci_bus_id",
    "GPU_I_ID", "GPU_I_PROFILE", "nvlink", "nvswitch", "cpu", "cpucore", "container", "namespace", "pod",
    "DCGM_FI_DRIVER_VERSION", "DCGM_FI_DEV_SERIAL", "window_size_in_ms", "err_msg",
}  # fmt: skip
"""Labels that say whose a value is; any other tells one value of a field from another (`xid="79"`)."""


class Field(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of exporter.toml."""

    fields: tuple[str, ...]
    scale: float = 1
    flag: bool = False
    board: bool = False


class Target(msgspec.Struct, frozen=True):
    """What becomes of a field of DCGM's."""

    group: str
    name: str
    scale: float
    flag: bool
    board: bool
    """The line of a GPU instance tells it of the whole board."""
    rank: int
    """0 for the best of the fields that give the same."""


@cache
def targets() -> dict[str, Target]:
    """DCGM's field name to ours."""
    document = tomllib.loads(Path(__file__).with_name("exporter.toml").read_text(encoding="utf-8"))
    return {
        field: Target(group, name, row.scale, row.flag, row.board, rank)
        for group, rows in msgspec.convert(document, dict[str, dict[str, Field]]).items()
        for name, row in rows.items()
        for rank, field in enumerate(row.fields)
    }


class ExporterReading(msgspec.Struct, frozen=True, kw_only=True):
    """What one page says of one component."""

    source: str = "dcgm_exporter"
    component: str
    gpu: str | None
    """The serial where a label tells it, else the UUID; None for what is no GPU."""
    pci: str | None
    index: int | None
    """DCGM's index of the GPU."""
    node: str | None
    line: int
    """Where the page first speaks of it."""
    metrics: dict[str, Value]
    """Columns of gpu.samples, in their units."""
    counters: dict[str, Value]
    other: dict[str, Value]
    """Fields that have no name of ours, under DCGM's, in DCGM's unit."""
    labels: dict[str, str]
    """As they stand there, without empty ones."""


Decoded = ExporterReading | Unreadable


class _Group:
    """What a page has said of one component so far."""

    __slots__ = ("labels", "line", "ranks", "values")

    def __init__(self, line: int) -> None:
        self.line = line
        self.labels: dict[str, str] = {}
        self.values: dict[str, dict[str, Value]] = {"metrics": {}, "counters": {}, "other": {}}
        self.ranks: dict[str, tuple[bool, int]] = {}

    def take(self, sample: Sample) -> None:
        for name, said in sample.labels.items():
            if name in _WHERE and said and not said.startswith(_STRING_BLANK):
                self.labels.setdefault(name, said)
        value = number(sample.value)
        target = targets().get(sample.name)
        if target is None:
            extra = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()) if k not in _WHERE and v)
            self.values["other"][f"{sample.name}{{{extra}}}" if extra else sample.name] = value
            return
        rank = (value is None, target.rank)
        if rank <= self.ranks.get(target.name, (True, len(targets()))):
            self.ranks[target.name] = rank
            self.values[target.group][target.name] = _converted(value, target)


def number(value: float) -> int | float | None:
    """None for DCGM's blanks, in any of the types that they were printed in, and for what is no finite number."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if abs(value) >= INT64_BLANK or value in FP64_BLANKS or value in INT32_BLANKS:
        return None
    return int(value) if float(value).is_integer() else value


def _converted(value: int | float | None, target: Target) -> int | float | bool | None:
    if value is None or target.flag:
        return None if value is None else value != 0
    scaled = value * target.scale
    if abs(scaled) >= INT64_BLANK:
        return None
    return int(scaled) if float(scaled).is_integer() else scaled


def decode(lines: Iterable[tuple[int, str]], node: str = "") -> Iterator[Decoded]:
    """The readings of numbered lines, page by page; never raises. `node` counts where no label names the host."""
    page: dict[tuple[str, ...], _Group] = {}
    seen: set[object] = set()
    last, found = 0, False
    held: list[Unreadable] = []
    """What could not be read before the first line of DCGM's: of a file that is no page, that alone is told."""
    for last, raw in lines:
        line = raw.strip()
        if line.startswith("#"):
            mark: object = tuple(line.split(None, 3)[1:3])
            if mark in seen and page:
                yield from _page(page, node)
                page, seen = {}, set()
            seen.add(mark)
            continue
        if not line or _DEFINITION.match(line):
            continue
        sample = _sample(line)
        if isinstance(sample, str):
            held.append(Unreadable(place=f"line {last}", what="a value of dcgm-exporter", reason=sample))
            if found or len(held) == _HELD:
                yield from held
                held.clear()
            continue
        if not sample.name.lower().startswith("dcgm_"):
            continue
        if not found:
            found = True
            yield from held
            held.clear()
        mark = (sample.name, *sorted(sample.labels.items()))
        if mark in seen:
            yield from _page(page, node)
            page, seen = {}, set()
        seen.add(mark)
        page.setdefault(_key(sample.labels), _Group(last)).take(sample)
    yield from _page(page, node)
    if not found:
        place = f"line {max(last, 1)}"
        yield Unreadable(place=place, what="a page of dcgm-exporter", reason="no line with a DCGM_FI_… field in it")


def _sample(line: str) -> Sample | str:
    """The value of a line, or what is wrong with it."""
    shown = f"found {line[:80]!r}"
    if len(line) > _LINE_CHARS:
        return f"the line has {len(line)} characters; {shown}"
    try:
        samples = [sample for family in text_string_to_metric_families(line + "\n") for sample in family.samples]
    except (ValueError, KeyError, IndexError) as error:
        return f"{error}; {shown}"
    return samples[0] if samples else f"no value; {shown}"


def _key(labels: Mapping[str, str]) -> tuple[str, ...]:
    """Whose a value is; pods that share a GPU repeat its values and are no components."""
    uuid = labels.get("UUID") or labels.get("uuid") or labels.get("gpu_uuid") or ""
    names = ("GPU_I_ID", "nvlink", "nvswitch", "cpu", "cpucore")
    return (_host(labels), uuid or labels.get("gpu", ""), *(labels.get(name, "") for name in names))


def _host(labels: Mapping[str, str]) -> str:
    return labels.get("Hostname") or labels.get("hostname") or ""


def _page(page: Mapping[tuple[str, ...], _Group], node: str) -> Iterator[ExporterReading]:
    for group in page.values():
        labels = group.labels
        host = _host(labels) or node
        uuid = labels.get("UUID") or labels.get("uuid") or labels.get("gpu_uuid")
        gpu = normal_serial(labels.get("DCGM_FI_DEV_SERIAL")) or uuid
        index = labels.get("gpu", "")
        yield ExporterReading(
            component=_component(labels, gpu, index, host),
            gpu=gpu,
            pci=normal_pci(labels.get("pci_bus_id", "")),
            index=int(index) if index.isdecimal() and len(index) < 6 else None,
            node=host or None,
            line=group.line,
            metrics=group.values["metrics"],
            counters=group.values["counters"],
            other=group.values["other"],
            labels=labels,
        )


def _component(labels: Mapping[str, str], gpu: str | None, index: str, node: str) -> str:
    if gpu or index:
        return gpu_id(gpu, node, index) if gpu or node else f"gpu:{index}"
    if switch := labels.get("nvswitch"):
        return f"nvswitch:{node or 'unknown'}/{switch}"
    return node_id(node or "unknown")
