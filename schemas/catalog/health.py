"""What faults make of health, `health.toml`: of a component, of what it holds, of what it is part of."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import msgspec

from schemas.catalog import SEVERITIES, Action, ComponentKind, Severity
from schemas.records import Fault

Effect = Literal["unhealthy", "unknown", "degraded", "blocks", "warns", "none"]
Health = Literal["unhealthy", "unknown", "degraded", "healthy"]
JudgedKind = Literal["gpu", "node", "rack"]

EFFECTS: tuple[str, ...] = get_args(Effect)
"""The weightiest first."""
HEALTHS: tuple[str, ...] = get_args(Health)
"""The worst first; what blocks or warns leaves a component healthy."""
JUDGED: tuple[str, ...] = get_args(JudgedKind)
"""Kinds of components that have a verdict; what else has faults speaks on the one that it is part of."""
ALL_ELSE = "unknown"
"""The fault class whose rows stand for every class that the table does not have."""


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every row has: the name by which verdicts cite it, and why we believe it."""

    name: str
    says: str | None = None
    """The end of the verdict's sentence; None: what the fault itself gives as its reason."""
    reason: str
    source: str | None = None
    """Who says so in public."""


class FaultRow(Row, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a fault makes of the component that it is about, and of all that this one holds."""

    fault_class: str
    least: Severity = "info"
    of: tuple[ComponentKind | Literal["rack"], ...] = ()
    """Only faults of these kinds of components; empty: of any."""
    rules: tuple[str, ...] = ()
    """Only faults that one of these decided (`Fault.rule`; `*` stands for anything); empty: whatever decided."""
    asks: tuple[Action, ...] = ()
    """Only faults that ask for one of these actions; empty: for any."""
    effect: Effect
    held: Effect = "none"
    rentable: bool | None = None
    """Whether what is degraded may be rented; of other effects that is known."""

    def __post_init__(self) -> None:
        """Hold a row to what can be applied."""
        if ("degraded" in {self.effect, self.held}) != (self.rentable is not None):
            raise ValueError(f"row {self.name}: give rentable where something is degraded, and only there")

    def fits(self, fault: Fault) -> bool:
        """Whether it says something of a fault of its class."""
        return (
            SEVERITIES.index(fault.severity) >= SEVERITIES.index(self.least)
            and (not self.of or fault.component_kind in self.of)
            and (not self.rules or any(fnmatchcase(fault.rule, rule) for rule in self.rules))
            and (not self.asks or fault.action in self.asks)
        )

    @property
    def fits_all(self) -> bool:
        """Whether there is no fault of its class that it does not fit."""
        return self.least == SEVERITIES[0] and not (self.of or self.rules or self.asks)


class RepeatRow(Row, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What it comes to that a component had so many faults of one class."""

    at_least: int
    except_: tuple[str, ...] = msgspec.field(name="except", default=())
    """Not of these classes."""
    effect: Effect


class PartRow(Row, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the health of parts makes of the whole."""

    part: JudgedKind
    whole: JudgedKind
    are: tuple[Literal["unhealthy", "unknown", "degraded"], ...] = ()
    """Parts whose health is one of these; empty: whatever it is."""
    not_rentable: bool = False
    """Only parts that may not be rented."""
    at_least: int = 1
    at_least_share: float = 0.0
    """So large a share of the parts that are known."""
    effect: Effect
    rentable: bool | None = None
    """Whether a degraded whole may be rented; None: if the part may."""

    @property
    def sums_up(self) -> bool:
        """Whether it is about several parts at once, not about each."""
        return self.at_least > 1 or self.at_least_share > 0


class WholeRow(Row, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What it makes of parts that their whole may not be rented."""

    whole: JudgedKind
    part: JudgedKind
    effect: Effect


class HealthTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole table."""

    never_heard: Row
    explained_by_work: Row
    faults: tuple[FaultRow, ...]
    repeats: tuple[RepeatRow, ...]
    parts: tuple[PartRow, ...]
    wholes: tuple[WholeRow, ...]

    def __post_init__(self) -> None:
        """Hold the rows to what leaves no fault without a result. Raises `ValueError` that names the row."""
        names = [row.name for row in self.rows()]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"rows are cited by their names, found twice: {', '.join(sorted(twice))}")
        for fault_class, rows in self.by_class().items():
            if not rows[-1].fits_all:
                raise ValueError(f"row {rows[-1].name}: the last row of {fault_class} must fit all of it")
            if wide := [row.name for row in rows[:-1] if row.fits_all]:
                raise ValueError(f"row {wide[0]}: it leaves nothing to the rows of {fault_class} below it")
        if ALL_ELSE not in self.by_class():
            raise ValueError(f"give rows for the class {ALL_ELSE}, which stand for every class without rows")

    def rows(self) -> Iterable[Row]:
        """Every row: the announced work itself says more than that it explains something."""
        return (self.never_heard, *self.faults, self.explained_by_work, *self.repeats, *self.parts, *self.wholes)

    def by_class(self) -> Mapping[str, list[FaultRow]]:
        """The rows of each fault class, in their order."""
        found: dict[str, list[FaultRow]] = {}
        for row in self.faults:
            found.setdefault(row.fault_class, []).append(row)
        return found


@cache
def health_table() -> HealthTable:
    """The table of this build. Raises `msgspec.ValidationError` where it is not what it should be."""
    return msgspec.convert(tomllib.loads((Path(__file__).parent / "health.toml").read_text()), HealthTable)
