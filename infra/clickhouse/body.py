"""Bodies of requests: decompressed, in pieces of bounded size."""

from collections.abc import AsyncIterator
from typing import Final

from aiohttp import BodyPartReader, web

from infra.clickhouse import metrics
from infra.clickhouse.encoding import Lz4Body
from infra.clickhouse.protocol import query_error
from infra.clickhouse.statement import Insert, insert_of

PIECE_BYTES: Final = 16 * 2**20  # of an INSERT's data held at one time; the usual INSERT is one piece
FORM_BYTES: Final = 2**20
FORM: Final = "multipart/form-data"
READABLE: Final = ("identity", "gzip", "deflate", "zstd", "lz4")


async def keys_of(request: web.Request) -> dict[str, str]:
    """The keys of the URL and, where the body is a form, those of the form.

    Raises:
        QueryError: the form holds a file (an external table), or is too large.
    """
    keys = dict(request.query)
    if request.content_type == FORM:
        left = FORM_BYTES
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or part.name is None or part.filename:
                raise query_error(48, "NOT_IMPLEMENTED", "External tables are not offered by the embedded ClickHouse")
            value = bytearray()
            while chunk := await part.read_chunk():
                value += chunk
                left -= len(chunk)
                if left < 0:
                    raise query_error(62, "SYNTAX_ERROR", f"A form may hold {FORM_BYTES} bytes, this one is larger")
            keys[part.name] = value.decode("utf-8", "surrogateescape")
    return keys


async def pieces(request: web.Request, size: int) -> AsyncIterator[bytes]:
    """The body in pieces of about `size` bytes, undone from any compression.

    Raises:
        QueryError: it is not compressed as it says.
    """
    if not request.body_exists or request.content_type == FORM:
        return
    held: list[bytes] = []
    held_bytes = 0
    async for plain in _decompressed(request):
        metrics.RECEIVED_BYTES.inc(len(plain))
        held.append(plain)
        held_bytes += len(plain)
        if held_bytes >= size:
            yield b"".join(held)
            held, held_bytes = [], 0
    if held:
        yield b"".join(held)


async def _decompressed(request: web.Request) -> AsyncIterator[bytes]:
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if encoding not in READABLE:
        raise query_error(
            432, "UNKNOWN_COMPRESSION_METHOD", f"Unknown Content-Encoding {encoding!r}, offered: {', '.join(READABLE)}"
        )
    lz4 = Lz4Body() if encoding == "lz4" else None
    try:
        async for chunk in request.content.iter_any():
            yield lz4.piece(chunk) if lz4 else chunk
    except web.RequestPayloadError as error:
        raise query_error(271, "CANNOT_DECOMPRESS", f"The body cannot be read: {error}") from None
    if lz4:
        lz4.end()


def joined(head: bytes, first: bytes) -> tuple[bytes, Insert | None, bytes | memoryview]:
    """The statement, whether it is an INSERT with data, and the data so far; `head` is from the URL, `first` the body.

    As on a ClickHouse server both together are the statement; where the URL holds an INSERT up to its FORMAT, the body
    is data, untouched.
    """
    if head:
        insert = insert_of(head)
        if insert is not None:
            begun = head[insert.data_at :]
            return head, insert, begun + b"\n" + first if begun else first
        text = head + b"\n" + first if first else head
    else:
        text = first
    insert = insert_of(text)
    return text, insert, memoryview(text)[insert.data_at :] if insert else b""
