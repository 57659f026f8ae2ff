"""Which limits a rule has for which GPU: those of its SKU where the rule has some, else its own."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from schemas.catalog.rules import Finding, OneSided
from streams.readings.roster import Roster

_UNKNOWN = ""

R = TypeVar("R", bound=Finding)
S = TypeVar("S", bound=OneSided)


class Inventory(Protocol):
    """What is needed of the inventory; `streams.topology.Topology` has it."""

    @property
    def sku_changes(self) -> int:
        """Grows whenever the SKU of some GPU has become known, or another one."""

    def sku_of(self, gpu: str) -> str | None:
        """The SKU of a GPU; None where the inventory does not tell."""


class NoInventory:
    """The inventory of a back-test: nothing is known of any GPU."""

    sku_changes = 0

    def sku_of(self, gpu: str) -> str | None:  # noqa: ARG002 - the protocol's
        """Unknown."""
        return None


class Skus:
    """The SKU of each GPU of a partition, as small integers, looked up once and again when the inventory changes.

    Costs 4 bytes a GPU, and nothing where no rule asks.
    """

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory
        self.names: list[str] = [_UNKNOWN]
        """By number; 0 is unknown."""
        self._codes: NDArray[np.int32] = np.empty(0, np.int32)
        self._seen_changes = inventory.sku_changes

    def codes(self, roster: Roster) -> NDArray[np.int32]:
        """(G,) the number of each GPU's SKU."""
        changes = self._inventory.sku_changes
        if changes != self._seen_changes:
            self._seen_changes, self._codes = changes, np.empty(0, np.int32)
        if met := roster.gpus[len(self._codes) :]:
            found = [self._inventory.sku_of(gpu) or _UNKNOWN for gpu in met]
            self.names += sorted({*found} - {*self.names})
            number = {name: at for at, name in enumerate(self.names)}
            self._codes = np.append(self._codes, np.array([number[name] for name in found], np.int32))
        return self._codes


class Limits(Generic[R]):
    """A rule with what it is for single SKUs. Without any, everything here is one number for all GPUs."""

    def __init__(self, rule: R, skus: Skus | None) -> None:
        self.rule = rule
        """As it is for those whose SKU has no limits of its own."""
        self._rules: list[R] = [rule]
        self._patterns: list[str] = [""]
        self._skus = skus if rule.sku else None
        if self._skus is not None:
            for pattern, variant in rule.variants():
                self._patterns.append(pattern)
                self._rules.append(variant)
        self._variant_of: list[int] = []
        """By number of the SKU."""
        self._found: dict[str, NDArray[np.float32]] = {}
        """Each limit of all variants."""
        self._codes: NDArray[np.int32] = np.empty(0, np.int32)
        self._which: NDArray[np.int64] | None = None

    def follow(self, roster: Roster) -> None:
        """Know whose SKU is what now; to be called before the others at each tick."""
        if self._skus is None:
            return
        self._codes = self._skus.codes(roster)
        self._variant_of += [self._variant(name) for name in self._skus.names[len(self._variant_of) :]]
        self._which = np.array(self._variant_of)[self._codes]

    def each(self, name: str) -> Any:
        """A limit by the name of its field or property: one for all, or (G,) one for each GPU."""
        if name not in self._found:
            self._found[name] = np.array([getattr(rule, name) for rule in self._rules], np.float32)
        found = self._found[name]
        return found[0] if self._which is None else found[self._which]

    def of(self, gpu: int) -> R:
        """The rule as it is for one GPU."""
        return self._rules[0 if self._which is None else int(self._which[gpu])]

    def told(self, gpu: int) -> str:
        """Whose limit it is, to be said behind it; nothing where it is that of all whose SKU has none of its own."""
        if self._which is None:
            return ""
        if which := int(self._which[gpu]):
            return f" (limit for {self._patterns[which]})"
        return "" if self._codes[gpu] else " (limit for all: its SKU is not known)"

    def _variant(self, sku: str) -> int:
        fits = (at for at, pattern in enumerate(self._patterns) if at and sku and fnmatchcase(sku, pattern))
        return next(fits, 0)


def sides(values: NDArray[Any], limits: Limits[S]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(G,) where values are beyond a one-sided rule's limit, and (G,) where they are back."""
    limit, back = limits.each("limit"), limits.each("back")
    if limits.rule.raise_above is not None:
        return np.asarray(values > limit), np.asarray(values < back)
    return np.asarray(values < limit), np.asarray(values > back)
