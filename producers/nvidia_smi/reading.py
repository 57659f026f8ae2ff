"""One GPU as nvidia-smi shows it: readings in our names and units, and what is an event in them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from producers.discovery import GpuIdentity, normal_serial, without_shared_serials
from producers.kernel_log import normal_pci
from producers.nvidia_smi.forms import Block, CsvForm, Piece, TextForm, XmlForm
from producers.unreadable import Unreadable
from schemas.ids import gpu_id

Value = int | float | bool | str | None

UNITS: dict[str, int | float] = {
    "": 1, "W": 1, "C": 1, "MHz": 1, "%": 1, "x": 1, "bank(s)": 1, "us": 1,
    "mW": 1e-3, "GHz": 1000, "ms": 1000,
    "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
    "B/s": 1, "KB/s": 1000, "MB/s": 1_000_000, "GB/s": 1_000_000_000,
}  # fmt: skip
"""nvidia-smi's units, and what makes ours of them (the one in the metric's name)."""
NOT_OFFERED = frozenset(
    {"", "n/a", "not supported", "not available", "not applicable", "requested functionality has been deprecated"}
)
"""What nvidia-smi says where the board or the driver has no such thing; anything else that is no value is trouble."""
LOST = "gpu is lost"
_NUMBER = re.compile(r"(-?[0-9]{1,18}(?:\.[0-9]{1,9})?) ?([A-Za-z%()/]{0,8})")
_FLAGS = {"yes": True, "no": False, "enabled": True, "disabled": False, "active": True, "not active": False,
          "true": True, "false": False, "1": True, "0": False}  # fmt: skip
_NO_UUID = re.compile(r"GPU-[0-]+")
"""What captures put in the place of a UUID that is nobody's business."""
_ABSURD = 1 << 63
_MASK_NAMES = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
_ALWAYS = ("sw_power_cap", "hw_slowdown")
"""Every driver tells these: where one is missing, the mask is not known."""
_FAILURES: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "",
        re.compile(
            r"Unable to determine the device handle for GPU ?(?P<index>[0-9]{1,3}(?![0-9]*:[0-9A-Fa-f]{2}:))?:? ?"
            r"(?P<pci>[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f])?:? ?(?P<reason>.{0,200})",
            re.IGNORECASE,
        ),
    ),
    ("driver_unavailable", re.compile(r"NVIDIA-SMI has failed because (?P<reason>.{0,300})")),
    ("driver_unavailable", re.compile(r"Failed to initialize NVML: (?P<reason>.{0,200})")),
    ("gpu_count_changed", re.compile(r"^(?P<reason>No devices were found)")),
)
"""What nvidia-smi prints instead of a report, and the kind of event that it is; the first has two."""


