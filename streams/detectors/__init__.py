"""Detectors: what is odd in the readings of a partition.

Each detector is one file behind one contract, `Detector`. It holds arrays over the partition's GPUs or nodes, grows
them as the roster grows, and is fed closed ticks in order. It does no I/O and reads no clock.

To add one: write `name.py` with a class that has this contract, and name it in `build`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from schemas.catalog.metrics import Beside, Metric
from schemas.records import Anomaly
from streams.detectors.beside import Comparison, Groups
from streams.detectors.level import LevelDetector
from streams.detectors.peer import PeerDetector
from streams.detectors.silence import SilenceDetector
from streams.detectors.threshold import ThresholdDetector
from streams.detectors.trend import TrendDetector
from streams.roster import Roster
from streams.samples import METRICS, THROTTLE
from streams.ticks import Tick


class Detector(Protocol):
    """One way to find something odd.

    `update` may not block or raise, whatever the numbers are: NaN and infinities are readings like others. It gives an
    anomaly when a condition is raised and the same `anomaly_id` again when it is cleared, both in roster order.
    """

    def update(self, tick: Tick) -> Iterable[Anomaly]:
        """Take the next tick in; gives what is raised or cleared by it."""

    def restore(self, standing: Iterable[Anomaly], roster: Roster) -> None:
        """Go on with just these raised, whatever `update` has led to: called once, after the windows were rebuilt.

        Those of other detectors and rules are passed over. A GPU or node that is not in the roster yet may come later.
        """


def build(catalogue: Mapping[str, Metric], *, silence_ms: int, tick_ms: int) -> list[Detector]:
    """The detectors that the metric catalogue asks for, in its order, and silence, which needs no metric."""
    row = {name: at for at, name in enumerate(METRICS)} | {THROTTLE: -1}
    groups = Groups()
    comparisons: dict[tuple[str, Beside], Comparison] = {}

    def compared(name: str, spec: Beside) -> Comparison:
        return comparisons.setdefault((name, spec), Comparison(row[name], spec, groups))

    found: list[Detector] = []
    for name, metric in catalogue.items():
        at, unit = row[name], metric.unit
        found += [ThresholdDetector(name, at, unit, rule, tick_ms=tick_ms) for rule in metric.rules]
        found += [PeerDetector(name, unit, rule, compared(name, rule.beside), tick_ms=tick_ms) for rule in metric.peers]
        found += [
            LevelDetector(name, at, unit, rule, compared(name, rule.beside) if rule.beside else None, tick_ms=tick_ms)
            for rule in metric.levels
        ]
        found += [TrendDetector(name, at, unit, rule, tick_ms=tick_ms) for rule in metric.trends]
    return [*found, SilenceDetector(silence_ms=silence_ms, tick_ms=tick_ms)]
