"""Who reports in one partition: GPUs and nodes as dense indices, so that detectors work on arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.readings.columns import SampleColumns

_NOBODY = -1
NEVER_MS = -(2**62)
"""Before any time that occurs, and far enough from the end of int64 to be reckoned with."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a GPU or node is."""

    site: str
    rack: str
    node: str


class Roster:
    """GPUs and nodes met in one partition, in the order in which they were first met.

    Costs about 200 bytes a GPU (its name, its place, two integers). Nothing is forgotten while the partition is ours:
    that something was here and is no longer is what silence is judged by.
    """

    def __init__(self, *, shared: bool = False) -> None:
        """`shared`: several sources report for one node, each with a period of its own; the longest counts."""
        self._shared = shared
        self.gpus: list[str] = []
        """(G,) serials."""
        self.gpu_node: NDArray[np.int32] = np.empty(0, np.int32)
        """(G,) the node each GPU was last seen in, as an index into `nodes`."""
        self.nodes: list[Place] = []
        """(K,) nodes."""
        self.node_interval_ms: NDArray[np.int64] = np.empty(0, np.int64)
        """(K,) the period at which each node samples."""
        self._gpu_of_code: NDArray[np.int32] = np.empty(0, np.int32)
        self._node_of_code: NDArray[np.int32] = np.empty(0, np.int32)

    def place(self, gpu: int) -> Place:
        """Where GPU number `gpu` was last seen."""
        return self.nodes[int(self.gpu_node[gpu])]

    def knows(self, columns: SampleColumns) -> bool:
        """Whether all in `columns` are where, and sample as often as, the roster has it."""
        self._node_of_code = _reach(self._node_of_code, columns.node_code)
        self._gpu_of_code = _reach(self._gpu_of_code, columns.gpu_code)
        nodes, gpus = self._node_of_code[columns.node_code], self._gpu_of_code[columns.gpu_code]
        return bool(
            (nodes != _NOBODY).all()
            and (gpus != _NOBODY).all()
            and (
                self.node_interval_ms[nodes] >= columns.interval_ms
                if self._shared
                else self.node_interval_ms[nodes] == columns.interval_ms
            ).all()
            and (self.gpu_node[gpus] == np.repeat(nodes, columns.gpu_count)).all()
        )

    def resolve(self, columns: SampleColumns) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Indices of the nodes of each message, shape (R,), and of the GPU of each reading, shape (N,).

        New ones are entered; a GPU met in another node has moved, and is entered there.
        """
        nodes = self._nodes(columns)
        gpus = self._gpus(columns, nodes)
        return nodes, gpus

    def _nodes(self, columns: SampleColumns) -> NDArray[np.int32]:
        self._node_of_code = _reach(self._node_of_code, columns.node_code)
        nodes = self._node_of_code[columns.node_code]
        if (nodes == _NOBODY).any():
            for row in np.flatnonzero(nodes == _NOBODY):
                code = columns.node_code[row]
                if self._node_of_code[code] == _NOBODY:
                    self._node_of_code[code] = len(self.nodes)
                    self.nodes.append(Place(*columns.places[int(row)]))
            nodes = self._node_of_code[columns.node_code]
            met = len(self.node_interval_ms)
            self.node_interval_ms = np.pad(self.node_interval_ms, (0, len(self.nodes) - met))
        if self._shared:
            np.maximum.at(self.node_interval_ms, nodes, columns.interval_ms)
        else:
            self.node_interval_ms[nodes] = columns.interval_ms
        return nodes

    def _gpus(self, columns: SampleColumns, nodes: NDArray[np.int32]) -> NDArray[np.int32]:
        self._gpu_of_code = _reach(self._gpu_of_code, columns.gpu_code)
        gpus = self._gpu_of_code[columns.gpu_code]
        node_of_reading = np.repeat(nodes, columns.gpu_count)
        if (gpus == _NOBODY).any():
            row_of_reading = np.repeat(np.arange(len(nodes)), columns.gpu_count)
            first_reading = np.cumsum(columns.gpu_count) - columns.gpu_count
            for reading in np.flatnonzero(gpus == _NOBODY):
                code = columns.gpu_code[reading]
                if self._gpu_of_code[code] == _NOBODY:
                    row = int(row_of_reading[reading])
                    self._gpu_of_code[code] = len(self.gpus)
                    self.gpus.append(columns.serials[row][int(reading - first_reading[row])])
            gpus = self._gpu_of_code[columns.gpu_code]
            grown = np.full(len(self.gpus), _NOBODY, np.int32)
            grown[: len(self.gpu_node)] = self.gpu_node
            self.gpu_node = grown
        self.gpu_node[gpus] = node_of_reading
        return gpus


def _reach(table: NDArray[np.int32], codes: NDArray[np.uint32]) -> NDArray[np.int32]:
    """`table`, long enough to be indexed with `codes`."""
    needed = int(codes.max()) + 1 if len(codes) else 0
    if needed <= len(table):
        return table
    longer = np.full(max(needed, 2 * len(table)), _NOBODY, np.int32)
    longer[: len(table)] = table
    return longer
