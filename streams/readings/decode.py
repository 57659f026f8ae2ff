"""A run of `gpu.samples` or `gpu.counters` messages as columns: decoded together, never row by row.

Samples that are laid out alike, which is nearly all of them, are cut up by `layouts.py`; the rest, and all counters, go
through Polars as one Avro block, of which it gives only the columns that are asked for.

Metrics lie in one array of shape (metrics, readings); a *reading* is one GPU in one message. What cannot be used is
handed back beside it with the reason, and its neighbours are unharmed.
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
from schemas.codec import HEADER_BYTES, MARKER, CodecError, Framed, SingleObjectCodec
from schemas.registry import Schema
from streams.readings.columns import SampleColumns
from streams.readings.layouts import BOOTS, GPUS, NODES, Alike, alike
from streams.readings.tables import SAMPLE_TABLE, SOURCES, UNKNOWN_BITS, Table

_ENVELOPE = ("site", "rack", "node", "boot_id", "sequence", "tick_ms", "interval_ms", "source", "gpus", "gpu_index")
"""What is decoded of every record beside its metrics, where it has it."""
_RANKS = {source: rank for rank, source in enumerate(SOURCES)}
_UNHEARD_OF = len(SOURCES)
"""The rank of a source that nobody has heard of."""
_SENTINEL = "\x00end of block"


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


class Decoded(NamedTuple):
    """What came of a run."""

    columns: SampleColumns | None
    """None where nothing can be used, or heard."""
    rejected: list[Rejected]
    """Those whose times cannot be true are in the columns, too: `SampleColumns.usable`."""


@dataclass(frozen=True, slots=True)
class SampleDecoder:
    """Runs of messages to columns. Holds no state between runs.

    `future_ms`: a tick so far after the message's own Kafka timestamp is rejected: its node's clock is wrong, and its
    readings would have to wait for their time.
    """

    codec: SingleObjectCodec
    future_ms: int
    table: Table = SAMPLE_TABLE

    def __call__(self, messages: Sequence[Message]) -> Decoded:
        """Decode one run. Never raises for what the bytes hold."""
        arrived_ms = np.fromiter((message.timestamp for message in messages), np.int64, len(messages))
        bad: dict[int, tuple[str, str]] = {}
        parts: list[tuple[NDArray[np.int64], SampleColumns]] = []
        for schema, numbers in self._by_schema(messages, bad).items():
            values = [cast("bytes", messages[number].value) for number in numbers]
            places = np.array(numbers, np.int64)
            found, left = alike(schema, values, HEADER_BYTES, self.table.metrics)
            for one in found:
                rows = places[one.rows]
                parts.append((rows, _of_alike(self.table, one, arrived_ms[rows])))
            if len(left):
                kept, frame = self._decodable(
                    schema, [(int(places[row]), values[row][HEADER_BYTES:]) for row in left], bad
                )
                if frame is not None:
                    rows = np.array(kept, np.int64)
                    parts.append((rows, _of_frame(self.table, frame, arrived_ms[rows])))
        rows, columns = _in_log_order(parts)
        if columns is not None and (untrue := self._implausible(columns)):
            bad.update({int(rows[row]): why for row, why in untrue.items()})
            columns.usable[list(untrue)] = False
        return Decoded(columns, [Rejected(messages[number], *why) for number, why in sorted(bad.items())])

    def _by_schema(self, messages: Sequence[Message], bad: dict[int, tuple[str, str]]) -> dict[Schema, list[int]]:
        """Message numbers by writer schema; the common case, one schema, costs one comparison a message."""
        current = registry.current(self.table.name)
        head = MARKER + current.fingerprint
        groups: dict[Schema, list[int]] = {current: []}
        usual = groups[current].append
        for number, message in enumerate(messages):
            if message.value is not None and message.value.startswith(head):
                usual(number)
                continue
            try:
                schema = self.codec.split(message.value, self.table.name).schema
            except CodecError as error:
                bad[number] = (error.reason, str(error))
            else:
                groups.setdefault(schema, []).append(number)
        return {schema: group for schema, group in groups.items() if group}

    def _decodable(
        self, schema: Schema, group: list[tuple[int, bytes]], bad: dict[int, tuple[str, str]]
    ) -> tuple[list[int], pl.DataFrame | None]:
        """The numbers of the messages whose bodies decode, and their frame in today's columns.

        A block that does not decode is halved until the bad bodies stand alone: one of them costs its neighbours
        little, however often it is sent.
        """
        frame = _read_block(schema, [body for _, body in group], _wanted(self.table, schema))
        if frame is None:
            if len(group) == 1:
                problem = self._problem(schema, group[0][1])
                bad[group[0][0]] = (problem.reason, str(problem))
                return [], None
            half = len(group) // 2
            sound = [self._decodable(schema, part, bad) for part in (group[:half], group[half:])]
            frames = [part for _, part in sound if part is not None]
            return [number for part, _ in sound for number in part], pl.concat(frames) if frames else None
        numbers = np.array([number for number, _ in group])
        frame = frame if schema.current else _as_current(self.table, frame)
        misfits = _misfits(self.table, frame)
        bad.update({int(numbers[row]): why for row, why in misfits.items()})
        fits = ~np.isin(np.arange(len(numbers)), list(misfits))
        return numbers[fits].tolist(), frame.filter(pl.Series(fits)) if fits.any() else None

    def _problem(self, schema: Schema, body: bytes) -> CodecError:
        """What is wrong with a body that does not decode in a block of its own."""
        try:
            self.codec.decode_body(Framed(schema, body), self.table.name)
        except CodecError as error:
            return error
        return CodecError("not_avro", f"the {self.table.name} does not decode in a block")

    def _implausible(self, columns: SampleColumns) -> dict[int, tuple[str, str]]:
        """Row numbers of records that decode but cannot be true, each with its reason and a sentence."""
        bad: dict[int, tuple[str, str]] = {}
        tick_ms = columns.tick_ms
        for row in np.flatnonzero(tick_ms < 0):
            bad[int(row)] = ("time_negative", f"the tick is {tick_ms[row]} ms: before 1970, check the node's clock")
        ahead = np.maximum(tick_ms, 0) - columns.arrived_ms
        for row in np.flatnonzero(ahead > self.future_ms):
            detail = f"the tick is {ahead[row] / 1000:.0f} s after the record reached Kafka: check the node's clock"
            bad[int(row)] = ("time_in_future", detail)
        return bad


@cache
def _wanted(table: Table, schema: Schema) -> tuple[str, ...]:
    """The columns of a writer's schema that are decoded, in its order."""
    wanted = {*_ENVELOPE, *table.metrics, table.bits}
    return tuple(field["name"] for field in schema.canonical["fields"] if field["name"] in wanted)


