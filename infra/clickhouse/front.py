"""The HTTP front: requests in, statements through the engine's handles, answers out."""

import asyncio
import contextlib
import functools
import ipaddress
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import structlog
from aiohttp import web

from infra.clickhouse import encoding, metrics, protocol, statement
from infra.clickhouse.access import ANALYST, Keys, Login, login
from infra.clickhouse.analyst import Policy
from infra.clickhouse.confine import Confinement
from infra.clickhouse.engine import Engine, Inserter, Stream
from infra.clickhouse.job import Job, Limits
from infra.clickhouse.protocol import Failure, Query, failure
from infra.clickhouse.sessions import Sessions

log = structlog.get_logger()

T = TypeVar("T")

PIECE_BYTES: Final = 16 * 2**20  # of an INSERT's data held at one time; the usual INSERT is one piece
KEPT_FOR_THE_WRITER: Final = 2  # handles that the read-only login cannot take
STALLED_READER_S: Final = 60.0  # a client that takes nothing of its answer for so long is given up


class Front:
    """The server's state: handles in use, sessions, and the statements that run."""

    def __init__(
        self,
        engine: Engine,
        policy: Policy,
        keys: Keys,
        *,
        limits: Limits,
        confinement: Confinement,
        handles: int,
        open_to_hosts: bool,
    ) -> None:
        self._engine = engine
        self._policy = policy
        self._keys = keys
        self._limits = limits
        self._confinement = confinement
        self._open_to_hosts = open_to_hosts
        self._threads = ThreadPoolExecutor(handles + KEPT_FOR_THE_WRITER, thread_name_prefix="clickhouse")
        self._handles = asyncio.Semaphore(handles)
        self._analyst_handles = asyncio.Semaphore(handles - KEPT_FOR_THE_WRITER)
        self._sessions = Sessions(time.monotonic)
        self._running: set[str] = set()

    @property
    def running(self) -> int:
        """Statements that run or wait for a handle."""
        return len(self._running)

    def application(self) -> web.Application:
        """The routes."""
        app = web.Application()
        app.router.add_get("/ping", _ok)
        app.router.add_get("/status", self._status)
        for method in ("GET", "POST", "PUT"):
            app.router.add_route(method, "/", self.handle)
        return app

    def status(self) -> dict[str, object]:
        """What the server is and how well it is confined."""
        return {
            "version": self._engine.version,
            "landlock_abi": self._confinement.landlock_abi,
            "filtered": self._confinement.filtered,
            "confined": self._confinement.whole,
        }

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(self.status() | {"gaps": self._confinement.gaps(), "running": self.running})

    async def sweep(self) -> None:
        """Close the handles of sessions whose time is over."""
        for handle in self._sessions.ended():
            await self._do(handle.close)
        metrics.SESSIONS.set(len(self._sessions))

    async def close(self) -> None:
        """Close every session; no statement runs any more."""
        for handle in self._sessions.ended(everything=True):
            await self._do(handle.close)
        self._threads.shutdown()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        began_s = time.monotonic()
        query_id = str(uuid.uuid4())
        try:
            url = await _keys_of(request)
            user = self._login(request, url)
            query = protocol.query_of(url, request.headers)
            query_id = query.query_id or query_id
            with self._registered(query_id):
                return await self._answer(
                    request, url.get("query", "").encode("utf-8", "surrogateescape"), user, query, query_id
                )
        except Failure as error:
            metrics.ERRORS.labels(code=str(error.code)).inc()
            return self._failed(error, query_id)
        finally:
            metrics.SECONDS.observe(time.monotonic() - began_s)

    def _login(self, request: web.Request, url: dict[str, str]) -> Login:
        user = login(self._keys, url, request.headers)
        if user.name == ANALYST and self._keys.analyst is None:
            if self._open_to_hosts:
                raise failure(516, "AUTHENTICATION_FAILED", "The read-only login needs a password on this address")
            if not _names_loopback(request.host):  # a web page that has pointed its own name at 127.0.0.1
                raise failure(516, "AUTHENTICATION_FAILED", f"The host {request.host!r} is not this machine's own")
        return user

    @contextlib.contextmanager
    def _registered(self, query_id: str):
        if query_id in self._running:
            raise failure(
                216, "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING", f"Query with id = {query_id} is already running."
            )
        self._running.add(query_id)
        metrics.RUNNING.inc()
        try:
            yield
        finally:
            self._running.discard(query_id)
            metrics.RUNNING.dec()

    def _failed(self, error: Failure, query_id: str) -> web.Response:
        text = error.text if "(version " in error.text else f"{error.text} (version {self._engine.version})"
        return web.Response(
            status=protocol.http_status(error.code),
            text=text + "\n",
            headers={"X-ClickHouse-Exception-Code": str(error.code), **self._headers(query_id)},
        )

    def _headers(self, query_id: str) -> dict[str, str]:
        return {
            "X-ClickHouse-Query-Id": query_id,
            "X-ClickHouse-Timezone": self._engine.timezone,
            "X-ClickHouse-Server-Display-Name": "fleetpulse",
        }

    async def _answer(
        self, request: web.Request, head: bytes, user: Login, query: Query, query_id: str
    ) -> web.StreamResponse:
        body = _pieces(request)
        first = await anext(body, b"")
        text = head + b"\n" + first if head and first else head or first
        if not text.strip():
            return web.Response(text="Ok.\n")
        insert = statement.insert_of(text)
        if insert is None and (await anext(body, None)) is not None:
            raise failure(
                62, "SYNTAX_ERROR", f"Max query size exceeded: a statement without data has at most {PIECE_BYTES} bytes"
            )
        result_format = statement.format_of(text) or query.default_format if insert is None else ""
        streams = (
            not query.hold
            and insert is None
            and result_format in statement.STREAMED_FORMATS
            and statement.selects(text)
        )
        session = (
            self._sessions.take(user.name, query.session_id, check=query.session_check) if query.session_id else None
        )
        job = Job(
            self._engine, self._policy, self._limits, user, query, text, insert, session,
            comment=query_id, reads_only=request.method == "GET", holds=insert is None and not streams,
        )  # fmt: skip
        headers = self._headers(query_id)
        try:
            async with self._a_handle(user):
                if insert is not None:
                    return await self._insert(job, text[insert.data_at :], body, headers)
                if streams:
                    return await self._streamed(request, job, result_format, headers)
                return await self._held(request, job, result_format, headers)
        finally:
            if session is not None:
                self._sessions.give(session, timeout_s=query.session_timeout_s)
            metrics.QUERIES.labels(login=user.name, kind=job.kind.lower() or "refused").inc()

    @contextlib.asynccontextmanager
    async def _a_handle(self, user: Login) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as taken:
            if not user.writes:
                await taken.enter_async_context(self._analyst_handles)
            await taken.enter_async_context(self._handles)
            yield

    async def _do(self, work: Callable[..., T], *given: object, kill: str | None = None) -> T:
        """Run blocking work in a thread. A cancelled request waits until its thread is through (`kill` hurries it)."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._threads, functools.partial(work, *given))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                if kill is not None:
                    await loop.run_in_executor(None, self._engine.kill, kill)
                await asyncio.wait([future], timeout=0.2)
            if not future.cancelled():
                future.exception()  # looked at: nobody is left to be told
            raise

    async def _held(
        self, request: web.Request, job: Job, result_format: str, headers: dict[str, str]
    ) -> web.StreamResponse:
        name = encoding.chosen(request.headers.get("Accept-Encoding", "")) if job.query.compress else None

        def work() -> tuple[bytes, bytes, protocol.Counts]:
            try:
                job.begin()
                answer = job.run()
                plain = answer.body
            finally:
                job.end()
            if name is None or not plain:
                return plain, plain, answer.counts
            compressor = encoding.compressor(name)
            return plain, compressor.piece(plain) + compressor.end(), answer.counts

        plain, sent, counts = await self._do(work, kill=job.comment)
        metrics.SENT_BYTES.inc(len(plain))
        metrics.RESULT_ROWS.inc(counts.result_rows)
        metrics.WRITTEN_ROWS.inc(counts.written_rows)
        headers["X-ClickHouse-Summary"] = protocol.summary(counts)
        if job.kind == "READ_ONLY" or plain:
            headers |= protocol.result_headers(result_format)
        if name is not None and plain:
            headers["Content-Encoding"] = name
        return web.Response(body=sent, headers=headers)

    async def _streamed(
        self, request: web.Request, job: Job, result_format: str, headers: dict[str, str]
    ) -> web.StreamResponse:
        name = encoding.chosen(request.headers.get("Accept-Encoding", "")) if job.query.compress else None

        def start() -> tuple[Stream, tuple[bytes, int] | None]:
            job.begin()
            stream = job.stream()
            return stream, stream.next()  # what fails at once is told with its proper status

        stream: Stream | None = None
        try:
            stream, block = await self._do(start, kill=job.comment)
            tag = secrets.token_hex(8)
            headers |= protocol.result_headers(result_format)
            headers["X-ClickHouse-Summary"] = protocol.summary(protocol.Counts())
            headers["X-ClickHouse-Exception-Tag"] = tag
            if name is not None:
                headers["Content-Encoding"] = name
            response = web.StreamResponse(headers=headers)
            compressor = encoding.compressor(name) if name else None
            await response.prepare(request)
            while block is not None:
                data, rows = block
                metrics.SENT_BYTES.inc(len(data))
                metrics.RESULT_ROWS.inc(rows)
                if compressor is not None:
                    data = await self._do(compressor.piece, data)
                await asyncio.wait_for(response.write(data), STALLED_READER_S)
                try:
                    block = await self._do(stream.next, kill=job.comment)
                except Failure as error:
                    metrics.ERRORS.labels(code=str(error.code)).inc()
                    last = protocol.broken_stream(tag, error.text)
                    await response.write(compressor.piece(last) if compressor else last)
                    block = None
            if compressor is not None:
                await response.write(compressor.end())
            await response.write_eof()
            return response
        finally:
            await self._do(_end, stream, job)

    async def _insert(
        self, job: Job, data: bytes, body: AsyncIterator[bytes], headers: dict[str, str]
    ) -> web.StreamResponse:
        inserter: Inserter | None = None

        def start() -> Inserter:
            job.begin()
            inserter = job.inserter()
            inserter.append(data)
            return inserter

        try:
            inserter = await self._do(start)
            async for piece in body:
                await self._do(inserter.append, piece)
            counts = await self._do(inserter.finish)
            inserter = None
        finally:
            await self._do(_give_up, inserter, job)
        metrics.WRITTEN_ROWS.inc(counts.written_rows)
        headers["X-ClickHouse-Summary"] = protocol.summary(counts)
        return web.Response(headers=headers)


def _end(stream: Stream | None, job: Job) -> None:
    try:
        if stream is not None:
            stream.close()
    finally:
        job.end()


def _give_up(inserter: Inserter | None, job: Job) -> None:
    try:
        if inserter is not None:
            with contextlib.suppress(Failure):  # an INSERT that has failed cannot be cancelled
                inserter.cancel()
    finally:
        job.end()


async def _ok(_: web.Request) -> web.Response:
    return web.Response(text="Ok.\n")


async def _keys_of(request: web.Request) -> dict[str, str]:
    """The keys of the URL and, where the body is a form, of the form."""
    keys = dict(request.query)
    if request.content_type == "multipart/form-data":
        async for part in await request.multipart():
            name = getattr(part, "name", None)
            if name is None or getattr(part, "filename", None):
                raise failure(48, "NOT_IMPLEMENTED", "External tables are not offered by the embedded ClickHouse")
            keys[name] = (await part.read(decode=True)).decode("utf-8", "surrogateescape")
    return keys


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    """The body, decompressed, in pieces of about PIECE_BYTES."""
    if not request.body_exists or request.content_type == "multipart/form-data":
        return
    lz4 = encoding.Lz4Body() if request.headers.get("Content-Encoding", "").lower() == "lz4" else None
    held: list[bytes] = []
    size = 0
    async for chunk in request.content.iter_any():
        plain = lz4.piece(chunk) if lz4 else chunk
        metrics.RECEIVED_BYTES.inc(len(plain))
        held.append(plain)
        size += len(plain)
        if size >= PIECE_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if lz4:
        lz4.end()
    if held:
        yield b"".join(held)


def _names_loopback(host: str) -> bool:
    name = host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.rpartition(":")[0] or host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
