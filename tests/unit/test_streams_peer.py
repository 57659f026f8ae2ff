"""One GPU against its peers at the same tick."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from schemas.catalog.metrics import metrics
from schemas.catalog.rules import Beside, PeerRule
from streams.detectors.beside import Comparison, Groups
from streams.detectors.peer import PeerDetector
from streams.readings.tables import METRICS
from tests.streams_bench import Bench, Nodes, told

NAN = float("nan")
SLOW = metrics()["sm_clock_mhz"].peers[0]
HOT = metrics()["temperature_celsius"].peers[0]


def bench(rule: PeerRule, metric: str, **beside: Any) -> Bench:
    rule = replace(rule, beside=replace(rule.beside, **beside))
    compared = Comparison(METRICS.index(metric), rule.beside, Groups())
    return Bench(PeerDetector(metric, metrics()[metric].unit, rule, compared, tick_ms=1000))


def clocks(*mhz: float, busy: float = 95.0, **more: list[Any]) -> dict[str, Any]:
    return {"sm_clock_mhz": mhz, "gpu_utilization_percent": [busy] * len(mhz)} | more


def heat(*celsius: float, watts: float | list[float] = 600.0) -> dict[str, Any]:
    power = watts if isinstance(watts, list) else [watts] * len(celsius)
    return {
        "temperature_celsius": celsius,
        "power_watts": power,
        "gpu_utilization_percent": [90.0] * len(celsius),
    }


STRAGGLER: Nodes = {"n1": clocks(1980, 1965, 1400, 1980)}
EVEN: Nodes = {"n1": clocks(1980, 1965, 1950, 1980)}


def test_a_gpu_that_is_slower_than_the_others_of_its_node_is_told_once_and_again_when_it_is_not() -> None:
    found = bench(SLOW, "sm_clock_mhz").run([*[EVEN] * 3, *[STRAGGLER] * 20, *[EVEN] * 9])
    assert told(found) == [("raised", "n1-2", 90, 30), ("cleared", "n1-2", 290, 30)]
    assert found[0].anomaly_id == found[1].anomaly_id
    assert (found[0].detector, found[0].rule, found[0].fault_class) == ("peer", "slower_than_peers", "performance")
    assert found[0].reason == "sm_clock_mhz is 71% of its peers' 1972.5 MHz for 60 s"


def test_idle_gpus_are_no_peers_and_are_not_judged() -> None:
    idle = {"n1": clocks(1980, 1980, 345, 1980, gpu_utilization_percent=[95, 95, 0, 95])}
    assert bench(SLOW, "sm_clock_mhz", least=3).run([idle] * 20) == []
    # three slow ones that idle do not make the fast one odd
    mostly_idle = {"n1": clocks(1980, 345, 345, 345, gpu_utilization_percent=[95, 0, 0, 0])}
    assert bench(SLOW, "sm_clock_mhz").run([mostly_idle] * 20) == []


@pytest.mark.parametrize(("bits", "expected"), [(0x40, 0), (0x80, 0), (0x04, 1), (-1, 1)])
def test_a_deviation_that_a_throttle_reason_explains_is_left_to_its_own_rule(bits: int, expected: int) -> None:
    scene: Nodes = {"n1": clocks(1980, 1980, 900, 1980, 1980, throttle_reasons=[0, 0, bits, 0, 0])}
    assert len(bench(SLOW, "sm_clock_mhz").run([scene] * 20)) == expected


def test_a_reason_that_comes_and_goes_explains_what_is_between() -> None:
    # at its thermal limit a GPU slows down, cools, and is slow still when the reason is gone
    told_hot: Nodes = {"n1": clocks(1980, 1980, 1000, 1980, throttle_reasons=[0, 0, 0x20, 0])}
    not_told: Nodes = {"n1": clocks(1980, 1980, 1000, 1980, throttle_reasons=[0, 0, 0, 0])}
    assert bench(SLOW, "sm_clock_mhz").run([not_told, not_told, told_hot] * 20) == []
    found = bench(SLOW, "sm_clock_mhz").run([*[not_told] * 10, *[told_hot] * 10])
    assert [(one.state, one.value) for one in found][1] == ("cleared", None)


def test_it_stands_while_the_gpu_idles_because_nothing_is_known_then() -> None:
    idle: Nodes = {"n1": clocks(345, 345, 345, 345, busy=0)}
    found = bench(SLOW, "sm_clock_mhz").run([*[STRAGGLER] * 10, *[idle] * 50, *[EVEN] * 10])
    assert told(found) == [("raised", "n1-2", 60, 0), ("cleared", "n1-2", 660, 0)]


def test_a_checkpoint_between_two_halves_does_not_hide_the_straggler() -> None:
    idle: Nodes = {"n1": clocks(1980, 1980, 1980, 1980, busy=5)}
    found = bench(SLOW, "sm_clock_mhz").run([*[STRAGGLER] * 4, idle, idle, *[STRAGGLER] * 4])
    assert told(found) == [("raised", "n1-2", 60, 0)]


def test_half_of_the_peers_may_be_odd_without_anybody_being_blamed_wrongly() -> None:
    # two of four: nobody can say which pair is right
    assert bench(SLOW, "sm_clock_mhz").run([{"n1": clocks(1980, 1980, 1200, 1200)}] * 20) == []
    found = bench(SLOW, "sm_clock_mhz").run([{"n1": clocks(1980, 1980, 1980, 1980, 1980, 1200, 1200, 1200)}] * 20)
    assert {one.gpu for one in found} == {"n1-5", "n1-6", "n1-7"}


def test_where_a_node_is_too_small_its_rack_is_compared_and_no_other_rack() -> None:
    trays = {f"n{tray}": clocks(1980, 1980) for tray in range(1, 6)} | {"n9": clocks(1300, 1980)}
    found = bench(SLOW, "sm_clock_mhz").run([trays] * 20)
    assert [one.gpu for one in found] == ["n9-0"]
    elsewhere = {f"r2/n{tray}": clocks(1980, 1980) for tray in range(1, 6)} | {"r1/n9": clocks(1300, 1980)}
    assert bench(SLOW, "sm_clock_mhz").run([elsewhere] * 20) == []


def test_a_node_of_one_gpu_in_a_rack_of_its_own_has_no_peers() -> None:
    assert bench(SLOW, "sm_clock_mhz").run([{"n1": clocks(300)}] * 20) == []


def test_a_node_that_is_compared_by_itself_is_not_held_against_its_rack() -> None:
    # a node whose job runs at lower clocks than the rest of the rack is no straggler
    rack = {"n1": clocks(1980, 1980, 1980, 1980), "n2": clocks(1980, 1980, 1980, 1980), "n3": clocks(*[1200] * 4)}
    assert bench(SLOW, "sm_clock_mhz").run([rack] * 20) == []


def test_a_gpu_that_is_hotter_than_others_at_its_power_is_found_below_every_limit() -> None:
    found = bench(HOT, "temperature_celsius").run([{"n1": heat(60, 61, 72, 60)}] * 12)
    assert told(found) == [("raised", "n1-2", 90, 0)]
    assert found[0].value is not None
    assert found[0].value == pytest.approx(11.5)


def test_a_gpu_that_is_hotter_because_it_works_harder_is_not() -> None:
    harder: Nodes = {"n1": heat(60, 61, 72, 60, watts=[500, 500, 700, 500])}
    assert bench(HOT, "temperature_celsius").run([harder] * 20) == []
    # a little more power is reckoned with: 30 °C at no power, and as much more as there is more power
    little_more: Nodes = {"n1": heat(75, 75, 85, 75, watts=[500, 500, 610, 500])}
    assert bench(HOT, "temperature_celsius").run([little_more] * 20) == []


def test_where_peers_differ_much_among_themselves_nobody_is_odd() -> None:
    assert bench(HOT, "temperature_celsius").run([{"n1": heat(50, 58, 66, 74)}] * 20) == []


@pytest.mark.parametrize("odd", [NAN, float("inf"), float("-inf"), 3e38, -3e38])
def test_what_is_no_reading_is_no_peer(odd: float) -> None:
    for rule, metric in ((SLOW, "sm_clock_mhz"), (HOT, "temperature_celsius")):
        scene: Nodes = {"n1": heat(60, 60, 60, 60, odd) | {"sm_clock_mhz": [1980, 1980, 1980, 1980, odd]}}
        assert bench(rule, metric).run([scene] * 20) == []
        power = {"n1": heat(60, 60, 60, 60, 60, watts=[600, 600, 600, 600, odd])}
        assert bench(HOT, "temperature_celsius").run([power] * 20) == []


def test_without_power_readings_heat_is_not_compared() -> None:
    scene: Nodes = {"n1": {"temperature_celsius": [60, 60, 80, 60], "gpu_utilization_percent": [90] * 4}}
    assert bench(HOT, "temperature_celsius").run([scene] * 20) == []


def test_a_gpu_that_moves_is_compared_where_it_is() -> None:
    fast, slow = [1980.0] * 4, [1200.0] * 4
    before: Nodes = {"n1": clocks(*fast), "n2": clocks(*slow), "n3:mover": clocks(1200)}
    after: Nodes = {"n1": clocks(*fast), "n2:mover,n2-0,n2-1,n2-2,n2-3": clocks(1200, *slow)}
    amiss: Nodes = {"n1:n1-0,n1-1,n1-2,n1-3,mover": clocks(*fast, 1200), "n2": clocks(*slow)}
    made = bench(SLOW, "sm_clock_mhz")
    assert made.run([*[before] * 3, *[after] * 20]) == []
    assert [one.gpu for one in made.run([amiss] * 20)] == ["mover"]


def test_what_stood_before_a_restart_clears_afterwards_with_its_own_id() -> None:
    raised = bench(SLOW, "sm_clock_mhz").run([STRAGGLER] * 10)
    for replayed in (0, 3, 12):
        again = bench(SLOW, "sm_clock_mhz")
        again.run([STRAGGLER] * replayed)
        again.detector.restore(raised, again.roster)
        found = again.run([EVEN] * 10)
        assert [(one.state, one.anomaly_id) for one in found] == [("cleared", raised[0].anomaly_id)]


@pytest.mark.parametrize(
    "changes",
    [{"raise_above": 1.0}, {"raise_below": None}, {"clear_above": None}, {"clear_above": 0.5}],
)
def test_a_rule_that_cannot_be_run_is_refused(changes: dict[str, Any]) -> None:
    given = {name: getattr(SLOW, name) for name in SLOW.__struct_fields__}
    with pytest.raises(ValueError, match="slower_than_peers"):
        PeerRule(**(given | changes))


@pytest.mark.parametrize("changes", [{"least": 2}, {"power_share": 0.0}, {"power_share": 1.5}])
def test_a_comparison_that_means_nothing_is_refused(changes: dict[str, Any]) -> None:
    given = {name: getattr(SLOW.beside, name) for name in SLOW.beside.__struct_fields__}
    with pytest.raises(ValueError, match="beside"):
        Beside(**(given | changes))


def test_in_its_rack_a_node_is_compared_with_nodes_of_its_own_size_only() -> None:
    # another product, most likely: its clocks say nothing of ours
    rack = {f"n{node}": clocks(1980, 1980) for node in range(1, 6)} | {"n9": clocks(1200)}
    assert bench(SLOW, "sm_clock_mhz").run([rack] * 20) == []
