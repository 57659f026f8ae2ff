"""A run of messages as columns: what is decoded, what is refused and why, and that neighbours are unharmed."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import numpy as np
import pytest
from fastavro import schemaless_writer

from schemas import registry
from schemas.codec import MARKER, SingleObjectCodec
from schemas.records import GpuSample
from schemas.registry import Schema
from streams.readings.decode import Decoded, SampleDecoder
from streams.readings.tables import METRICS, UNKNOWN_BITS
from tests.streams_scenes import CODEC, START_MS, Message, event, log, message, sample

DECODE = SampleDecoder(CODEC, future_ms=60_000)
GOOD = [sample(f"n{number}", number) for number in range(1, 6)]


def metric(decoded: Decoded, name: str) -> list[float]:
    assert decoded.columns is not None
    return [float(value) for value in decoded.columns.values[METRICS.index(name)]]


def ticks(decoded: Decoded) -> list[int]:
    """Which seconds came out to be used, in their order."""
    columns = decoded.columns
    return [] if columns is None else ((columns.tick_ms[columns.usable] - START_MS) // 1000).tolist()


def test_readings_lie_end_to_end_in_the_order_of_the_log() -> None:
    decoded = DECODE(log([sample("n1", 1, 2, temperature_celsius=[1.0, 2.0]), sample("n2", 2, 1)]))
    assert decoded.rejected == []
    assert ticks(decoded) == [1, 2]
    assert metric(decoded, "temperature_celsius") == [1.0, 2.0, 50.0]
    assert decoded.columns is not None
    assert decoded.columns.gpu_count.tolist() == [2, 1]
    assert [list(serials) for serials in decoded.columns.serials] == [["n1-0", "n1-1"], ["n2-0"]]
    assert decoded.columns.places[1] == ("hall-a", "r1", "n2")


def test_a_name_has_the_same_number_in_every_run_and_another_name_another() -> None:
    first = DECODE(log([sample("n1"), sample("n2")])).columns
    second = DECODE(log([sample("n3"), sample("n1")])).columns
    assert first is not None
    assert second is not None
    assert first.node_code[0] == second.node_code[1]
    assert first.gpu_code[:2].tolist() == second.gpu_code[2:].tolist()
    assert len({*first.node_code, *second.node_code}) == 3


def test_a_metric_that_a_node_does_not_offer_is_nan_and_unknown_bits_are_minus_one() -> None:
    decoded = DECODE(log([sample("n1", 1, 2, power_watts=300.0, throttle_reasons=4), sample("n2", 2, 2)]))
    assert decoded.rejected == []
    np.testing.assert_array_equal(metric(decoded, "power_watts"), [300.0, 300.0, np.nan, np.nan])
    np.testing.assert_array_equal(metric(decoded, "fan_speed_percent"), [np.nan] * 4)
    assert decoded.columns is not None
    assert decoded.columns.throttle.tolist() == [4, 4, UNKNOWN_BITS, UNKNOWN_BITS]


def test_a_node_without_gpus_is_heard_and_has_no_readings() -> None:
    decoded = DECODE(log([sample("n1", 1, 2), sample("n2", 2, 0), sample("n3", 3, 1)]))
    assert decoded.rejected == []
    assert ticks(decoded) == [1, 2, 3]
    assert metric(decoded, "temperature_celsius") == [50.0] * 3
    alone = DECODE(log([sample("n2", 2, 0)]))
    assert ticks(alone) == [2]
    assert metric(alone, "temperature_celsius") == []


def test_an_empty_run_is_nothing() -> None:
    assert DECODE([]) == Decoded(None, [])


def test_a_part_of_the_columns_is_what_its_messages_alone_decode_to() -> None:
    whole = DECODE(log([sample("n1", 1, 3), sample("n2", 2, 0), sample("n3", 3, 2, power_watts=[1.0, 2.0])])).columns
    assert whole is not None
    part = whole.part(1, 3)
    assert part.gpu_count.tolist() == [0, 2]
    assert part.values[METRICS.index("power_watts")].tolist() == [1.0, 2.0]
    assert part.places[0] == ("hall-a", "r1", "n2")
    assert list(part.serials[1]) == ["n3-0", "n3-1"]


# --- what is refused --------------------------------------------------------------------------------------------------

ENCODED = CODEC.encode(sample("bad", 3))
BAD: dict[str, tuple[bytes | None, str]] = {
    "no bytes": (None, "not_avro"),
    "empty": (b"", "not_avro"),
    "garbage": (b"hello, this is no Avro at all", "not_avro"),
    "no text where text belongs": (ENCODED.replace(b"hall-a", b"hall-\xff"), "not_avro"),
    "truncated": (ENCODED[:-7], "truncated"),
    "head only": (ENCODED[:10], "truncated"),
    "one byte too many": (ENCODED + b"\x00", "trailing_bytes"),
    "another sample behind it": (ENCODED + ENCODED[10:], "trailing_bytes"),
    "a foreign schema": (CODEC.encode(event()), "wrong_record"),
    "an unknown fingerprint": (MARKER + b"\x01\x02\x03\x04\x05\x06\x07\x08" + ENCODED[10:], "unknown_schema"),
    "a metric too short": (CODEC.encode(sample("bad", 3, 2, power_watts=[1.0])), "wrong_gpu_count"),
    "a metric too long": (CODEC.encode(sample("bad", 3, 2, power_watts=[1.0] * 3)), "wrong_gpu_count"),
    "bits too short": (CODEC.encode(sample("bad", 3, 2, throttle_reasons=[0])), "wrong_gpu_count"),
    "readings of no GPU": (CODEC.encode(sample("bad", 3, 0, power_watts=[1.0])), "wrong_gpu_count"),
    "indices too short": (
        CODEC.encode(msgspec.structs.replace(sample("bad", 3, 2), gpu_index=[0])),
        "wrong_gpu_count",
    ),
    "far in the future": (CODEC.encode(sample("bad", 3 + 61)), "time_in_future"),
    "the end of time": (CODEC.encode(msgspec.structs.replace(sample("bad"), tick_ms=2**63 - 1)), "time_in_future"),
    "before 1970": (CODEC.encode(msgspec.structs.replace(sample("bad"), tick_ms=-1)), "time_negative"),
    "the beginning of time": (CODEC.encode(msgspec.structs.replace(sample("bad"), tick_ms=-(2**63))), "time_negative"),
}


@pytest.mark.parametrize("place", ["first", "in the middle", "last", "alone"])
@pytest.mark.parametrize("what", BAD)
def test_a_bad_message_is_refused_with_the_reason_and_its_neighbours_are_processed(what: str, place: str) -> None:
    value, reason = BAD[what]
    good: list[Any] = [] if place == "alone" else list(GOOD)
    at = {"first": 0, "in the middle": 2, "last": 5, "alone": 0}[place]
    good.insert(at, message(value, at_ms=START_MS + 3000))
    decoded = DECODE(log(good))
    assert [(refused.message.offset, refused.reason) for refused in decoded.rejected] == [(at, reason)]
    assert decoded.rejected[0].detail, "a human reads it in the dead letter"
    assert ticks(decoded) == ([] if place == "alone" else [1, 2, 3, 4, 5])


def test_several_bad_messages_are_refused_each_with_its_own_reason() -> None:
    bad = [message(value, at_ms=START_MS + 3000) for value, _ in BAD.values()]
    mixed: list[Message | GpuSample] = []
    for one, good in zip(bad, GOOD * 4, strict=False):
        mixed += [one, good]
    decoded = DECODE(log(mixed))
    found = {refused.message.offset: refused.reason for refused in decoded.rejected}
    assert found == {2 * number: reason for number, (_, reason) in enumerate(BAD.values())}
    assert len(ticks(decoded)) == len(mixed) - len(bad)


def test_time_is_judged_by_when_the_broker_got_the_message() -> None:
    # a replay of an old log is no news of the past, and a node's clock is held against the broker's
    on_the_edge = message(sample("n1", 60), at_ms=START_MS)
    beyond = message(sample("n2", 60.001), at_ms=START_MS)
    old = message(sample("n3", -(10**7)), at_ms=START_MS)
    decoded = DECODE(log([on_the_edge, beyond, old]))
    assert [(refused.message.offset, refused.reason) for refused in decoded.rejected] == [(1, "time_in_future")]
    assert ticks(decoded) == [60, -(10**7)]


# --- earlier writers --------------------------------------------------------------------------------------------------


def earlier_version(without: tuple[str, ...] = (), types: dict[str, Any] | None = None) -> Schema:
    """A version of the schema that lacks some fields, and has other types for some."""
    document = registry.current("GpuSample").parsed
    fields = [field for field in document["fields"] if field["name"] not in without]
    fields = [field | {"type": (types or {}).get(field["name"], field["type"])} for field in fields]
    plain = {"type": "record", "name": "GpuSample", "namespace": "fleetpulse", "fields": fields}
    return registry.parse(msgspec.json.encode(plain), current=False)


def written_with(schema: Schema, record: GpuSample, **also: Any) -> bytes:
    out = io.BytesIO(MARKER + schema.fingerprint)
    out.seek(0, io.SEEK_END)
    schemaless_writer(out, schema.parsed, msgspec.to_builtins(record) | also)
    return out.getvalue()


def decoder_that_knows(schema: Schema) -> SampleDecoder:
    codec = SingleObjectCodec()
    codec._known = codec._known | {schema.fingerprint: schema}
    return SampleDecoder(codec, future_ms=60_000)


OLD = earlier_version(without=("power_watts", "interval_ms"), types={"sequence": "int"})


def test_an_older_writer_among_newer_ones_keeps_the_order_of_the_log() -> None:
    record = sample("old", 2, 2, power_watts=[7.0, 7.0], interval_ms=5000)
    old = message(written_with(OLD, msgspec.structs.replace(record, sequence=2)), at_ms=START_MS)
    run: list[GpuSample | Message] = [
        sample("n1", 1, 1, power_watts=1.0),
        old,
        sample("n3", 3, 1, power_watts=3.0),
        old,
        sample("n5", 5, 1),
    ]
    decoded = decoder_that_knows(OLD)(log(run))
    assert decoded.rejected == []
    assert ticks(decoded) == [1, 2, 3, 2, 5]
    np.testing.assert_array_equal(metric(decoded, "power_watts"), [1.0, np.nan, np.nan, 3.0, np.nan, np.nan, np.nan])


def test_a_run_of_older_writers_only_takes_the_defaults_for_what_they_did_not_know() -> None:
    old = message(written_with(OLD, msgspec.structs.replace(sample("old", 2), sequence=2)), at_ms=START_MS)
    decoded = decoder_that_knows(OLD)(log([old, old]))
    assert decoded.rejected == []
    assert decoded.columns is not None
    assert decoded.columns.interval_ms.tolist() == [1000, 1000]
    assert metric(decoded, "temperature_celsius") == [50.0] * 4


def test_a_bad_message_of_an_older_writer_is_refused_by_itself() -> None:
    value = written_with(OLD, msgspec.structs.replace(sample("old", 2), sequence=2))
    run = log([GOOD[0], message(value, at_ms=START_MS), message(value[:-3], at_ms=START_MS), GOOD[1]])
    decoded = decoder_that_knows(OLD)(run)
    assert [(refused.message.offset, refused.reason) for refused in decoded.rejected] == [(2, "truncated")]
    assert ticks(decoded) == [1, 2, 2]


def test_an_older_version_may_have_had_fields_of_any_type() -> None:
    # what a later version may drop must not stop its reader either
    document = registry.current("GpuSample").parsed
    also = [
        {"name": "note", "type": ["null", "string"]},
        {"name": "share", "type": "double"},
        {"name": "final", "type": "boolean"},
    ]
    plain = {"type": "record", "name": "GpuSample", "fields": [*also, *document["fields"]]}
    schema = registry.parse(msgspec.json.encode(plain), current=False)
    value = written_with(schema, sample("n2", 2), note="x", share=0.5, final=True)
    decoded = decoder_that_knows(schema)(log([GOOD[0], message(value, at_ms=START_MS)]))
    assert decoded.rejected == []
    assert ticks(decoded) == [1, 2]


def test_no_version_of_a_sample_has_a_map_because_polars_reads_none() -> None:
    for schema in registry.known().values():
        if schema.name == "GpuSample":
            kinds = [field["type"] for field in schema.canonical["fields"]]
            assert not [kind for kind in kinds if isinstance(kind, dict) and kind["type"] != "array"]


def test_one_bad_message_does_not_make_the_whole_run_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from streams.readings import decode

    blocks: list[int] = []
    read = decode._read_block

    def counted(schema: Schema, bodies: list[bytes], columns: tuple[str, ...]) -> Any:
        blocks.append(len(bodies))
        return read(schema, bodies, columns)

    monkeypatch.setattr(decode, "_read_block", counted)
    run: list[Message | GpuSample] = [sample("n", at) for at in range(512)]
    run[300] = message(ENCODED[:-7], at_ms=START_MS)
    decoded = DECODE(log(run))
    assert [refused.message.offset for refused in decoded.rejected] == [300]
    assert ticks(decoded) == [at for at in range(512) if at != 300]
    assert sum(blocks) < 3 * 512, "messages decoded, in all tries together"
