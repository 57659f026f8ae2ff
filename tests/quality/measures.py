"""The arithmetic of the table, over plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from math import comb, log

import numpy as np
from numpy.typing import NDArray


def ratio(part: float, whole: float) -> float:
    """A share; NaN of nothing."""
    return part / whole if whole else float("nan")


def f1(precision: float, recall: float) -> float:
    """Their harmonic mean; 0 where both are."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed; NaN of nothing. No value is made up between two."""
    if not values:
        return float("nan")
    return float(np.quantile(np.asarray(values, np.float64), share, method="inverted_cdf"))


def v_measure(truth: Sequence[Hashable], found: Sequence[Hashable]) -> float:
    """How well one grouping is the other, 0 to 1: the harmonic mean of homogeneity and completeness
    (Rosenberg and Hirschberg 2007). 1 for nothing at all.
    """
    if not truth:
        return 1.0
    joint, of_truth, of_found = Counter(zip(truth, found, strict=True)), Counter(truth), Counter(found)
    total = len(truth)

    def entropy(counts: Counter[Hashable]) -> float:
        return -sum(count / total * log(count / total) for count in counts.values())

    def left(counts: Counter[Hashable], place: int) -> float:
        return -sum(count / total * log(count / counts[pair[place]]) for pair, count in joint.items())

    of_truth_h, of_found_h = entropy(of_truth), entropy(of_found)
    homogeneity = 1.0 - left(of_found, 1) / of_truth_h if of_truth_h else 1.0
    completeness = 1.0 - left(of_truth, 0) / of_found_h if of_found_h else 1.0
    return f1(homogeneity, completeness)


def adjusted_rand(truth: Sequence[Hashable], found: Sequence[Hashable]) -> float:
    """How many pairs both groupings treat alike beyond chance (Hubert and Arabie 1985): 1 the same, 0 by chance."""
    together = sum(comb(count, 2) for count in Counter(zip(truth, found, strict=True)).values())
    in_truth = sum(comb(count, 2) for count in Counter(truth).values())
    in_found = sum(comb(count, 2) for count in Counter(found).values())
    pairs = comb(len(truth), 2)
    by_chance = in_truth * in_found / pairs if pairs else 0.0
    most = (in_truth + in_found) / 2
    return 1.0 if most == by_chance else (together - by_chance) / (most - by_chance)


def average_precision(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """The area under precision over recall, as a step function: no interpolation. Equal scores are one step.

    Both of shape (T,). NaN where nothing is labelled.
    """
    if not labels.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(labels[order])
    last_of_equals = np.append(np.diff(scores[order]) != 0, True)
    hits, taken = hits[last_of_equals], (np.arange(len(labels)) + 1)[last_of_equals]
    recall = hits / hits[-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * hits / taken))


def point_f1(labels: NDArray[np.bool_], alarms: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Precision, recall and F1, each point for itself: one hit in a long event does not make its other points hits."""
    hits = float((labels & alarms).sum())
    precision, recall = hits / max(1, alarms.sum()), hits / max(1, labels.sum())
    return precision, recall, f1(precision, recall)


def runs(flags: NDArray[np.bool_], *, bridge: int = 0) -> list[tuple[int, int]]:
    """Where `flags` (T,) are set without a break, as (first, end) with `end` behind; up to `bridge` unset ones join."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(np.int8), [0]))))
    found: list[tuple[int, int]] = []
    for first, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if found and first - found[-1][1] <= bridge:
            found[-1] = found[-1][0], end
        else:
            found.append((first, end))
    return found


def events(
    labels: NDArray[np.bool_], alarms: NDArray[np.bool_], *, late: int, bridge: int
) -> tuple[int, int, int, int]:
    """(events found, events, alarms that meet an event, alarms), event by event.

    An event is found by an alarm that begins before it ends plus `late` points and ends after it begins; an alarm that
    meets none is false. Alarms with up to `bridge` points between them are one.
    """
    true, told = runs(labels), runs(alarms, bridge=bridge)

    def meets(event: tuple[int, int], alarm: tuple[int, int]) -> bool:
        return alarm[0] < event[1] + late and alarm[1] > event[0]

    found = sum(any(meets(event, alarm) for alarm in told) for event in true)
    right = sum(any(meets(event, alarm) for event in true) for alarm in told)
    return found, len(true), right, len(told)
