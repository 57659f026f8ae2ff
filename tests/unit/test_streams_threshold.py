"""A limit, held for a time, with a way back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from schemas.catalog.rules import Rule
from schemas.records import Anomaly
from streams.detectors.threshold import ThresholdDetector
from streams.readings.decode import SampleDecoder
from streams.readings.tables import METRICS, THROTTLE
from streams.readings.ticks import TickWindow
from tests.streams_scenes import CODEC, START_MS, log, sample

NAN = float("nan")
HOT: dict[str, Any] = {"raise_above": 87.0, "clear_below": 82.0}


def rule(**changes: Any) -> Rule:
    given: dict[str, Any] = {
        "name": "gpu_hot",
        "detector": "threshold",
        "for_ms": 5000,
        "clear_for_ms": 10_000,
        "fault_class": "thermal",
        "severity": "critical",
        "action": "check_hardware",
        "reason": "too hot",
    }
    return Rule(**(given | (changes or HOT)))


class Bench:
    """One detector over samples, second by second."""

    def __init__(self, metric: str = "temperature_celsius", **changes: Any) -> None:
        self.rule = rule(**changes)
        row = -1 if metric == THROTTLE else METRICS.index(metric)
        self.metric = metric
        self.detector = ThresholdDetector(metric, row, "°C", self.rule, tick_ms=1000)
        self.window = TickWindow(1000, 0)
        self.decode = SampleDecoder(CODEC, 10**9)

    def run(self, *values: float | None, start: float = 0, step: float = 1, gpu: str = "gpu") -> list[Anomaly]:
        """One value each `step` seconds; None sends nothing."""
        found: list[Anomaly] = []
        for number, value in enumerate(values):
            if value is None:
                continue
            at_s = start + step * number
            reading: dict[str, Any] = {self.metric: value}
            one = sample("n1", at_s, [gpu], interval_ms=round(step * 1000), **reading)
            columns = self.decode(log([one])).columns
            assert columns is not None
            for tick in self.window.add(columns):
                found += self.detector.update(tick)
        return found


def told(found: Iterable[Anomaly]) -> list[tuple[str, float, float]]:
    """State, decided at and begun at, in seconds."""
    return [(one.state, (one.tick_ms - START_MS) / 1000, (one.begin_ms - START_MS) / 1000) for one in found]


def test_a_condition_that_holds_for_long_enough_is_raised_once() -> None:
    assert told(Bench().run(80, 88, 88, 88, 88, 88, 88, 90, 95)) == [("raised", 6, 1)]


def test_a_condition_that_lapses_in_between_begins_anew() -> None:
    assert told(Bench().run(88, 88, 88, 88, 88, 87, 88, 88, 88, 88, 88, 88)) == [("raised", 11, 6)]


def test_the_limit_itself_is_not_beyond_the_limit() -> None:
    assert Bench().run(*[87.0] * 30) == []


def test_it_is_cleared_when_it_has_been_well_for_long_enough() -> None:
    found = Bench().run(*[90] * 6, *[80] * 12)
    assert told(found) == [("raised", 5, 0), ("cleared", 16, 0)]
    assert found[0].anomaly_id == found[1].anomaly_id


def test_between_the_two_limits_it_neither_clears_nor_is_raised() -> None:
    assert told(Bench().run(*[90] * 6, *[85] * 30, *[80] * 12)) == [("raised", 5, 0), ("cleared", 46, 0)]
    assert Bench().run(*[85] * 30) == []


def test_a_relapse_while_it_clears_begins_the_way_back_anew() -> None:
    assert told(Bench().run(*[90] * 6, *[80] * 9, 83, *[80] * 12)) == [("raised", 5, 0), ("cleared", 26, 0)]


def test_each_time_it_is_raised_it_has_an_id_of_its_own() -> None:
    found = Bench().run(*([90] * 6 + [80] * 12) * 2)
    assert [one.state for one in found] == ["raised", "cleared", "raised", "cleared"]
    assert len({one.anomaly_id for one in found}) == 2


def test_an_unknown_reading_neither_confirms_nor_clears() -> None:
    assert told(Bench().run(88, NAN, 88, NAN, 88, 88)) == [("raised", 5, 0)]
    assert told(Bench().run(*[90] * 6, *[NAN] * 40)) == [("raised", 5, 0)]


def test_a_long_gap_in_the_readings_begins_the_condition_anew() -> None:
    assert told(Bench().run(88, *[NAN] * 9, 88)) == [("raised", 10, 0)]
    assert Bench().run(88, *[NAN] * 10, 88) == []
    assert Bench().run(88, *[None] * 10, 88) == []


def test_a_node_that_samples_rarely_is_judged_all_the_same() -> None:
    assert told(Bench().run(88, 88, 88, step=30)) == [("raised", 30, 0)]


@pytest.mark.parametrize(
    ("value", "expected"), [(float("inf"), [("raised", 5, 0)]), (float("-inf"), []), (NAN, []), (3.0e38, None)]
)
def test_infinities_are_readings_like_others(value: float, expected: list[Any] | None) -> None:
    found = told(Bench().run(*[value] * 10))
    assert found == ([("raised", 5, 0)] if expected is None else expected)


def test_below_a_limit() -> None:
    bench = Bench("temperature_margin_celsius", raise_below=1.0, clear_above=4.0)
    found = bench.run(*[0.5] * 6, *[3.0] * 20, *[5.0] * 12)
    assert told(found) == [("raised", 5, 0), ("cleared", 36, 0)]
    assert found[0].value == 0.5
    assert found[0].limit == 1.0


def test_any_of_the_bits_of_a_mask() -> None:
    bench = Bench(THROTTLE, raise_bits=0x60)
    found = bench.run(0x9F, *[0x20, 0x40] * 3, *[0x9F] * 11)
    assert told(found) == [("raised", 6, 1), ("cleared", 17, 1)]


def test_bits_that_are_unknown_are_no_bits() -> None:
    # -1 has every bit set
    assert Bench(THROTTLE, raise_bits=0x40).run(*[-1] * 20) == []


def test_no_duration_means_at_once() -> None:
    assert told(Bench(**HOT, for_ms=0, clear_for_ms=0).run(90, 80)) == [("raised", 0, 0), ("cleared", 1, 0)]


def test_a_finding_says_what_was_found_where_and_what_to_do() -> None:
    (found,) = Bench().run(*[90.5] * 6)
    assert (found.component, found.gpu, found.node, found.rack, found.site) == ("gpu:gpu", "gpu", "n1", "r1", "hall-a")
    assert (found.detector, found.rule, found.metric, found.fault_class) == (
        "threshold",
        "gpu_hot",
        "temperature_celsius",
        "thermal",
    )
    assert (found.severity, found.action, found.value, found.limit) == ("critical", "check_hardware", 90.5, 87.0)
    assert found.reason == "temperature_celsius 90.5 °C is above 87 °C for 5 s"


def test_gpus_are_judged_each_by_itself() -> None:
    bench = Bench()
    found: list[Anomaly] = []
    for second in range(8):
        one = sample("n1", second, ["a", "b", "c"], temperature_celsius=[90.0, 50.0, 90.0 if second > 1 else 50.0])
        columns = bench.decode(log([one])).columns
        assert columns is not None
        for tick in bench.window.add(columns):
            found += bench.detector.update(tick)
    assert [(one.gpu, (one.tick_ms - START_MS) // 1000) for one in found] == [("a", 5), ("c", 7)]


# --- after a restart --------------------------------------------------------------------------------------------------


def restarted(before: Bench, standing: Iterable[Anomaly], *replayed: float) -> Bench:
    """A new worker: it has read `replayed` back, and what stands from memory."""
    again = Bench(**{name: getattr(before.rule, name) for name in ("raise_above", "clear_below")})
    again.run(*replayed)
    again.detector.restore(standing, again.window.roster)
    return again


def test_what_stood_before_a_restart_clears_afterwards_with_its_own_id() -> None:
    first = Bench()
    raised = first.run(*[90] * 6)
    for replayed in ([], [90] * 6, [85] * 6, [80] * 3):  # however much of it is read back
        found = restarted(first, raised, *replayed).run(*[80] * 12, start=20)
        assert [(one.state, one.anomaly_id) for one in found] == [("cleared", raised[0].anomaly_id)]


def test_what_stood_before_a_restart_is_not_raised_again() -> None:
    first = Bench()
    raised = first.run(*[90] * 6)
    for replayed in ([], [90] * 6, [80] * 6):
        assert restarted(first, raised, *replayed).run(*[90] * 20, start=20) == []


def test_what_did_not_stand_is_raised_whatever_the_windows_say() -> None:
    # the limit was changed: what is read back would have been raised, but was not
    found = restarted(Bench(), [], *[90] * 6).run(*[90] * 6, start=6)
    assert told(found) == [("raised", 11, 6)]


def test_a_condition_that_was_pending_at_a_restart_goes_on_pending() -> None:
    found = restarted(Bench(), [], *[90] * 3).run(*[90] * 6, start=3)
    assert told(found) == [("raised", 5, 0)]


def test_anomalies_of_others_are_passed_over() -> None:
    bench = Bench()
    others = [
        Bench("memory_temperature_celsius", **HOT, name="memory_hot").run(*[90] * 6)[0],
        Bench(THROTTLE, raise_bits=0x40, name="thermal_slowdown").run(*[0x40] * 6)[0],
    ]
    bench.detector.restore(others, bench.window.roster)
    assert told(bench.run(*[90] * 6)) == [("raised", 5, 0)]
