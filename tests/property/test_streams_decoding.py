"""Whatever a run holds, decoding it together gives what decoding its records one by one gives."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.catalog.metrics import watch_list
from schemas.codec import HEADER_BYTES, CodecError
from schemas.records import GpuCounters, GpuSample
from schemas.registry import current
from schemas.topics import COUNTERS
from streams.readings import decode as readings_decode
from streams.readings.decode import SampleDecoder
from streams.readings.layouts import alike
from streams.readings.tables import METRICS, SOURCES, THROTTLE, UNKNOWN_BITS, counter_table
from tests.streams_scenes import CODEC, START_MS, Message, message, sample

FLOATS = st.floats(width=32)
NUMBERS = st.integers(-(2**31), 2**31) | st.integers(-(2**63), 2**63 - 1)


@st.composite
def records(draw: st.DrawFn) -> GpuSample:
    """A node's sample: some metrics offered, others not; now and then an array of a wrong length."""
    gpus = draw(st.lists(st.text(max_size=20), max_size=9) | st.just([f"{n}" for n in range(70)]))
    fields: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(METRICS), max_size=6)):
        length = draw(st.sampled_from([len(gpus)] * 9 + [len(gpus) + 1]))
        fields[name] = draw(st.lists(FLOATS, min_size=length, max_size=length))
    if draw(st.booleans()):
        fields[THROTTLE] = draw(st.lists(NUMBERS, min_size=len(gpus), max_size=len(gpus)))
    made = sample(draw(st.text(max_size=9)), draw(st.integers(-5, 5)), gpus, rack=draw(st.text(max_size=3)), **fields)
    return msgspec.structs.replace(made, sequence=draw(NUMBERS), boot_id=draw(st.text(max_size=40)))


@st.composite
def runs(draw: st.DrawFn) -> list[Message]:
    """Samples of few shapes, some of them with bytes changed, cut, or put in."""
    shapes = draw(st.lists(records(), min_size=1, max_size=4))
    values = []
    for _ in range(draw(st.integers(1, 12))):
        value = bytearray(CODEC.encode(draw(st.sampled_from(shapes))))
        if draw(st.integers(0, 3)) == 0:
            at = draw(st.integers(HEADER_BYTES, len(value) - 1))
            end = at + draw(st.integers(0, 3))
            value[at:end] = draw(st.binary(max_size=3))
        values.append(bytes(value))
    return [message(value, offset, START_MS) for offset, value in enumerate(values)]


def one_by_one(run: list[Message]) -> tuple[list[GpuSample], set[int]]:
    """What the plain codec makes of a run: the records that can be used, and which messages cannot."""
    good, bad = [], set()
    for one in run:
        try:
            record = CODEC.decode(one.value, GpuSample)
        except CodecError:
            bad.add(one.offset)
            continue
        arrays = [getattr(record, name) for name in (*METRICS, THROTTLE, "gpu_index")]
        fits = all(len(array) in (0, len(record.gpus)) for array in arrays)
        if fits and 0 <= record.tick_ms <= START_MS + 60_000:
            good.append(record)
        else:
            bad.add(one.offset)
    return good, bad


@given(runs())
def test_a_run_is_what_its_records_are(run: list[Message]) -> None:
    decoded = SampleDecoder(CODEC, future_ms=60_000)(run)
    good, bad = one_by_one(run)
    assert {rejected.message.offset for rejected in decoded.rejected} == bad
    if decoded.columns is None:
        assert not good
        return
    columns = decoded.columns.at(np.flatnonzero(decoded.columns.usable))
    assert list(columns.places) == [(one.site, one.rack, one.node) for one in good]
    assert [list(serials) for serials in columns.serials] == [one.gpus for one in good]
    assert columns.tick_ms.tolist() == [one.tick_ms for one in good]
    assert columns.interval_ms.tolist() == [one.interval_ms for one in good]
    assert columns.gpu_count.tolist() == [len(one.gpus) for one in good]
    for row, name in enumerate(METRICS):
        expected = [value for one in good for value in getattr(one, name) or [float("nan")] * len(one.gpus)]
        assert np.array_equal(columns.values[row], np.array(expected, np.float32), equal_nan=True), name
    assert columns.throttle.tolist() == [
        bits for one in good for bits in one.throttle_reasons or [UNKNOWN_BITS] * len(one.gpus)
    ]
    # the numbers stand for names
    assert len(set(columns.node_code.tolist())) == len({one.node for one in good})
    assert len(set(columns.gpu_code.tolist())) == len({gpu for one in good for gpu in one.gpus})


