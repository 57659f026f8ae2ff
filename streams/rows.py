"""The causal table, by what correlation looks it up by."""

from __future__ import annotations

from typing import NamedTuple

from schemas.catalog.causes import ANY, Cause, Causes, CommonCause, Near


class Rows(NamedTuple):
    """The table by fault classes."""

    by_cause: dict[str, list[Cause]]
    by_effect: dict[str, list[Cause]]
    """With those that explain any class."""
    by_any: list[Cause]
    nears: dict[tuple[str, int | None], frozenset[Near]]
    """Class and code to the distances at which a fault can be tied to anything, as far as that was asked for."""
    any_nears: frozenset[Near]
    """The distances at which any class can."""
    of_jobs: frozenset[str]
    """Classes for which it matters which jobs there were."""
    common: dict[str, list[CommonCause]]
    common_by_name: dict[str, CommonCause]

    def nears_of(self, fault_class: str, code: int | None) -> frozenset[Near]:
        """The distances at which a fault of a class and code can be tied to anything."""
        found = self.nears.get((fault_class, code))
        if found is None:
            causes = {
                row.near for row in self.by_cause.get(fault_class, ()) if not row.cause_codes or code in row.cause_codes
            }
            rows = self.by_effect.get(fault_class, self.by_any)
            effects = {row.near for row in rows if not row.effect_codes or code in row.effect_codes}
            found = self.nears[fault_class, code] = frozenset(causes | effects)
        return found


def by_classes(table: Causes) -> Rows:
    """The causal table by the classes that its rows tie."""
    by_any = [row for row in table.causes if row.effect == ANY]
    any_nears = {row.near for row in by_any}
    by_cause: dict[str, list[Cause]] = {}
    by_effect: dict[str, list[Cause]] = {}
    nears: dict[str, set[Near]] = {}
    common: dict[str, list[CommonCause]] = {}
    for row in table.causes:
        by_cause.setdefault(row.cause, []).append(row)
        for fault_class in {row.cause, row.effect} - {ANY}:
            nears.setdefault(fault_class, set(any_nears)).add(row.near)
        if row.effect != ANY:
            by_effect.setdefault(row.effect, list(by_any)).append(row)
    for common_row in table.common_causes:
        common.setdefault(common_row.effect, []).append(common_row)
    of_jobs = {name for name, found in nears.items() if "job" in found}
    return Rows(
        by_cause,
        by_effect,
        by_any,
        {},
        frozenset(any_nears),
        frozenset(of_jobs | {row.effect for row in table.common_causes if row.of == "job"}),
        common,
        {row.name: row for row in table.common_causes},
    )
