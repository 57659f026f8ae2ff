"""The causal table, by what correlation looks up in it."""

from __future__ import annotations

from schemas.catalog.causes import ANY, Cause, Causes, CommonCause, Near

ByNear = dict[Near, dict[str, list[Cause]]]


class Rows:
    """The rows of a table by the fault classes that they tie. What is asked for by code is found once."""

    def __init__(self, table: Causes) -> None:
        self.any_nears = frozenset(row.near for row in table.causes if row.effect == ANY)
        """The distances at which a fault of any class may be explained."""
        self.common: dict[str, list[CommonCause]] = {}
        """By the class of the effect."""
        self.common_by_name = {row.name: row for row in table.common_causes}
        of_jobs = {row.effect for row in table.common_causes if row.of == "job"}
        for row in table.causes:
            if row.near == "job":
                of_jobs |= {row.cause, row.effect}
        self.of_jobs = frozenset(of_jobs)
        """Classes for which it matters which jobs there were."""
        for common in table.common_causes:
            self.common.setdefault(common.effect, []).append(common)
        self._longest_ms: dict[str, int] = {}
        for row in table.causes:
            self._longest_ms[row.cause] = max(self._longest_ms.get(row.cause, 0), row.within_ms)
        self._table = table
        self._explaining: dict[tuple[str, int | None], ByNear] = {}
        self._explained_by: dict[tuple[str, int | None], list[Cause]] = {}
        self._nears: dict[tuple[str, int | None], frozenset[Near]] = {}

    def longest_ms(self, fault_class: str) -> int:
        """How long after its last evidence a fault of a class may still be the cause of another one."""
        return self._longest_ms.get(fault_class, 0)

    def explaining(self, fault_class: str, code: int | None) -> ByNear:
        """The rows that may explain a fault of a class and code, by how near and by the class of the cause."""
        found = self._explaining.get((fault_class, code))
        if found is None:
            found = self._explaining[fault_class, code] = {}
            for row in self._table.causes:
                if row.effect in {fault_class, ANY} and (not row.effect_codes or code in row.effect_codes):
                    found.setdefault(row.near, {}).setdefault(row.cause, []).append(row)
        return found

    def explained_by(self, fault_class: str, code: int | None) -> list[Cause]:
        """The rows by which a fault of a class and code may explain others."""
        found = self._explained_by.get((fault_class, code))
        if found is None:
            found = self._explained_by[fault_class, code] = [
                row
                for row in self._table.causes
                if row.cause == fault_class and (not row.cause_codes or code in row.cause_codes)
            ]
        return found

    def nears_of(self, fault_class: str, code: int | None) -> frozenset[Near]:
        """The distances at which a fault of a class and code may be tied to anything."""
        found = self._nears.get((fault_class, code))
        if found is None:
            explains = {row.near for row in self.explained_by(fault_class, code)}
            found = self._nears[fault_class, code] = frozenset(explains | self.explaining(fault_class, code).keys())
        return found
