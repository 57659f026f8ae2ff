"""A run of `gpu.samples` messages as columns: decoded in one block, never row by row.

Metrics lie in one array of shape (metrics, readings), float32; a *reading* is one GPU in one message. What cannot be
used is handed back beside it with the reason, and its neighbours are unharmed.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import polars as pl
from fastavro import schemaless_writer
from numpy.typing import NDArray

from schemas import container, registry
from schemas.catalog.metrics import metrics
from schemas.codec import HEADER_BYTES, MARKER, CodecError, Framed, SingleObjectCodec
from schemas.registry import Schema

METRICS: tuple[str, ...] = tuple(name for name, metric in metrics().items() if metric.kind != "bits")
"""The rows of `SampleColumns.values`."""
THROTTLE = "throttle_reasons"
UNKNOWN_BITS = -1
_SENTINEL = "\x00end of block"

# Categories turn strings into small integers that stay the same for the life of the process.
_GPUS = pl.Categories("fleetpulse.gpus")
_NODES = pl.Categories("fleetpulse.nodes")


class Message(Protocol):
    """What is needed of a Kafka record; aiokafka's `ConsumerRecord` has this shape."""

    @property
    def topic(self) -> str:
        """Topic name."""

    @property
    def partition(self) -> int:
        """Partition number."""

    @property
    def offset(self) -> int:
        """Offset in the partition."""

    @property
    def timestamp(self) -> int:
        """When it was produced, UTC milliseconds."""

    @property
    def key(self) -> bytes | None:
        """Its key."""

    @property
    def value(self) -> bytes | None:
        """Its bytes."""


class Rejected(NamedTuple):
    """A message that cannot be used."""

    message: Message
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class SampleColumns:
    """Decoded messages. R messages hold N readings of M metrics; order is that of the log."""

    tick_ms: NDArray[np.int64]
    """(R,) event time of each message."""
    arrived_ms: NDArray[np.int64]
    """(R,) when each message reached Kafka, by the broker's clock."""
    interval_ms: NDArray[np.int32]
    """(R,) the node's own period."""
    node_code: NDArray[np.uint32]
    """(R,) small integers for node names; `names` tells them."""
    gpu_count: NDArray[np.int64]
    """(R,) readings of each message, 0 or more."""
    gpu_code: NDArray[np.uint32]
    """(N,) small integers for GPU serials."""
    values: NDArray[np.float32]
    """(M, N) the metrics in the order of `METRICS`; NaN was not read."""
    throttle: NDArray[np.int64]
    """(N,) bit mask; -1 is unknown."""
    frame: pl.DataFrame
    """The messages' own columns, for the rare look at a name."""

    def where(self, row: int) -> tuple[str, str, str]:
        """Site, rack and node of message `row`."""
        site, rack, node = self.frame.select("site", "rack", "node").row(row)
        return site, rack, node

    def gpus(self, row: int) -> list[str]:
        """The serials in message `row`."""
        serials: list[str] = self.frame["gpus"][row].to_list()
        return serials


class Decoded(NamedTuple):
    """What came of a run."""

    columns: SampleColumns | None
    """None where nothing can be used."""
    rejected: list[Rejected]