class Field(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One row of fields.toml."""

    read: Literal["number", "flag", "word", "pstate"] = "number"
    bit: int = 0
    xml: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    csv: tuple[str, ...] = ()


@cache
def fields() -> dict[str, dict[str, Field]]:
    """Group to name to where it stands."""
    path = Path(__file__).with_name("fields.toml")
    return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), dict[str, dict[str, Field]])


class GpuReading(msgspec.Struct, frozen=True, kw_only=True):
    """What one document says of one GPU. What it does not offer, or could not read, is None: never 0."""

    source: str = "nvidia_smi"
    component: str
    gpu: str | None
    """The serial; the UUID where the board has none, or shares it with another GPU."""
    pci: str | None
    """`0000:91:00`: lower case, no function."""
    line: int
    form: str
    """text, xml or csv."""
    timestamp: str | None
    """As it stands there: local time, without a zone."""
    lost: bool
    """It says of itself that it is lost."""
    cut: str | None
    """After what its report breaks off; None for a whole one."""
    metrics: dict[str, Value]
    """Columns of gpu.samples, in their units; `throttle_reasons` is NVML's mask."""
    counters: dict[str, Value]
    limits: dict[str, Value]
    state: dict[str, Value]
    throttle: dict[str, bool | None]
    identity: dict[str, Value]
    unreadable: dict[str, str]
    """Name to what stood in its place, where that was trouble and not merely `N/A`."""


class GpuEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a GPU, told by nvidia-smi instead of a reading, or within one."""

    source: str = "nvidia_smi"
    component: str
    kind: str
    """A key of `schemas/catalog/events.toml`."""
    gpu: str | None = None
    pci: str | None = None
    line: int
    details: dict[str, str] = {}
    raw: str


Decoded = GpuReading | GpuEvent | Unreadable


def decode(lines: Iterable[tuple[int, str]], node: str = "") -> Iterator[Decoded]:
    """Readings, events and complaints of numbered lines, document by document; never raises.

    `node` names GPUs that have neither serial nor UUID (`gpu:NODE/0000:91:00`).
    """
    known = frozenset(name for group in fields().values() for field in group.values() for name in field.csv)
    xml, text, csv = XmlForm(), TextForm(), CsvForm(known)
    held: list[Block] = []
    number, found, begun = 0, False, False

    def settle(pieces: Iterable[Piece]) -> Iterator[Decoded]:
        nonlocal found, begun
        for piece in pieces:
            found = found or not isinstance(piece, str)
            if isinstance(piece, Block):
                held.append(piece)
            elif isinstance(piece, Unreadable):
                yield piece
            else:
                begun = True
                yield from _document(held, node)
                held.clear()

    for number, line in lines:
        if not xml.inside and (failure := _failure(number, line, node)):
            yield from settle([*text.end(), *csv.end()])
            yield failure
            found = True
            continue
        if not text.inside or line.startswith("<"):
            yield from settle(xml.feed(number, line))
        if not xml.inside:
            yield from settle([*text.feed(number, line), *csv.feed(number, line)])
    yield from settle([*xml.end(), *text.end(), *csv.end()])
    if not found:
        nothing = "found neither `nvidia-smi -q` text, nor `-q -x` XML, nor `--query-gpu` CSV with its line of names"
        reason = "it begins, and there is no GPU in it" if begun else nothing
        yield Unreadable(place=f"line {max(number, 1)}", what="nvidia-smi's output", reason=reason)


def _failure(number: int, line: str, node: str) -> GpuEvent | None:
    """A line that nvidia-smi prints where it cannot report."""
    for kind, pattern in _FAILURES:
        if match := pattern.search(line):
            details = {name: value for name, value in match.groupdict().items() if value and name != "pci"}
            if kind:
                component = f"node:{node or 'unknown'}"
                return GpuEvent(component=component, kind=kind, line=number, details=details, raw=line.strip())
            pci = normal_pci(match["pci"] or "")
            lost = re.search(r"GPU is lost|not found", match["reason"], re.IGNORECASE)
            slot = pci or (f"index {match['index']}" if match["index"] else None)
            return GpuEvent(
                component=_component(None, slot, node),
                kind="gpu_lost" if lost else "gpu_unreadable",
                pci=pci,
                line=number,
                details=details,
                raw=line.strip(),
            )
    return None


def _component(gpu: str | None, slot: str | None, node: str) -> str:
    return gpu_id(gpu, node, slot) if gpu or node else f"gpu:{slot or 'unknown'}"


def _document(blocks: list[Block], node: str) -> Iterator[Decoded]:
    """The GPUs of one document: together, because two on one board may share its serial."""
    identities = without_shared_serials([_identity(index, block) for index, block in enumerate(blocks)])
    for block, identity in zip(blocks, identities, strict=True):
        reading = _reading(block, identity, node)
        yield reading
        if reading.lost:
            raw = next(value for values in block.fields.values() for value in values if LOST in value.lower())
            yield _event(reading, "gpu_lost", raw, {})
        elif _mute(reading):
            problems = dict(list(reading.unreadable.items())[:8])
            yield _event(reading, "gpu_unreadable", next(iter(reading.unreadable.values())), problems)
        if block.cut and block.form == "text":
            attached = block.header.get("attached_gpus", "")
            missing = attached.isdigit() and int(attached) > len(blocks)
            if missing and not reading.lost:
                raw = f"nvidia-smi stopped inside this GPU, after {block.cut!r}"
                yield _event(reading, "gpu_unreadable", raw, {"attached": attached, "shown": str(len(blocks))})
            shown = f"; {len(blocks)} of {attached} attached GPUs are there" if missing else ""
            what, reason = f"the rest of GPU {block.bus_id}", f"the report stops after {block.cut!r}{shown}"
            yield Unreadable(place=f"line {block.last_line}", what=what, reason=reason)


def _event(reading: GpuReading, kind: str, raw: str, details: dict[str, str]) -> GpuEvent:
    return GpuEvent(
        component=reading.component, kind=kind, gpu=reading.gpu, pci=reading.pci, line=reading.line, details=details,
        raw=raw,
    )  # fmt: skip


def _mute(reading: GpuReading) -> bool:
    """Nothing could be measured, and that is not because the board does not offer it."""
    return bool(reading.unreadable.keys() & reading.metrics.keys()) and not any(
        value is not None for value in reading.metrics.values()
    )


def _identity(index: int, block: Block) -> GpuIdentity:
    uuid = _first(block, fields()["identity"]["uuid"])
    return GpuIdentity(
        index=index,
        serial=normal_serial(_word(_first(block, fields()["identity"]["serial"]))),
        uuid=None if uuid is None or not uuid.startswith("GPU-") or _NO_UUID.fullmatch(uuid) else uuid,
        pci=normal_pci(block.bus_id or next(iter(block.fields.get("pci.bus_id", [])), "")),
    )


def _reading(block: Block, identity: GpuIdentity, node: str) -> GpuReading:
    unreadable: dict[str, str] = {}
    groups: dict[str, dict[str, Value]] = {}
    for group in ("metrics", "counters", "limits", "state", "identity"):
        groups[group] = {name: _read(block, name, field, unreadable) for name, field in fields()[group].items()}
    metrics, counters, who = groups["metrics"], groups["counters"], groups["identity"]
    throttle = {
        name: flag if isinstance(flag := _read(block, name, _as_flag(field), unreadable), bool) else None
        for name, field in fields()["throttle"].items()
    }
    metrics["throttle_reasons"] = _mask(block, throttle, unreadable)
    metrics["process_count"] = _processes(block, unreadable)
    for scope in ("volatile", "aggregate"):
        total, parts = f"ecc_{scope}_sram_uncorrectable", ("parity", "secded")
        values = [counters[f"{total}_{part}"] for part in parts]
        if counters[total] is None and all(isinstance(value, int) for value in values):
            counters[total] = sum(int(value or 0) for value in values)
    who["serial"], who["uuid"] = identity.serial or normal_serial(_text(who["serial"])), identity.uuid
    for name in ("driver_version", "cuda_version"):
        who[name] = who.get(name) or block.header.get(name) or None
    if block.form != "csv" and groups["state"]["mig_mode"] is not None:
        paths = ("mig_devices/mig_device/index", "MIG Device/Index")
        groups["state"]["mig_devices"] = sum(len(block.fields.get(path, [])) for path in paths)
    if set(_text(who["fabric_cluster"]) or "0") <= set("0-"):
        who["fabric_cluster"] = None  # a GPU that is in no cluster says so with noughts
    gpu = identity.serial or identity.uuid
    slot = identity.pci or (None if who["index"] is None else f"index {who['index']}")
    return GpuReading(
        component=_component(gpu, slot, node),
        gpu=gpu,
        pci=identity.pci,
        line=block.line,
        form=block.form,
        timestamp=block.header.get("timestamp") or None,
        cut=block.cut,
        lost=any(LOST in value.lower() for values in block.fields.values() for value in values),
        metrics=metrics,
        counters=counters,
        limits=groups["limits"],
        state=groups["state"],
        throttle=throttle,
        identity=who,
        unreadable=unreadable,
    )


def _as_flag(field: Field) -> Field:
    return msgspec.structs.replace(field, read="flag")


def _text(value: Value) -> str | None:
    return value if isinstance(value, str) else None


def _paths(form: str, field: Field) -> tuple[str, ...]:
    return field.xml if form == "xml" else field.text if form == "text" else field.csv


def _first(block: Block, field: Field) -> str | None:
    return next((block.fields[path][0] for path in _paths(block.form, field) if path in block.fields), None)


def _word(raw: str | None) -> str | None:
    return None if raw is None or raw.strip("[] ").lower() in NOT_OFFERED else raw


def _read(block: Block, name: str, field: Field, unreadable: dict[str, str]) -> Value:
    """The first place that holds a value; what is neither a value nor `N/A` goes into `unreadable`."""
    trouble = None
    for path in _paths(block.form, field):
        found = block.fields.get(path)
        if found is None or (raw := _word(found[0])) is None:
            continue
        value = _value(raw, field.read)
        if value is not None:
            return value
        trouble = trouble or raw
    if trouble:
        unreadable[name] = trouble[:200]
    return None


def _value(raw: str, read: str) -> Value:
    bare = raw.strip("[] ").lower()
    if bare in {"unknown error", "err!", LOST, "unknown", "error", "insufficient permissions"}:
        return None
    if read == "word":
        return raw
    if read == "flag":
        return _FLAGS.get(bare)
    if read == "pstate":
        return int(bare[1:]) if re.fullmatch(r"p(?:[0-9]|1[0-5])", bare) else None
    match = _NUMBER.fullmatch(raw)
    if match is None or match[2] not in UNITS:
        return None
    number: int | float = float(match[1]) if "." in match[1] else int(match[1])
    scaled = number * UNITS[match[2]]
    return scaled if abs(scaled) < _ABSURD else None


def _mask(block: Block, throttle: dict[str, bool | None], unreadable: dict[str, str]) -> int | None:
    """NVML's mask; unknown where one of the reasons is, for what is not known to be off may be on."""
    for name in _MASK_NAMES:
        raw = block.fields.get(name, [""])[0]
        if re.fullmatch(r"0x0{0,8}[0-9A-Fa-f]{1,8}", raw):
            return int(raw, 16)
    if any(name in unreadable for name in throttle) or any(throttle[name] is None for name in _ALWAYS):
        return None
    return sum(field.bit for name, field in fields()["throttle"].items() if throttle[name])


def _processes(block: Block, unreadable: dict[str, str]) -> int | None:
    """Compute processes: types C, C+G and M+C."""
    types = block.fields.get("processes/process_info/type") or block.fields.get("Processes/Process ID/Type")
    if types:
        return sum("C" in kind for kind in types)
    said = block.fields.get("processes") or block.fields.get("Processes")
    if not said:
        return None
    raw = said[0]
    if raw in {"", "None"}:
        return 0
    if _word(raw) is not None:
        unreadable["process_count"] = raw[:200]
    return None
