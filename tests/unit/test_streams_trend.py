"""Time to exhaustion: a temperature that will pass its limit soon."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from schemas.catalog.metrics import metrics
from schemas.catalog.rules import TrendRule
from schemas.records import Anomaly
from streams.detectors.trend import TrendDetector
from streams.readings.tables import METRICS
from tests.streams_bench import Bench, told

NAN = float("nan")
METRIC = "temperature_celsius"
RULE = metrics()[METRIC].trends[0]
MINUTE = 6
"""Ticks."""


def bench() -> Bench:
    return Bench(TrendDetector(METRIC, METRICS.index(METRIC), "°C", RULE, tick_ms=1000))


def run(made: Bench, celsius: Iterable[float], watts: float | Iterable[float] = 600.0) -> list[Anomaly]:
    readings = list(celsius)
    power = [watts] * len(readings) if isinstance(watts, float) else list(watts)
    scenes = ({"n1": {METRIC: [c], "power_watts": [w]}} for c, w in zip(readings, power, strict=True))
    return made.run(scenes)


def creep(per_minute: float, minutes: int, begin: float = 60.0) -> list[float]:
    """Whole degrees, as NVML gives them."""
    return [float(round(begin + per_minute * n / MINUTE)) for n in range(minutes * MINUTE)]


def test_a_creep_is_told_before_the_limit_is_reached() -> None:
    found = run(bench(), [60.0] * (10 * MINUTE) + creep(1.0, 30))
    assert [one.state for one in found] == ["raised"]
    reached_s = (10 + 27) * 60
    assert 600 < told(found)[0][2] < reached_s - 8 * 60, "some ten minutes are left"
    assert found[0].limit == 87.0
    assert "rises by 0.97 °C a minute" in found[0].reason
    assert "87 °C in 1" in found[0].reason


def test_a_rise_that_would_take_long_or_ends_below_is_none() -> None:
    assert run(bench(), [60.0] * (10 * MINUTE) + creep(0.2, 60)) == [], "slower than least_per_hour"
    assert run(bench(), [40.0] * (10 * MINUTE) + creep(1.0, 15, begin=40.0) + [55.0] * (30 * MINUTE)) == []


def test_it_is_over_when_the_temperature_rises_no_more() -> None:
    found = run(bench(), [60.0] * (10 * MINUTE) + creep(1.0, 18) + [78.0] * (30 * MINUTE))
    assert [one.state for one in found] == ["raised", "cleared"]
    assert found[0].anomaly_id == found[1].anomaly_id


def test_it_stands_while_the_limit_is_passed() -> None:
    found = run(bench(), [60.0] * (10 * MINUTE) + creep(2.0, 14) + [90.0] * (60 * MINUTE))
    assert [one.state for one in found] == ["raised"]


def test_a_job_that_begins_warms_its_gpu_and_that_is_no_trend() -> None:
    # the heat sink follows the power with a time constant of a minute and a half, up to 83 °C
    warm = [float(round(83 - 48 * np.exp(-n * 10 / 90))) for n in range(40 * MINUTE)]
    celsius, watts = [35.0] * (10 * MINUTE) + warm, [90.0] * (10 * MINUTE) + [680.0] * (40 * MINUTE)
    assert run(bench(), celsius, watts) == []


def test_a_gpu_that_is_always_near_its_limit_is_on_no_way_to_it() -> None:
    rng = np.random.default_rng(1)
    assert run(bench(), np.rint(85 + rng.normal(0, 0.5, 60 * MINUTE)).tolist()) == []


def test_before_three_spans_nothing_is_said_and_a_gap_begins_them_anew() -> None:
    made = bench()
    assert run(made, creep(3.0, 5, begin=70.0)) == []
    made.at_s += 600
    assert run(made, creep(3.0, 5, begin=70.0)) == []


@pytest.mark.parametrize("odd", [NAN, float("inf"), float("-inf"), 3e38])
def test_what_is_no_reading_is_passed_over(odd: float) -> None:
    rising = [60.0] * (10 * MINUTE) + creep(1.0, 30)
    with_odd = [value if n % 3 else odd for n, value in enumerate(rising)]
    assert [one.state for one in run(bench(), with_odd)] == ["raised"]
    assert run(bench(), rising, [odd] * len(rising)) == [], "without power nobody knows whether it is the load"


def test_what_stood_before_a_restart_clears_afterwards_with_its_own_id() -> None:
    raised = run(bench(), [60.0] * (10 * MINUTE) + creep(1.0, 20))
    again = bench()
    again.detector.restore(raised, again.roster)
    found = run(again, [60.0] * (20 * MINUTE))
    assert [(one.state, one.anomaly_id) for one in found] == [("cleared", raised[0].anomaly_id)]


@pytest.mark.parametrize(
    "changes",
    [{"clear_within_ms": 1}, {"within_ms": 0}, {"span_ms": 0}, {"least_per_hour": 0.0}, {"steady_share": 0.0}],
)
def test_a_rule_that_cannot_be_run_is_refused(changes: dict[str, Any]) -> None:
    given = {name: getattr(RULE, name) for name in RULE.__struct_fields__}
    with pytest.raises(ValueError, match="heating_up"):
        TrendRule(**(given | changes))