@dataclass(frozen=True, slots=True)
class SampleDecoder:
    """Runs of messages to columns. Holds no state between runs.

    `future_ms`: a tick so far after the message's own Kafka timestamp is rejected: its node's clock is wrong, and it
    would drag the watermark along.
    """

    codec: SingleObjectCodec
    future_ms: int

    def __call__(self, messages: Sequence[Message]) -> Decoded:
        """Decode one run. Never raises for what the bytes hold."""
        rejected: list[Rejected] = []
        parts = []
        for schema, group in self._by_schema(messages, rejected).items():
            kept, frame = self._decodable(schema, group, rejected)
            if frame is not None:
                parts.append((kept, frame))
        if not parts:
            return Decoded(None, rejected)
        kept, frame = parts[0] if len(parts) == 1 else _in_log_order(parts)
        arrived_ms = np.fromiter((message.timestamp for message in kept), np.int64, len(kept))
        bad = self._implausible(frame, arrived_ms)
        if bad:
            rejected += [Rejected(kept[row], reason, detail) for row, (reason, detail) in sorted(bad.items())]
            keep = ~np.isin(np.arange(len(frame)), list(bad))
            frame, arrived_ms = frame.filter(pl.Series(keep)), arrived_ms[keep]
        return Decoded(_columns(frame, arrived_ms) if len(frame) else None, rejected)

    def _by_schema(self, messages: Sequence[Message], rejected: list[Rejected]) -> dict[Schema, list[Message]]:
        """Messages by writer schema; the common case, one schema, costs one comparison a message."""
        current = registry.current("GpuSample")
        head = MARKER + current.fingerprint
        groups: dict[Schema, list[Message]] = {current: []}
        usual = groups[current].append
        for message in messages:
            if message.value is not None and message.value.startswith(head):
                usual(message)
                continue
            try:
                schema = self.codec.split(message.value, "GpuSample").schema
            except CodecError as error:
                rejected.append(Rejected(message, error.reason, str(error)))
            else:
                groups.setdefault(schema, []).append(message)
        return {schema: group for schema, group in groups.items() if group}

    def _decodable(
        self, schema: Schema, group: list[Message], rejected: list[Rejected]
    ) -> tuple[list[Message], pl.DataFrame | None]:
        """The messages whose bodies decode, and their frame. A block that does not is gone through one by one."""
        bodies = [message.value[HEADER_BYTES:] for message in group if message.value]
        frame = _read_block(schema, bodies)
        if frame is not None:
            return group, frame
        good: list[int] = []
        for at, body in enumerate(bodies):
            problem = self._problem(schema, body)
            if problem is None:
                good.append(at)
            else:
                rejected.append(Rejected(group[at], problem.reason, str(problem)))
        return [group[at] for at in good], _read_block(schema, [bodies[at] for at in good]) if good else None

    def _problem(self, schema: Schema, body: bytes) -> CodecError | None:
        """What is wrong with one body."""
        try:
            self.codec.decode_body(Framed(schema, body), "GpuSample")
        except CodecError as error:
            return error
        if _read_block(schema, [body]) is None:
            return CodecError("not_avro", "the GpuSample does not decode in a block")
        return None

    def _implausible(self, frame: pl.DataFrame, arrived_ms: NDArray[np.int64]) -> dict[int, tuple[str, str]]:
        """Row numbers of records that decode but cannot be true, each with its reason and a sentence."""
        bad: dict[int, tuple[str, str]] = {}
        ahead = frame["tick_ms"].to_numpy() - arrived_ms
        for row in np.flatnonzero(ahead > self.future_ms):
            detail = f"the tick is {ahead[row] / 1000:.0f} s after the record reached Kafka: check the node's clock"
            bad[int(row)] = ("time_in_future", detail)
        counts = pl.col("gpus").list.len()
        arrays = [name for name in (*METRICS, THROTTLE, "gpu_index") if name in frame.columns]
        fits = pl.all_horizontal(
            (pl.col(name).list.len() == counts) | (pl.col(name).list.len() == 0) for name in arrays
        )
        for row in np.flatnonzero(~frame.select(fits).to_series().to_numpy()):
            found = {name: len(frame[name][int(row)]) for name in arrays}
            expected = len(frame["gpus"][int(row)])
            odd = next(f"{name} has {size}" for name, size in found.items() if size not in (0, expected))
            bad[int(row)] = ("wrong_gpu_count", f"{expected} GPUs are named, but {odd} entries")
        return bad


