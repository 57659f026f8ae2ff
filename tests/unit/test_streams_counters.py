"""Counters of a partition, from bytes to findings: what grows, and what only looks as if it did."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from schemas.records import Anomaly, GpuCounters
from streams.readings.processor import CounterProcessor
from streams.settings import StreamsSettings
from tests.streams_scenes import CODEC, START_MS, Message, counters, log, message, sample

NAN, INF = float("nan"), float("inf")
HOUR_S, DAY_S = 3600, 86_400
ERRORS = "ecc_volatile_dram_correctable"
Total = Callable[[float], float]


def readings(
    begin_s: float, end_s: float, step_s: float = 30, node: str = "n1", **fields: Total | float | list[float]
) -> list[GpuCounters]:
    """A node of two GPUs, of which the first counts as the fields say, and the second reads 0."""
    made = []
    at_s = begin_s
    while at_s < end_s:
        row: dict[str, Any] = {}
        for name, total in fields.items():
            value = total(at_s) if callable(total) else total
            row[name] = value if isinstance(value, list) else [value, 0.0]
        made.append(counters(node, at_s, 2, **row))
        at_s += step_s
    return made


def found(records: Iterable[GpuCounters | Message | bytes]) -> list[Anomaly]:
    return CounterProcessor(StreamsSettings(), CODEC).run(log(records)).anomalies


def told(anomalies: Iterable[Anomaly]) -> list[tuple[str, str, str]]:
    return [(one.rule, one.gpu or one.component, one.state) for one in anomalies]


def an_hour(rate: float, since_s: float = 0, until_s: float = INF) -> Total:
    """A counter that grows by so much an hour for a time, in whole steps."""
    return lambda at_s: float(int(rate * max(0.0, min(at_s, until_s) - since_s) / HOUR_S))


# --- growth -----------------------------------------------------------------------------------------------------------


def test_corrected_errors_that_rise_are_found_with_their_number_and_are_over_when_they_stop() -> None:
    anomalies = found(readings(0, 6 * HOUR_S, ecc_volatile_dram_correctable=an_hour(40, HOUR_S, 2 * HOUR_S)))
    assert told(anomalies) == [
        ("corrected_errors_rise", "n1-0", "raised"),
        ("corrected_errors_keep_coming", "n1-0", "raised"),
        ("corrected_errors_rise", "n1-0", "cleared"),
    ]
    first, _, over = anomalies
    assert (first.fault_class, first.severity, first.detector) == ("memory_correctable", "warning", "counter_rate")
    assert first.value == 11
    assert first.limit == 10
    assert "has grown by 11 errors within 60 min, more than 10 errors" in first.reason
    assert first.tick_ms // 30_000 == (START_MS + 1000 * (HOUR_S + 990)) // 30_000, "as soon as so many are counted"
    assert over.anomaly_id == first.anomaly_id
    assert 3 * HOUR_S <= (over.tick_ms - START_MS) / 1000 <= 3 * HOUR_S + 700


@pytest.mark.parametrize(
    ("counter", "rate", "rule", "fault_class"),
    [
        ("pcie_replays", 600, "pcie_replays_rise", "pcie"),
        ("nvlink_recoveries", 6, "nvlink_recoveries_rise", "nvlink"),
        ("nvlink_replays", 300, "nvlink_replays_rise", "nvlink"),
        ("nvlink_crc_flit_errors", 2000, "nvlink_crc_flit_errors_rise", "nvlink"),
        ("nvlink_effective_errors", 2000, "nvlink_effective_errors_rise", "nvlink"),
        ("row_remap_correctable", 1, "rows_remapped_for_corrected_errors", "memory_correctable"),
        ("throttled_hw_thermal_us", 0.1 * 3.6e9, "slowed_by_heat", "thermal"),
        ("throttled_hw_power_brake_us", 0.1 * 3.6e9, "slowed_by_power_brake", "power"),
    ],
)
def test_what_a_fleets_operator_wants_to_hear_of_is_a_warning(
    counter: str, rate: float, rule: str, fault_class: str
) -> None:
    anomalies = found(readings(0, 2 * HOUR_S, **{counter: an_hour(rate)}))
    (one,) = [one for one in anomalies if one.rule == rule]
    assert (one.gpu, one.fault_class, one.severity, one.metric) == ("n1-0", fault_class, "warning", counter)


@pytest.mark.parametrize(
    ("counter", "a_day"),
    [
        (ERRORS, 5), ("pcie_replays", 100), ("nvlink_replays", 100), ("nvlink_recoveries", 1),
        ("nvlink_crc_flit_errors", 200), ("throttled_sw_power_cap_us", 8.64e10),
    ],
)  # fmt: skip
def test_what_sound_gpus_do_is_none(counter: str, a_day: float) -> None:
    assert found(readings(0, DAY_S, 60, **{counter: an_hour(a_day / 24)})) == []


def test_a_gpu_with_a_long_past_is_judged_by_what_it_counts_now() -> None:
    assert found(readings(0, 2 * HOUR_S, **{ERRORS: 123_456.0, "pcie_replays": 4e9})) == []


# --- what befalls counters --------------------------------------------------------------------------------------------


def test_a_counter_that_is_reset_has_grown_by_what_it_reads_and_its_past_is_forgotten() -> None:
    reset: Total = lambda at_s: 50_000.0 if at_s < HOUR_S else 0.0  # noqa: E731
    assert found(readings(0, 2 * HOUR_S, **{ERRORS: reset})) == []
    goes_on: Total = lambda at_s: 50_000.0 if at_s < HOUR_S else float(int((at_s - HOUR_S) / 60))  # noqa: E731
    assert told(found(readings(0, 2 * HOUR_S, **{ERRORS: goes_on}))) == [
        ("corrected_errors_rise", "n1-0", "raised"),
        ("corrected_errors_keep_coming", "n1-0", "raised"),
    ]


def test_one_that_wraps_goes_on_counting() -> None:
    top = 2.0**32
    assert found(readings(0, HOUR_S, pcie_replays=lambda at_s: (top - 30 + at_s / 100) % top)) == []


def test_one_that_goes_backwards_by_a_little_was_misread() -> None:
    shaky: Total = lambda at_s: 100_000.0 - (at_s // 30) % 2 * 40  # noqa: E731
    (one, *_) = found(readings(0, HOUR_S, **{ERRORS: shaky}))
    assert one.value is not None
    assert one.value <= 40, "what it went back by is all that it can seem to grow"
    steady: Total = lambda at_s: 100_000.0 - (5 if at_s == 600 else 0)  # noqa: E731
    assert found(readings(0, HOUR_S, **{ERRORS: steady})) == []


def test_another_gpu_in_the_slot_begins_with_a_past_of_its_own() -> None:
    before = [counters("n1", at_s, ["old"], **{ERRORS: 0.0}) for at_s in range(0, 600, 30)]
    after = [counters("n1", at_s, ["new"], **{ERRORS: 900.0}) for at_s in range(600, 1200, 30)]
    again = [counters("n2", at_s, ["old"], **{ERRORS: 0.0}) for at_s in range(1200, 1800, 30)]
    assert found([*before, *after, *again]) == []


@pytest.mark.parametrize("odd", [NAN, INF, -INF, -5.0, 1.8e19])
def test_what_is_no_number_of_errors_is_no_reading(odd: float) -> None:
    strange: Total = lambda at_s: odd if at_s % 120 < 60 else 7.0  # noqa: E731
    every = dict.fromkeys(("row_remap_correctable", "nvlink_replays", "throttled_hw_thermal_us", ERRORS), strange)
    assert found(readings(0, HOUR_S, **every)) == []


def test_what_grew_in_a_long_gap_counts_by_the_spans_share_of_it() -> None:
    # a node that was away for ten hours, in which 40 errors were corrected: four an hour
    away = [*readings(0, 600, **{ERRORS: 0.0}), *readings(10 * HOUR_S, 11 * HOUR_S, **{ERRORS: 40.0})]
    assert [one.rule for one in found(away)] == ["corrected_errors_keep_coming"]
    short = [*readings(0, 600, **{ERRORS: 0.0}), *readings(1800, HOUR_S, **{ERRORS: 40.0})]
    assert "corrected_errors_rise" in [one.rule for one in found(short)]


def test_repeated_and_reordered_records_count_once() -> None:
    plain = readings(0, 3 * HOUR_S, **{ERRORS: an_hour(8)})
    twice = [one for record in plain for one in (record, record)]
    swapped = [one for pair in zip(plain[::2], plain[1::2], strict=True) for one in reversed(pair)]
    assert found(plain) == []
    assert found(twice) == []
    assert found(swapped) == []


def test_clocks_that_are_hours_off_make_no_growth() -> None:
    honest = readings(0, 2 * HOUR_S, **{ERRORS: an_hour(8)})
    behind = [
        message(one, at_ms=one.tick_ms + 3 * HOUR_S * 1000)
        for one in readings(-3 * HOUR_S, -2 * HOUR_S, node="behind", **{ERRORS: an_hour(8, -3 * HOUR_S)})
    ]
    ahead = [
        message(one, at_ms=one.tick_ms - 3 * HOUR_S * 1000)
        for one in readings(3 * HOUR_S, 4 * HOUR_S, node="ahead", **{ERRORS: an_hour(8, 3 * HOUR_S)})
    ]
    mixed = sorted([*map(message, honest), *behind, *ahead], key=lambda one: one.timestamp)
    outcome = CounterProcessor(StreamsSettings(), CODEC).run(log(mixed))
    assert outcome.anomalies == []
    assert {one.reason for one in outcome.rejected} == {"time_in_future"}


def test_bad_messages_are_refused_with_a_reason_and_their_neighbours_are_processed() -> None:
    good = readings(0, 2 * HOUR_S, **{ERRORS: an_hour(40)})
    bad: list[Any] = [b"junk", None, sample("n1", 0), counters("n1", 0, 2, pcie_replays=[1.0])]
    outcome = CounterProcessor(StreamsSettings(), CODEC).run(log([*bad, *good]))
    assert [one.reason for one in outcome.rejected] == ["not_avro", "not_avro", "wrong_record", "wrong_gpu_count"]
    assert len(outcome.anomalies) == 2


# --- standing values, lanes, budgets ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("column", "rule"),
    [
        ("row_remap_pending", "row_remap_waits"),
        ("row_remap_failure", "row_remap_failed"),
        ("row_remap_banks_none", "spare_rows_gone"),
        ("row_remap_banks_low", "spare_rows_low"),
        ("ecc_sram_threshold_exceeded", "sram_errors_beyond_threshold"),
        ("retired_pages_pending", "page_retirement_waits"),
    ],
)
def test_what_stands_on_the_board_is_found_though_no_event_told_it(column: str, rule: str) -> None:
    anomalies = found(readings(0, 900, **{column: lambda at_s: 1.0 if at_s < 450 else 0.0}))
    assert told(anomalies) == [(rule, "n1-0", "raised"), (rule, "n1-0", "cleared")]


def lanes(width: Total, most: float = 16.0, beside: float = 16.0) -> list[GpuCounters]:
    return [
        counters("n1", at_s, 4, pcie_width=[width(at_s), beside, beside, beside], pcie_width_max=most)
        for at_s in range(0, 900, 30)
    ]


def test_a_link_that_loses_lanes_is_found_and_is_over_when_they_are_back() -> None:
    anomalies = found(lanes(lambda at_s: 8.0 if 300 <= at_s < 600 else 16.0))
    assert told(anomalies) == [("pcie_link_narrow", "n1-0", "raised"), ("pcie_link_narrow", "n1-0", "cleared")]
    assert (anomalies[0].value, anomalies[0].limit) == (8.0, 16.0)
    assert anomalies[0].reason.startswith("pcie_width is 8 of 16 lanes for")


def test_one_that_trained_narrow_at_boot_is_found_beside_its_neighbours() -> None:
    assert told(found(lanes(lambda _: 8.0))) == [("pcie_link_narrow", "n1-0", "raised")]


def test_lanes_that_are_few_by_design_are_none() -> None:
    assert found(lanes(lambda _: 8.0, most=8.0, beside=8.0)) == [], "a slot with eight lanes"
    assert found(lanes(lambda _: 8.0, beside=8.0)) == [], "a machine that says sixteen and gives all of them eight"


def test_two_that_differ_have_no_majority_and_a_rack_of_one_gpu_has_no_neighbour() -> None:
    pair = [counters("n1", at_s, 2, pcie_width=[8.0, 16.0], pcie_width_max=16.0) for at_s in range(0, 900, 30)]
    alone = [counters("n1", at_s, 1, pcie_width=8.0, pcie_width_max=16.0) for at_s in range(0, 900, 30)]
    assert found(pair) == []
    assert found(alone) == []


def test_spare_rows_that_will_be_used_up_soon_are_found_before_they_are() -> None:
    anomalies = found(readings(0, DAY_S, 300, row_remap_correctable=lambda at_s: 480.0 + at_s // 20_000))
    (one,) = [one for one in anomalies if one.rule == "row_remaps_run_out"]
    assert one.detector == "budget"
    assert one.limit == 512
    assert "of 512 rows are used up, and the rest lasts" in one.reason
    few = found(readings(0, DAY_S, 300, row_remap_correctable=lambda at_s: 3.0 + at_s // 20_000))
    assert "row_remaps_run_out" not in [one.rule for one in few]
    gone = found(readings(0, 600, row_remap_correctable=512.0))
    assert [one.rule for one in gone] == ["row_remaps_run_out"]


# --- sources ----------------------------------------------------------------------------------------------------------


def both(nvml: Total, dcgm: Total, until_s: float = 2 * HOUR_S) -> list[GpuCounters]:
    """NVML each half minute, and DCGM each quarter."""
    made = []
    for at_s in range(0, round(until_s), 15):
        if at_s % 30 == 0:
            made.append(
                counters("n1", at_s, 1, row_remap_uncorrectable=nvml(at_s), ecc_volatile_correctable=nvml(at_s))
            )
        more = {"row_remap_uncorrectable": dcgm(at_s), "ecc_volatile_correctable": dcgm(at_s)}
        made.append(counters("n1", at_s, 1, source="dcgm", interval_ms=15_000, **more))
    return made


def test_two_sources_of_one_gpu_are_never_held_against_each_other_as_one_counter() -> None:
    # DCGM repeats what it read half a minute ago: taken for one counter, that would go up and down
    stale = both(lambda at_s: at_s // 600, lambda at_s: max(0, at_s - 45) // 600)
    assert found(stale) == []


def test_two_that_disagree_for_long_though_neither_moves_are_a_finding_about_the_node() -> None:
    anomalies = found(both(lambda _: 3.0, lambda at_s: 5.0 if at_s < HOUR_S else 3.0))
    assert told(anomalies) == [("sources_disagree", "node:n1", "raised"), ("sources_disagree", "node:n1", "cleared")]
    first = anomalies[0]
    assert (first.fault_class, first.gpu, first.node) == ("source_health", None, "n1")
    assert "row_remap_uncorrectable of GPU n1-0: 3 and 5" in first.reason
    assert first.tick_ms - START_MS >= 2_385_000


def test_where_the_first_source_falls_silent_the_other_speaks_and_its_total_is_no_growth() -> None:
    switch = [
        one for one in both(lambda _: 3.0, lambda _: 900.0) if one.source == "dcgm" or one.tick_ms < START_MS + 600_000
    ]
    rules = [one.rule for one in found(switch)]
    assert "corrected_errors_rise" not in rules
    goes_on = [
        *switch,
        *(counters("n1", at_s, 1, source="dcgm", ecc_volatile_correctable=900.0 + (at_s - 2 * HOUR_S) / 60)
          for at_s in range(2 * HOUR_S, 3 * HOUR_S, 15)),
    ]  # fmt: skip
    assert "corrected_errors_rise" in [one.rule for one in found(goes_on)], "it is listened to from then on"


def test_a_column_that_stands_in_for_another_begins_anew() -> None:
    mixed = [
        counters(
            "n1", at_s, 1, ecc_volatile_dram_correctable=5.0 if at_s < 600 else NAN, ecc_volatile_correctable=5000.0
        )
        for at_s in range(0, 1800, 30)
    ]
    assert found(mixed) == []
