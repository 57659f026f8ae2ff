"""The arithmetic of the scoreboard, held against values worked out by hand or known from the definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.quality.measures import adjusted_rand, average_precision, events, f1, point_f1, quantile, runs, v_measure


def test_the_same_grouping_by_other_names_is_perfect() -> None:
    assert v_measure("aabbc", [1, 1, 2, 2, 3]) == pytest.approx(1)
    assert adjusted_rand("aabbc", [1, 1, 2, 2, 3]) == pytest.approx(1)


def test_all_in_one_group_is_complete_and_tells_nothing() -> None:
    assert v_measure("aabb", "xxxx") == 0
    assert adjusted_rand("aabb", "xxxx") == 0


def test_each_for_itself_is_pure_but_torn_apart() -> None:
    # homogeneity 1; completeness 1 - H(found|truth) / H(found) = 1 - ln 2 / ln 4 = 1/2
    assert v_measure("aabb", "wxyz") == pytest.approx(2 / 3)
    assert adjusted_rand("aabb", "wxyz") == 0


def test_one_stray_costs_what_the_definitions_say() -> None:
    truth, found = "aaabbb", "xxyyyy"
    of_truth = math.log(2)
    of_found = -(2 / 6 * math.log(2 / 6) + 4 / 6 * math.log(4 / 6))
    joint = -(2 / 6 * math.log(2 / 6) + 1 / 6 * math.log(1 / 6) + 3 / 6 * math.log(3 / 6))
    homogeneity, completeness = 1 - (joint - of_found) / of_truth, 1 - (joint - of_truth) / of_found
    assert v_measure(truth, found) == pytest.approx(
        2 * homogeneity * completeness / (homogeneity + completeness)
    )  # fmt: skip
    # pairs together in both: 1 + 3; in truth 3 + 3, in found 1 + 6, of 15
    assert adjusted_rand(truth, found) == pytest.approx((4 - 6 * 7 / 15) / (6.5 - 6 * 7 / 15))


def test_nothing_to_group_is_grouped_right() -> None:
    assert v_measure([], []) == 1
    assert adjusted_rand([], []) == 1


def test_a_quantile_is_a_value_that_occurred() -> None:
    assert quantile([1, 2, 3, 100], 0.5) == 2
    assert quantile([1, 2, 3, 100], 0.99) == 100
    assert math.isnan(quantile([], 0.5))


def test_f1_of_nothing_is_0() -> None:
    assert f1(0, 0) == 0
    assert f1(1, 0.5) == pytest.approx(2 / 3)


def test_average_precision_is_the_step_area() -> None:
    labels = np.array([True, False, True, False])
    # the first hit at 1/1, the second at 2/3
    assert average_precision(labels, np.array([0.9, 0.8, 0.7, 0.1])) == pytest.approx((1 + 2 / 3) / 2)
    # equal scores cannot be told apart: one step, half of it right
    assert average_precision(labels, np.ones(4)) == pytest.approx(0.5)


def test_points_count_for_themselves() -> None:
    labels = np.array([False, True, True, True, True, False])
    told = np.array([False, True, False, False, False, True])
    assert point_f1(labels, told) == pytest.approx((0.5, 0.25, 1 / 3))


def test_runs_are_joined_over_short_breaks_only() -> None:
    flags = np.array([1, 1, 0, 1, 0, 0, 0, 1], bool)
    assert runs(flags) == [(0, 2), (3, 4), (7, 8)]
    assert runs(flags, bridge=1) == [(0, 4), (7, 8)]
    assert runs(np.zeros(3, bool)) == []


def test_an_event_is_found_once_however_often_it_is_told() -> None:
    labels = np.array([0, 1, 1, 1, 0, 0, 0, 0, 1, 0], bool)
    told = np.array([0, 1, 0, 1, 0, 0, 1, 0, 0, 0], bool)
    assert events(labels, told, late=0, bridge=0) == (1, 2, 2, 3)


def test_an_alarm_may_be_so_late_and_no_later() -> None:
    labels = np.array([0, 1, 0, 0, 0], bool)
    for place, found in ((2, 1), (3, 0)):
        told = np.zeros(5, bool)
        told[place] = True
        assert events(labels, told, late=1, bridge=0)[0] == found
