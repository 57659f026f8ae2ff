"""A metric against what it long was on the same GPU."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from msgspec.structs import replace

from schemas.catalog.metrics import metrics
from schemas.catalog.rules import LevelRule
from schemas.records import Anomaly
from streams.detectors.beside import Comparison, Groups
from streams.detectors.level import LevelDetector
from streams.readings.tables import METRICS
from tests.streams_bench import Bench, told

METRIC = "power_watts"
STEP_S = 30
HOUR = 3600 // STEP_S
"""Ticks."""
PASTE = metrics()["temperature_celsius"].levels[0]
RULE = replace(PASTE, beside=None)
NAN = float("nan")


def bench(rule: LevelRule = RULE, metric: str = METRIC) -> Bench:
    row = METRICS.index(metric)
    compared = Comparison(row, rule.beside, Groups()) if rule.beside else None
    return Bench(LevelDetector(metric, row, "W", rule, compared, tick_ms=1000), STEP_S)


def noise(of: float, seed: int = 1) -> Callable[[], float]:
    rng = random.Random(seed)
    return lambda: rng.gauss(0, of)


def run(made: Bench, values: Iterable[float]) -> list[Anomaly]:
    return made.run({"n1": {METRIC: [value]}} for value in values)


def test_a_level_that_has_left_its_baseline_for_long_is_told_and_so_is_its_return() -> None:
    wobble = noise(1.0)
    values = [100 + wobble() + (6 if 2 * HOUR <= n < 4 * HOUR else 0) for n in range(5 * HOUR)]
    found = run(bench(), values)
    assert [one.state for one in found] == ["raised", "cleared"]
    begun_s, told_s = told(found)[0][3], told(found)[0][2]
    assert 7200 < begun_s < 7200 + 600
    assert told_s == begun_s + 600
    assert found[0].anomaly_id == found[1].anomaly_id
    assert found[0].limit == pytest.approx(103.5, abs=0.5)
    assert found[0].reason.startswith("power_watts is ")
    assert "above its usual 1" in found[0].reason


@pytest.mark.parametrize("deviation", [0.0, 0.5, 3.0, 20.0])
def test_noise_is_no_finding_however_large(deviation: float) -> None:
    wobble = noise(deviation)
    assert run(bench(), [100 + wobble() for _ in range(6 * HOUR)]) == []


def test_a_slow_drift_of_the_season_is_no_finding_but_one_of_hours_is() -> None:
    slow, fast = RULE.settles_per_hour * 0.8 / HOUR, 0.6 / HOUR
    assert run(bench(), [100 + slow * n for n in range(24 * HOUR)]) == []
    assert len(run(bench(), [100 + fast * max(0, n - 2 * HOUR) for n in range(12 * HOUR)])) == 1


def test_before_it_is_warm_nothing_is_said() -> None:
    values = [100.0] * (HOUR // 4) + [110.0] * (HOUR // 2)
    assert run(bench(), values) == []


def test_an_outlier_moves_the_baseline_by_little_even_if_it_is_the_first_value() -> None:
    assert run(bench(), [1e9, *[100.0] * (HOUR + 10)]) == []
    values = [100.0] * (2 * HOUR) + [1e12] + [100.0] * 5 + [105.5] * HOUR
    found = run(bench(), values)
    assert [one.state for one in found] == ["raised"]
    assert found[0].limit == pytest.approx(103.5, abs=0.3)


@pytest.mark.parametrize("odd", [NAN, float("inf"), float("-inf"), 3e38])
def test_what_is_no_reading_is_passed_over(odd: float) -> None:
    values = [100.0, odd] * HOUR + [106.0, odd] * HOUR
    assert [one.state for one in run(bench(), values)] == ["raised"]


def test_below_as_well_as_above() -> None:
    rule = replace(RULE, raise_above=None, clear_below=None, raise_below=-3.5, clear_above=-1.5)
    assert len(run(bench(rule), [100.0] * (2 * HOUR) + [95.0] * HOUR)) == 1
    assert run(bench(rule), [100.0] * (2 * HOUR) + [105.0] * HOUR) == []


def test_a_gap_is_no_time_in_which_it_was_judged() -> None:
    made = bench()
    assert run(made, [100.0] * (HOUR // 3)) == []
    made.at_s += 7200
    assert run(made, [110.0] * (HOUR // 3)) == [], "20 minutes and a gap are no hour's baseline"


def test_each_gpu_has_a_baseline_of_its_own() -> None:
    made = bench()
    found = made.run(
        {"n1": {METRIC: [100.0, 300.0 + (8 if n > 2 * HOUR else 0), 200.0]}} for n in range(3 * HOUR)
    )  # fmt: skip
    assert [one.gpu for one in found] == ["n1-1"]


def scene(n: int, excess: float) -> dict[str, dict[str, list[float]]]:
    """Eight GPUs at one load that changes: the third is warmer by `excess`."""
    watts = 650.0 if n // (HOUR // 6) % 2 else 400.0
    celsius = [round(30 + watts * 0.055 + 0.4 * gpu) + (excess if gpu == 3 else 0.0) for gpu in range(8)]
    return {"n1": {"temperature_celsius": celsius, "power_watts": [watts] * 8, "gpu_utilization_percent": [90.0] * 8}}


def test_paste_that_pumps_out_shows_beside_the_peers_whatever_the_load_does() -> None:
    made = bench(PASTE, "temperature_celsius")
    found = made.run(scene(n, max(0.0, (n - 2 * HOUR) / HOUR)) for n in range(8 * HOUR))
    assert [one.gpu for one in found] == ["n1-3"]
    at_s = told(found)[0][2]
    assert 5.5 * 3600 < at_s < 7 * 3600, "3.5 °C are reached after 5.5 h"
    healthy = bench(PASTE, "temperature_celsius")
    assert healthy.run(scene(n, 0.0) for n in range(6 * HOUR)) == []


def test_a_gpu_whose_neighbours_go_idle_is_not_held_against_the_rack_instead() -> None:
    # it is the coolest of its node, whose air is warmer than that of the rest of the rack
    def rack(n: int) -> dict[str, dict[str, list[float]]]:
        idle = n > 2 * HOUR
        warm: list[float] = [60, 63, 63, 63] if not idle else [60, 36, 36, 36]
        watts = [600.0, *([90.0] * 3 if idle else [600.0] * 3)]
        busy = [90.0] * 4
        node = {"temperature_celsius": warm, "power_watts": watts, "gpu_utilization_percent": busy}
        cool = {"temperature_celsius": [55.0] * 4, "power_watts": [600.0] * 4, "gpu_utilization_percent": busy}
        return {"n1": node, "n2": cool, "n3": cool}

    made = bench(PASTE, "temperature_celsius")
    assert made.run(rack(n) for n in range(4 * HOUR)) == []


def test_gpus_of_small_nodes_are_held_against_their_rack() -> None:
    def rack(n: int) -> dict[str, dict[str, list[float]]]:
        nodes = {f"n{number}": {"temperature_celsius": [60.0], "power_watts": [600.0]} for number in range(6)}
        nodes["n3"]["temperature_celsius"] = [60.0 + (6 if n > 2 * HOUR else 0)]
        return {name: node | {"gpu_utilization_percent": [90.0]} for name, node in nodes.items()}

    found = bench(PASTE, "temperature_celsius").run(rack(n) for n in range(3 * HOUR))
    assert [one.gpu for one in found] == ["n3-0"]


def restarted(raised: list[Anomaly], then: Iterable[float], replayed: Iterable[float] = ()) -> list[Anomaly]:
    again = bench()
    run(again, replayed)
    again.detector.restore(raised, again.roster)
    return run(again, then)


def test_after_a_restart_what_stood_is_judged_against_the_baseline_that_it_names() -> None:
    raised = run(bench(), [100.0] * (2 * HOUR) + [106.0] * HOUR)
    assert [one.state for one in raised] == ["raised"]
    for replayed in ([], [106.0] * 12):
        assert restarted(raised, [106.0] * (3 * HOUR), replayed) == [], "still off: not learnt as normal"
        found = restarted(raised, [100.0] * HOUR, replayed)
        assert [(one.state, one.anomaly_id) for one in found] == [("cleared", raised[0].anomaly_id)]


def test_a_new_normal_is_taken_for_normal_by_and_by() -> None:
    rule = replace(RULE, settles_per_hour=2.0)
    found = run(bench(rule), [100.0] * (2 * HOUR) + [106.0] * (6 * HOUR))
    assert [one.state for one in found] == ["raised", "cleared"]


@pytest.mark.parametrize(
    "changes",
    [
        {"short_ms": 0},
        {"warmup_ms": 1},
        {"noise": 0.0},
        {"settles_per_hour": -1.0},
        {"raise_below": -1.0},
        {"clear_below": 9.0},
    ],
)
def test_a_rule_that_cannot_be_run_is_refused(changes: dict[str, Any]) -> None:
    given = {name: getattr(RULE, name) for name in RULE.__struct_fields__}
    with pytest.raises(ValueError, match="warmer_than_before"):
        LevelRule(**(given | changes))