def _misfits(table: Table, frame: pl.DataFrame) -> dict[int, tuple[str, str]]:
    """Row numbers of records whose arrays do not have one entry per GPU, each with its reason and a sentence."""
    counts = pl.col("gpus").list.len()
    arrays = [name for name in (*table.metrics, table.bits, "gpu_index") if name in frame.columns]
    fits = pl.all_horizontal((pl.col(name).list.len() == counts) | (pl.col(name).list.len() == 0) for name in arrays)
    bad = {}
    for row in np.flatnonzero(~frame.select(fits).to_series().to_numpy()):
        found = {name: len(frame[name][int(row)]) for name in arrays}
        expected = len(frame["gpus"][int(row)])
        odd = next(f"{name} has {size}" for name, size in found.items() if size not in (0, expected))
        bad[int(row)] = ("wrong_gpu_count", f"{expected} GPUs are named, but {odd} entries")
    return bad


@cache
def _sentinel(schema: Schema) -> bytes:
    """The body of a record that no producer writes: it closes a block."""
    given: dict[str, Any] = {"site": _SENTINEL, "sequence": -1}
    fields = {field["name"]: given.get(field["name"], _empty(field["type"])) for field in schema.canonical["fields"]}
    out = io.BytesIO()
    schemaless_writer(out, schema.parsed, fields)
    return out.getvalue()


def _empty(kind: Any) -> Any:
    """The smallest value of an Avro type; None for a union that has null."""
    if isinstance(kind, list):
        return None if "null" in kind else _empty(kind[0])
    if isinstance(kind, dict):
        return {"array": [], "map": {}}.get(kind["type"])
    return {"string": "", "bytes": b"", "boolean": False, "float": 0.0, "double": 0.0, "null": None}.get(kind, 0)


@cache
def _current_columns(table: Table) -> pl.DataFrame:
    """No record, in the columns of today's schema."""
    schema = registry.current(table.name)
    frame = _read_block(schema, [], _wanted(table, schema))
    assert frame is not None  # noqa: S101 - our own sentinel in our own schema
    return frame


def _as_current(table: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """Records of an earlier writer in today's columns: what it did not know takes its default."""
    defaults = {field["name"]: field.get("default") for field in registry.current(table.name).parsed["fields"]}
    columns = [
        pl.col(name).cast(kind) if name in frame.columns else pl.lit(defaults[name], kind).alias(name)
        for name, kind in _current_columns(table).schema.items()
    ]
    return frame.select(columns)


def _read_block(schema: Schema, bodies: Sequence[bytes], columns: Sequence[str]) -> pl.DataFrame | None:
    """The records of a block of bodies, or None where one of them does not decode or does not end where its bytes do.

    Left-over or missing bytes in one body shift all that follow, which often still decodes. The sentinel behind the
    last body is then not found in its place, so that the verdict does not depend on where a run is cut.
    """
    try:
        block = io.BytesIO(container.frame(schema, [*bodies, _sentinel(schema)]))
        frame = pl.read_avro(block, columns=list(columns))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, OverflowError, MemoryError):
        return None
    if len(frame) != len(bodies) + 1 or frame["site"][-1] != _SENTINEL or frame["sequence"][-1] != -1:
        return None
    return frame[:-1]


