"""Compression, both ways: what a client can read, in whatever pieces it comes."""

import gzip

import cramjam
import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.clickhouse.encoding import Lz4Body, chosen, compressor
from infra.clickhouse.protocol import QueryError

DECODERS = {
    "lz4": lz4.frame.decompress,
    "zstd": lambda data: bytes(cramjam.zstd.decompress(data)),
    "gzip": gzip.decompress,
}


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("gzip, zstd", "zstd"),
        ("lz4,zstd,gzip,deflate", "lz4"),
        ("GZIP;q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("br, identity", None),
    ],
)
def test_the_fastest_encoding_that_the_client_accepts_is_taken(accepted: str, expected: str | None) -> None:
    assert chosen(accepted) == expected


@pytest.mark.parametrize("name", sorted(DECODERS))
@given(parts=st.lists(st.binary(max_size=2000), max_size=5))
def test_pieces_make_one_body(name: str, parts: list[bytes]) -> None:
    encoder = compressor(name)
    body = b"".join(encoder.piece(part) for part in parts) + encoder.end()
    assert DECODERS[name](body) == b"".join(parts)


@given(data=st.binary(max_size=5000), cut=st.integers(1, 300), frames=st.integers(1, 3))
def test_an_lz4_body_is_read_wherever_it_is_cut(data: bytes, cut: int, frames: int) -> None:
    sent = lz4.frame.compress(data) * frames
    body = Lz4Body()
    plain = b"".join(body.piece(sent[at : at + cut]) for at in range(0, len(sent), cut))
    body.end()
    assert plain == data * frames


def test_a_body_that_ends_within_a_frame_is_an_error() -> None:
    body = Lz4Body()
    body.piece(lz4.frame.compress(b"x" * 1000)[:-5])
    with pytest.raises(QueryError, match="too early"):
        body.end()


def test_a_body_that_is_not_lz4_is_an_error() -> None:
    with pytest.raises(QueryError, match="not lz4"):
        Lz4Body().piece(b"this is plain text, not a frame")
