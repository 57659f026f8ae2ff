"""What is measured and how it is watched: `metrics.toml`, `counters.toml` and `sources.toml`, and an operator's file.

An operator's file has the shape of ours, may be partial, and is layered over them: `watch_list(Path("limits.toml"))`.
A rule that it changes is found by its name, and says so in every finding; a rule of another name is a new one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import msgspec

from schemas.catalog import CatalogError
from schemas.catalog.rules import (
    AgreementRule,
    BudgetRule,
    ClockRule,
    Finding,
    GrowthRule,
    LevelRule,
    NarrowRule,
    PeerRule,
    Rule,
    TrendRule,
)

_HERE = Path(__file__).parent
_FILES = {"metrics": _HERE / "metrics.toml", "counters": _HERE / "counters.toml", "sources": _HERE / "sources.toml"}

_Table = dict[str, Any]
S = TypeVar("S", bound=msgspec.Struct)


class Metric(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One metric of `gpu.samples`."""

    unit: str
    kind: Literal["gauge", "counter", "state", "bits"]
    rules: list[Rule] = []
    peers: list[PeerRule] = []
    levels: list[LevelRule] = []
    trends: list[TrendRule] = []

    def __post_init__(self) -> None:
        """Only numbers have neighbours, levels and trends."""
        if self.kind == "bits" and (self.peers or self.levels or self.trends):
            raise ValueError("a bit mask is watched by rules with raise_bits only")

    def findings(self) -> Iterator[Finding]:
        """Every rule of every detector."""
        yield from (*self.rules, *self.peers, *self.levels, *self.trends)


class Counter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One column of `gpu.counters` that is watched."""

    unit: str
    rules: list[Rule] = []
    growths: list[GrowthRule] = []
    budgets: list[BudgetRule] = []
    narrows: list[NarrowRule] = []

    def findings(self) -> Iterator[Finding]:
        """Every rule of every detector."""
        yield from (*self.rules, *self.growths, *self.budgets, *self.narrows)

    def reads(self) -> Iterator[str]:
        """The other columns that its rules need."""
        for growth in self.growths:
            yield from growth.instead
        for budget in self.budgets:
            yield from budget.also
        for narrow in self.narrows:
            yield narrow.most


class Sources(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How those who report are watched themselves."""

    clocks: list[ClockRule] = []
    agreements: list[AgreementRule] = []

    def findings(self) -> Iterator[Finding]:
        """Every rule of every detector."""
        yield from (*self.clocks, *self.agreements)


@dataclass(frozen=True, slots=True)
class WatchList:
    """All that detectors look for."""

    metrics: Mapping[str, Metric]
    """By metric, in the order of `gpu.samples`."""
    counters: Mapping[str, Counter]
    """By column of `gpu.counters`."""
    sources: Sources

    def findings(self) -> Iterator[Finding]:
        """Every rule of every detector."""
        for metric in self.metrics.values():
            yield from metric.findings()
        for counter in self.counters.values():
            yield from counter.findings()
        yield from self.sources.findings()

    def check(self, fault_classes: Collection[str]) -> WatchList:
        """Itself. Raises `CatalogError` where a rule is evidence for a fault class that is none."""
        for rule in self.findings():
            if rule.fault_class not in fault_classes:
                allowed = ", ".join(sorted(fault_classes))
                raise CatalogError(f"rule {rule.name}: fault_class is {rule.fault_class!r}; allowed are {allowed}")
        return self

    def counter_columns(self) -> tuple[str, ...]:
        """The columns of `gpu.counters` that the rules need, each once."""
        needed = [column for name, counter in self.counters.items() for column in (name, *counter.reads())]
        needed += [column for rule in self.sources.agreements for column in rule.columns]
        return tuple(dict.fromkeys(needed))


@cache
def watch_list(override: Path | None = None) -> WatchList:
    """The shipped tables with an operator's file layered over them, checked.

    Raises `CatalogError` where a file cannot be read or holds something that is not allowed.
    """
    tables = {part: _read(path) for part, path in _FILES.items()}
    if override is not None:
        _layer(tables, override)
    return WatchList(
        {
            name: _convert(table, Metric, override or _FILES["metrics"], name)
            for name, table in tables["metrics"].items()
        },
        {
            name: _convert(table, Counter, override or _FILES["counters"], name)
            for name, table in tables["counters"].items()
        },
        _convert(tables["sources"], Sources, override or _FILES["sources"], "sources"),
    )


