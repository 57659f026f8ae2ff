"""What one would try first: four ways to score rows, each learning from a training part. Higher is odder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Learnt = Callable[[Floats], Floats]
"""Rows (T, C) to their scores (T,)."""


def _scaled(train: Floats) -> tuple[Floats, Floats]:
    spread = train.std(axis=0)
    return train.mean(axis=0), np.where(spread < 1e-6, np.maximum(0.01, spread), spread)


def static_threshold(train: Floats) -> Learnt:
    """How many standard deviations the furthest column is from its mean in training."""
    mean, spread = _scaled(train)
    return lambda rows: np.asarray(np.abs((rows - mean) / spread).max(axis=1))


def moving_z_score(train: Floats, window: int = 100) -> Learnt:
    """How many standard deviations of its last `window` rows the furthest column is from their mean."""
    floor = np.maximum(0.05 * train.std(axis=0), 1e-3)

    def scores(rows: Floats) -> Floats:
        lead = np.concatenate((train[-window:], rows))
        sums, squares = (np.cumsum(np.vstack((np.zeros(rows.shape[1]), part)), axis=0) for part in (lead, lead**2))
        begin = np.arange(len(lead) - len(rows), len(lead))
        start = np.maximum(0, begin - window)
        count = np.maximum(1, begin - start)[:, None]
        mean = (sums[begin] - sums[start]) / count
        spread = np.sqrt(np.maximum(0.0, (squares[begin] - squares[start]) / count - mean**2))
        return np.asarray(np.abs((rows - mean) / np.maximum(spread, floor)).max(axis=1))

    return scores


def pca_reconstruction(train: Floats, kept: float = 0.9) -> Learnt:
    """What is left of a standardised row beside the components that hold `kept` of the training part's variance."""
    mean, spread = _scaled(train)
    _, sizes, directions = np.linalg.svd((train - mean) / spread, full_matrices=False)
    share = np.cumsum(sizes**2) / max(float(np.sum(sizes**2)), 1e-12)
    held = directions[: max(1, min(len(share) - 1, int(np.searchsorted(share, kept)) + 1))] if len(share) > 1 else None

    def scores(rows: Floats) -> Floats:
        scaled = (rows - mean) / spread
        left = scaled if held is None else scaled - scaled @ held.T @ held
        return np.asarray(np.sqrt((left**2).mean(axis=1)))

    return scores


def isolation_forest(train: Floats, trees: int = 100, sample: int = 256, seed: int = 0) -> Learnt:
    """How few random cuts set a row apart (Liu, Ting and Zhou 2008), with their 100 trees of 256 rows."""
    draw = np.random.default_rng(seed)
    depth = int(np.ceil(np.log2(min(sample, len(train)))))
    grown = [
        _grow(train[draw.choice(len(train), min(sample, len(train)), replace=False)], depth, draw) for _ in range(trees)
    ]
    usual = _path(min(sample, len(train)))

    def scores(rows: Floats) -> Floats:
        depths = np.mean([_depths(tree, rows) for tree in grown], axis=0)
        return np.asarray(2.0 ** (-depths / usual))

    return scores


def _grow(rows: Floats, depth: int, draw: np.random.Generator) -> NDArray[np.float64]:
    """A tree as (nodes, 5): column (-1: a leaf), cut, child below it, path length left at a leaf, other child."""
    nodes: list[list[float]] = []

    def grow(part: Floats, left: int) -> int:
        place = len(nodes)
        nodes.append([-1.0, 0.0, 0.0, _path(len(part)), 0.0])
        low, high = (part.min(axis=0), part.max(axis=0)) if len(part) else (np.zeros(1), np.zeros(1))
        varied = np.flatnonzero(high > low)
        if left == 0 or len(part) <= 1 or not len(varied):
            return place
        column = int(draw.choice(varied))
        cut = float(draw.uniform(low[column], high[column]))
        below = part[:, column] < cut
        nodes[place][:3] = [float(column), cut, float(grow(part[below], left - 1))]
        nodes[place][4] = float(grow(part[~below], left - 1))
        return place

    grow(rows, depth)
    return np.array(nodes)


def _depths(tree: NDArray[np.float64], rows: Floats) -> Floats:
    at, depth = np.zeros(len(rows), np.int64), np.zeros(len(rows))
    inside = np.flatnonzero(tree[at, 0] >= 0)
    while len(inside):
        here = at[inside]
        below = rows[inside, tree[here, 0].astype(np.int64)] < tree[here, 1]
        at[inside] = np.where(below, tree[here, 2], tree[here, 4]).astype(np.int64)
        depth[inside] += 1
        inside = inside[tree[at[inside], 0] >= 0]
    return np.asarray(depth + tree[at, 3])


def _path(size: int) -> float:
    """The mean path length of an unsuccessful search among `size`, what is left below a leaf."""
    if size <= 1:
        return 0.0
    return 2.0 * (np.log(size - 1) + 0.5772156649) - 2.0 * (size - 1) / size if size > 2 else 1.0


BASELINES: dict[str, Callable[[Floats], Learnt]] = {
    "static threshold": static_threshold,
    "moving z-score": moving_z_score,
    "isolation forest": partial(isolation_forest, seed=1),
    "PCA reconstruction": pca_reconstruction,
}
