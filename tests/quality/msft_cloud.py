"""Microsoft's Cloud Monitoring Dataset: single series of cloud services, with anomalies that operators marked.

There is no training part. The first quarter of each series is what a method learns from, its threshold is what 99.5 %
of that quarter stays below, and the rest is scored, event by event: marks in a row are one event.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from streams.score import score
from tests.benchmarks.table import Row, skipped
from tests.quality.baselines import BASELINES
from tests.quality.context import Context
from tests.quality.measures import events, f1, ratio

THRESHOLD_SHARE = 0.995
LATE_ROWS, BRIDGE_ROWS = 1, 3
"""An alarm may begin a row after an event's last; alarms three rows apart are one."""


def run(context: Context) -> Iterator[Row]:
    """A row for us, then one for each baseline: sums over all series."""
    paths = sorted((context.data / "msft_cloud" / "data").glob("*/*.csv"))
    if not paths:
        yield skipped("Cloud Monitoring Dataset, event by event", f"no data under {context.data / 'msft_cloud'}")
        return
    sums: dict[str, NDArray[np.int64]] = {name: np.zeros(4, np.int64) for name in ("ours", *BASELINES)}
    days = 0.0
    for path in paths:
        context.say(f"msft_cloud {path.stem}")
        frame = pl.read_csv(path, infer_schema_length=None, try_parse_dates=True)
        values = frame["Value"].cast(pl.Float64).fill_null(float("nan")).to_numpy()[:, None]
        labels = frame["Label"].to_numpy() > 0
        times = frame["TimeStamp"].cast(pl.Datetime("ms")).cast(pl.Int64).to_numpy()
        train = len(values) // 4
        days += float(times[-1] - times[train]) / 86_400_000
        rows = np.nan_to_num(score(values, times_ms=times, train_rows=train).rows)
        found = {"ours": rows}
        whole = frame["Value"].cast(pl.Float64).fill_nan(None).forward_fill().backward_fill().to_numpy()[:, None]
        for name, learn in BASELINES.items():
            found[name] = learn(whole[:train])(whole)  # they know no gaps
        for name, scores in found.items():
            threshold = 0.5 if name == "ours" else float(np.quantile(scores[:train], THRESHOLD_SHARE))
            told = scores[train:] >= threshold if name == "ours" else scores[train:] > threshold
            sums[name] += events(labels[train:], told, late=LATE_ROWS, bridge=BRIDGE_ROWS)
    yield Row("**Cloud Monitoring Dataset, event by event**", f"{len(paths)} series", f"{sums['ours'][1]} events")
    for name, (hit, true, right, told) in sums.items():
        precision, recall = ratio(right, told), ratio(hit, true)
        yield Row(
            name,
            f"P {precision:.2f} R {recall:.2f} F1 {f1(precision, recall):.2f}",
            f"{hit} of {true} events; {told - right} false alarms, {(told - right) / days:.2f} a day and series",
        )
