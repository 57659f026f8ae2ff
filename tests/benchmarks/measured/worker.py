"""Our stream worker as it is in production, all detectors on; counts by its own metric."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from schemas.topics import ANOMALIES, EVENTS, FAULTS, INCIDENTS
from streams import metrics, worker
from streams.settings import StreamsSettings
from tests.benchmarks.measured.meter import Meter

_LOOK_S = 0.01
"""A run of 2,000 messages takes some 40 ms."""


def main(given: dict[str, Any]) -> None:
    """`given`: bootstrap, group, warm_up, enough, limit_s, to_faults.

    With `to_faults` the clock stops when what was found in the samples, and what came as events, has become faults and
    incidents, too: nothing that was written is left to be read.
    """
    meter = Meter(warm_up=given["warm_up"], enough=given["enough"], limit_s=given["limit_s"])
    stop = threading.Event()

    def watch() -> None:
        limit = time.monotonic() + given["limit_s"]
        while not meter.done and time.monotonic() < limit:
            read = int(metrics.READINGS._value.get())
            through = not given.get("to_faults") or _through(given["events"])
            meter.reach(read if through else min(read, given["enough"] - 1))
            time.sleep(_LOOK_S)
        stop.set()

    threading.Thread(target=watch, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        worker.run(
            StreamsSettings(app_id=given["group"]),
            kafka={"bootstrap.servers": given["bootstrap"]},
            data_dir=Path(folder),
            stop=stop,
            beat=lambda: None,
        )
    written = {topic: int(_of(metrics.WRITTEN, topic)) for topic in (ANOMALIES, FAULTS, INCIDENTS)}
    rejected = sum(s.value for m in metrics.REJECTED.collect() for s in m.samples if s.name.endswith("_total"))
    print(meter.result(rejected=int(rejected), late=int(metrics.LATE._value.get()), written=written))


def _through(events: int) -> bool:
    """Whether all events, anomalies and faults that there are have been dealt with."""
    own = (ANOMALIES, FAULTS)
    return _of(metrics.MESSAGES, EVENTS) >= events and all(
        _of(metrics.MESSAGES, topic) >= _of(metrics.WRITTEN, topic) for topic in own
    )


def _of(counter: Any, topic: str) -> float:
    return float(counter.labels(topic)._value.get())


main(json.loads(sys.argv[1]))
