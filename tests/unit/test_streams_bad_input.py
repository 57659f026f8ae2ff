"""Bad input of samples and counters: each kind has a result that can be looked up here, and none raises."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from schemas.records import Anomaly, GpuCounters, GpuSample
from streams.readings.processor import CounterProcessor, SampleProcessor
from streams.settings import StreamsSettings
from streams.topology import Topology
from tests.streams_scenes import CODEC, START_MS, Message, counters, in_inventory, log, message, sample

NAN, INF = float("nan"), float("inf")
HOUR_S = 3600
SETTINGS = StreamsSettings()
METRICS: dict[str, Any] = {
    "temperature_celsius": 60.0,
    "memory_temperature_celsius": 70.0,
    "temperature_margin_celsius": 25.0,
    "power_watts": 600.0,
    "sm_clock_mhz": 1980.0,
    "gpu_utilization_percent": 95.0,
    "throttle_reasons": 0,
}


def rack(seconds: Iterable[float], nodes: Sequence[str] = ("n1", "n2"), **odd: Any) -> list[GpuSample]:
    """Nodes of four sound GPUs; of the first node, the first GPU reads what is odd."""
    made = []
    for second in seconds:
        for node in nodes:
            row = {name: [value] * 4 for name, value in METRICS.items()}
            if node == "n1":
                row |= {name: [value, *row[name][1:]] for name, value in odd.items()}
            made.append(sample(node, second, 4, **row))
    return made


def of_samples(records: Iterable[GpuSample | Message], inventory: Topology | None = None) -> list[tuple[str, str]]:
    """Which rules are raised, for whom."""
    found = SampleProcessor(SETTINGS, CODEC, inventory=inventory).run(log(records)).anomalies
    return raised(found)


def of_counters(records: Iterable[GpuCounters | Message], inventory: Topology | None = None) -> list[tuple[str, str]]:
    return raised(CounterProcessor(SETTINGS, CODEC, inventory=inventory).run(log(records)).anomalies)


def raised(found: Iterable[Anomaly]) -> list[tuple[str, str]]:
    return [(one.rule, one.component) for one in found if one.state == "raised"]


def rising(seconds: Iterable[int], gpus: Sequence[str] | int = 2, node: str = "n1") -> list[GpuCounters]:
    """Twenty corrected errors an hour."""
    return [counters(node, at_s, gpus, ecc_volatile_dram_correctable=float(at_s // 180)) for at_s in seconds]


AN_HOUR = range(0, HOUR_S, 30)


@pytest.mark.parametrize("odd", [NAN, INF, -INF, 3e38, -3e38, -0.0])
@pytest.mark.parametrize("metric", [name for name in METRICS if name != "throttle_reasons"])
def test_a_reading_that_is_no_number_is_a_finding_only_where_it_is_beyond_a_limit(metric: str, odd: float) -> None:
    high = odd in {INF, 3e38}
    low = odd in {-INF, -3e38, 0.0}
    expected = {
        "temperature_celsius": "gpu_hot" if high else None,
        "memory_temperature_celsius": "memory_hot" if high else None,
        "temperature_margin_celsius": "no_thermal_margin" if low else None,
        "sm_clock_mhz": "slower_than_peers" if odd == 0 else None,  # beyond all that can be, it is not compared
    }.get(metric)
    assert of_samples(rack(range(100), **{metric: odd})) == ([(expected, "gpu:n1-0")] if expected else [])


def test_all_bits_at_once_and_none_that_anybody_knows_are_bits_like_others() -> None:
    assert set(of_samples(rack(range(20), throttle_reasons=2**62 - 1))) == {
        ("thermal_slowdown", "gpu:n1-0"), ("power_brake", "gpu:n1-0"),
    }  # fmt: skip
    assert of_samples(rack(range(20), throttle_reasons=2**40)) == []
    assert of_samples(rack(range(20), throttle_reasons=-1)) == [], "unknown"


@pytest.mark.parametrize("odd", [NAN, INF, -INF, -1.0, 1e300])
def test_a_counter_that_is_no_count_is_not_read(odd: float) -> None:
    fields = dict.fromkeys(
        ("ecc_volatile_dram_correctable", "pcie_replays", "row_remap_correctable", "pcie_width"), odd
    )
    assert of_counters(counters("n1", at_s, 2, **fields) for at_s in AN_HOUR) == []


def test_counters_that_go_backwards_are_reset_or_misread_and_neither_is_a_finding() -> None:
    down = [counters("n1", at_s, 1, ecc_volatile_dram_correctable=1e6 - at_s) for at_s in AN_HOUR]
    reset = [counters("n1", at_s, 1, ecc_volatile_dram_correctable=1e6 if at_s < 1800 else 2.0) for at_s in AN_HOUR]
    assert of_counters(down) == []
    assert of_counters(reset) == []


def test_duplicated_ticks_change_nothing() -> None:
    hot = rack(range(40), temperature_celsius=90.0)
    assert (
        of_samples([one for record in hot for one in (record, record)]) == of_samples(hot) == [("gpu_hot", "gpu:n1-0")]
    )
    errors = rising(AN_HOUR)
    assert of_counters([one for record in errors for one in (record, record)]) == of_counters(errors)


def test_ticks_that_come_in_another_order_within_the_grace_change_nothing() -> None:
    hot = rack(range(40), temperature_celsius=90.0)
    swapped = [one for pair in zip(hot[::4], hot[1::4], hot[2::4], hot[3::4], strict=True) for one in reversed(pair)]
    in_time = [message(one, at_ms=START_MS + 100_000) for one in swapped]
    assert of_samples(in_time) == [("gpu_hot", "gpu:n1-0")]
    errors = rising(AN_HOUR)
    assert of_counters(one for pair in zip(errors[::2], errors[1::2], strict=True) for one in reversed(pair)) == (
        of_counters(errors)
    )


@pytest.mark.parametrize("off_s", [-5 * HOUR_S, 5 * HOUR_S])
def test_a_clock_that_is_hours_off_is_one_finding_about_its_node_and_hides_no_other_node(off_s: float) -> None:
    made: list[Message] = []
    for second in range(200):
        made += [message(one, at_ms=START_MS + 1000 * second) for one in rack([second + off_s], ["n1"])]
        made += [message(one, at_ms=START_MS + 1000 * second) for one in rack([second], ["n2", "n3", "n4"])]
    hot = [message(one, at_ms=START_MS + 200_000 + 1000 * at)
           for at in range(20) for one in rack([200 + at], ["n2", "n3", "n4"])]  # fmt: skip
    found = of_samples([*made, *hot])
    assert found[0] == ("clock_ahead" if off_s > 0 else "clock_behind", "node:n1")
    assert set(found[1:]) <= {("node_silent", "node:n1")}, "which stops at 200 s"


def test_an_unknown_sku_and_a_gpu_that_the_inventory_lacks_are_watched_like_any_other() -> None:
    known = Topology()
    known.learn(in_inventory("gpu:n1-0", node="n1", sku="Frobnicator 9000"))
    hot = rack(range(40), temperature_celsius=90.0)
    assert of_samples(hot, known) == of_samples(hot, Topology()) == of_samples(hot) == [("gpu_hot", "gpu:n1-0")]
    errors = rising(AN_HOUR, ["n1-0", "stray"])
    assert set(of_counters(errors, known)) == {
        ("corrected_errors_rise", "gpu:n1-0"), ("corrected_errors_rise", "gpu:stray"),
    }  # fmt: skip


def test_a_rack_of_one_node_with_one_gpu_is_watched_by_what_needs_no_neighbours() -> None:
    alone = [sample("n1", second, 1, **(METRICS | {"temperature_celsius": 90.0})) for second in range(40)]
    assert of_samples(alone) == [("gpu_hot", "gpu:n1-0")]
    straggler = [sample("n1", second, 1, **(METRICS | {"sm_clock_mhz": 300.0})) for second in range(200)]
    assert of_samples(straggler) == [], "nobody to compare it with"
    assert of_counters(rising(AN_HOUR, 1)) == [("corrected_errors_rise", "gpu:n1-0")]


def test_a_node_without_gpus_is_no_trouble() -> None:
    assert of_samples(sample("n1", second, 0) for second in range(40)) == []
    assert of_counters(counters("n1", at_s, 0) for at_s in AN_HOUR) == []
