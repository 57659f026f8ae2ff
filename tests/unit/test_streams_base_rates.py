"""How often faults come, learnt from the fleet; and how likely so many at once are by chance."""

from __future__ import annotations

from math import exp

import pytest

from schemas.catalog import load
from schemas.catalog.base_rates import BaseRate, BaseRates, base_rates
from streams.correlation.base_rates import HOUR_MS, FleetRates, Learnt, chance_of, most_for

CATALOG = load()
TABLE = BaseRates(
    weighs_component_hours=1000.0,
    forgets_days=30.0,
    arrival_ms=600_000,
    unknown=BaseRate(per_1000_days=24.0, source="a test"),
    rate={"gpu_lost": BaseRate(per_1000_days=2.4, source="a test")},
)
START_MS = 1000 * HOUR_MS


def rates(gpus: int = 100, nodes: int = 10) -> FleetRates:
    return FleetRates(CATALOG, TABLE, lambda unit: gpus if unit == "gpu" else nodes)


# --- the arithmetic ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [1e-6, 0.01, 0.5, 1.0, 3.0, 20.0])
def test_the_chance_of_some_few_is_what_the_formula_says(mean: float) -> None:
    none, one, two = exp(-mean), mean * exp(-mean), mean**2 / 2 * exp(-mean)
    assert chance_of(0, mean) == 1.0
    # below 1e-6 the closed form itself has no digits left
    assert chance_of(1, mean) == pytest.approx(1 - none, rel=1e-9)
    assert chance_of(2, mean) == pytest.approx(1 - none - one, rel=1e-3)
    assert chance_of(3, mean) == pytest.approx(1 - none - one - two, rel=1e-6, abs=1e-15)


def test_a_rare_burst_has_its_leading_term_for_a_chance() -> None:
    assert chance_of(3, 1e-4) == pytest.approx(1e-12 / 6, rel=1e-3)
    assert chance_of(18, 1e-5) > 0, "never 0, however rare"


def test_more_is_rarer_and_a_higher_rate_makes_it_likelier() -> None:
    chances = [chance_of(n, 2.5) for n in range(12)]
    assert chances == sorted(chances, reverse=True)
    grown = [chance_of(4, mean / 10) for mean in range(1, 200)]
    assert grown == sorted(grown)
    assert grown[-1] <= 1.0


def test_both_ways_of_summing_meet() -> None:
    assert chance_of(10, 9.999999) == pytest.approx(chance_of(10, 10.000001), rel=1e-5)


@pytest.mark.parametrize("at_least", [1, 2, 5, 17])
@pytest.mark.parametrize("chance", [0.5, 0.01, 1e-6])
def test_the_largest_mean_is_the_chance_the_other_way_round(at_least: int, chance: float) -> None:
    assert chance_of(at_least, most_for(at_least, chance)) == pytest.approx(chance, rel=1e-6)


# --- what the fleet shows ---------------------------------------------------------------------------------------------


def test_a_new_fleet_begins_with_published_rates() -> None:
    assert rates().per_hour("gpu_lost") == pytest.approx(1e-4)
    assert rates().per_hour("never_heard_of") == pytest.approx(1e-3)


def test_the_rates_shipped_cover_the_classes_that_page() -> None:
    paging = {name for name, found in CATALOG.faults.items() if found.pages}
    rare = {"c2c", "security", "firmware", "host_pcie", "unknown"}
    assert paging - rare <= set(base_rates().rate)
    assert set(base_rates().rate) <= set(CATALOG.faults)


def test_hours_without_a_fault_make_it_rarer_and_faults_make_it_more_frequent() -> None:
    quiet, busy = rates(), rates()
    for hour in range(100):
        quiet.note("application", "hall-a/r1", START_MS + hour * HOUR_MS, START_MS + hour * HOUR_MS)
        busy.note("gpu_lost", f"hall-a/r{hour}", START_MS + hour * HOUR_MS, START_MS + hour * HOUR_MS)
    assert quiet.per_hour("gpu_lost") < 1e-4 / 5
    assert busy.per_hour("gpu_lost") == pytest.approx(0.01, rel=0.2), "one an hour among a hundred GPUs"


def test_the_hour_that_goes_on_does_not_count_yet_so_no_burst_makes_itself_usual() -> None:
    fleet = rates()
    fleet.note("gpu_lost", "hall-a/r0", START_MS, START_MS)
    before = fleet.per_hour("gpu_lost")
    for rack in range(500):
        fleet.note("gpu_lost", f"hall-a/r{rack}", START_MS + rack, START_MS + rack)
    assert fleet.per_hour("gpu_lost") == before
    fleet.note("gpu_lost", "hall-a/r0", START_MS + HOUR_MS, START_MS + HOUR_MS)
    assert fleet.per_hour("gpu_lost") > 100 * before


def test_a_burst_in_one_rack_is_one_arrival_and_telling_it_again_is_none() -> None:
    once, many = rates(), rates()
    once.note("nvlink", "hall-a/r1", START_MS, START_MS)
    for second in [*range(72), *range(72)]:
        many.note("nvlink", "hall-a/r1", START_MS + second * 1000, START_MS + second * 1000)
    for fleet in (once, many):
        fleet.note("other", "hall-a/r1", START_MS + HOUR_MS, START_MS + HOUR_MS)
    assert many.per_hour("nvlink") == once.per_hour("nvlink")


def test_what_is_long_ago_is_forgotten() -> None:
    fleet = rates(gpus=1)
    for hour in range(200):
        fleet.note("gpu_lost", "hall-a/r1", START_MS + hour * HOUR_MS, START_MS + hour * HOUR_MS)
    busy = fleet.per_hour("gpu_lost")
    year = START_MS + 365 * 24 * HOUR_MS
    fleet.note("other", "hall-a/r1", year, year)
    assert fleet.per_hour("gpu_lost") < busy / 100


def test_a_clock_that_is_ahead_does_not_move_the_hour() -> None:
    fleet = rates()
    fleet.note("gpu_lost", "hall-a/r1", START_MS, START_MS)
    fleet.note("gpu_lost", "hall-a/r2", START_MS + 5 * HOUR_MS, START_MS)
    assert fleet.learnt.hour == START_MS // HOUR_MS
    fleet.note("gpu_lost", "hall-a/r3", START_MS - 5 * HOUR_MS, START_MS)
    assert fleet.learnt.in_hour == {"gpu_lost": 3}


def test_classes_of_nodes_are_counted_by_nodes() -> None:
    fleet = rates()
    assert (fleet.unit("gpu_lost"), fleet.unit("node_silent"), fleet.unit("link_flap")) == ("gpu", "node", "node")


def test_what_was_learnt_outlives_a_restart() -> None:
    fleet, again = rates(), rates()
    for hour in range(50):
        fleet.note("gpu_lost", "hall-a/r1", START_MS + hour * HOUR_MS, START_MS + hour * HOUR_MS)
    again.learnt = Learnt(**{name: getattr(fleet.learnt, name) for name in Learnt.__struct_fields__})
    assert again.per_hour("gpu_lost") == fleet.per_hour("gpu_lost")