def metrics() -> Mapping[str, Metric]:
    """Every metric by name as shipped, in the order of `gpu.samples`."""
    return watch_list().metrics


def _read(path: Path) -> _Table:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CatalogError(f"the file of rules {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CatalogError(f"the file of rules {path} is not TOML: {error}") from error


def _layer(tables: dict[str, _Table], path: Path) -> None:
    """Lay an operator's file over the shipped tables, in place."""
    for name, changes in _read(path).items():
        part = next((part for part in ("metrics", "counters") if name in tables[part]), None)
        if name in tables["sources"]:
            _layer_rules(tables["sources"], {name: changes}, path, "sources")
        elif part is not None and isinstance(changes, dict):
            _layer_rules(tables[part][name], changes, path, name)
        else:
            raise CatalogError(
                f"{path}: found [{name}]; allowed are metrics of gpu.samples (as in metrics.toml), columns of "
                "gpu.counters that are watched (counters.toml), clocks and agreements (sources.toml)"
            )


def _layer_rules(table: _Table, changes: _Table, path: Path, where: str) -> None:
    for kind, rules in changes.items():
        if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
            raise CatalogError(f"{path}: [{where}] {kind} is no list of rules, as in [[{where}.rules]]")
        shipped = table.setdefault(kind, [])
        for rule in rules:
            if "set_by" in rule or not isinstance(rule.get("name"), str):
                raise CatalogError(f"{path}: a rule of [[{where}.{kind}]] needs a name, and no set_by")
            skus = rule.get("sku", {})
            if not isinstance(skus, dict) or not all(isinstance(limits, dict) for limits in skus.values()):
                raise CatalogError(
                    f'{path}: [{where}] {rule["name"]}: write sku."NVIDIA H100*" = {{ raise_above = … }}'
                )
            place = next((at for at, one in enumerate(shipped) if one["name"] == rule["name"]), None)
            if place is None:
                shipped.append(rule | {"set_by": f"{path.name}: a rule of its own"})
            else:
                shipped[place] = _changed(shipped[place], rule, path)


def _changed(shipped: _Table, rule: _Table, path: Path) -> _Table:
    """A shipped rule as the operator has it: his row beats the shipped rows for single SKUs, and his SKUs his row."""
    own = {name: value for name, value in rule.items() if name != "sku"}
    his = rule.get("sku", {})
    ours = {
        pattern: {name: value for name, value in limits.items() if name not in own}
        for pattern, limits in shipped.get("sku", {}).items()
    }
    # his patterns come first, because the first that fits counts
    skus = {pattern: ours.get(pattern, {}) | limits for pattern, limits in his.items()}
    skus |= {pattern: limits for pattern, limits in ours.items() if pattern not in his and limits}
    was = [f"{name} was {shipped[name]}" for name in own if name in shipped and shipped[name] != own[name]]
    was += [f"limits for {pattern}" for pattern in his]
    return shipped | own | {"sku": skus, "set_by": f"{path.name}: {', '.join(was)}" if was else ""}


def _convert(table: _Table, kind: type[S], path: Path, where: str) -> S:
    """A checked table. Raises `CatalogError` with the file, the rule, what was found and what is allowed."""
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as error:
        what = str(error).partition(" - at")[0]
        place = re.search(r"\$\.(\w+)\[(\d+)\]", str(error))
        rule = table[place[1]][int(place[2])] if place else {}
        if place and (strange := re.search(r"unknown field `(.*)`", what)):
            item: Any = next(one.type for one in msgspec.structs.fields(kind) if one.name == place[1])
            names = [one.encode_name for one in msgspec.structs.fields(get_args(item)[0]) if one.name != "set_by"]
            what = f"has a key {strange[1]!r}; allowed are {', '.join(names)}"
        key = re.search(r"\$\.\w+\[\d+\]\.(\w+)", str(error))
        named = f" {rule['name']}:" if "name" in rule else ""
        raise CatalogError(f"{path}: [{where}]{named} {key[1] + ': ' if key else ''}{what}") from error
