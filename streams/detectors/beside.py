"""A GPU's reading beside those of comparable GPUs at the same tick.

Peers are the GPUs of its node; where fewer than `least` of these are comparable (a tray of four of which one is idle, a
node with one GPU), those of the nodes of its rack that have as many GPUs as its own; where these are too few, it is not
compared at all. A rule about a GPU's own past takes the rack only for nodes that are small in themselves: a GPU that is
held against its node now and against the rack then, because its neighbours went idle, would seem to change.

What is comparable, a rule says: busy, at a similar power, and with nothing that explains a deviation.

The centre is the median and the scale the median absolute deviation, so that up to half of the peers may be odd, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.catalog.rules import Beside, Rack
from streams.readings.roster import Roster
from streams.readings.tables import METRICS
from streams.readings.ticks import Tick

Floats = NDArray[np.float32]

LARGEST = 1e15
"""No metric is larger: beyond it a number is no reading, and would take the arithmetic with it."""
_BUSY, _POWER = METRICS.index("gpu_utilization_percent"), METRICS.index("power_watts")
_NORMAL = 1.4826
"""The standard deviation of a normal distribution in median absolute deviations."""
_NOT = np.float32(np.nan)


class Groups:
    """The GPUs of each node and of each rack, as padded index arrays. Costs 24 to 48 bytes a GPU."""

    def __init__(self) -> None:
        self._gpu_node: NDArray[np.int32] = np.empty(0, np.int32)
        self.of_node: NDArray[np.int64] = np.empty(0, np.int64)
        """(G,) the row of `node_members` of each GPU."""
        self.of_rack: NDArray[np.int64] = np.empty(0, np.int64)
        """(G,) the row of `rack_members`."""
        self.node_size: NDArray[np.int64] = np.empty(0, np.int64)
        """(G,) how many GPUs the node of each has."""
        self.node_members: NDArray[np.int64] = np.empty((0, 0), np.int64)
        """(nodes, most GPUs of a node) GPUs; G where there are no more."""
        self.rack_members: NDArray[np.int64] = np.empty((0, 0), np.int64)
        """(racks, most GPUs of a rack) GPUs; G where there are no more."""

    def follow(self, roster: Roster) -> None:
        """Know who is where now."""
        if np.array_equal(self._gpu_node, roster.gpu_node):
            return
        self._gpu_node = roster.gpu_node.copy()
        gpus = np.bincount(self._gpu_node, minlength=len(roster.nodes))
        self.node_size = gpus[self._gpu_node]
        racks: dict[tuple[str, str, int], int] = {}
        rack_of_node = [
            racks.setdefault((place.site, place.rack, size), len(racks))
            for place, size in zip(roster.nodes, gpus.tolist(), strict=True)
        ]
        self.of_node, self.node_members = _padded(self._gpu_node.astype(np.int64))
        self.of_rack, self.rack_members = _padded(np.array(rack_of_node, np.int64)[self._gpu_node])


def _padded(group: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(G,) group numbers as dense rows, and (rows, widest) the members of each row, padded with G."""
    gpus = len(group)
    _, row, counts = np.unique(group, return_inverse=True, return_counts=True)
    order = np.argsort(row, kind="stable")
    place = np.arange(gpus) - np.repeat(np.cumsum(counts) - counts, counts)
    members = np.full((len(counts), int(counts.max(initial=0))), gpus, np.int64)
    members[row[order], place] = order
    return row, members


@dataclass(frozen=True, slots=True)
class Distances:
    """How far each GPU is from its peers at one tick."""

    value: Floats
    """(G,) the difference to the peers' median, or the ratio; NaN where it was not compared."""
    scale: Floats
    """(G,) the peers' robust standard deviation, in the same unit."""
    centre: Floats
    """(G,) the peers' median, in the metric's unit."""


