"""Compression of bodies, both ways.

The HTTP library has already undone gzip, deflate and zstd when a body arrives; only lz4 is left to do here.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Final, Protocol

import cramjam
from lz4.frame import LZ4FrameCompressor, LZ4FrameDecompressor

from infra.clickhouse.protocol import query_error


class Compressor(Protocol):
    """Compresses an answer piece by piece."""

    def piece(self, data: bytes) -> bytes:
        """What is to be sent for this piece, so that the reader can decode all of it."""

    def end(self) -> bytes:
        """What ends the answer."""


class _Cramjam:
    def __init__(self, library: ModuleType) -> None:
        self._compressor = library.Compressor()

    def piece(self, data: bytes) -> bytes:
        self._compressor.compress(data)
        return bytes(self._compressor.flush())

    def end(self) -> bytes:
        return bytes(self._compressor.finish())


class _Lz4:
    def __init__(self) -> None:
        self._compressor = LZ4FrameCompressor(auto_flush=True)
        self._begun = False

    def piece(self, data: bytes) -> bytes:
        head = b"" if self._begun else self._compressor.begin()
        self._begun = True
        return bytes(head + self._compressor.compress(data))

    def end(self) -> bytes:
        return bytes((b"" if self._begun else self._compressor.begin()) + self._compressor.flush())


_OFFERED: Final[dict[str, Callable[[], Compressor]]] = {
    "lz4": _Lz4,
    "zstd": lambda: _Cramjam(cramjam.zstd),
    "gzip": lambda: _Cramjam(cramjam.gzip),
}


def chosen(accepted: str) -> str | None:
    """The encoding for an answer, from the request's Accept-Encoding: the fastest that is accepted, or none."""
    names = set()
    for part in accepted.lower().split(","):
        name, _, weight = part.partition(";")
        if weight.replace(" ", "") not in {"q=0", "q=0.0"}:
            names.add(name.strip())
    return next((name for name in _OFFERED if name in names), None)


def compressor(encoding: str) -> Compressor:
    """A compressor for one answer."""
    return _OFFERED[encoding]()


class Lz4Body:
    """An lz4 body, decoded as it comes."""

    def __init__(self) -> None:
        self._decoder = LZ4FrameDecompressor()

    def piece(self, data: bytes) -> bytes:
        """What this piece of the body holds.

        Raises:
            QueryError: the body is not an lz4 frame.
        """
        plain = b""
        while data:
            if self._decoder.eof:  # frames may follow one another
                self._decoder = LZ4FrameDecompressor()
            try:
                plain += self._decoder.decompress(data)
            except RuntimeError as error:
                raise query_error(271, "CANNOT_DECOMPRESS", f"The body is not lz4: {error}") from None
            data = self._decoder.unused_data or b"" if self._decoder.eof else b""
        return plain

    def end(self) -> None:
        """Check that the body was whole.

        Raises:
            QueryError: it ended within a frame.
        """
        if not self._decoder.eof:
            raise query_error(271, "CANNOT_DECOMPRESS", "The lz4 body ends too early")
