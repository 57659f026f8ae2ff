"""The engine: chDB's handles, one per running statement.

Opening a handle on the running engine costs 0.1 ms, so each statement gets a fresh one: no setting, database or
temporary table of one can leak into the next. Only a session that has state keeps its handle (`sessions.py`).

Everything here blocks and may be called from any thread; one handle serves one statement at a time. Errors of the
engine are raised as `QueryError`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Self

from infra.clickhouse.folder import Folder, StartError
from infra.clickhouse.protocol import Counts, engine_error, quoted, set_statement


class Engine:
    """The one engine of this process; opened once, closed at the end."""

    def __init__(self, folder: Folder) -> None:
        self._path = str(folder.engine)
        self._chdb = _load()
        try:
            # the first handle starts the engine and keeps it running
            self._anchor = Handle(self._chdb.connect(f"{self._path}?config-file={folder.engine_config}"))
        except Exception as error:
            raise StartError(
                f"the engine cannot open the database in {self._path}: {_first_line(error)}; "
                "if it was made by a newer version, update chdb, otherwise restore the folder from a copy"
            ) from error
        self.version = self._anchor.text("SELECT version()")
        self.timezone = self._anchor.text("SELECT timezone()")

    def handle(self) -> "Handle":
        """A fresh handle, with the rights of the writer."""
        with _raised():
            return Handle(self._chdb.connect(self._path))

    def kill(self, comment: str) -> None:
        """Ask the statements that run under this log_comment to stop."""
        with self.handle() as handle:
            handle.query(f"KILL QUERY WHERE Settings['log_comment'] = {quoted(comment)} ASYNC")

    def close(self) -> None:
        """Let the database go; all handles must be closed."""
        self._anchor.close()


def _load() -> ModuleType:
    """Import chDB. That starts engine threads, so the calling thread must be confined before."""
    try:
        from chdb import _chdb
    except ImportError as error:
        raise StartError(
            f"the embedded ClickHouse needs the package chdb ({_first_line(error)}): install fleetpulse with its "
            "'embedded' extra, or point the settings at a ClickHouse server"
        ) from error
    module: ModuleType = _chdb
    return module


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _raised() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the extension raises RuntimeError, and others for odd arguments
        raise engine_error(str(error)) from None


class Answer:
    """A finished statement's output and counts."""

    __slots__ = ("_result", "counts")

    def __init__(self, result: Any) -> None:
        self._result = result
        self.counts = _counts(result)

    @property
    def body(self) -> bytes:
        """The output in the format asked for."""
        body: bytes = self._result.bytes()
        return body


def _counts(result: Any) -> Counts:
    """The engine's statistics; its `rows_read` are the rows of the result, `storage_rows_read` those it read for it."""
    return Counts(
        read_rows=result.storage_rows_read(),
        read_bytes=result.storage_bytes_read(),
        written_rows=result.rows_written(),
        written_bytes=result.bytes_written(),
        result_rows=result.rows_read(),
        result_bytes=result.bytes_read(),
        elapsed_s=result.elapsed(),
    )


class Handle:
    """One connection to the engine."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the handle back to the engine."""
        self._connection.close()

    def classify(self, statement: bytes) -> tuple[str, int]:
        """The engine's verdict on a statement that it does not run: its class, and how many statements it is.

        The classes are READ_ONLY, MUTATING, MUTATING_GLOBAL, CONTROL (sessions, SYSTEM, KILL, files), and UNKNOWN for
        what does not parse.
        """
        with _raised():
            report = self._connection.classify_query(statement, "")
        return report["query_class"].name, int(report["statement_count"])

    def set(self, settings: Mapping[str, str]) -> None:
        """Set settings of this handle."""
        if settings:
            self.query(set_statement(settings))

    def use(self, database: str) -> None:
        """Make a database the current one."""
        self.query("USE {database:Identifier}", params={"database": database})

    def query(
        self, statement: str | bytes, default_format: str = "TabSeparated", params: Mapping[str, str] | None = None
    ) -> Answer:
        """Run one statement to its end."""
        with _raised():
            return Answer(self._connection.query(statement, default_format, params=dict(params or {})))

    def text(self, statement: str) -> str:
        """The first value of a statement's result, as text."""
        return self.query(statement, "TSVRaw").body.decode().strip()

    def stream(self, statement: bytes, default_format: str, params: Mapping[str, str]) -> "Stream":
        """Run a SELECT and hand its output out block by block."""
        with _raised():
            return Stream(self._connection, self._connection.send_query(statement, default_format, params=dict(params)))


class Stream:
    """The output of a running SELECT, block by block."""

    def __init__(self, connection: Any, stream: Any) -> None:
        self._connection = connection
        self._stream = stream
        self._ended = False

    def next(self) -> Answer | None:
        """The next block, with what was read for it, or None at the end."""
        if self._ended:
            return None
        self._ended = True  # also if this raises
        with _raised():
            result = self._connection.streaming_fetch_result(self._stream)
        if result is None or result.rows_read() == 0:
            return None
        self._ended = False
        return Answer(result)

    def close(self) -> None:
        """Stop the statement if it still runs."""
        if not self._ended:
            self._ended = True
            with _raised():
                self._connection.streaming_cancel_query(self._stream)
