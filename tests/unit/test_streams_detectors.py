"""The detectors, and the contract that each of them keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest

from schemas.catalog.metrics import watch_list
from schemas.catalog.rules import Finding
from schemas.records import Anomaly
from streams.detectors import Detector, of_counters, of_samples
from streams.readings.roster import Roster
from streams.readings.tables import SAMPLE_TABLE, THROTTLE, Table, counter_table
from streams.readings.ticks import Tick, TickWindow
from tests.streams_scenes import START_MS, columns, sample

WATCHED = watch_list()
COUNTERS = counter_table(WATCHED.counter_columns())
MAKERS: list[tuple[Table, Callable[[], list[Detector]]]] = [
    (SAMPLE_TABLE, lambda: of_samples(WATCHED, silence_ms=5000, tick_ms=1000)),
    (COUNTERS, lambda: of_counters(WATCHED, COUNTERS, tick_ms=1000)),
]
PLACES = [(maker, at) for maker, (_, make) in enumerate(MAKERS) for at in range(len(make()))]


def fresh(number: int) -> Detector:
    maker, at = PLACES[number]
    return MAKERS[maker][1]()[at]


def table_of(number: int) -> Table:
    return MAKERS[PLACES[number][0]][0]


def rules() -> list[Finding | str]:
    """In the order of the detectors; silence has none."""
    of_metrics = [rule for metric in WATCHED.metrics.values() for rule in metric.findings()]
    of_counters_ = [rule for counter in WATCHED.counters.values() for rule in counter.findings()]
    sources = WATCHED.sources
    return [*of_metrics, *sources.clocks, "silence", *of_counters_, *sources.agreements]


def names() -> list[str]:
    return [rule if isinstance(rule, str) else rule.name for rule in rules()]


every = pytest.mark.parametrize("number", range(len(PLACES)), ids=names())


def roster(gpus: int) -> Roster:
    window = TickWindow(1000, 0)
    list(window.add(columns([sample("n1", 0, gpus)])))
    return window.roster


def ticks(
    of: Roster, values: Iterable[float | None], bits: Iterable[int], table: Table = SAMPLE_TABLE
) -> Iterable[Tick]:
    """All metrics and bits the same, second by second; None is a tick in which nobody was heard."""
    gpus = len(of.gpus)
    for second, (value, mask) in enumerate(zip(values, bits, strict=True)):
        heard = value is not None
        number = value if value is not None else float("nan")
        yield Tick(
            START_MS + 1000 * second,
            np.full((len(table.metrics), gpus), number, table.dtype),
            np.full(gpus, mask if heard else -1, np.int64),
            np.full(len(of.nodes), heard, np.bool_),
            np.full(gpus, heard and not np.isnan(number), np.bool_),
            of,
            np.full(len(of.nodes), 1000 * number),
            np.full(gpus, second % 7 == 0),
            np.full((len(table.metrics), gpus), number, table.dtype) if second % 2 else None,
        )


def found(detector: Detector, scene: Iterable[Tick]) -> list[Anomaly]:
    return [one for tick in scene for one in detector.update(tick)]


def test_every_rule_of_the_catalogue_has_a_detector() -> None:
    assert len(PLACES) == len(names())


@every
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 0.0, -1.0, 3e38, None])
@pytest.mark.parametrize("mask", [-1, 0, 2**63 - 1, -(2**63)])
def test_it_takes_any_number_and_never_raises(number: int, value: float | None, mask: int) -> None:
    scene = ticks(roster(3), [50.0, *[value] * 30], [0, *[mask] * 30], table_of(number))
    for one in found(fresh(number), scene):
        assert one.reason


@every
def test_it_works_without_gpus_and_with_ones_that_come_later(number: int) -> None:
    detector = fresh(number)
    of = roster(0)
    assert [one for one in found(detector, ticks(of, [0.0] * 3, [0] * 3, table_of(number))) if one.gpu] == []
    of.resolve(columns([sample("n1", 0, 5)]))
    found(detector, ticks(of, [50.0] * 30, [0] * 30, table_of(number)))


ODD, GPUS = (1, 4), 8


def heat(odd_celsius: float) -> dict[str, list[float]]:
    """Eight GPUs at one load; two of them with a temperature of their own."""
    celsius = [odd_celsius if gpu in ODD else 60.0 for gpu in range(GPUS)]
    return {"temperature_celsius": celsius, "power_watts": [600.0] * GPUS, "gpu_utilization_percent": [95.0] * GPUS}


def clocks(odd_mhz: float) -> dict[str, list[float]]:
    mhz = [odd_mhz if gpu in ODD else 1980.0 for gpu in range(GPUS)]
    return {"sm_clock_mhz": mhz, "gpu_utilization_percent": [95.0] * GPUS}


Readings = list[dict[str, list[float]]]
COMPARED: dict[str, tuple[Readings, Readings]] = {
    "hotter_than_peers": ([heat(75.0)] * 5, [heat(60.0)] * 5),
    "slower_than_peers": ([clocks(1200.0)] * 5, [clocks(1980.0)] * 5),
    "warmer_than_before": ([heat(60.0)] * 130 + [heat(66.0)] * 60, [heat(60.0)] * 60),
    "heating_up": ([heat(60.0)] * 20 + [heat(60.0 + 0.5 * n) for n in range(40)], [heat(75.0)] * 60),
}
"""Rule to readings every half minute that raise it for two GPUs, and to readings that clear it."""


def scene_of(readings: Readings, of: Roster, begin: int, table: Table = SAMPLE_TABLE) -> list[Tick]:
    made = []
    for number, metrics_of in enumerate(readings, begin):
        values = np.full((len(table.metrics), GPUS), np.nan, table.dtype)
        for metric, row in metrics_of.items():
            values[table.row(metric)] = row
        heard = np.ones(len(of.nodes), np.bool_)
        unthrottled, read = np.zeros(GPUS, np.int64), np.ones(GPUS, np.bool_)
        made.append(Tick(START_MS + 30_000 * number, values, unthrottled, heard, read, of))
    return made


def counted(metric: str, steps: Iterable[float], others: dict[str, float] | None = None) -> Readings:
    """Readings of a counter that two of the GPUs count up by steps."""
    total, made = 0.0, []
    for step in steps:
        total += step
        row = [total if gpu in ODD else 0.0 for gpu in range(GPUS)]
        made.append({metric: row} | {name: [value] * GPUS for name, value in (others or {}).items()})
    return made


def of_eight() -> Roster:
    window = TickWindow(1000, 0)
    list(window.add(columns([sample("n1", 0, GPUS, interval_ms=30_000)])))
    return window.roster


def counter_scenes(name: str) -> tuple[list[Tick], list[Tick]] | None:
    """The same of a rule on counters; None where it is none."""
    of = of_eight()
    for metric, counter in WATCHED.counters.items():
        bad: Readings = []
        good: Readings = []
        for rule in counter.findings():
            if rule.name != name:
                continue
            if rule in counter.narrows:
                narrow = [8.0 if gpu in ODD else 16.0 for gpu in range(GPUS)]
                bad = [{metric: narrow, "pcie_width_max": [16.0] * GPUS}] * 5
                good = [{metric: [16.0] * GPUS, "pcie_width_max": [16.0] * GPUS}] * 5
            elif rule in counter.rules:
                bad, good = counted(metric, [1, 0, 0, 0, 0]), counted(metric, [0] * 5)
            elif rule in counter.budgets:
                both = counted(metric, [0, 400, *[0] * 3500], {"row_remap_uncorrectable": 0.0})
                bad, good = both[:5], both[5:]
            else:
                growth = next(one for one in counter.growths if one is rule)
                scale = 1 if growth.as_ == "count" else 1000 * growth.span_ms
                both = counted(metric, [0, 1.5 * scale * growth.limit, *[0] * (growth.span_ms * 2 // 30_000)])
                bad, good = both[:5], both[5:]
            return scene_of(bad, of, 0, COUNTERS), scene_of(good, of, len(bad), COUNTERS)
    return None


def node_scenes(name: str) -> tuple[list[Tick], list[Tick]]:
    """The same of a rule on nodes."""
    of = of_eight()
    if name == "sources_disagree":
        row = {"row_remap_correctable": [3.0] * GPUS}
        ticks_ = scene_of([row] * 200, of, 0, COUNTERS)
        other = [np.where(tick.values == 3.0, 5.0, tick.values) for tick in ticks_[:120]]
        bad = [replace(tick, aside=aside) for tick, aside in zip(ticks_, other, strict=False)]
        return bad, [replace(tick, aside=tick.values) for tick in ticks_[120:]]
    (rule,) = [one for one in WATCHED.sources.clocks if one.name == name]
    lag_ms = -60_000.0 if rule.side == "ahead" else 60_000.0
    ticks_ = scene_of([heat(60.0)] * 40, of, 0)
    bad = [replace(tick, node_lag_ms=np.array([lag_ms])) for tick in ticks_[:20]]
    return bad, [replace(tick, node_lag_ms=np.array([50.0])) for tick in ticks_[20:]]


ABOUT_NODES = ("silence", "clock_ahead", "clock_behind", "sources_disagree")


def scenes(name: str) -> tuple[list[Tick], list[Tick]]:
    """Ticks that raise a rule for some of the GPUs, and ticks that clear it."""
    if name in COMPARED:
        of, (bad, good) = of_eight(), COMPARED[name]
        return scene_of(bad, of, 0), scene_of(good, of, len(bad))
    if (of_counter := counter_scenes(name)) is not None:
        return of_counter
    if name in ABOUT_NODES[1:]:
        return node_scenes(name)
    limits: dict[str, tuple[float | None, int]] = {"silence": (None, -1)}
    for metric_name, metric in WATCHED.metrics.items():
        for rule in metric.rules:
            if metric_name == THROTTLE:
                limits[rule.name] = (50.0, rule.raise_bits or 0)
            else:
                limits[rule.name] = ((rule.raise_above or 0.0) + 1 if rule.raise_above else -1.0, 0)
    value, mask = limits[name]
    of = roster(3)
    every_second = list(ticks(of, [50.0, *[value] * 30, *[50.0] * 30], [0, *[mask] * 30, *[0] * 30]))
    return every_second[:31], every_second[31:]


@every
def test_what_it_raises_it_clears_under_the_same_id_once_each_and_in_the_order_of_the_roster(number: int) -> None:
    name, table = names()[number], table_of(number)
    bad, good = scenes(name)
    anomalies = found(fresh(number), [*bad, *good])
    raised = [one for one in anomalies if one.state == "raised"]
    cleared = [one for one in anomalies if one.state == "cleared"]
    # a silent node stands for its GPUs
    singly = table is SAMPLE_TABLE and name not in COMPARED
    assert len(raised) == (1 if name in ABOUT_NODES else 3 if singly else 2)
    assert [one.anomaly_id for one in raised] == [one.anomaly_id for one in cleared]
    assert [one.gpu for one in raised] == sorted(one.gpu or "" for one in raised) or raised[0].gpu is None
    assert len({one.anomaly_id for one in raised}) == len(raised)
    # after a restart with what stood, only the end is told
    again = fresh(number)
    again.restore(raised, roster(0))
    told = found(again, good)
    assert sorted((one.anomaly_id, one.state) for one in told) == sorted((one.anomaly_id, "cleared") for one in raised)


@every
def test_it_passes_over_what_others_found(number: int) -> None:
    alien = Anomaly(
        anomaly_id="x",
        site="hall-a",
        rack="r1",
        node="n1",
        gpu="n1-0",
        component="gpu:n1-0",
        detector="entropy",
        rule="odder_than_before",
        fault_class="thermal",
        state="raised",
        severity="warning",
        begin_ms=START_MS,
        tick_ms=START_MS,
        reason="",
    )
    detector = fresh(number)
    detector.restore([alien], roster(0))
    usual = 50.0 if table_of(number) is SAMPLE_TABLE else 0.0
    assert [one for one in found(detector, ticks(roster(2), [usual] * 30, [0] * 30, table_of(number))) if one.gpu] == []
