"""Detectors: what is odd in the readings of a partition.

Each detector is one file behind one contract, `Detector`. It holds arrays over the partition's GPUs or nodes, grows
them as the roster grows, and is fed closed ticks in order. It does no I/O and reads no clock.

To add one: write `name.py` with a class that has this contract, and name it in `of_samples` or `of_counters`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from msgspec.structs import replace

from schemas.catalog.metrics import WatchList
from schemas.catalog.rules import Beside
from schemas.records import Anomaly
from streams.detectors.agreement import AgreementDetector
from streams.detectors.beside import Comparison, Groups
from streams.detectors.clock import ClockDetector, Lags
from streams.detectors.counter_rate import BudgetDetector, CounterRateDetector, Spans
from streams.detectors.level import LevelDetector
from streams.detectors.limits import Inventory, NoInventory, Skus
from streams.detectors.narrow import NarrowDetector
from streams.detectors.peer import PeerDetector
from streams.detectors.silence import SilenceDetector
from streams.detectors.threshold import ThresholdDetector
from streams.detectors.trend import TrendDetector
from streams.readings.roster import Roster
from streams.readings.tables import SAMPLE_TABLE, Table
from streams.readings.ticks import Tick


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


def of_samples(
    watched: WatchList, *, silence_ms: int, tick_ms: int, inventory: Inventory | None = None
) -> list[Detector]:
    """The detectors of `gpu.samples`: what the metrics ask for, in their order, then clocks, and silence at last."""
    groups, skus = Groups(), Skus(inventory or NoInventory())
    comparisons: dict[tuple[str, Beside], Comparison] = {}

    def compared(name: str, spec: Beside) -> Comparison:
        # when the rack stands in is asked each time: what is reckoned for the node is the same
        alike = replace(spec, rack="few_comparable")
        return comparisons.setdefault((name, alike), Comparison(SAMPLE_TABLE.row(name), alike, groups))

    found: list[Detector] = []
    for name, metric in watched.metrics.items():
        at, unit = SAMPLE_TABLE.row(name), metric.unit
        found += [ThresholdDetector(name, at, unit, rule, tick_ms=tick_ms, skus=skus) for rule in metric.rules]
        found += [
            PeerDetector(name, unit, rule, compared(name, rule.beside), tick_ms=tick_ms, skus=skus)
            for rule in metric.peers
        ]
        found += [
            LevelDetector(
                name, at, unit, rule, compared(name, rule.beside) if rule.beside else None, tick_ms=tick_ms, skus=skus
            )
            for rule in metric.levels
        ]
        found += [TrendDetector(name, at, unit, rule, tick_ms=tick_ms, skus=skus) for rule in metric.trends]
    lags = Lags(tick_ms=tick_ms)
    found += [ClockDetector(rule, lags, tick_ms=tick_ms) for rule in watched.sources.clocks]
    return [*found, SilenceDetector(silence_ms=silence_ms, tick_ms=tick_ms)]


def of_counters(
    watched: WatchList, table: Table, *, tick_ms: int, inventory: Inventory | None = None
) -> list[Detector]:
    """The detectors of `gpu.counters`, in the order of `counters.toml`, then whether its sources agree."""
    skus = Skus(inventory or NoInventory())
    found: list[Detector] = []
    for name, counter in watched.counters.items():
        at, unit = table.row(name), counter.unit
        found += [ThresholdDetector(name, at, unit, rule, tick_ms=tick_ms, skus=skus) for rule in counter.rules]
        for growth in counter.growths:
            rows = [at, *map(table.row, growth.instead)]
            spans = Spans(rows, growth.span_ms, wraps_at=growth.wraps_at)
            found.append(CounterRateDetector(name, unit, growth, spans, tick_ms=tick_ms, skus=skus))
        for budget in counter.budgets:
            rows = [at, *map(table.row, budget.also)]
            each = [Spans([row], budget.span_ms) for row in rows]
            found.append(BudgetDetector(name, unit, budget, rows, each, tick_ms=tick_ms, skus=skus))
        found += [
            NarrowDetector(name, at, table.row(rule.most), unit, rule, tick_ms=tick_ms) for rule in counter.narrows
        ]
    return [
        *found,
        *(
            AgreementDetector(rule, [table.row(column) for column in rule.columns], tick_ms=tick_ms)
            for rule in watched.sources.agreements
        ),
    ]
