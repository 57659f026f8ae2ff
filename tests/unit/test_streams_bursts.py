"""Faults that come closer together than by chance; and on which of many explanations a fault hangs."""

from __future__ import annotations

import random

import pytest

from schemas.catalog.causes import Cause
from streams.correlation.bursts import Entry, Links, Run
from streams.correlation.graph import Graph, Order

MINUTE_MS = 60_000
RARE = 1e-9
"""Arrivals a millisecond: one in two weeks."""


def run(*entries: tuple[int, str], rate: float = RARE) -> Run:
    made = Run(rate=rate)
    for number, (first_ms, part) in enumerate(entries):
        made.enter(Entry(first_ms, part, f"f{number}"))
    return made


def linked(one: Run, within_ms: int = MINUTE_MS, at_least: int = 2, **enough: int) -> set[frozenset[str]]:
    """The sets of faults that hang together."""
    groups: list[set[str]] = []
    for pair in one.bursts(within_ms=within_ms, at_least=at_least, chance=0.01, enough=enough):
        touched = [group for group in groups if group & set(pair)]
        groups = [group for group in groups if group not in touched] + [set(pair).union(*touched)]
    return {frozenset(group) for group in groups}


def test_two_parts_that_fail_within_seconds_hang_together() -> None:
    assert linked(run((0, "a"), (5000, "b"))) == {frozenset({"f0", "f1"})}


def test_far_apart_in_time_is_no_burst() -> None:
    assert linked(run((0, "a"), (MINUTE_MS + 1, "b"))) == set()


def test_where_it_is_usual_it_is_no_burst_unless_there_are_more_than_usual() -> None:
    often = 0.02 / 5000
    assert linked(run((0, "a"), (5000, "b"), rate=often)) == set()
    assert linked(run((0, "a"), (100, "b"), rate=often)) == {frozenset({"f0", "f1"})}, "but so close is not usual"
    assert linked(run((0, "a"), (2500, "b"), (5000, "c"), rate=often)) == {frozenset({"f0", "f1", "f2"})}


def test_one_part_that_fails_twice_is_one_part() -> None:
    assert linked(run((0, "a"), (5000, "a"))) == set()
    assert linked(run((0, "a"), (1000, "a"), (5000, "b"))) == {frozenset({"f0", "f1", "f2"})}


def test_so_many_parts_as_the_row_asks_for() -> None:
    assert linked(run((0, "a"), (5, "b")), at_least=3) == set()
    assert linked(run((0, "a"), (5, "b"), (9, "c")), at_least=3) == {frozenset({"f0", "f1", "f2"})}


def test_a_part_counts_when_enough_of_it_fails() -> None:
    racks = [(0, "r1"), (1, "r1"), (2, "r2"), (3, "r2"), (4, "r3")]
    assert linked(run(*racks), r1=2, r2=2, r3=2) == {frozenset({"f0", "f1", "f2", "f3"})}
    assert linked(run(*racks), r1=2, r2=3, r3=2) == set()


def test_two_bursts_are_two() -> None:
    found = linked(run((0, "a"), (10, "b"), (10 * MINUTE_MS, "c"), (10 * MINUTE_MS + 5, "d")))
    assert found == {frozenset({"f0", "f1"}), frozenset({"f2", "f3"})}


def test_more_faults_part_nobody_who_hung_together() -> None:
    chance = random.Random(4)
    for _ in range(50):
        entries = [(chance.randrange(20 * MINUTE_MS), chance.choice("abcdefgh")) for _ in range(12)]
        entries = list({part: (at, part) for at, part in entries}.values())
        few = linked(run(*entries[:-1], rate=1e-6))
        many = linked(run(*entries, rate=1e-6))
        assert all(any(group <= other for other in many) for group in few)


def test_a_pair_that_two_runs_link_is_parted_with_the_last_of_them() -> None:
    links, rack, pdu = Links(), Run(), Run()
    links.relink(rack, {("a", "b")})
    links.relink(pdu, {("a", "b")})
    links.relink(rack, set())
    assert list(links.neighbours("a")) == ["b"]
    links.relink(pdu, set())
    assert list(links.neighbours("b")) == []
    assert len(links) == 0


# --- explanations -----------------------------------------------------------------------------------------------------


ROW = Cause(name="row", cause="a", effect="b", near="gpu", within_ms=0, before_ms=0, reason="why")


def tie(weight: float, place: int, away_ms: int, cause: str) -> Order:
    return -weight, place, away_ms, 0, cause


@pytest.mark.parametrize("seed", range(5))
def test_a_fault_hangs_on_its_best_explanation_however_many_there_are(seed: int) -> None:
    ties = [tie(1.0, 2 + number % 3, 1000 * number, f"c{number}") for number in range(40)]
    random.Random(seed).shuffle(ties)
    graph = Graph()
    for one in ties:
        graph.add("effect", one, ROW)
    assert graph.settle() == ([("c0", "effect")], [], {"effect"})
    assert sorted(graph.causes["effect"]) == ["c0", "c12", "c15", "c18", "c21", "c3", "c6", "c9"], "the best of them"


def test_when_one_of_the_kept_explanations_goes_the_others_are_to_be_looked_for_again() -> None:
    graph = Graph()
    for number in range(9):
        graph.add("effect", tie(1.0, 2, number, f"c{number}"), ROW)
    graph.settle()
    assert graph.drop("c0") == {"effect"}
    assert graph.settle() == ([("c1", "effect")], [("c0", "effect")], {"c0", "effect"})


def test_a_surer_explanation_takes_a_fault_over() -> None:
    graph = Graph()
    graph.add("link", tie(0.5, 4, 0, "switch"), ROW)
    graph.settle()
    graph.add("link", tie(1.0, 8, 9000, "gpu"), ROW)
    assert graph.settle() == ([("gpu", "link")], [("switch", "link")], {"link"})
    graph.drop("link")
    graph.settle()
    assert len(graph) == 0
