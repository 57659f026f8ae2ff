"""Ticks close by the watermark: who is in them, what is late, and that cuts of the log do not matter."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from schemas.records import GpuSample
from streams.readings.tables import METRICS
from streams.readings.ticks import Tick, TickWindow
from tests.streams_scenes import START_MS, Message, columns, message, sample

HOT = METRICS.index("temperature_celsius")


def window(grace_s: float = 2, tick_ms: int = 1000) -> TickWindow:
    return TickWindow(tick_ms, round(grace_s * 1000))


def feed(to: TickWindow, *records: GpuSample | Message) -> list[Tick]:
    """The ticks that a run closes."""
    return list(to.add(columns(records)))


def seconds(ticks: Iterable[Tick]) -> list[float]:
    return [(tick.tick_ms - START_MS) / 1000 for tick in ticks]


def present(tick: Tick) -> set[str]:
    # the roster goes on growing after the tick has closed
    return {place.node for place, there in zip(tick.roster.nodes, tick.node_present, strict=False) if there}


def test_a_tick_closes_when_the_newest_tick_is_the_grace_beyond_it() -> None:
    ticks = window()
    assert feed(ticks, sample("n1", 0), sample("n1", 1)) == []
    assert seconds(feed(ticks, sample("n1", 2))) == [0]
    assert seconds(feed(ticks, sample("n1", 5))) == [1, 2]


def test_nodes_of_a_tick_are_gathered_whatever_the_order_in_which_they_come() -> None:
    ticks = window()
    feed(ticks, sample("n2", 1, 1, temperature_celsius=2.0), sample("n1", 0, 1, temperature_celsius=1.0))
    feed(ticks, sample("n2", 0, 1, temperature_celsius=2.5), sample("n1", 1, 1, temperature_celsius=1.5))
    first, second = feed(ticks, sample("n1", 3, 1))
    serials = first.roster.gpus
    assert present(first) == {"n1", "n2"}
    assert dict(zip(serials, first.values[HOT].tolist(), strict=True)) == {"n1-0": 1.0, "n2-0": 2.5}
    assert dict(zip(serials, second.values[HOT].tolist(), strict=True)) == {"n1-0": 1.5, "n2-0": 2.0}


def test_times_within_a_tick_are_the_same_tick() -> None:
    ticks = window()
    feed(ticks, sample("n1", 0.999), sample("n2", 0.001))
    (tick,) = feed(ticks, sample("n1", 2.4))
    assert seconds([tick]) == [0]
    assert present(tick) == {"n1", "n2"}


def test_what_nobody_read_is_unknown() -> None:
    ticks = window()
    feed(ticks, sample("n1", 0, 1, throttle_reasons=4), sample("n2", 1, 1))
    (tick,) = feed(ticks, sample("n1", 2, 1))
    assert present(tick) == {"n1"}
    assert np.isnan(tick.values[:, 1]).all()
    assert tick.throttle.tolist() == [4, -1]
    assert tick.gpu_read.tolist() == [True, False]


def test_what_comes_after_its_tick_has_closed_is_late_and_counted() -> None:
    ticks = window()
    feed(ticks, sample("n1", 0), sample("n1", 3))
    assert feed(ticks, sample("n2", 1)) == []
    assert ticks.late_messages == 1
    # just not late
    feed(ticks, sample("n2", 2))
    assert ticks.late_messages == 1


def test_lateness_does_not_depend_on_whether_anybody_sent_the_tick() -> None:
    ticks = window()
    feed(ticks, sample("n1", 0), sample("n1", 10))
    feed(ticks, sample("n2", 5))
    assert ticks.late_messages == 1


def test_a_node_whose_readings_come_late_is_heard_all_the_same_and_so_are_its_gpus() -> None:
    ticks = window()
    feed(ticks, sample("n1", 0, 1), sample("behind", -9, 2), sample("n1", 10, 1), sample("behind", 1, 2))
    (tick,) = feed(ticks, sample("n1", 12, 1))
    assert seconds([tick]) == [10]
    assert present(tick) == {"n1", "behind"}
    assert tick.gpu_read.tolist() == [True, True, True]
    assert np.isnan(tick.values[HOT, 1:]).all(), "late readings are not compared with those of their peers"


def test_what_is_delivered_once_more_does_not_make_a_node_heard() -> None:
    ticks = window()
    feed(ticks, sample("dead", 0), sample("n1", 0), sample("n1", 10))
    feed(ticks, sample("dead", 0), sample("dead", 0))
    (tick,) = feed(ticks, sample("n1", 12))
    assert present(tick) == {"n1"}


def test_a_clock_that_runs_ahead_does_not_make_the_others_late() -> None:
    ticks = window()
    ahead = [message(sample("ahead", second + 50), at_ms=START_MS + 1000 * second) for second in range(4)]
    for second, one in enumerate(ahead):
        feed(ticks, one, sample("n1", second))
    assert ticks.late_messages == 0
    assert ticks.newest_ms == START_MS + 3000, "time is the broker's"


def test_a_time_that_cannot_be_true_does_not_drag_a_log_of_long_ago_along() -> None:
    # replayed years later: what the broker's clock shows is of another time than all messages
    years_ms = 3 * 365 * 86_400_000
    replayed = [message(sample("n1", second), at_ms=START_MS + years_ms + 10 * second) for second in range(10)]
    odd = message(sample("odd", 10**9), at_ms=START_MS + years_ms + 55)
    ticks = window()
    closed = feed(ticks, *replayed[:6], odd, *replayed[6:])
    assert seconds(closed) == list(range(8))
    assert ticks.late_messages == 0
    assert "odd" in present(closed[5]), "and whose it is was heard at the time of the others"


def test_where_no_time_has_ever_been_true_the_brokers_clock_counts_after_a_minute() -> None:
    ticks = window()
    odd = [message(sample("only", second + 9999), at_ms=START_MS + 1000 * second) for second in range(120)]
    closed = [tick for one in odd for tick in feed(ticks, one)]
    assert seconds(closed) == list(range(60, 118))
    assert all(present(tick) == {"only"} for tick in closed)


def test_without_grace_everybody_but_the_first_is_late_and_still_heard() -> None:
    ticks = window(grace_s=0)
    closed = feed(ticks, *(sample(node, second) for second in range(3) for node in ("n1", "n2")))
    assert seconds(closed) == [0, 1, 2]
    assert [present(tick) for tick in closed] == [{"n1"}, {"n1", "n2"}, {"n1", "n2"}]


def test_a_coarser_grid_puts_several_samples_of_a_node_into_one_tick_and_the_last_one_counts() -> None:
    ticks = window(grace_s=5, tick_ms=5000)
    feed(ticks, *(sample("n1", second, 1, temperature_celsius=float(second)) for second in range(5)))
    (tick,) = feed(ticks, sample("n1", 5))
    assert tick.values[HOT].tolist()[0] == 4.0


# --- the roster -------------------------------------------------------------------------------------------------------


def test_who_is_new_is_not_in_the_ticks_that_closed_before() -> None:
    # in one run, as after an outage
    closed = feed(window(), *(sample("n1", second) for second in range(10)), sample("new", 10), sample("n1", 12))
    assert {second: len(tick.node_present) for second, tick in zip(seconds(closed), closed, strict=True)} == {
        **dict.fromkeys(range(8), 1),
        8: 2,
        9: 2,
        10: 2,
    }


class Seen:
    """What a detector sees while ticks close: places change under way."""

    def __init__(self, ticks: TickWindow) -> None:
        self.ticks = ticks
        self.found: list[tuple[float, str]] = []

    def feed(self, *records: GpuSample) -> None:
        for tick in self.ticks.add(columns(records)):
            self.found.append((seconds([tick])[0], tick.roster.place(0).node))


@pytest.mark.parametrize("cut", range(1, 8))
def test_a_gpu_that_moves_is_where_it_was_when_a_tick_closed(cut: int) -> None:
    records = [sample("n1", second, ["gpu"]) for second in range(4)]
    records += [sample("n2", second, ["gpu"]) for second in range(4, 8)]
    whole, parts = Seen(window()), Seen(window())
    whole.feed(*records)
    parts.feed(*records[:cut])
    parts.feed(*records[cut:])
    assert whole.found == parts.found == [(0, "n1"), (1, "n1"), (2, "n2"), (3, "n2"), (4, "n2"), (5, "n2")]


def test_the_period_of_a_node_follows_what_it_says() -> None:
    ticks = window()
    feed(ticks, sample("n1", 0), sample("n2", 0, interval_ms=10_000))
    assert ticks.roster.node_interval_ms.tolist() == [1000, 10_000]
    feed(ticks, sample("n1", 1, interval_ms=5000))
    assert ticks.roster.node_interval_ms.tolist() == [5000, 10_000]


# --- the clock goes on ------------------------------------------------------------------------------------------------


def test_the_clock_closes_what_is_open_and_then_empty_ticks() -> None:
    ticks = window()
    feed(ticks, sample("n1", 0), sample("n1", 1))
    closed = list(ticks.advance(START_MS + 4500))
    assert seconds(closed) == [0, 1, 2, 3, 4]
    assert [present(tick) for tick in closed] == [{"n1"}, {"n1"}, set(), set(), set()]
    assert list(ticks.advance(START_MS + 4900)) == []
    assert seconds(ticks.advance(START_MS + 5000)) == [5]


def test_the_clock_says_nothing_of_a_partition_in_which_nothing_ever_came() -> None:
    assert list(window().advance(START_MS)) == []


def test_a_clock_that_stands_before_the_newest_tick_closes_nothing() -> None:
    ticks = window()
    feed(ticks, sample("n1", 10))
    assert list(ticks.advance(START_MS)) == []
    assert seconds(feed(ticks, sample("n1", 12))) == [10]


def test_samples_after_a_quiet_time_go_on_with_the_ticks_that_follow() -> None:
    ticks = window()
    feed(ticks, sample("n1", 0))
    list(ticks.advance(START_MS + 20_000))
    assert feed(ticks, sample("n1", 21)) == []
    assert seconds(feed(ticks, sample("n1", 23))) == [21]
    assert ticks.late_messages == 0


def test_a_clock_that_jumps_by_a_year_neither_fills_the_memory_nor_takes_for_ever() -> None:
    ticks = window()
    feed(ticks, sample("n1", 0))
    year_s = 365 * 24 * 3600
    closed = list(ticks.advance(START_MS + 1000 * year_s))
    assert len(closed) < 1000
    assert seconds(closed)[-1] == year_s
    assert len(ticks._open) == 0


def test_the_open_ticks_are_bounded_by_the_grace_and_the_future_that_is_let_in() -> None:
    ticks = window()
    for second in range(300):
        feed(ticks, sample("n1", second), message(sample("ahead", second + 59), at_ms=START_MS + 1000 * second))
        assert len(ticks._open) <= 2 + 60
