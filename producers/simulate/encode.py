"""Samples of the whole fleet to Avro in one go: no Python per value, so that a laptop can play a hundred thousand GPUs.

The bytes are those that `SingleObjectCodec` makes of `Step.samples`, which a test holds them to.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from fastavro import parse_schema, schemaless_writer
from numpy.typing import NDArray

from producers.simulate.signals import Floats
from producers.simulate.topology import Node
from schemas import registry
from schemas.codec import MARKER

_BITS = "throttle_reasons"


class SampleEncoder:
    """Encodes the samples of `nodes`; what does not change from tick to tick is encoded once, some 500 bytes a node."""

    def __init__(self, nodes: Sequence[Node], site: str, interval_ms: int) -> None:
        self._begin: dict[str, bytes] = {}
        self._middle: dict[str, bytes] = {}
        groups: dict[int, list[Node]] = {}
        for node in nodes:
            names = {"site": site, "rack": node.rack, "node": node.name, "boot_id": node.boot_id}
            self._begin[node.name] = MARKER + registry.current("GpuSample").fingerprint + _fields(names)
            who = {
                "interval_ms": interval_ms,
                "gpus": [gpu.serial for gpu in node.gpus],
                "gpu_index": [gpu.index for gpu in node.gpus],
            }
            self._middle[node.name] = _fields(who)
            groups.setdefault(len(node.gpus), []).append(node)
        self._groups = [
            (size, members, np.array([[gpu.number for gpu in node.gpus] for node in members]))
            for size, members in groups.items()
        ]
        self._bits: dict[bytes, bytes] = {}

    def encode(
        self,
        readings: Mapping[str, Floats],
        throttle: NDArray[np.int64],
        *,
        sequence: int,
        tick_ms: int,
        observed_ms: int,
    ) -> Iterator[tuple[Node, bytes]]:
        """Every node with its message. `readings` and `throttle` are over all GPUs; a missing metric is left empty."""
        times = _fields({"sequence": sequence, "tick_ms": tick_ms, "observed_ms": observed_ms})
        for size, nodes, numbers in self._groups:
            block = np.zeros(len(nodes), _layout(size, frozenset(readings)))
            for name, values in readings.items():
                block[f"{name}.count"] = 2 * size  # Avro's zig-zag of a small positive number
                block[name] = values[numbers]
            arrays, step = block.tobytes(), block.dtype.itemsize
            bits = throttle[numbers]
            for place, node in enumerate(nodes):
                row = arrays[place * step : (place + 1) * step]
                head, middle = self._begin[node.name], self._middle[node.name]
                yield node, b"".join((head, times, middle, row, self._encode_bits(bits[place])))

    def _encode_bits(self, bits: NDArray[np.int64]) -> bytes:
        key = bits.tobytes()
        found = self._bits.get(key)
        if found is None:
            found = self._bits[key] = _fields({_BITS: bits.tolist()})
        return found


@cache
def _layout(size: int, present: frozenset[str]) -> np.dtype[Any]:
    """The float arrays of a record as Avro lays them out: a count, the items, the end; only the end where empty."""
    fields: list[tuple[Any, ...]] = []
    for field in registry.current("GpuSample").canonical["fields"]:
        kind, name = field["type"], field["name"]
        if isinstance(kind, dict) and kind["items"] == "float":
            if name in present:
                fields += [(f"{name}.count", "u1"), (name, "<f4", (size,))]
            fields.append((f"{name}.end", "u1"))
    return np.dtype(fields)


def _fields(values: Mapping[str, Any]) -> bytes:
    """Some neighbouring fields of a sample: an Avro record is its fields one after the other."""
    out = io.BytesIO()
    schemaless_writer(out, _part(tuple(values)), values)
    return out.getvalue()


@cache
def _part(names: tuple[str, ...]) -> Any:
    fields = [field for field in registry.current("GpuSample").canonical["fields"] if field["name"] in names]
    if tuple(field["name"] for field in fields) != names:
        raise ValueError(f"gpu.samples.avsc no longer has the fields {', '.join(names)} side by side in this order")
    return parse_schema({"type": "record", "name": "Part", "fields": fields})
