"""Bodies framed as one container block decode to what they decode to one by one: with fastavro, and with Polars."""

from __future__ import annotations

import io
from typing import Any

import fastavro
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import container, registry
from schemas.codec import HEADER_BYTES, SingleObjectCodec
from schemas.records import GpuSample
from tests.streams_scenes import sample

CODEC = SingleObjectCodec()
SCHEMA = registry.current("GpuSample")

readings: st.SearchStrategy[list[float]] = st.one_of(st.just([]), st.lists(st.floats(width=32), min_size=3, max_size=3))
samples = st.builds(
    lambda node, at_s, gpus, temperatures, powers, bits: sample(
        node, at_s, gpus, temperature_celsius=temperatures, power_watts=powers, throttle_reasons=bits
    ),
    st.text(max_size=5),
    st.integers(-(10**6), 10**6),
    st.lists(st.text(max_size=4), max_size=4),
    readings,
    readings,
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
)


def bodies(records: list[GpuSample]) -> list[bytes]:
    return [CODEC.encode(record)[HEADER_BYTES:] for record in records]


def plain(value: Any) -> Any:
    """Comparable with `==`, NaN too."""
    return repr(value)


@settings(max_examples=60, deadline=None)
@given(st.lists(samples, max_size=12))
def test_a_block_decodes_to_what_its_bodies_decode_to(records: list[GpuSample]) -> None:
    block = container.frame(SCHEMA, bodies(records))
    one_by_one = [fastavro.schemaless_reader(io.BytesIO(body), SCHEMA.parsed, None) for body in bodies(records)]
    assert plain(list(fastavro.reader(io.BytesIO(block)))) == plain(one_by_one)
    if records:
        assert plain(pl.read_avro(io.BytesIO(block)).to_dicts()) == plain(one_by_one)


@settings(max_examples=30, deadline=None)
@given(st.lists(samples, max_size=4))
def test_the_same_bodies_are_the_same_block(records: list[GpuSample]) -> None:
    # an insert that is done again after a kill must be byte-equal to be known again
    assert container.frame(SCHEMA, bodies(records)) == container.frame(SCHEMA, bodies(records))


@settings(max_examples=100, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1))
def test_the_container_writes_avro_longs(number: int) -> None:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, "long", number)
    assert container._avro_long(number) == out.getvalue()