COUNTED = counter_table(watch_list().counter_columns())
DOUBLES = st.floats()
WORDS = st.none() | st.text(max_size=12)


@st.composite
def counter_records(draw: st.DrawFn) -> GpuCounters:
    """A node's counters: numbers, words that may be missing, and numbers per link, of as many links as each GPU has."""
    gpus = draw(st.lists(st.text(max_size=20), max_size=9))
    size = len(gpus)
    fields: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(COUNTED.metrics), max_size=6)):
        length = draw(st.sampled_from([size] * 9 + [size + 1]))
        fields[name] = draw(st.lists(DOUBLES, min_size=length, max_size=length))
    if draw(st.booleans()):
        fields["mig_mode"] = draw(st.lists(WORDS, min_size=size, max_size=size))
        fields["recovery_action"] = draw(st.lists(WORDS, min_size=size, max_size=size))
    if draw(st.booleans()):
        links = st.lists(DOUBLES, max_size=4)
        fields["nvlink_link_active"] = draw(st.lists(links, min_size=size, max_size=size))
    return GpuCounters(
        site="hall-a",
        rack=draw(st.text(max_size=3)),
        node=draw(st.text(max_size=9)),
        boot_id=draw(st.text(max_size=40)),
        sequence=draw(NUMBERS),
        tick_ms=START_MS + draw(st.integers(-5, 5)),
        observed_ms=START_MS,
        source=draw(st.sampled_from(["nvml", "dcgm", "nvidia_smi", "else"])),
        gpus=gpus,
        gpu_index=list(range(draw(st.sampled_from([size] * 9 + [size + 1])))),
        **fields,
    )


@given(st.lists(counter_records(), max_size=8), st.binary(max_size=40), st.integers(0, 8))
def test_so_is_a_run_of_counters_of_which_some_columns_are_asked_for(
    records: list[GpuCounters], garbage: bytes, place: int
) -> None:
    values: list[bytes] = [CODEC.encode(one) for one in records]
    values.insert(place, garbage)
    run = [message(value, offset, START_MS, COUNTERS) for offset, value in enumerate(values)]
    decoded = SampleDecoder(CODEC, future_ms=60_000, table=COUNTED)(run)
    arrays = ("gpu_index", *COUNTED.metrics)
    sizes = [{len(one.gpus), *(len(getattr(one, name)) for name in arrays)} for one in records]
    good = [one for one, found in zip(records, sizes, strict=True) if found <= {0, len(one.gpus)}]
    assert len(decoded.rejected) == len(records) - len(good) + 1
    if not good:
        assert decoded.columns is None
        return
    columns = decoded.columns
    assert columns is not None
    assert list(columns.places) == [(one.site, one.rack, one.node) for one in good]
    assert columns.sequence.tolist() == [one.sequence for one in good]
    assert columns.source_rank.tolist() == [
        {"nvml": 0, "dcgm": 1, "nvidia_smi": 2}.get(one.source, len(SOURCES)) for one in good
    ]
    for row, name in enumerate(COUNTED.metrics):
        expected = [value for one in good for value in getattr(one, name) or [float("nan")] * len(one.gpus)]
        assert np.array_equal(columns.values[row], np.array(expected), equal_nan=True), name


