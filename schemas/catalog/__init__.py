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
from schemas.catalog.classes import (
    ACTIONS,
    COMPONENT_KINDS,
    SEVERITIES,
    Action,
    ClearsOn,
    ComponentKind,
    FaultClass,
    Severity,
)
from schemas.catalog.ladder import Repair, Step
from schemas.records import HardwareEvent

__all__ = [
    "ACTIONS",
    "COMPONENT_KINDS",
    "FILES",
    "SEVERITIES",
    "Action",
    "Catalog",
    "CatalogError",
    "ClearsOn",
    "ComponentKind",
    "Entry",
    "FaultClass",
    "Severity",
    "Step",
    "load",
]

FILES = {
    "xid": "xid.toml",
    "sxid": "sxid.toml",
    "event": "events.toml",
    "fault": "faults.toml",
    "ladder": "ladder.toml",
}
"""Section to the file that ships it; an override file may hold all of these sections."""

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
    own_action: bool = False
    """An operator's file names the action, be it the same as ours: the ladder mostly leaves it alone."""


class Catalog:
    """All entries, fault classes and steps of the ladder of one `load`; nothing here changes afterwards."""

    __slots__ = ("_by_rule", "_entries", "faults", "ladder")

    def __init__(
        self,
        entries: Mapping[tuple[str, str, str | None], Entry],
        faults: dict[str, FaultClass],
        ladder: dict[str, Step],
    ) -> None:
        self._entries = entries
        self._by_rule = {entry.rule: entry for entry in entries.values()}
        self.faults: Mapping[str, FaultClass] = MappingProxyType(faults)
        self.ladder: Mapping[str, Step] = MappingProxyType(ladder)
        """By name, in the order in which they are taken."""

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

    def by_rule(self, rule: str) -> Entry | None:
        """The entry that a fault names as its rule; None where a detector's rule decided, or another catalogue's."""
        return self._by_rule.get(rule)

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
_Tables = dict[str, dict[str, _Fields]]
"""Section to its tables by name, for those that are no entries."""


def load(override: Path | None = None) -> Catalog:
    """The shipped tables with an operator's file layered over them, checked; the caller keeps the result.

    Raises `CatalogError` where a file cannot be read or holds something that is not allowed.
    """
    rows: _Rows = {}
    tables: _Tables = {"fault": {}, "ladder": {}}
    for name in FILES.values():
        _read(_HERE / name, rows, tables)
    _read_nvlink5(rows)
    changes: _Rows = {}
    table_changes: _Tables = {"fault": {}, "ladder": {}}
    if override is not None:
        _read(override, changes, table_changes)
        _check_new_keys(override, rows, changes)
    classes = {
        name: _convert(fields, FaultClass, override or _HERE / FILES["fault"], f"fault.{name}")
        for name, fields in _layered(tables["fault"], table_changes["fault"]).items()
    }
    ladder = {
        name: _convert(fields, Step, override or _HERE / FILES["ladder"], f"ladder.{name}")
        for name, fields in _layered(tables["ladder"], table_changes["ladder"]).items()
    }
    entries = _entries(rows, changes, set(classes), override)
    _check_ends(entries, override)
    _check_ladder(ladder, set(classes), override)
    return Catalog(entries, classes, {name: step for name, step in ladder.items() if not step.off})


def _layered(shipped: dict[str, _Fields], changed: dict[str, _Fields]) -> dict[str, _Fields]:
    """Tables by name, each laid over the one called `every`; the operator's over the shipped ones."""
    every = shipped.get(_EVERY, {}) | changed.get(_EVERY, {})
    names = dict.fromkeys(name for name in (*shipped, *changed) if name != _EVERY)
    return {name: every | shipped.get(name, {}) | changed.get(name, {}) for name in names}


def _check_ladder(ladder: Mapping[str, Step], classes: set[str], override: Path | None) -> None:
    for name, step in ladder.items():
        if strange := {*step.classes, *step.beside} - classes:
            path = override or _HERE / FILES["ladder"]
            raise CatalogError(f"{path}: [ladder.{name}] found {_listed(sorted(strange))}; allowed are fault classes")


def _check_ends(entries: Mapping[tuple[str, str, str | None], Entry], override: Path | None) -> None:
    kinds = {key for section, key, _ in entries if section == "event"} | {"*"}
    for entry in entries.values():
        if strange := [kind for kind in entry.ends if kind not in kinds]:
            path = override or _HERE / FILES["event"]
            raise CatalogError(f"{path}: [{entry.rule}] ends {_listed(strange)}; allowed are kinds of events")


def _read(path: Path, rows: _Rows, tables: _Tables) -> None:
    """Adds the tables of one file, each checked by itself."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CatalogError(f"the catalogue file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CatalogError(f"the catalogue file {path} is not TOML: {error}") from error
    for section, found in document.items():
        if section not in FILES:
            raise CatalogError(f"{path}: found section {section!r}; allowed are {_listed(FILES)}, as in [xid.79]")
        if not isinstance(found, dict) or not all(isinstance(table, dict) for table in found.values()):
            raise CatalogError(f"{path}: {section!r} must hold tables, as in [{section}.{_UNKNOWN}]")
        for key, table in found.items():
            if section in tables:
                tables[section][key] = table
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
    fields = {"rule": rule, **shipped, **differs, "overridden": bool(differs), "own_action": "action" in changed}
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
        if unknown := re.search(r"unknown field `(.*?)`", message):
            names = _listed(field.encode_name for field in fields)
            raise CatalogError(f"{path}: [{where}] has a key {unknown[1]!r}; allowed are {names}") from error
        name = (re.search(r"\$\.(\w+)", message) or [message, ""])[1]
        allowed = {"severity": SEVERITIES, "action": ACTIONS, "bound": ("at_least", "at_most")}
        allowed |= {"component_kind": COMPONENT_KINDS, "clears_on": get_args(ClearsOn), "after": get_args(Repair)}
        if name in table and name in allowed:
            text = f"{name} is {table[name]!r}; allowed are {_listed(allowed[name])}"
        elif name in table:
            text = f"{name} is {table[name]!r}: {message.partition(' - at')[0]}"
        else:
            text = message
        raise CatalogError(f"{path}: [{where}] {text}") from error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