class Comparison:
    """One metric beside the peers'. Several detectors may share one, which is then reckoned once a tick.

    Holds the newest tick for that, some 110 bytes a GPU (all of them the same), and what came of it, 12 bytes a GPU; no
    other state.
    """

    def __init__(self, row: int, spec: Beside, groups: Groups) -> None:
        self._row, self._spec, self._groups = row, spec, groups
        self._beside_node: tuple[Tick, NDArray[np.bool_], Distances] | None = None
        self._done: dict[str, Distances] = {}
        """By when the rack stands in, of the tick above."""

    def of(self, tick: Tick, rack: Rack = "few_comparable") -> Distances:
        """The distances at a tick; `rack` is when the rack stands in for the node, whatever the spec says."""
        if self._beside_node is None or self._beside_node[0] is not tick:
            self._groups.follow(tick.roster)
            comparable = self._comparable(tick)
            values = tick.values[self._row]
            groups = self._groups
            found = self._among(tick, values, comparable, groups.node_members, groups.of_node)
            self._beside_node, self._done = (tick, comparable, found), {}
        if rack not in self._done:
            self._done[rack] = self._with_rack(*self._beside_node, rack)
        return self._done[rack]

    def _comparable(self, tick: Tick) -> NDArray[np.bool_]:
        spec, values = self._spec, tick.values[self._row]
        comparable = (np.abs(values) <= LARGEST) & (tick.values[_BUSY] >= spec.busy_percent)
        if spec.excused_bits:
            comparable &= (tick.throttle < 0) | ((tick.throttle & spec.excused_bits) == 0)
        if spec.power_share is not None or spec.at_no_power is not None:
            comparable &= (tick.values[_POWER] > 0) & (tick.values[_POWER] <= LARGEST)
        return np.asarray(comparable)

    def _with_rack(self, tick: Tick, comparable: NDArray[np.bool_], found: Distances, rack: Rack) -> Distances:
        """The same, with the rack for those who have too few in their node."""
        groups = self._groups
        left = comparable & np.isnan(found.value)
        if rack == "small_nodes":
            left &= groups.node_size < self._spec.least
        if not left.any():
            return found
        values = tick.values[self._row]
        wider = self._among(tick, values, comparable, groups.rack_members, groups.of_rack, only=left)
        return Distances(
            np.where(left, wider.value, found.value),
            np.where(left, wider.scale, found.scale),
            np.where(left, wider.centre, found.centre),
        )

    def _among(
        self,
        tick: Tick,
        values: Floats,
        comparable: NDArray[np.bool_],
        members: NDArray[np.int64],
        row: NDArray[np.int64],
        only: NDArray[np.bool_] | None = None,
    ) -> Distances:
        spec = self._spec
        if only is not None:
            rows = np.unique(row[only])
            # who is in none of these groups gets a row that means nothing, and is not asked for
            members, row = members[rows], np.searchsorted(rows, row).clip(0, len(rows) - 1)
        watts = tick.values[_POWER]
        if spec.power_share is not None:
            usual, _ = _medians(_gathered(np.where(comparable, watts, _NOT), members))
            with np.errstate(invalid="ignore"):
                comparable = comparable & (np.abs(watts - usual[row]) <= np.float32(spec.power_share) * usual[row])
        if spec.at_no_power is not None:
            watts = np.where(comparable, watts, _NOT)
            values = np.asarray((values - np.float32(spec.at_no_power)) / watts, np.float32)
        table = _gathered(np.where(comparable, values, _NOT), members)
        centre, counts = _medians(table)
        scale, _ = _medians(np.abs(table - centre[:, np.newaxis]))
        scale = np.asarray(scale * np.float32(_NORMAL), np.float32)
        enough = comparable & (counts[row] >= spec.least)
        centre_of, scale_of = centre[row], scale[row]
        if spec.at_no_power is not None:
            values, centre_of, scale_of = values * watts, centre_of * watts, scale_of * watts
        if spec.as_ == "ratio":
            enough &= centre_of > 0
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                distance, scale_of = values / centre_of, scale_of / centre_of
        else:
            distance = values - centre_of
        if spec.at_no_power is not None:
            centre_of = centre_of + np.float32(spec.at_no_power)
        return Distances(np.where(enough, distance, _NOT), scale_of, centre_of)


def _gathered(values: Floats, members: NDArray[np.int64]) -> Floats:
    """(rows, widest) the values of each group's members, NaN where there are no more."""
    return np.append(values, _NOT)[members]


def _medians(table: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """(rows,) the median of what is no NaN in each row, NaN where nothing is; and how many these are."""
    width = table.shape[1]
    ordered = np.sort(table, axis=1)  # NaN comes last
    if width and not np.isnan(ordered[:, -1]).any():
        middle = (ordered[:, (width - 1) // 2] + ordered[:, width // 2]) / 2
        return np.asarray(middle, np.float32), np.full(len(table), width)
    counts = width - np.isnan(ordered).sum(axis=1)
    if not table.size:
        return np.full(len(table), np.nan, np.float32), counts
    rows = np.arange(len(table))
    lower = ordered[rows, np.maximum(counts - 1, 0) // 2]
    upper = ordered[rows, np.minimum(counts // 2, width - 1)]
    return np.where(counts > 0, (lower + upper) / 2, _NOT), counts
