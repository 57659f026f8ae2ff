"""The fault catalogue: what each XID, SXid and event kind means to us, and the fault classes they belong to.

The tables are the TOML files beside this module (README.md explains every key). An operator's file of the same shape,
which may be partial, is layered over them: `load(Path("catalog.toml"))`. What it changes says so (`Entry.overridden`,
and the reason names the file and what stood there before).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args

import msgspec

from schemas.catalog import nvlink5
from schemas.records import HardwareEvent

Severity = Literal["info", "warning", "critical"]
Action = Literal[
    "none",
    "restart_app",
    "reset_gpu",
    "reboot_node",
    "drain_and_diagnose",
    "check_hardware",
    "replace",
    "contact_support",
]
ComponentKind = Literal["gpu", "node", "nvswitch", "port", "pdu", "cooling", "meter", "bmc"]
ClearsOn = Literal[
    "anomaly_cleared",  # the detector that raised it says that it is over
    "gpu_reports",  # a sample with values from this GPU
    "new_boot",  # the node's boot id changes
    "recovery_action_none",  # XID 154 with the action None
    "driver_recovered",  # the event of that kind
    "source_recovered",  # the event of that kind
    "operator",  # nobody but a human
]

SEVERITIES: tuple[str, ...] = get_args(Severity)
"""From least to most severe."""
ACTIONS: tuple[str, ...] = get_args(Action)
"""The ladder, from the least to the most intrusive; `contact_support` stands beside it."""
COMPONENT_KINDS: tuple[str, ...] = get_args(ComponentKind)

FILES = {"xid": "xid.toml", "sxid": "sxid.toml", "event": "events.toml", "fault": "faults.toml"}
"""Section to the file that ships it; an override file may hold all four sections."""

_HERE = Path(__file__).parent
_UNKNOWN = "unknown"
_EVERY = "every"

S = TypeVar("S", bound=msgspec.Struct)


class CatalogError(ValueError):
    """A catalogue file that cannot be used; the message names file, key, what was found and what is allowed."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What one code or event kind means; `rule` is its key (`xid.79`, `xid.149.fatal`, `event.gpu_lost`)."""

    rule: str
    name: str
    severity: Severity
    action: Action
    fault_class: str
    reason: str
    nvidia_action: str | None = None
    """NVIDIA's word for the immediate action (`RESET_GPU`), where it has one."""
    mnemonic: str | None = None
    """NVIDIA's symbol for the code."""
    ends: tuple[str, ...] = ()
    """Kinds of events whose trouble this one ends, on the same component and place; `*`: the kind its details name."""
    overridden: bool = False
    """An operator's file changed it."""


