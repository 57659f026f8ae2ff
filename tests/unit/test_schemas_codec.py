"""Bytes on the wire: what is read back, and how unusable bytes are told apart."""

from __future__ import annotations

import pytest

from schemas import registry
from schemas.codec import HEADER_BYTES, MARKER, CodecError, SingleObjectCodec
from schemas.records import DeadLetter, GpuSample, HardwareEvent
from tests.streams_scenes import event, sample

CODEC = SingleObjectCodec()
MESSAGE = CODEC.encode(sample())


def reason(message: bytes | None, kind: type = GpuSample) -> str:
    with pytest.raises(CodecError) as caught:
        CODEC.decode(message, kind)
    assert str(caught.value), "a human reads the detail in a dead letter"
    return caught.value.reason


def test_a_message_is_marker_fingerprint_and_body() -> None:
    assert MESSAGE[:2] == b"\xc3\x01"
    assert MESSAGE[2:10] == registry.current("GpuSample").fingerprint
    assert CODEC.decode(MESSAGE, GpuSample) == sample()


def test_bytes_survive_as_they_are() -> None:
    letter = DeadLetter(
        topic="gpu.samples",
        partition=3,
        offset=7,
        reason="not_avro",
        detail="",
        reader="streams",
        key=b"\xff\x00",
        value=bytes(range(256)),
        observed_ms=1,
    )
    assert CODEC.decode(CODEC.encode(letter), DeadLetter) == letter


@pytest.mark.parametrize("garbage", [None, b"", b"\xc3", b"hello", b'{"gpus": []}', MARKER, MARKER + b"1234567"])
def test_bytes_that_are_not_single_object_encoding_are_not_avro(garbage: bytes | None) -> None:
    assert reason(garbage) == "not_avro"


def test_a_fingerprint_that_this_build_does_not_know_is_an_unknown_schema() -> None:
    assert reason(MARKER + b"\x01\x02\x03\x04\x05\x06\x07\x08" + MESSAGE[HEADER_BYTES:]) == "unknown_schema"


def test_another_record_than_the_topic_holds_is_a_wrong_record() -> None:
    assert reason(CODEC.encode(event())) == "wrong_record"
    assert reason(MESSAGE, HardwareEvent) == "wrong_record"


@pytest.mark.parametrize("length", range(HEADER_BYTES, len(MESSAGE)))
def test_a_message_cut_short_anywhere_is_truncated(length: int) -> None:
    assert reason(MESSAGE[:length]) == "truncated"


def test_bytes_left_over_are_trailing_bytes() -> None:
    assert reason(MESSAGE + b"\x00") == "trailing_bytes"


def test_text_that_is_not_unicode_is_not_avro() -> None:
    assert reason(MESSAGE.replace(b"hall-a", b"hall-\xff")) == "not_avro"


def test_the_body_is_handed_on_undecoded() -> None:
    framed = CODEC.split(MESSAGE, "GpuSample")
    assert framed.schema is registry.current("GpuSample")
    assert framed.body == MESSAGE[HEADER_BYTES:]
