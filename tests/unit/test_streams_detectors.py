"""The detectors, and the contract that each of them keeps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from schemas.catalog.metrics import metrics
from schemas.records import Anomaly
from streams.detectors import Detector, build
from streams.roster import Roster
from streams.samples import METRICS, THROTTLE
from streams.ticks import Tick, TickWindow
from tests.streams_scenes import START_MS, columns, sample

DETECTORS = build(metrics(), silence_ms=5000, tick_ms=1000)


def fresh(number: int) -> Detector:
    return build(metrics(), silence_ms=5000, tick_ms=1000)[number]


def names() -> list[str]:
    return [*(rule.name for metric in metrics().values() for rule in metric.findings()), "silence"]


every = pytest.mark.parametrize("number", range(len(DETECTORS)), ids=names())


def roster(gpus: int) -> Roster:
    window = TickWindow(1000, 0)
    list(window.add(columns([sample("n1", 0, gpus)])))
    return window.roster


def ticks(of: Roster, values: Iterable[float | None], bits: Iterable[int]) -> Iterable[Tick]:
    """All metrics and bits the same, second by second; None is a tick in which nobody was heard."""
    gpus = len(of.gpus)
    for second, (value, mask) in enumerate(zip(values, bits, strict=True)):
        heard = value is not None
        number = value if value is not None else float("nan")
        yield Tick(
            START_MS + 1000 * second,
            np.full((len(METRICS), gpus), number, np.float32),
            np.full(gpus, mask if heard else -1, np.int64),
            np.full(len(of.nodes), heard, np.bool_),
            np.full(gpus, heard and not np.isnan(number), np.bool_),
            of,
        )


def found(detector: Detector, scene: Iterable[Tick]) -> list[Anomaly]:
    return [one for tick in scene for one in detector.update(tick)]


def test_every_rule_of_the_catalogue_has_a_detector() -> None:
    assert len(DETECTORS) == len(names())


@every
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 0.0, -1.0, 3e38, None])
@pytest.mark.parametrize("mask", [-1, 0, 2**63 - 1, -(2**63)])
def test_it_takes_any_number_and_never_raises(number: int, value: float | None, mask: int) -> None:
    scene = ticks(roster(3), [50.0, *[value] * 30], [0, *[mask] * 30])
    for one in found(fresh(number), scene):
        assert one.reason


@every
def test_it_works_without_gpus_and_with_ones_that_come_later(number: int) -> None:
    detector = fresh(number)
    of = roster(0)
    assert found(detector, ticks(of, [50.0] * 3, [0] * 3)) == []
    of.resolve(columns([sample("n1", 0, 5)]))
    found(detector, ticks(of, [50.0] * 30, [0] * 30))


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


def scene_of(readings: Readings, of: Roster, begin: int) -> Iterable[Tick]:
    for number, metrics_of in enumerate(readings, begin):
        values = np.full((len(METRICS), GPUS), np.nan, np.float32)
        for metric, row in metrics_of.items():
            values[METRICS.index(metric)] = row
        heard = np.ones(len(of.nodes), np.bool_)
        unthrottled, read = np.zeros(GPUS, np.int64), np.ones(GPUS, np.bool_)
        yield Tick(START_MS + 30_000 * number, values, unthrottled, heard, read, of)


def scenes(name: str) -> tuple[list[Tick], list[Tick]]:
    """Ticks that raise a rule for some of the GPUs, and ticks that clear it."""
    if name in COMPARED:
        window = TickWindow(1000, 0)
        list(window.add(columns([sample("n1", 0, GPUS, interval_ms=30_000)])))
        bad, good = COMPARED[name]
        return list(scene_of(bad, window.roster, 0)), list(scene_of(good, window.roster, len(bad)))
    limits: dict[str, tuple[float | None, int]] = {"silence": (None, -1)}
    for metric_name, metric in metrics().items():
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
    name = names()[number]
    bad, good = scenes(name)
    anomalies = found(fresh(number), [*bad, *good])
    raised = [one for one in anomalies if one.state == "raised"]
    cleared = [one for one in anomalies if one.state == "cleared"]
    # a silent node stands for its GPUs
    assert len(raised) == (1 if name == "silence" else 2 if name in COMPARED else 3)
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
    assert found(detector, ticks(roster(2), [50.0] * 30, [0] * 30)) == []