class FaultClass(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind of trouble, whatever reported it, and how it ends: the first of `clears_on`, or after quiet time."""

    title: str
    component_kind: ComponentKind
    pages: bool
    """May wake somebody, where its severity is critical."""
    clears_on: tuple[ClearsOn, ...] = ()
    clears_after_quiet_s: int | None = None
    reason: str

    def __post_init__(self) -> None:
        if not self.clears_on and self.clears_after_quiet_s is None:
            raise ValueError("never ends: give clears_on or clears_after_quiet_s")


class Catalog:
    """All entries and fault classes of one `load`; nothing here changes afterwards."""

    __slots__ = ("_entries", "faults")

    def __init__(self, entries: Mapping[tuple[str, str, str | None], Entry], faults: dict[str, FaultClass]) -> None:
        self._entries = entries
        self.faults: Mapping[str, FaultClass] = MappingProxyType(faults)

    def entry(self, kind: str, code: int | None = None, variant: str | None = None) -> Entry:
        """The entry of an event; never raises.

        `kind` is `HardwareEvent.kind`, `code` the XID or SXid, `variant` what the raw line adds (`fatal`,
        `gpu_reset_required`; `HardwareEvent.details["variant"]`). A variant that the code does not have changes
        nothing; a code or kind that nobody listed gives the entry called unknown.
        """
        section, key = (kind, str(code)) if kind in {"xid", "sxid"} else ("event", kind)
        entries = self._entries
        if (section, key, None) not in entries:
            key = _UNKNOWN
        return entries.get((section, key, variant)) or entries[section, key, None]

    def of(self, event: HardwareEvent) -> Entry:
        """The entry of an event, with the variant that its details carry; never raises."""
        return self.entry(event.kind, event.code, event.details.get("variant"))

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())


class _Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One table of a catalogue file as it stands there: everything may be missing, nothing may be strange."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    mnemonic: str | msgspec.UnsetType = msgspec.UNSET
    severity: Severity | msgspec.UnsetType = msgspec.UNSET
    action: Action | msgspec.UnsetType = msgspec.UNSET
    fault_class: str | msgspec.UnsetType = msgspec.UNSET
    nvidia_action: str | msgspec.UnsetType = msgspec.UNSET
    reason: str | msgspec.UnsetType = msgspec.UNSET
    ends: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    bound: Literal["at_least", "at_most"] | msgspec.UnsetType = msgspec.UNSET
    variant: dict[str, dict[str, Any]] = {}


_Fields = dict[str, Any]
_Rows = dict[tuple[str, str, str | None], _Fields]
"""(section, key, variant or None) to the fields that are set there."""


def load(override: Path | None = None) -> Catalog:
    """The shipped tables with an operator's file layered over them, checked; the caller keeps the result.

    Raises `CatalogError` where a file cannot be read or holds something that is not allowed.
    """
    rows: _Rows = {}
    faults: dict[str, _Fields] = {}
    for name in FILES.values():
        _read(_HERE / name, rows, faults)
    _read_nvlink5(rows)
    changes: _Rows = {}
    if override is not None:
        fault_changes: dict[str, _Fields] = {}
        _read(override, changes, fault_changes)
        _check_new_keys(override, rows, changes)
        faults |= {name: faults.get(name, {}) | fields for name, fields in fault_changes.items()}
    classes = {
        name: _convert(fields, FaultClass, override or _HERE / FILES["fault"], f"fault.{name}")
        for name, fields in faults.items()
    }
    entries = _entries(rows, changes, set(classes), override)
    _check_ends(entries, override)
    return Catalog(entries, classes)


def _check_ends(entries: Mapping[tuple[str, str, str | None], Entry], override: Path | None) -> None:
    kinds = {key for section, key, _ in entries if section == "event"} | {"*"}
    for entry in entries.values():
        if strange := [kind for kind in entry.ends if kind not in kinds]:
            path = override or _HERE / FILES["event"]
            raise CatalogError(f"{path}: [{entry.rule}] ends {_listed(strange)}; allowed are kinds of events")


def _read(path: Path, rows: _Rows, faults: dict[str, _Fields]) -> None:
    """Adds the tables of one file, each checked by itself."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CatalogError(f"the catalogue file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CatalogError(f"the catalogue file {path} is not TOML: {error}") from error
    for section, tables in document.items():
        if section not in FILES:
            raise CatalogError(f"{path}: found section {section!r}; allowed are {_listed(FILES)}, as in [xid.79]")
        if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
            raise CatalogError(f"{path}: {section!r} must hold tables, as in [{section}.{_UNKNOWN}]")
        for key, table in tables.items():
            if section == "fault":
                faults[key] = table
            else:
                _add(path, section, key, table, rows)


def _read_nvlink5(rows: _Rows) -> None:
    """Adds what the lines of XID 144 to 150 may be refined to, which is the same for all of them."""
    table = nvlink5.nvlink5()
    for name, fields in table.variants.items():
        variant = _set(_convert(fields, _Row, nvlink5.FILE, f"variant.{name}"))
        rows |= {("xid", str(code), name): variant for code in table.codes}


def _add(path: Path, section: str, key: str, table: _Fields, rows: _Rows) -> None:
    """Adds one code or kind and its variants."""
    if section != "event" and not re.fullmatch(rf"0|[1-9][0-9]*|{_UNKNOWN}|{_EVERY}", key):
        raise CatalogError(f"{path}: found [{section}.{key}]; allowed are a decimal code, {_UNKNOWN} and {_EVERY}")
    row = _convert(table, _Row, path, f"{section}.{key}")
    rows[section, key, None] = _set(row)
    for name, fields in row.variant.items():
        where = f"{section}.{key}.variant.{name}"
        variant = _convert(fields, _Row, path, where)
        if variant.variant:
            raise CatalogError(f"{path}: [{where}] has variants of its own; a variant is the last level")
        rows[section, key, name] = _set(variant)


def _set(row: _Row) -> _Fields:
    return {name: value for name, value in msgspec.to_builtins(row).items() if name != "variant"}


def _check_new_keys(path: Path, rows: _Rows, changes: _Rows) -> None:
    """New codes are the driver's to invent; a new event kind can only be a slip of the pen."""
    for section, key, _ in changes:
        if section == "event" and (section, key, None) not in rows:
            kinds = sorted(k for s, k, v in rows if s == "event" and v is None)
            raise CatalogError(f"{path}: found [event.{key}]; allowed are {_listed(kinds)}")


def _entries(
    rows: _Rows, changes: _Rows, classes: set[str], override: Path | None
) -> dict[tuple[str, str, str | None], Entry]:
    """Every code and every variant of it, resolved.

    Later layers win: the shipped row, its shipped variant, the operator's row, the operator's variant.
    """
    for where, fields in changes.items():
        if where[1] == _EVERY:
            changes[where] = rows.get(where, {}) | fields
    wanted = [*rows, *changes]
    entries: dict[tuple[str, str, str | None], Entry] = {}
    for section, key in dict.fromkeys((section, key) for section, key, _ in wanted if key != _EVERY):
        variants = {variant for s, k, variant in wanted if s == section and k in {key, _EVERY}}
        base = rows.get((section, key, None)) or rows[section, _UNKNOWN, None]
        new_base = changes.get((section, key, None), {})
        for variant in (None, *sorted(v for v in variants if v)):
            shipped = base | _variant(rows, section, key, variant, base["severity"])
            severity = (base | new_base)["severity"]
            changed = new_base | _variant(changes, section, key, variant, severity)
            if variant and base == shipped and new_base == changed:
                continue  # out of its bound: `entry` falls back to the code's own row
            rule = ".".join(filter(None, (section, key, variant)))
            entries[section, key, variant] = _entry(rule, shipped, changed, classes, override)
    return entries


def _variant(rows: _Rows, section: str, key: str, variant: str | None, severity: str) -> _Fields:
    """What a variant changes: the code's own, else the one that holds for every code, within its bound.

    `at_least` never lowers a severity and `at_most` never raises one: what is within the bound stays as it is.
    """
    if variant is None:
        return {}
    if (section, key, variant) in rows:
        return rows[section, key, variant]
    shared = rows.get((section, _EVERY, variant), {})
    if shared and "bound" in shared:
        own, limit = SEVERITIES.index(severity), SEVERITIES.index(shared["severity"])
        if (own >= limit) if shared["bound"] == "at_least" else (own <= limit):
            return {}
    return shared


def _entry(rule: str, shipped: _Fields, changed: _Fields, classes: set[str], override: Path | None) -> Entry:
    """One entry; what an operator changed is said in its reason."""
    differs = {name: value for name, value in changed.items() if shipped.get(name) != value}
    fields = {"rule": rule, **shipped, **differs, "overridden": bool(differs)}
    fields.pop("bound", None)
    path = override if differs and override else _HERE / FILES[rule.partition(".")[0]]
    if missing := [name for name in ("name", "severity", "action", "fault_class", "reason") if name not in fields]:
        raise CatalogError(f"{path}: [{rule}] lacks {_listed(missing)}")
    if fields["fault_class"] not in classes:
        found, allowed = fields["fault_class"], _listed(sorted(classes))
        raise CatalogError(f"{path}: [{rule}] fault_class is {found!r}; allowed are {allowed}")
    if differs:
        was = [f"{name} was {shipped[name]}" for name in differs if name in shipped and name not in {"name", "reason"}]
        fields["reason"] += f" [{path.name}: {', '.join(was) or 'its own words'}]"
    return msgspec.convert(fields, Entry)


def _convert(table: _Fields, kind: type[S], path: Path, where: str) -> S:
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        message = str(error)
        fields = msgspec.structs.fields(kind)
        if unknown := re.search(r"unknown field `(.*)`", message):
            names = _listed(field.name for field in fields)
            raise CatalogError(f"{path}: [{where}] has a key {unknown[1]!r}; allowed are {names}") from error
        name = (re.search(r"\$\.(\w+)", message) or [message, ""])[1]
        allowed = {"severity": SEVERITIES, "action": ACTIONS, "bound": ("at_least", "at_most")}
        allowed |= {"component_kind": get_args(ComponentKind), "clears_on": get_args(ClearsOn)}
        if name in table and name in allowed:
            text = f"{name} is {table[name]!r}; allowed are {_listed(allowed[name])}"
        elif name in table:
            text = f"{name} is {table[name]!r}: {message.partition(' - at')[0]}"
        else:
            text = message
        raise CatalogError(f"{path}: [{where}] {text}") from error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