@st.composite
def counter_runs(draw: st.DrawFn) -> list[Message]:
    """Counters of few shapes, with other numbers and words in them, and some with bytes changed, cut, or put in."""
    shapes = draw(st.lists(counter_records(), min_size=1, max_size=3))
    values = []
    for _ in range(draw(st.integers(1, 12))):
        shape = draw(st.sampled_from(shapes))
        numbers = {
            name: draw(st.lists(DOUBLES, min_size=len(had), max_size=len(had)))
            for name in COUNTED.metrics
            if (had := getattr(shape, name))
        }
        words = {"source": draw(st.text(max_size=5)), "sequence": draw(NUMBERS)} if draw(st.booleans()) else {}
        value = bytearray(CODEC.encode(msgspec.structs.replace(shape, **numbers, **words)))
        if draw(st.integers(0, 2)) == 0:
            at = draw(st.integers(HEADER_BYTES, len(value) - 1))
            end = at + draw(st.integers(0, 3))
            value[at:end] = draw(st.binary(max_size=3))
        values.append(bytes(value))
    return [message(value, offset, START_MS, COUNTERS) for offset, value in enumerate(values)]


@given(counter_runs())
def test_counters_of_one_shape_are_read_as_the_general_decoder_reads_them(run: list[Message]) -> None:
    decode = SampleDecoder(CODEC, future_ms=60_000, table=COUNTED)
    together = decode(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readings_decode, "alike", lambda _, messages, *__: ([], np.arange(len(messages))))
        alone = decode(run)
    assert together.rejected == alone.rejected
    assert (together.columns is None) == (alone.columns is None)
    if together.columns is None or alone.columns is None:
        return
    for field in fields(alone.columns):
        ours, general = getattr(together.columns, field.name), getattr(alone.columns, field.name)
        if isinstance(general, np.ndarray):
            np.testing.assert_array_equal(ours, general, field.name)
        else:
            assert [tuple(one) for one in ours] == [tuple(one) for one in general], field.name


def test_the_counters_of_a_fleet_need_no_general_decoder() -> None:
    node = {name: [1.5] * 8 for name in COUNTED.metrics}
    made = [
        GpuCounters(
            site="hall-a", rack="r1", node=f"n{n}", boot_id="b", sequence=n, tick_ms=START_MS, observed_ms=START_MS,
            source="nvml", gpus=[f"{n}-{slot}" for slot in range(8)], gpu_index=list(range(8)),
            **{name: [float(n)] * 8 for name in node},
            mig_mode=["disabled"] * 7 + [None], nvlink_link_active=[[1.0] * 18] * 7 + [[]],
        )
        for n in range(200)
    ]  # fmt: skip
    (one,), left = alike(current("GpuCounters"), [CODEC.encode(one)[HEADER_BYTES:] for one in made], 0, COUNTED.metrics)
    assert not len(left)
    assert one.words == {"source": ["nvml"] * 200}
    assert one.floats.keys() == set(COUNTED.metrics)
    assert one.floats[COUNTED.metrics[-1]].tolist() == [[float(n)] * 8 for n in range(200)]


def test_a_count_that_is_written_in_two_bytes_where_one_would_do_is_read_all_the_same() -> None:
    usual = CODEC.encode(sample("n1", 0, ["serial"] * 8))
    odd = usual.replace(b"\x10\x0cserial", b"\x90\x00\x0cserial", 1)
    assert len(odd) == len(usual) + 1
    columns, rejected = SampleDecoder(CODEC, future_ms=60_000)([message(odd, 0, START_MS)])
    assert not rejected
    assert columns is not None
    assert columns.gpu_count.tolist() == [8]


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(records(), max_size=3))
def test_garbage_is_left_to_the_general_decoder(garbage: list[bytes], samples: list[GpuSample]) -> None:
    bodies = [*garbage, *(CODEC.encode(one)[HEADER_BYTES:] for one in samples)]
    found, left = alike(current("GpuSample"), bodies)
    assert sorted([*left.tolist(), *(int(row) for one in found for row in one.rows)]) == list(range(len(bodies)))


def test_the_samples_of_a_fleet_need_no_general_decoder() -> None:
    node = {name: [1.5] * 8 for name in METRICS}
    bodies = [CODEC.encode(sample(f"n{n}", n, 8, **node, throttle_reasons=[n] * 8))[HEADER_BYTES:] for n in range(200)]
    bodies += [CODEC.encode(sample(f"tray{n}", n, 4, power_watts=[7.0] * 4))[HEADER_BYTES:] for n in range(50)]
    found, left = alike(current("GpuSample"), bodies)
    assert not len(left)
    assert sorted(len(one.rows) for one in found) == [50, 200]
