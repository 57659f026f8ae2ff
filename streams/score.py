"""How odd each row of plain time series is, 0 to 1: for series that are no fleet's, and for trying on history.

Every column is held against what is usual for it, in units of its own spread; a row is as odd as its columns are
together (root mean square). A row's score depends on nothing that comes after it, except within the training part.
0.5 is the limit: rows from there on are alarms.

Three ways to say what is usual:

- `fixed`: the median and spread of the training part, for good. For machines that should stay as they were.
- `level`: a level that follows slowly, and lets an outlier move it no further than three spreads would (Huber 1964).
- `season`: what it was at the same time of the days before. For loads that have days and nights; 0 on the first day.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Detector = Literal["auto", "fixed", "level", "season"]

DAY_MS = 86_400_000
FEWEST_ROWS = 10
"""With fewer rows to learn from, nothing can be called usual."""
_MOST = 20.0
"""Deviations count up to here: one wild column does not speak for all."""
_LIMIT = 5.0
"""A column's least limit, in spreads: noise that is normal passes it less than once in a million readings."""
_TRAINED_SHARE = 0.995
"""The limit lies no lower than what this share of the training part stays below."""
_CLEARS_SCORE = 0.35
"""An alarm ends when the score is below this: less than two thirds of the limit."""
_CLIP = 3.0
_LEAST_SHARE = 0.01
"""A spread is at least this share of a column's range, or of its level: a constant has a resolution too."""
_DAYS = 7
_LEAST_DAYS = 3


@dataclass(frozen=True, slots=True)
class Alarm:
    """A run of rows beyond the limit."""

    first_row: int
    last_row: int
    score: float
    """The highest of its rows."""
    columns: tuple[int, ...]
    """Those beyond their own limits at the highest row, the oddest first; at least the oddest one."""


@dataclass(frozen=True, slots=True)
class Scores:
    """T rows of C columns."""

    rows: Floats
    """(T,) 0 to 1; NaN where a row has no value at all."""
    columns: Floats
    """(T, C) 0 to 1; NaN where there is no value."""
    alarms: tuple[Alarm, ...]
    detector: str
    """The one that was used: what `auto` came to."""


