"""Samples and counters of the whole fleet to Avro in one go: no Python per value, so that a laptop can play a hundred
thousand GPUs.

The bytes are those that `SingleObjectCodec` makes of the records, which a test holds them to.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from fastavro import parse_schema, schemaless_writer
from numpy.typing import NDArray

from producers.simulate.topology import Node
from schemas import registry
from schemas.codec import MARKER

_BITS = "throttle_reasons"
_WIDTHS = {"float": "<f4", "double": "<f8"}
_PER_LINK, _EMPTY = "per link", "empty"
"""What else columns may hold than a number for each GPU: a number for each of its NVLinks; what is not simulated."""

Columns = Mapping[str, NDArray[Any]]
"""Metric to its values over all GPUs, shape (G,), or over their NVLinks too, shape (G, links)."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What differs from node to node and from tick to tick, in one record."""

    sequence: int
    tick_ms: int
    observed_ms: int


class ColumnEncoder:
    """Encodes the records of `nodes` of one schema; what does not change is encoded once, some 500 bytes a node."""

    def __init__(self, record: str, nodes: Sequence[Node], site: str, interval_ms: int) -> None:
        self._record = record
        self._site = site
        self._begin: dict[int, tuple[str, bytes]] = {}
        """By the node's number: its boot, and what its records begin with."""
        self._middle: dict[int, bytes] = {}
        groups: dict[int, list[Node]] = {}
        for node in nodes:
            who = {
                "interval_ms": interval_ms,
                **({"source": "nvml"} if record == "GpuCounters" else {}),
                "gpus": [gpu.serial for gpu in node.gpus],
                "gpu_index": [gpu.index for gpu in node.gpus],
            }
            self._middle[node.number] = _fields(record, who)
            groups.setdefault(len(node.gpus), []).append(node)
        self._groups = [
            (size, members, np.array([[gpu.number for gpu in node.gpus] for node in members]))
            for size, members in groups.items()
        ]
        self._bits: dict[bytes, bytes] = {b"": b""}

    def encode(
        self,
        columns: Columns,
        throttle: NDArray[np.int64] | None,
        stamps: Sequence[Stamp],
        boots: Sequence[str],
    ) -> Iterator[tuple[Node, bytes]]:
        """Every node with its message. A column that is missing is left empty; `stamps` and `boots` go by the node's
        number.
        """
        times: dict[int, bytes] = {}
        present = frozenset(columns)
        links = max((values.shape[1] for values in columns.values() if values.ndim > 1), default=0)
        for size, nodes, numbers in self._groups:
            block = np.zeros(len(nodes), _layout(self._record, size, links, present))
            for name, values in columns.items():
                block[f"{name}.count"] = 2 * size  # Avro's zig-zag of a small positive number
                if values.ndim == 1:
                    block[name] = values[numbers]
                else:
                    block[name]["count"] = 2 * links
                    block[name]["links"] = values[numbers]
            arrays, step = block.tobytes(), block.dtype.itemsize
            bits, bits_step = (b"", 0) if throttle is None else (throttle[numbers].tobytes(), 8 * size)
            for place, node in enumerate(nodes):
                number = node.number
                stamp = stamps[number]
                when = times.get(id(stamp))
                if when is None:
                    numbered = {
                        "sequence": stamp.sequence, "tick_ms": stamp.tick_ms, "observed_ms": stamp.observed_ms
                    }  # fmt: skip
                    when = times[id(stamp)] = _fields(self._record, numbered)
                boot, head = self._begin.get(number, ("", b""))
                if boot != boots[number]:
                    head = self._head(node, boots[number])
                row = arrays[place * step : (place + 1) * step]
                mask = bits[place * bits_step : (place + 1) * bits_step]
                end = self._bits.get(mask)
                if end is None:
                    end = self._bits[mask] = _fields(self._record, {_BITS: np.frombuffer(mask, np.int64).tolist()})
                yield node, b"".join((head, when, self._middle[number], row, end))

    def _head(self, node: Node, boot_id: str) -> bytes:
        names = {"site": self._site, "rack": node.rack, "node": node.name, "boot_id": boot_id}
        head = MARKER + registry.current(self._record).fingerprint + _fields(self._record, names)
        self._begin[node.number] = boot_id, head
        return head


def _columns(record: str) -> list[tuple[str, str]]:
    """The columns of a record but for the bits: their names, and the width of their numbers, or what else they hold."""
    found: list[tuple[str, str]] = []
    for field in registry.current(record).canonical["fields"]:
        kind = field["type"]
        if not isinstance(kind, dict) or field["name"] in {"gpus", "gpu_index", _BITS}:
            continue
        per_link = isinstance(kind["items"], dict) and kind["items"]["items"] == "double"
        number = _WIDTHS.get(kind["items"]) if isinstance(kind["items"], str) else None
        found.append((field["name"], _PER_LINK if per_link else number or _EMPTY))
    return found


@cache
def _layout(record: str, size: int, links: int, present: frozenset[str]) -> np.dtype[Any]:
    """The columns of a record as Avro lays them out: a count, the items, the end; only the end where empty."""
    of_a_gpu = [("count", "u1"), ("links", "<f8", (links,)), ("end", "u1")]
    fields: list[tuple[Any, ...]] = []
    for name, holds in _columns(record):
        if name in present:
            fields += [(f"{name}.count", "u1"), (name, of_a_gpu if holds == _PER_LINK else holds, (size,))]
        fields.append((f"{name}.end", "u1"))
    return np.dtype(fields)


def _fields(record: str, values: Mapping[str, Any]) -> bytes:
    """Some neighbouring fields of a record: an Avro record is its fields one after the other."""
    out = io.BytesIO()
    schemaless_writer(out, _part(record, tuple(values)), values)
    return out.getvalue()


@cache
def _part(record: str, names: tuple[str, ...]) -> Any:
    fields = [field for field in registry.current(record).canonical["fields"] if field["name"] in names]
    if tuple(field["name"] for field in fields) != names:
        raise ValueError(f"the schema of {record} no longer has {', '.join(names)} side by side in this order")
    return parse_schema({"type": "record", "name": "Part", "fields": fields})
