"""How fast counters grow, whatever befalls them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.detectors.counter_rate import growth

NAN, INF = float("nan"), float("inf")


def grown(before: float, now: float, wraps_at: float | None = None) -> float:
    return float(growth(np.array([before]), np.array([now]), wraps_at=wraps_at)[0])


@pytest.mark.parametrize(
    ("before", "now", "expected"), [(5, 5, 0), (5, 12, 7), (5, 0, 0), (1000, 3, 3), (2**53 - 1, 2**53, 1)]
)
def test_it_grows_by_the_difference_and_after_a_reset_by_what_it_reads(
    before: float, now: float, expected: float
) -> None:
    assert grown(before, now) == expected


def test_a_counter_that_wraps_goes_on() -> None:
    assert grown(2**32 - 10, 5, wraps_at=2**32) == 15
    assert grown(1000, 5, wraps_at=2**32) == 5, "far from the top it was reset"
    assert grown(2**32 - 10, 2**30, wraps_at=2**32) == 2**32 - (2**32 - 10) + 2**30, "a quarter of it may be"
    assert grown(2**32 - 10, 2**30 + 1, wraps_at=2**32) == 2**30 + 1, "more is a reset"
    assert grown(2**32 - 10, 5) == 5


@pytest.mark.parametrize("odd", [NAN, INF, -INF, -1.0])
def test_what_was_not_read_has_no_growth(odd: float) -> None:
    assert np.isnan(grown(odd, 5))
    assert np.isnan(grown(5, odd))


@pytest.mark.parametrize(("before", "now"), [(1000, 999), (1000, 500), (1, 0.5)])
def test_one_that_goes_back_a_little_was_misread_and_has_not_grown(before: float, now: float) -> None:
    assert grown(before, now) == 0


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=50), st.integers(0, 2**32 - 1))
def test_however_often_a_counter_is_read_its_growth_sums_to_what_was_counted(steps: list[int], begin: int) -> None:
    counted = np.cumsum([begin, *steps])
    read = (counted % 2**32).astype(np.float64)
    total = sum(grown(float(a), float(b), 2**32) for a, b in pairwise(read))
    assert total == sum(steps)