def score(
    values: Floats,
    *,
    times_ms: NDArray[np.int64] | None = None,
    train_rows: int | None = None,
    detector: Detector = "auto",
    average_rows: int = 1,
) -> Scores:
    """Score T rows of C columns, shape (T, C), in the order of time.

    `train_rows`: so many first rows are taken to be sound, a quarter of them by default. `times_ms`, (T,): needed for
    `season`. `average_rows`: the oddness is averaged over so many last rows, for trouble that lasts. NaN is a value
    that was not read, infinities are as odd as can be. Raises `ValueError` where there are too few rows, or where
    `season` finds no days.
    """
    train = min(len(values), train_rows if train_rows is not None else max(FEWEST_ROWS, len(values) // 4))
    if train < FEWEST_ROWS:
        raise ValueError(f"{train} rows to learn from are too few: give at least {FEWEST_ROWS}")
    day = rows_a_day(times_ms) if times_ms is not None and detector in {"auto", "season"} else None
    if detector == "season" and day is None:
        raise ValueError(
            f"no days to compare with: season needs evenly spaced timestamps over more than {_LEAST_DAYS} days"
        )
    used = ("level" if day is None else "season") if detector == "auto" else detector
    known = np.where(np.isnan(values), np.nan, np.clip(values, -1e300, 1e300))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a column without any value: NaN is the right answer
        with np.errstate(over="ignore", invalid="ignore"):
            if used == "fixed":
                away = _fixed(known, train)
            elif used == "season" and day is not None:
                away = _season(known, train, day)
            else:
                away = _level(known, train)
            away = np.minimum(away, _MOST)
            row = _average(np.sqrt(np.nanmean(away**2, axis=1)), average_rows)
            column_limit = _limit(away[:train], _LIMIT)
            row_limit = _limit(row[:train], 1 + (_LIMIT - 1) / np.sqrt(values.shape[1]))
    columns, rows = _odds(away, column_limit), _odds(row, row_limit)
    return Scores(rows, columns, tuple(_alarms(rows, columns)), used)


def rows_a_day(times_ms: NDArray[np.int64]) -> int | None:
    """How many rows make a day; None where they are not evenly spaced, or too few days."""
    if len(times_ms) < 2:
        return None
    step = float(np.median(np.diff(times_ms)))
    if step <= 0 or DAY_MS % step or DAY_MS / step < 4:
        return None
    even = float((np.diff(times_ms) == step).mean())
    day = int(DAY_MS / step)
    return day if even > 0.95 and len(times_ms) > _LEAST_DAYS * day else None


def _fixed(values: Floats, train: int) -> Floats:
    """|deviation| from the training part's median, in its standard deviations."""
    centre, spread = np.nanmedian(values[:train], axis=0), np.nanstd(values[:train], axis=0)
    return np.asarray(np.abs(values - centre) / np.maximum(spread, _least(values[:train])))


def _level(values: Floats, train: int) -> Floats:
    """|deviation| from a level that follows slowly: a quarter of the training part is its time constant."""
    centre = np.nan_to_num(np.nanmedian(values[:train], axis=0))
    least = _least(values[:train])
    spread = np.maximum(1.4826 * np.nan_to_num(np.nanmedian(np.abs(values[:train] - centre), axis=0)), least)
    gain = 4.0 / train
    away = np.empty_like(values)
    for row, value in enumerate(values):
        off = value - centre
        away[row] = np.abs(off) / np.maximum(spread, least)
        bounded = np.clip(np.where(np.isnan(off), 0.0, off), -_CLIP * spread, _CLIP * spread)
        centre = centre + gain * bounded
        # the mean absolute deviation of a normal distribution is 0.8 of its standard deviation
        seen = np.where(np.isnan(off), spread, 1.2533 * np.abs(bounded))
        spread = np.maximum(spread + gain * (seen - spread), least)
    return away


def _season(values: Floats, train: int, day: int) -> Floats:
    """|deviation| from the median of the same time, and the rows beside it, of up to seven days before."""
    padded = np.full((_DAYS * day + 1, values.shape[1]), np.nan)
    before = np.concatenate((padded, values))
    at = np.arange(len(values)) + len(padded)
    days = np.stack([[before[at - back * day + beside] for beside in (-1, 0, 1)] for back in range(1, _DAYS + 1)])
    usual = np.nanmedian(days, axis=(0, 1))
    # with only one neighbour the median would lean to its side
    first_day = np.isnan(days).any(axis=1).all(axis=0)
    away = _level(np.where(first_day, np.nan, values - usual), max(train, 2 * day))
    # what has nothing to be compared with is not odd
    return np.asarray(np.where(first_day & ~np.isnan(values), 0.0, away))


def _least(values: Floats) -> Floats:
    spread = np.nanmax(values, axis=0) - np.nanmin(values, axis=0)
    share = _LEAST_SHARE * np.maximum(spread, np.abs(np.nanmedian(values, axis=0)))
    return np.asarray(np.nan_to_num(np.maximum(share, 1e-9), nan=1e-9))


def _average(values: Floats, rows: int) -> Floats:
    """(T,) the mean over the last `rows`, unread ones left out."""
    if rows <= 1:
        return values
    read = ~np.isnan(values)
    sums, counts = np.cumsum(np.where(read, values, 0.0)), np.cumsum(read)
    sums[rows:] -= sums[:-rows].copy()
    counts[rows:] -= counts[:-rows].copy()
    return np.where(read, sums / np.maximum(counts, 1), np.nan)


def _limit(trained: Floats, least: float) -> Floats:
    found = np.nanquantile(trained, _TRAINED_SHARE, axis=0)
    return np.asarray(np.maximum(least, np.nan_to_num(found)))


def _odds(away: Floats, limit: Floats) -> Floats:
    """0 for what is usual, 0.5 at the limit, 0.75 at twice the limit, towards 1."""
    return np.asarray(1.0 - np.exp2(-away / limit))


def _alarms(rows: Floats, columns: Floats) -> list[Alarm]:
    found: list[Alarm] = []
    first: int | None = None
    last = 0
    for row in [*np.flatnonzero(rows >= 0.5).tolist(), len(rows)]:
        if first is not None and (row == len(rows) or (rows[last : row + 1] < _CLEARS_SCORE).any()):
            peak = first + int(np.nanargmax(rows[first : last + 1]))
            odd = np.nan_to_num(columns[peak])
            order = np.argsort(-odd, kind="stable")
            beyond = tuple(int(column) for column in order if odd[column] >= 0.5) or (int(order[0]),)
            found.append(Alarm(first, last, float(rows[peak]), beyond))
            first = None
        if row < len(rows):
            first = row if first is None else first
            last = row
    return found