def _in_log_order(
    parts: Sequence[tuple[NDArray[np.int64], SampleColumns]],
) -> tuple[NDArray[np.int64], SampleColumns | None]:
    """Parts of a run, each with the numbers of its messages, as one, in the order of the log."""
    if not parts:
        return np.empty(0, np.int64), None
    if len(parts) == 1:
        return parts[0]
    numbers = np.concatenate([rows for rows, _ in parts])
    order = np.argsort(numbers)
    return numbers[order], SampleColumns.joined([columns for _, columns in parts]).at(order)


def _of_alike(table: Table, found: Alike, arrived_ms: NDArray[np.int64]) -> SampleColumns:
    """Messages of one shape as columns."""
    messages, gpus = found.gpu_code.shape
    values = np.full((len(table.metrics), messages * gpus), np.nan, table.dtype)
    for row, name in enumerate(table.metrics):
        if name in found.floats:
            values[row] = found.floats[name].reshape(-1)
    masks = found.masks.get(table.bits or "")
    return SampleColumns(
        tick_ms=found.longs["tick_ms"],
        arrived_ms=arrived_ms,
        interval_ms=found.longs["interval_ms"].astype(np.int32),
        usable=np.ones(messages, np.bool_),
        boot_code=found.boot_code,
        sequence=found.longs["sequence"],
        source_rank=_ranks(found.words["source"]) if table.has_sources else np.zeros(messages, np.int8),
        node_code=found.node_code,
        gpu_count=np.full(messages, gpus, np.int64),
        gpu_code=found.gpu_code.reshape(-1),
        values=values,
        throttle=np.full(messages * gpus, UNKNOWN_BITS, np.int64) if masks is None else masks.reshape(-1),
        places=found.places,
        serials=found.serials,
    )


def _of_frame(table: Table, frame: pl.DataFrame, arrived_ms: NDArray[np.int64]) -> SampleColumns:
    """A checked frame as columns."""
    counts = frame["gpus"].list.len().to_numpy().astype(np.int64)
    total = int(counts.sum())
    # explode gives a null for an empty list, so messages without GPUs are left out of the arrays
    full = frame if total and counts.all() else frame.filter(pl.Series(counts > 0))
    flat = _flattened(table, full, total)
    values = np.full((len(table.metrics), total), np.nan, table.dtype)
    for row, name in enumerate(table.metrics):
        if name in flat:
            values[row] = flat[name]
    throttle = flat.get(table.bits or "")
    return SampleColumns(
        tick_ms=frame["tick_ms"].to_numpy(),
        arrived_ms=arrived_ms,
        interval_ms=frame["interval_ms"].to_numpy(),
        usable=np.ones(len(frame), np.bool_),
        boot_code=BOOTS.of(frame["boot_id"].to_list()),
        sequence=frame["sequence"].to_numpy(),
        source_rank=_ranks(frame["source"].to_list()) if table.has_sources else np.zeros(len(frame), np.int8),
        node_code=NODES.of(frame["node"].to_list()),
        gpu_count=counts,
        gpu_code=GPUS.of(full["gpus"].explode().to_list() if total else []),
        values=values,
        throttle=np.full(total, UNKNOWN_BITS, np.int64) if throttle is None else throttle,
        places=frame.select("site", "rack", "node").rows(),
        serials=frame["gpus"].to_list(),
    )


def _ranks(sources: Sequence[str]) -> NDArray[np.int8]:
    return np.array([_RANKS.get(source, _UNHEARD_OF) for source in sources], np.int8)


def _flattened(table: Table, frame: pl.DataFrame, total: int) -> dict[str, NDArray[Any]]:
    """Each array's readings end to end, by name; a node's empty array becomes unknowns, and an array that nobody offers
    is left out. All columns at once, because asking Polars costs more than its answer.
    """
    names = [name for name in (*table.metrics, table.bits) if name in frame.columns]
    if not total or not names:
        return {}
    offered = dict(zip(names, frame.select(pl.col(names).list.len().sum()).row(0), strict=True))
    whole = [name for name in names if offered[name] == total]
    found = {one.name: one.to_numpy() for one in frame.select(pl.col(whole).explode())} if whole else {}
    for name in names:
        if 0 < offered[name] < total:
            unknown = UNKNOWN_BITS if name == table.bits else float("nan")
            kind = cast("pl.List", frame[name].dtype).inner
            unknowns = pl.lit(unknown, kind).repeat_by(pl.col("gpus").list.len())
            filled = frame.select(pl.when(pl.col(name).list.len() == 0).then(unknowns).otherwise(pl.col(name)))
            found[name] = filled.to_series().explode().to_numpy()
    return found
