"""How often each class of fault comes in this fleet, and how likely so many together are by chance.

Arrivals are taken for a Poisson process: each component has its faults at a rate of its class, whatever its neighbours
do. Correlation looks for what that cannot explain.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import exp, expm1, fsum, lgamma, log
from typing import Literal

import msgspec

from schemas.catalog import Catalog
from schemas.catalog.base_rates import BaseRates

Unit = Literal["gpu", "node"]
"""Per what a class is counted: GPUs, or nodes with all that is on them."""

HOUR_MS = 3_600_000
_TINY = 1e-300
"""No chance is smaller: what is as good as impossible need not be told from it."""


class Learnt(msgspec.Struct, kw_only=True):
    """What the fleet has shown. Some 30 bytes a class."""

    hour: int | None = None
    """The hour of event time that goes on; what came in it is not counted yet: no burst makes itself usual."""
    arrivals: dict[str, float] = {}
    """By class, in the hours before; older ones count less."""
    component_hours: dict[str, float] = {}
    """By unit; older ones count less."""
    in_hour: dict[str, int] = {}
    """By class, in the hour that goes on and after it."""


class FleetRates:
    """The base rates of one fleet, which begin with published ones.

    What comes in bursts is counted by bursts: all faults of one class in one rack within `arrival_ms` are one arrival.
    Those of the hour that goes on are remembered for that, some 50 bytes an arrival.
    """

    def __init__(self, catalog: Catalog, table: BaseRates, count: Callable[[Unit], int]) -> None:
        """`count` gives how many GPUs or nodes there are now."""
        self._catalog = catalog
        self._table = table
        self._count = count
        self._arrived: set[tuple[str, str, int]] = set()
        self.learnt = Learnt()
        self.revision = 0
        """Grows with what is learnt."""

    def note(self, fault_class: str, place: str, at_ms: int, now_ms: int) -> None:
        """Take in that a fault has begun; `place` is its site and rack. A second telling changes nothing.

        The hour follows event time as far as the clock, so that a node whose clock is ahead does not move it.
        """
        self._go_on(min(at_ms, now_ms) // HOUR_MS)
        arrival = fault_class, place, at_ms // self._table.arrival_ms
        if arrival not in self._arrived:
            self._arrived.add(arrival)
            in_hour = self.learnt.in_hour
            in_hour[fault_class] = in_hour.get(fault_class, 0) + 1
            self.revision += 1

    def per_hour(self, fault_class: str) -> float:
        """Arrivals an hour and component, by what came before the hour that goes on."""
        weighs = self._table.weighs_component_hours
        seen = self.learnt.arrivals.get(fault_class, 0.0)
        hours = self.learnt.component_hours.get(self.unit(fault_class), 0.0)
        return (self._table.of(fault_class).per_hour * weighs + seen) / (weighs + hours)

    def unit(self, fault_class: str) -> Unit:
        """Per what a class is counted."""
        known = self._catalog.faults.get(fault_class)
        return "gpu" if known is None or known.component_kind == "gpu" else "node"

    def _go_on(self, hour: int) -> None:
        learnt = self.learnt
        if learnt.hour is None:
            learnt.hour = hour
        passed = hour - learnt.hour
        if passed <= 0:
            return
        left = exp(-passed / (24 * self._table.forgets_days))
        names = learnt.arrivals.keys() | learnt.in_hour.keys()
        learnt.arrivals = {
            name: learnt.arrivals.get(name, 0.0) * left + learnt.in_hour.get(name, 0) for name in sorted(names)
        }
        units: tuple[Unit, Unit] = ("gpu", "node")
        learnt.component_hours = {
            unit: learnt.component_hours.get(unit, 0.0) * left + passed * self._count(unit) for unit in units
        }
        learnt.hour, learnt.in_hour = hour, {}
        self._arrived.clear()
        self.revision += 1


def chance_of(at_least: int, mean: float) -> float:
    """The probability that a Poisson variable of that mean is `at_least` so large; never 0."""
    if at_least <= 0:
        return 1.0
    if mean <= 0:
        return _TINY
    if at_least == 1:
        return max(_TINY, -expm1(-mean))
    if at_least <= mean:  # the shorter way is to take away what is below
        below = fsum(exp(n * log(mean) - mean - lgamma(n + 1)) for n in range(at_least))
        return min(1.0, max(_TINY, 1.0 - below))
    term = exp(at_least * log(mean) - mean - lgamma(at_least + 1))
    terms, n = [term], at_least
    while term > terms[0] * 1e-17 and term > 0:
        n += 1
        term *= mean / n
        terms.append(term)
    return min(1.0, max(_TINY, fsum(terms)))


@cache
def most_for(at_least: int, chance: float) -> float:
    """The largest mean at which `at_least` are still rarer than `chance`: `chance_of` the other way round."""
    low, high = 0.0, float(at_least)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if chance_of(at_least, middle) < chance else (low, middle)
    return low
