"""The HTTP front: requests in, statements through the engine's handles, answers out."""

import asyncio
import contextlib
import functools
import ipaddress
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from tempfile import NamedTemporaryFile
from typing import IO, Final, TypeVar

from aiohttp import web

from infra.clickhouse import body, encoding, metrics, protocol, statement
from infra.clickhouse.access import Keys, Login, login
from infra.clickhouse.analyst import ANALYST, Policy
from infra.clickhouse.confine import Confinement
from infra.clickhouse.engine import Answer, Engine, Stream
from infra.clickhouse.folder import Folder
from infra.clickhouse.job import HELD_IN_MEMORY_BYTES, Job, Limits, Whole, check_room
from infra.clickhouse.protocol import Query, QueryError, query_error
from infra.clickhouse.sessions import Sessions

T = TypeVar("T")

KEPT_FOR_THE_WRITER: Final = 2  # handles that the read-only login cannot take
ANALYST_STATEMENT_BYTES: Final = 2**18  # the engine reads no more of a statement either (max_query_size)
STALLED_READER_S: Final = 60.0  # a client that takes nothing of its answer for so long is given up


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose login and keys have been read."""

    http: web.Request
    user: Login
    query: Query
    headers: dict[str, str]  # of the answer, so far
    taken: contextlib.AsyncExitStack  # what the statement holds: its name, session, handle

    @property
    def query_id(self) -> str:
        """The client's name for the statement, or one of ours."""
        return self.headers["X-ClickHouse-Query-Id"]

    @property
    def encoding(self) -> str | None:
        """How the answer is to be compressed; only if asked for by a setting, as on a ClickHouse server."""
        return encoding.chosen(self.http.headers.get("Accept-Encoding", "")) if self.query.compress else None


