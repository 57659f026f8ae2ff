"""When and where faults of the library come: a Poisson process for each kind, and places by chance.

Every kind and day has a stream of random numbers of its own, so that what comes depends on the seed alone: neither on
the size of a step, nor on which other kinds are switched on.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from zlib import crc32

import numpy as np

from producers.settings import SimulateSettings
from producers.simulate.faults import PLANS
from producers.simulate.faults.scene import HOUR_S, Draw, Scene, Spot
from producers.simulate.library import Place, library, rates
from producers.simulate.plan import Plan

_DAY_S = 86_400.0
_TRIES = 40
"""Places that are drawn for a fault until one is found where nothing else is broken."""
_COMES_BACK_S = 2 * HOUR_S
"""Trouble that a repair did not mend is there again after so long, in the middle."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A fault that begins now."""

    fault_id: str
    kind: str
    plan: Plan
    harmless: bool
    repeats: str | None


@dataclass(order=True, frozen=True, slots=True)
class _Waiting:
    at_s: float
    fault_id: str
    kind: str
    key: tuple[int, ...]
    spot: Spot | None = None
    repeats: str | None = None


class Arrivals:
    """What comes next. `taken` are nodes where nothing may come, because a script breaks them."""

    def __init__(self, settings: SimulateSettings, scene: Scene, taken: Iterable[int] = ()) -> None:
        self._scene = scene
        self._seed = settings.seed
        self._rates = rates(settings)
        self._days = 0
        self._waiting: list[_Waiting] = []
        self._busy_until = dict.fromkeys(taken, np.inf)
        self.homeless = 0
        """Faults that found no place where nothing else was broken."""

    def due(self, now_s: float) -> list[Arrival]:
        """What begins by `now_s`, in the order of its beginning."""
        while self._rates and now_s >= self._days * _DAY_S:
            self._draw_day(self._days)
            self._days += 1
        found = []
        while self._waiting and self._waiting[0].at_s <= now_s:
            arrival = self._place(heapq.heappop(self._waiting))
            if arrival is not None:
                found.append(arrival)
        return found

    def _draw_day(self, day: int) -> None:
        gpus = len(self._scene.gpus)
        for kind, rate in self._rates.items():
            draw = np.random.default_rng((self._seed, crc32(kind.encode()), day))
            times = day * _DAY_S + np.sort(draw.uniform(0, _DAY_S, int(draw.poisson(rate * gpus))))
            for number, at_s in enumerate(times):
                key = (self._seed, crc32(kind.encode()), day, number)
                heapq.heappush(self._waiting, _Waiting(float(at_s), f"{kind}-{day}-{number}", kind, key))

    def _place(self, waiting: _Waiting) -> Arrival | None:
        kind, draw = library()[waiting.kind], np.random.default_rng(waiting.key)
        spot = waiting.spot or self._free_spot(kind.place, waiting.at_s, draw)
        if spot is None or not self._is_free(spot, waiting.at_s):
            self.homeless += 1
            return None
        plan = PLANS[waiting.kind](spot, waiting.at_s, draw)
        if not kind.harmless or kind.place == "rack":
            for node in spot.node_numbers:
                self._busy_until[node] = plan.clears_s + 60.0
        if draw.random() < kind.repeats:
            again_s = plan.clears_s + 120.0 + float(draw.lognormal(np.log(_COMES_BACK_S), 0.8))
            again = _Waiting(again_s, f"{waiting.fault_id}r", waiting.kind, (*waiting.key, 1), spot, waiting.fault_id)
            heapq.heappush(self._waiting, again)
        return Arrival(waiting.fault_id, waiting.kind, plan, kind.harmless, waiting.repeats)

    def _free_spot(self, place: Place, at_s: float, draw: Draw) -> Spot | None:
        for _ in range(_TRIES):
            spot = self._spot(place, draw)
            if self._is_free(spot, at_s):
                return spot
        return None

    def _is_free(self, spot: Spot, at_s: float) -> bool:
        return all(self._busy_until.get(node, 0.0) <= at_s for node in spot.node_numbers)

    def _spot(self, place: Place, draw: Draw) -> Spot:
        """A GPU by chance, and what it is part of: where more GPUs hang on something it is met more often."""
        node, gpu = self._scene.gpus[int(draw.integers(len(self._scene.gpus)))]
        if place == "gpu":
            return Spot(self._scene, gpu.serial, (node,), gpu)
        if place == "node":
            return Spot(self._scene, node.name, (node,))
        if place == "rack":
            return Spot(self._scene, node.rack, self._scene.racks[node.rack])
        if place == "pdu":
            return Spot(self._scene, node.pdu, self._scene.pdus[node.pdu])
        return Spot(self._scene, node.leaf_switch, self._scene.leaves[node.leaf_switch])
