"""A condition that has to hold for a time before it counts, with a way back; and the finding that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.catalog.rules import Finding
from schemas.ids import gpu_id, node_id, stable_id
from schemas.records import Anomaly
from streams.readings.roster import NEVER_MS
from streams.readings.ticks import Tick

_LONGEST_GAP_TICKS, _LONGEST_GAP_INTERVALS = 10, 3
"""A condition is not held over a gap in the readings that is longer than both of these."""

Flags = NDArray[np.bool_]


def longest_gap_ms(tick: Tick, tick_ms: int) -> NDArray[np.int64]:
    """(K,) so long may a node go unread until what was known of it, and of its GPUs, is no longer held to go on."""
    return np.maximum(_LONGEST_GAP_TICKS * tick_ms, _LONGEST_GAP_INTERVALS * tick.roster.node_interval_ms)


def gpus_longest_gap_ms(tick: Tick, tick_ms: int) -> NDArray[np.int64]:
    """(G,) the same for each GPU."""
    return longest_gap_ms(tick, tick_ms)[tick.roster.gpu_node]


@dataclass(frozen=True, slots=True)
class Flip:
    """A condition of one component that is raised or cleared."""

    at: int
    """The number of the GPU, or of the node, in the roster."""
    raised: bool
    begin_ms: int
    """Since when the condition holds that was raised, or is cleared now."""


class Held:
    """One condition over all GPUs, or all nodes, of a partition. State: 24 bytes each.

    What is unknown neither confirms nor clears; after a long gap a pending condition begins anew.
    """

    def __init__(self, *, for_ms: int, clear_for_ms: int) -> None:
        self._for_ms, self._clear_for_ms = for_ms, clear_for_ms
        self._since_ms: NDArray[np.int64] = np.empty(0, np.int64)
        """(G,) since when the condition to raise (or, where raised, to clear) has held; NEVER_MS where it does not."""
        self._known_ms: NDArray[np.int64] = np.empty(0, np.int64)
        """(G,) when the condition was last known to hold, where it does."""
        self._begin_ms: NDArray[np.int64] = np.empty(0, np.int64)
        """(G,) when the raised condition began; NEVER_MS where none is raised."""
        self._pending = False
        """Whether some condition has held at the last tick and is not decided."""
        self._standing: dict[str, int] = {}
        """Restored anomalies of whom has not been met yet: name to begin_ms."""

    @property
    def raised(self) -> Flags:
        """(G,) where it is raised."""
        return np.asarray(self._begin_ms != NEVER_MS)

    def grow(self, names: Sequence[str]) -> None:
        """Enter newcomers, `names` being all; one whose anomaly was restored goes on being raised."""
        met = len(self._since_ms)
        if len(names) == met:
            return
        new = np.full(len(names) - met, NEVER_MS)
        self._since_ms, self._known_ms = np.append(self._since_ms, new), np.append(self._known_ms, new)
        begins = [self._standing.pop(name, NEVER_MS) for name in names[met:]]
        self._begin_ms = np.append(self._begin_ms, np.array(begins, np.int64))

    def step(
        self, now_ms: int, gap_ms: Callable[[], NDArray[np.int64]], *, raises: Flags, clears: Flags, known: Flags
    ) -> list[Flip]:
        """Take the condition of each (G,) at the next tick in; gives what flips, in roster order.

        `gap_ms`, (G,): after so long without a reading, what was pending begins anew.
        """
        condition = np.where(self.raised, clears, raises) & known
        if not self._pending and not condition.any():
            return []
        stale = now_ms - self._known_ms > gap_ms()
        starts = condition & ((self._since_ms == NEVER_MS) | stale)
        self._since_ms[known & ~condition] = NEVER_MS
        self._since_ms[starts] = now_ms
        self._known_ms[condition] = now_ms
        held_ms = np.where(self.raised, self._clear_for_ms, self._for_ms)
        decided = condition & (now_ms - self._since_ms >= held_ms)
        flips = []
        for at in np.flatnonzero(decided).tolist():
            raising = bool(self._begin_ms[at] == NEVER_MS)
            begin_ms = int(self._since_ms[at] if raising else self._begin_ms[at])
            self._begin_ms[at] = begin_ms if raising else NEVER_MS
            self._since_ms[at] = NEVER_MS
            flips.append(Flip(at, raising, begin_ms))
        self._pending = bool((self._since_ms != NEVER_MS).any())
        return flips

    def restore(self, standing: dict[str, int], names: Sequence[str]) -> None:
        """Go on with just these raised: name to begin_ms."""
        self._standing = standing
        begin_ms = np.array([standing.pop(name, NEVER_MS) for name in names[: len(self._begin_ms)]], np.int64)
        # what held so far was held against the other condition
        self._since_ms[(begin_ms == NEVER_MS) != (self._begin_ms == NEVER_MS)] = NEVER_MS
        self._begin_ms = begin_ms


def own(standing: Iterable[Anomaly], detector: str, rule: Finding) -> list[Anomaly]:
    """Those of one rule of one detector."""
    return [a for a in standing if a.rule == rule.name and a.detector == detector]


def begins(standing: Iterable[Anomaly]) -> dict[str, int]:
    """GPU serial, or node where it is about none, to begin_ms."""
    return {name: a.begin_ms for a in standing if (name := a.gpu or a.node)}


def finding(
    tick: Tick, flip: Flip, *, detector: str, rule: Finding, metric: str, value: float | None, limit: float, found: str
) -> Anomaly:
    """What is told of a GPU's flip; `found` is the reason without its duration."""
    place, serial = tick.roster.place(flip.at), tick.roster.gpus[flip.at]
    where = (place.site, place.rack, place.node)
    return _anomaly(
        tick, flip, where, gpu_id(serial), serial,
        detector=detector, rule=rule, metric=metric, value=value, limit=limit, found=found,
    )  # fmt: skip


def node_finding(
    tick: Tick, flip: Flip, *, detector: str, rule: Finding, value: float | None, limit: float, found: str
) -> Anomaly:
    """What is told of a node's flip."""
    place = tick.roster.nodes[flip.at]
    return _anomaly(
        tick, flip, (place.site, place.rack, place.node), node_id(place.node), None,
        detector=detector, rule=rule, metric=None, value=value, limit=limit, found=found,
    )  # fmt: skip


def _anomaly(
    tick: Tick,
    flip: Flip,
    where: tuple[str, str, str],
    component: str,
    gpu: str | None,
    *,
    detector: str,
    rule: Finding,
    metric: str | None,
    value: float | None,
    limit: float,
    found: str,
) -> Anomaly:
    for_s = (tick.tick_ms - flip.begin_ms) / 1000
    told = f"{found} {'for' if flip.raised else 'after'} {for_s:g} s" if for_s else found
    site, rack, node = where
    return Anomaly(
        anomaly_id=stable_id(detector, rule.name, component, flip.begin_ms),
        site=site,
        rack=rack,
        node=node,
        gpu=gpu,
        component=component,
        detector=detector,
        rule=rule.name,
        metric=metric,
        fault_class=rule.fault_class,
        state="raised" if flip.raised else "cleared",
        severity=rule.severity,
        action=rule.action,
        value=value,
        limit=limit,
        begin_ms=flip.begin_ms,
        tick_ms=tick.tick_ms,
        reason=f"{told} [{rule.set_by}]" if rule.set_by else told,
    )