class Front:
    """The server's state: handles in use, sessions, and the statements that run."""

    def __init__(
        self,
        engine: Engine,
        folder: Folder,
        policy: Policy,
        keys: Keys,
        *,
        limits: Limits,
        confinement: Confinement,
        handles: int,
        open_to_hosts: bool,
    ) -> None:
        self._engine = engine
        self._folder = folder
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
        self._stopping = False  # no statement is taken any more
        self._ended = False  # none is begun any more

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
            "confined": self._confinement.whole,
            "landlock_abi": self._confinement.landlock_abi,
            "filtered": self._confinement.filtered,
        }

    async def _status(self, _: web.Request) -> web.Response:
        return web.json_response(self.status() | {"gaps": self._confinement.gaps(), "running": self.running})

    async def sweep(self) -> None:
        """Close the handles of sessions whose time is over."""
        for handle in self._sessions.ended():
            await self._do(handle.close)
        metrics.SESSIONS.set(len(self._sessions))

    async def drain(self, *, grace_s: float, tick_s: float, tick: Callable[[], None]) -> None:
        """Take no more statements, let those that run finish for a while, and stop the rest."""
        self._stopping = True
        left_s = grace_s
        while self._running and left_s > 0:
            tick()
            await asyncio.sleep(tick_s)
            left_s -= tick_s
        self._ended = True
        for query_id in list(self._running):
            await self._do(self._engine.kill, query_id)

    async def close(self) -> None:
        """Close every session; no statement runs any more."""
        for handle in self._sessions.ended(everything=True):
            await self._do(handle.close)
        self._threads.shutdown()

    async def handle(self, http: web.Request) -> web.StreamResponse:
        """Answer one request."""
        began_s = time.monotonic()
        headers = self._headers(str(uuid.uuid4()))
        try:
            keys = await body.keys_of(http)
            user = self._login(http, keys)
            query = protocol.query_of(keys, http.headers)
            if query.query_id:
                headers = self._headers(query.query_id)
            head = keys.get("query", "").encode("utf-8", "surrogateescape")
            async with contextlib.AsyncExitStack() as taken:
                return await self._answer(Request(http, user, query, headers, taken), head)
        except QueryError as error:
            metrics.ERRORS.labels(code=str(error.code)).inc()
            text = error.text if "(version " in error.text else f"{error.text} (version {self._engine.version})"
            headers["X-ClickHouse-Exception-Code"] = str(error.code)
            return web.Response(status=protocol.http_status(error.code), text=text + "\n", headers=headers)
        finally:
            metrics.SECONDS.observe(time.monotonic() - began_s)

    def _headers(self, query_id: str) -> dict[str, str]:
        return {
            "X-ClickHouse-Query-Id": query_id,
            "X-ClickHouse-Timezone": self._engine.timezone,
            "X-ClickHouse-Server-Display-Name": "fleetpulse",
        }

    def _login(self, http: web.Request, keys: dict[str, str]) -> Login:
        user = login(self._keys, keys, http.headers)
        if user.name == ANALYST and self._keys.analyst is None:
            if self._open_to_hosts:
                raise query_error(
                    516, "AUTHENTICATION_FAILED", "The read-only login has no password, so it is for loopback: set one"
                )
            if not names_loopback(http.host):  # a web page that has pointed its own name at 127.0.0.1
                raise query_error(
                    516,
                    "AUTHENTICATION_FAILED",
                    f"The host {http.host!r} is not this machine: ask 127.0.0.1, or set a password for this login",
                )
        return user

    @contextlib.contextmanager
    def _registered(self, query_id: str) -> Iterator[None]:
        if self._stopping:
            raise query_error(236, "ABORTED", "The server is stopping")
        if query_id in self._running:
            raise query_error(
                216, "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING", f"Query with id = {query_id} is already running"
            )
        self._running.add(query_id)
        metrics.RUNNING.inc()
        try:
            yield
        finally:
            self._running.discard(query_id)
            metrics.RUNNING.dec()

    async def _answer(self, request: Request, head: bytes) -> web.StreamResponse:
        user, query = request.user, request.query
        size = body.PIECE_BYTES if user.writes else ANALYST_STATEMENT_BYTES
        data = body.pieces(request.http, size)
        text, insert, begun = body.joined(head, await anext(data, b""))
        if not text.strip():
            return web.Response(text="Ok.\n")
        if insert is None and await anext(data, None) is not None:
            raise query_error(62, "SYNTAX_ERROR", f"The statement is longer than {size} bytes")
        if insert is not None and user.writes:
            text = insert.statement(await self._from_file(request, begun, data))
        elif insert is not None:
            text = insert.statement()  # will be refused, whatever its data
        result_format = statement.format_of(text) or query.default_format if insert is None else ""
        by_block = result_format in statement.STREAMED_FORMATS and statement.selects(text)
        streams = by_block and not query.hold
        request.taken.enter_context(self._registered(request.query_id))
        session = None
        if query.session_id:
            session = self._sessions.take(user.name, query.session_id, check=query.session_check)
            request.taken.callback(self._sessions.give, session, timeout_s=query.session_timeout_s)
        job = Job(
            engine=self._engine,
            folder=self._folder,
            policy=self._policy,
            limits=self._limits,
            login=user,
            query=query,
            statement=text,
            session=session,
            comment=request.query_id,
            reads_only=request.http.method == "GET",
            holds=not by_block,
        )
        if not user.writes:
            await request.taken.enter_async_context(self._analyst_handles)
        await request.taken.enter_async_context(self._handles)
        if self._ended:
            raise query_error(236, "ABORTED", "The server is stopping")
        try:
            if streams:
                return await self._streamed(request, job, result_format)
            return await self._held(request, job, result_format, by_block=by_block)
        finally:
            metrics.QUERIES.labels(login=user.name, kind=job.kind.lower() or "refused").inc()

    async def _from_file(self, request: Request, begun: bytes | memoryview, data: AsyncIterator[bytes]) -> bytes:
        """The data of an INSERT, written to a file for the engine to read: FROM INFILE ….

        chDB's interface for data in pieces (`send_insert`) reports only what goes wrong in reading them: a violated
        constraint, a view that fails, a full disk were all acknowledged (chDB 4.4). And data that break off on their
        way leave no trace like this.
        """
        file = NamedTemporaryFile(dir=self._folder.temporary, prefix="insert-")  # noqa: SIM115
        request.taken.enter_context(file)
        try:
            await self._do(_append, file, begun)
            async for piece in data:
                check_room(self._folder, self._limits.keep_free_bytes)
                await self._do(_append, file, piece)
        except OSError as error:
            raise query_error(243, "NOT_ENOUGH_SPACE", f"Cannot take in the data: {error}") from error
        return b"FROM INFILE " + protocol.quoted(file.name).encode()

    async def _do(self, work: Callable[..., T], *given: object, job: Job | None = None) -> T:
        """Run blocking work in a thread.

        A request that is cancelled (its client has gone) still waits until its thread is through; if the job only reads
        it is stopped.
        """
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._threads, functools.partial(work, *given))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            while not future.done():
                if job is not None and job.kind == "READ_ONLY":
                    await loop.run_in_executor(None, self._engine.kill, job.comment)
                await asyncio.wait([future], timeout=0.2)
            if not future.cancelled():
                future.exception()  # looked at: nobody is left to be told
            raise

    async def _held(self, request: Request, job: Job, result_format: str, *, by_block: bool) -> web.StreamResponse:
        name = request.encoding

        def work() -> Whole:
            try:
                job.begin()
                return job.whole(encoding.compressor(name) if name else None, by_block=by_block)
            finally:
                job.end()

        whole = await self._do(work, job=job)
        with whole.sent as sent:
            metrics.SENT_BYTES.inc(whole.plain_bytes)
            metrics.RESULT_ROWS.inc(whole.counts.result_rows)
            metrics.WRITTEN_ROWS.inc(whole.counts.written_rows)
            headers = request.headers | {"X-ClickHouse-Summary": protocol.summary(whole.counts)}
            if job.kind == "READ_ONLY" or whole.plain_bytes:
                headers |= protocol.result_headers(result_format)
            if name is not None and whole.plain_bytes:
                headers["Content-Encoding"] = name
            if whole.sent_bytes <= HELD_IN_MEMORY_BYTES:
                return web.Response(body=sent.read(), headers=headers)
            await request.taken.aclose()
            response = web.StreamResponse(headers=headers | {"Content-Length": str(whole.sent_bytes)})
            await response.prepare(request.http)
            while piece := await self._do(sent.read, 2**20):
                await _write(response, piece)
            await response.write_eof()
            return response

    async def _streamed(self, request: Request, job: Job, result_format: str) -> web.StreamResponse:
        stream: Stream | None = None

        def start() -> tuple[Stream, Answer | None]:
            nonlocal stream
            job.begin()
            stream = job.stream()
            return stream, stream.next()  # what fails at once is told with its proper status

        request.taken.push_async_callback(lambda: self._do(_end, stream, job))
        begun, block = await self._do(start, job=job)
        return await self._send(request, job, begun, block, result_format)

    async def _send(
        self, request: Request, job: Job, stream: Stream, block: Answer | None, result_format: str
    ) -> web.StreamResponse:
        name = request.encoding
        compressor = encoding.compressor(name) if name else None
        tag = secrets.token_hex(8)
        headers = request.headers | protocol.result_headers(result_format)
        headers["X-ClickHouse-Summary"] = protocol.summary(protocol.Counts())
        headers["X-ClickHouse-Exception-Tag"] = tag
        if name is not None:
            headers["Content-Encoding"] = name
        response = web.StreamResponse(headers=headers)
        await response.prepare(request.http)
        try:
            while block is not None:
                data = block.body
                metrics.SENT_BYTES.inc(len(data))
                metrics.RESULT_ROWS.inc(block.counts.result_rows)
                if compressor is not None:
                    data = await self._do(compressor.piece, data)
                await _write(response, data)
                block = await self._do(stream.next, job=job)
        except QueryError as error:
            metrics.ERRORS.labels(code=str(error.code)).inc()
            last = protocol.broken_stream(tag, error.text)
            await response.write(compressor.piece(last) if compressor else last)
        await request.taken.aclose()  # before the client can know that it has all and ask again
        if compressor is not None:
            await response.write(compressor.end())
        await response.write_eof()
        return response


def _append(file: IO[bytes], data: bytes | memoryview) -> None:
    file.write(data)
    file.flush()


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(STALLED_READER_S):
        await response.write(data)


def _end(stream: Stream | None, job: Job) -> None:
    try:
        if stream is not None:
            stream.close()
    finally:
        job.end()


async def _ok(_: web.Request) -> web.Response:
    return web.Response(text="Ok.\n")


def names_loopback(host: str) -> bool:
    """Whether a Host header (name or address, perhaps with a port) names this machine itself."""
    name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