@cache
def _sentinel(schema: Schema) -> bytes:
    """The body of a record that no producer writes: it closes a block."""
    empty: dict[str, Any] = {"string": _SENTINEL, "long": -1, "int": -1}
    fields = {
        f["name"]: empty.get(f["type"], []) if isinstance(f["type"], str) else [] for f in schema.canonical["fields"]
    }
    out = io.BytesIO()
    schemaless_writer(out, schema.parsed, fields)
    return out.getvalue()


def _read_block(schema: Schema, bodies: Sequence[bytes]) -> pl.DataFrame | None:
    """The records of a block of bodies, or None where one of them does not decode or does not end where its bytes do.

    Left-over or missing bytes in one body shift all that follow, which often still decodes. The sentinel behind the
    last body is then not found in its place, so that the verdict does not depend on where a run is cut.
    """
    try:
        frame = pl.read_avro(io.BytesIO(container.frame(schema, [*bodies, _sentinel(schema)])))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, OverflowError, MemoryError):
        return None
    if len(frame) != len(bodies) + 1 or frame["site"][-1] != _SENTINEL or frame["sequence"][-1] != -1:
        return None
    return frame[:-1]


def _in_log_order(parts: Sequence[tuple[list[Message], pl.DataFrame]]) -> tuple[list[Message], pl.DataFrame]:
    """Messages of several writer schemas as one frame of the current schema, in the order of the log."""
    defaults = {field["name"]: field.get("default") for field in registry.current("GpuSample").parsed["fields"]}
    newest = max((frame for _, frame in parts), key=lambda frame: frame.width).schema
    frames = [
        frame.with_columns(
            pl.lit([] if isinstance(kind, pl.List) else defaults[name], kind).alias(name)
            for name, kind in newest.items()
            if name not in frame.columns
        ).select(newest.names())
        for _, frame in parts
    ]
    messages = [message for group, _ in parts for message in group]
    order = sorted(range(len(messages)), key=lambda at: messages[at].offset)
    return [messages[at] for at in order], pl.concat(frames)[order]


def _columns(frame: pl.DataFrame, arrived_ms: NDArray[np.int64]) -> SampleColumns:
    """A checked frame as arrays."""
    counts = frame["gpus"].list.len().to_numpy().astype(np.int64)
    total = int(counts.sum())
    # explode gives a null for an empty list, so messages without GPUs are left out of the arrays
    full = frame if total and counts.all() else frame.filter(pl.Series(counts > 0))
    values = np.full((len(METRICS), total), np.nan, np.float32)
    for row, name in enumerate(METRICS):
        flat = _flatten(full, name, total)
        if flat is not None:
            values[row] = flat
    throttle = _flatten(full, THROTTLE, total)
    codes: Any = np.empty(0, np.uint32)
    if total:
        codes = full["gpus"].explode().cast(pl.Categorical(_GPUS)).to_physical().to_numpy()
    return SampleColumns(
        tick_ms=frame["tick_ms"].to_numpy(),
        arrived_ms=arrived_ms,
        interval_ms=frame["interval_ms"].to_numpy(),
        node_code=frame["node"].cast(pl.Categorical(_NODES)).to_physical().to_numpy(),
        gpu_count=counts,
        gpu_code=codes,
        values=values,
        throttle=np.full(total, UNKNOWN_BITS, np.int64) if throttle is None else throttle,
        frame=frame,
    )


def _flatten(frame: pl.DataFrame, name: str, total: int) -> NDArray[Any] | None:
    """One metric's readings end to end; None where nobody offers it; a node's empty array becomes unknowns."""
    if not total or name not in frame.columns:
        return None
    column = frame[name]
    sizes = column.list.len()
    if int(sizes.sum()) == total:
        return column.explode().to_numpy()
    unknown = float("nan") if name != THROTTLE else UNKNOWN_BITS
    unknowns = pl.lit(unknown, cast("pl.List", column.dtype).inner).repeat_by(pl.col("gpus").list.len())
    filled = frame.select(pl.when(pl.col(name).list.len() == 0).then(unknowns).otherwise(pl.col(name)))
    return filled.to_series().explode().to_numpy()
