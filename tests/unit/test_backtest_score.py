"""The scoring of plain time series: what is odd scores high, what is usual scores low, and nothing looks ahead."""

from __future__ import annotations

import numpy as np
import pytest

from streams.score import score

_DAY_MS = 86_400_000


def _noise(rows: int, columns: int = 1, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(50.0, 1.0, (rows, columns))


@pytest.mark.parametrize("detector", ["fixed", "level"])
def test_a_jump_is_an_alarm_and_noise_is_none(detector: str) -> None:
    values = _noise(1000)
    values[700:710] += 15.0
    found = score(values, detector=detector)  # type: ignore[arg-type]
    assert [(alarm.first_row, alarm.last_row) for alarm in found.alarms] == [(700, 709)]
    assert found.rows[:700].max() < 0.6 < found.rows[700:710].min()


def test_scores_lie_between_0_and_1_whatever_the_numbers_are() -> None:
    values = _noise(400, 3)
    values[200, 0], values[210, 1], values[220, 2], values[230] = np.inf, -np.inf, 1e308, np.nan
    found = score(values, detector="level")
    assert np.nanmin(found.columns) >= 0
    assert np.nanmax(found.columns) <= 1
    assert found.columns[200, 0] > 0.5
    assert np.isnan(found.columns[230]).all()
    assert np.isnan(found.rows[230])
    assert not np.isnan(np.delete(found.rows, 230)).any()


@pytest.mark.parametrize("detector", ["fixed", "level", "season"])
def test_a_score_does_not_depend_on_what_comes_after_it(detector: str) -> None:
    values = _noise(1200, 2)
    times = np.arange(1200) * _DAY_MS // 144
    whole = score(values, times_ms=times, train_rows=300, detector=detector)  # type: ignore[arg-type]
    begun = score(values[:900], times_ms=times[:900], train_rows=300, detector=detector)  # type: ignore[arg-type]
    np.testing.assert_allclose(whole.rows[:900], begun.rows)


def test_a_level_that_drifts_slowly_is_no_alarm_where_it_may_follow() -> None:
    values = _noise(4000) + np.linspace(0, 20, 4000)[:, None]
    assert not [alarm for alarm in score(values, detector="level").alarms if alarm.last_row - alarm.first_row > 3]
    assert score(values, detector="fixed").alarms[-1].last_row > 3900


def test_days_and_nights_are_no_alarm_but_a_night_at_noon_is() -> None:
    hours = np.arange(24 * 14)
    values = (100 + 40 * np.sin(hours / 24 * 2 * np.pi))[:, None] + _noise(len(hours))
    noon = 24 * 10 + 6
    values[noon] = 60.0 + 50.0
    found = score(values, times_ms=hours * 3_600_000)
    assert found.detector == "season"
    assert [(alarm.first_row, alarm.last_row) for alarm in found.alarms] == [(noon, noon)]


def test_an_alarm_names_the_columns_that_are_odd() -> None:
    values = _noise(600, 5)
    values[400:405, 3] += 40.0
    (alarm,) = (one for one in score(values, detector="fixed").alarms if one.first_row >= 395)
    assert alarm.columns == (3,)


def test_a_constant_that_changes_is_odd() -> None:
    values = np.full((200, 1), 7.0)
    values[150:] = 9.0
    assert score(values, detector="fixed").rows[150:].min() > 0.5


def test_a_column_that_is_never_read_says_nothing_of_the_row() -> None:
    values = np.column_stack((_noise(200)[:, 0], np.full(200, np.nan)))
    found = score(values, detector="fixed")
    assert not np.isnan(found.rows).any()
    assert np.isnan(found.columns[:, 1]).all()


def test_too_few_rows_to_learn_from_are_refused() -> None:
    with pytest.raises(ValueError, match="10"):
        score(_noise(9))


def test_season_without_days_is_refused() -> None:
    with pytest.raises(ValueError, match="days"):
        score(_noise(100), times_ms=np.arange(100), detector="season")
