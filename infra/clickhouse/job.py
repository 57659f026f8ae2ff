"""One statement from its handle to its counts: the blocking side of a request."""

from collections.abc import Mapping
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO, Final

from infra.clickhouse.access import Login
from infra.clickhouse.analyst import ANALYST, Policy
from infra.clickhouse.encoding import Compressor
from infra.clickhouse.engine import Answer, Engine, Handle, Stream
from infra.clickhouse.folder import Folder
from infra.clickhouse.protocol import Counts, Query, QueryError, query_error, quoted
from infra.clickhouse.sessions import Session
from infra.clickhouse.statement import inserts

HELD_IN_MEMORY_BYTES: Final = 16 * 2**20  # of an answer; the rest waits in a file


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one statement may take: settings of the engine."""

    writer: Mapping[str, str]
    analyst: Mapping[str, str]
    held_bytes: int  # of an answer that is held until it is whole, put together from blocks
    result_bytes: int  # of one that the engine puts together in memory
    keep_free_bytes: int  # of the disk


@dataclass(frozen=True, slots=True)
class Whole:
    """An answer that was held until its statement had ended: as it is to be sent, its sizes, and the counts.

    A large one lies in a file; close it after use.
    """

    sent: IO[bytes]
    sent_bytes: int
    plain_bytes: int
    counts: Counts


def check_room(folder: Folder, needed_bytes: int) -> None:
    """Refuse to write where the disk is nearly full.

    Raises:
        QueryError: there is less room than this.
    """
    free_bytes = folder.free_bytes()
    if free_bytes < needed_bytes:
        raise query_error(
            243,
            "NOT_ENOUGH_SPACE",
            f"The disk of {folder.engine} has {free_bytes // 2**20} MiB free, "
            f"{needed_bytes // 2**20} MiB must stay free: free some space",
        )


@dataclass(slots=True)
class Job:
    """A statement on its handle. All methods block; call `begin` first and `end` last."""

    engine: Engine
    folder: Folder
    policy: Policy
    limits: Limits
    login: Login
    query: Query
    statement: bytes
    session: Session | None
    comment: str
    reads_only: bool
    holds: bool  # the engine's answer comes in one piece
    kind: str = ""
    _handle: Handle | None = None

    def begin(self) -> None:
        """Take a handle, judge the statement, and set what the request asks for.

        Raises:
            QueryError: the statement may not run, or a setting is unknown.
        """
        kept = self.session.handle if self.session else None
        self._handle = kept or self.engine.handle()
        if not self.login.writes:
            self._handle.query(f"SET ROLE {ANALYST}")
        if self.query.database:
            self._handle.use(self.query.database)
        if self.login.writes:
            self._judge_writer(self._handle)
            self._handle.set(self._settings())
        else:
            self._handle.set(self._settings())
            self.policy.check(self._handle, self.statement, self.query.params)
            self.kind = "READ_ONLY"

    def _judge_writer(self, handle: Handle) -> None:
        self.kind, count = handle.classify(self.statement)
        if count > 1:
            raise query_error(62, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed)")
        if self.reads_only and self.kind not in {"READ_ONLY", "UNKNOWN"}:
            raise query_error(
                164,
                "READONLY",
                f"{self.login.name}: Cannot execute query in readonly mode. "
                "For queries over HTTP, method GET implies readonly. You should use method POST for modifying queries.",
            )

        if inserts(self.statement):
            check_room(self.folder, self.limits.keep_free_bytes)

    def _settings(self) -> dict[str, str]:
        settings = {"log_comment": self.comment}
        if self.holds:
            settings["max_result_bytes"] = str(self.limits.result_bytes)
        if self.login.writes:
            return settings | dict(self.limits.writer) | dict(self.query.settings)
        if self.query.settings:
            raise query_error(
                164, "READONLY", f"Cannot modify '{next(iter(self.query.settings))}' setting in readonly mode"
            )
        return settings | dict(self.limits.analyst) | {"readonly": "1"}

    @property
    def handle(self) -> Handle:
        """The handle of a job that has begun."""
        if self._handle is None:
            raise RuntimeError("the job has not begun")
        return self._handle

    def run(self) -> Answer:
        """Run the statement to its end; when this returns, what it wrote is on the disk."""
        answer = self.handle.query(self.statement, self.query.default_format, self.query.params)
        if inserts(self.statement):
            # no promise if the disk became full meanwhile: a write may have failed unseen by the engine
            check_room(self.folder, self.limits.keep_free_bytes // 16)
        return answer

    def whole(self, compressor: Compressor | None, *, by_block: bool) -> Whole:
        """Run the statement to its end and hold its answer; `by_block` if its format may be put together from blocks.

        Raises:
            QueryError: it failed, or its answer is larger than may be held.
        """
        held = SpooledTemporaryFile(HELD_IN_MEMORY_BYTES, dir=str(self.folder.temporary))  # noqa: SIM115 - handed out
        try:
            return self._hold(held, compressor, by_block=by_block)
        except BaseException as error:
            held.close()
            if isinstance(error, OSError):
                raise query_error(243, "NOT_ENOUGH_SPACE", f"Cannot hold the answer: {error}") from error
            raise

    def _hold(self, held: IO[bytes], compressor: Compressor | None, *, by_block: bool) -> Whole:
        stream = self.stream() if by_block else None
        try:
            size = 0
            counts = Counts()
            answer = stream.next() if stream else self.run()
            while answer is not None:
                data = answer.body
                size += len(data)
                if size > HELD_IN_MEMORY_BYTES:
                    check_room(self.folder, self.limits.keep_free_bytes)
                if size > self.limits.held_bytes:
                    raise query_error(
                        396,
                        "TOO_MANY_ROWS_OR_BYTES",
                        f"The answer is larger than {self.limits.held_bytes // 2**20} MiB, as much as is held until a "
                        "statement has ended: ask for it block by block (query_row_block_stream; no wait_end_of_query)",
                    )
                held.write(compressor.piece(data) if compressor and data else data)
                counts += answer.counts
                answer = stream.next() if stream else None
            if compressor and size:
                held.write(compressor.end())
        finally:
            if stream:
                stream.close()
        sent_bytes = held.tell()
        held.seek(0)
        return Whole(held, sent_bytes, size, counts)

    def stream(self) -> Stream:
        """Run a SELECT and hand its output out block by block."""
        return self.handle.stream(self.statement, self.query.default_format, self.query.params)

    def end(self) -> None:
        """Give the handle back, or leave it to the session whose state it holds."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        if self.session is None or not self.login.writes:
            handle.close()
            return
        try:
            kept = self.session.handle is handle
            if kept or self.kind == "CONTROL":
                self._restore(handle, self.session)
                self.session.handle = handle
            else:
                handle.close()
        except QueryError:  # a state that cannot be restored (readonly=1, a dropped database) is not worth keeping
            self.session.handle = None
            handle.close()

    def _restore(self, handle: Handle, session: Session) -> None:
        """Undo what this request alone asked for, then note what the statement made of the session."""
        before = ((name, session.own_settings.get(name)) for name in self._settings())
        handle.query(
            "SET " + ", ".join(f"{name} = {'DEFAULT' if own is None else quoted(own)}" for name, own in before)
        )
        if self.query.database:
            handle.use(session.database)
        if self.kind == "CONTROL":
            session.own_settings = _changed_settings(handle)
            session.database = handle.text("SELECT currentDatabase()")


def _changed_settings(handle: Handle) -> dict[str, str]:
    listed = handle.query("SELECT name, value FROM system.settings WHERE changed AND name != 'database'", "TSV").body
    pairs = (line.split("\t", 1) for line in listed.decode().splitlines())
    return {name: _plain(value) for name, value in pairs}


def _plain(value: str) -> str:
    """A setting's value from a tab-separated file; expressions such as 'auto(2)' come quoted."""
    text = value.replace("\\t", "\t").replace("\\n", "\n").replace("\\'", "'").replace("\\\\", "\\")
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == "'" else text
