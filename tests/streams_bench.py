"""One detector over readings of several nodes, tick by tick, for tests of detectors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from schemas.records import Anomaly
from streams.detectors import Detector
from streams.readings.roster import Roster
from streams.readings.tables import METRICS, THROTTLE, UNKNOWN_BITS
from streams.readings.ticks import Tick
from tests.streams_scenes import START_MS, columns, sample

Nodes = Mapping[str, Mapping[str, Sequence[float]]]
"""Node to metric to one value per GPU."""


class Bench:
    """Feeds one detector each `step_s`. GPUs are called n1-0, n1-1, … by their node; `r2/n1` is a node in another rack
    than r1, and `n1:a,b` has the GPUs a and b.
    """

    def __init__(self, detector: Detector, step_s: float = 10) -> None:
        self.detector = detector
        self.step_s = step_s
        self.at_s = 0.0
        self.roster = Roster()
        self._shape: list[tuple[str, int]] = []

    def tick(self, nodes: Nodes) -> list[Anomaly]:
        """The next tick."""
        sizes = [(name, len(next(iter(metrics.values())))) for name, metrics in nodes.items()]
        if sizes != self._shape:
            self._shape = sizes
            self._enter(sizes)
        gpus, number = len(self.roster.gpus), {serial: at for at, serial in enumerate(self.roster.gpus)}
        values = np.full((len(METRICS), gpus), np.nan, np.float32)
        throttle = np.full(gpus, UNKNOWN_BITS, np.int64)
        present = np.zeros(len(self.roster.nodes), np.bool_)
        for name, metrics in nodes.items():
            at = [number[serial] for serial in _serials(name, len(next(iter(metrics.values()))))]
            present[self.roster.gpu_node[at]] = True
            for metric, readings in metrics.items():
                if metric == THROTTLE:
                    throttle[at] = np.array(readings, np.int64)
                else:
                    values[METRICS.index(metric), at] = readings
        tick_ms = START_MS + round(self.at_s * 1000)
        self.at_s += self.step_s
        read = np.asarray(~np.isnan(values).all(axis=0))
        tick = Tick(tick_ms, values, throttle, present, read, self.roster)
        return list(self.detector.update(tick))

    def run(self, scenes: Iterable[Nodes]) -> list[Anomaly]:
        """Tick after tick."""
        return [one for nodes in scenes for one in self.tick(nodes)]

    def _enter(self, sizes: Iterable[tuple[str, int]]) -> None:
        for name, size in sizes:
            rack, _, node = name.partition(":")[0].rpartition("/")
            interval_ms = round(self.step_s * 1000)
            one = sample(node, 0, _serials(name, size), rack=rack or "r1", interval_ms=interval_ms)
            self.roster.resolve(columns([one]))


def _serials(name: str, size: int) -> list[str]:
    place, _, given = name.partition(":")
    node = place.rpartition("/")[2]
    return given.split(",") if given else [f"{node}-{index}" for index in range(size)]


def told(found: Iterable[Anomaly]) -> list[tuple[str, str | None, float, float]]:
    """State, GPU, decided at and begun at, in seconds."""
    return [(one.state, one.gpu, (one.tick_ms - START_MS) / 1000, (one.begin_ms - START_MS) / 1000) for one in found]
