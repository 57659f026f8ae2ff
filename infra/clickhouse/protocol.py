"""ClickHouse's HTTP protocol as plain functions: what a request asks for, and what an answer says.

No sockets and no engine here. Sources: the ClickHouse documentation on the HTTP interface, and what clickhouse-connect
1.12 and curl send.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Final

# URL keys that speak to the transport. Every other key is a setting of the engine.
TRANSPORT_KEYS: Final = frozenset(
    {
        "query",
        "database",
        "user",
        "password",
        "quota_key",
        "role",
        "session_id",
        "session_timeout",
        "session_check",
        "query_id",
        "default_format",
        "buffer_size",
        "wait_end_of_query",
        "compress",
        "decompress",
        "client_protocol_version",
        "stacktrace",
        # Settings by name, but only a server's HTTP handler acts on them.
        "add_http_cors_header",
        "cancel_http_readonly_queries_on_client_close",
        "enable_http_compression",
        "http_headers_progress_interval_ms",
        "http_write_exception_in_output_format",
        "send_progress_in_http_headers",
    }
)

CONTENT_TYPES: Final[Mapping[str, str]] = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "TabSeparatedWithNames": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "Pretty": "text/plain; charset=UTF-8",
    "PrettyCompact": "text/plain; charset=UTF-8",
    "Vertical": "text/plain; charset=UTF-8",
}


class QueryError(Exception):
    """An error as ClickHouse reports it: its number, its symbolic name and its text."""

    def __init__(self, code: int, name: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.name = name
        self.text = text


@dataclass(frozen=True, slots=True)
class Query:
    """What one request asks for, the statement aside."""

    database: str | None = None
    session_id: str | None = None
    session_timeout_s: int = 60
    session_check: bool = False
    query_id: str | None = None
    default_format: str = "TabSeparated"
    hold: bool = False  # the answer begins when the statement has ended
    compress: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counts:
    """What a statement read and wrote; written counts include those of materialized views."""

    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0
    result_rows: int = 0
    result_bytes: int = 0
    elapsed_s: float = 0.0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(mine + more for mine, more in zip(astuple(self), astuple(other), strict=True)))


def query_error(code: int, name: str, message: str) -> QueryError:
    """An error of this server in ClickHouse's words."""
    return QueryError(code, name, f"Code: {code}. DB::Exception: {message} ({name})")


_ENGINE_ERROR = re.compile(r"Code: (\d+)\. (?:DB|Coordination)::\w*Exception: ")
_REPEATED = re.compile(r"Code: \d+\. DB::Exception: (?=Code: \d+\. DB::\w*Exception: )")  # an error within an error
_ENGINE_NAME = re.compile(r"\(([A-Z][A-Z0-9_]{2,})\)")


def engine_error(text: str) -> QueryError:
    """An exception of the engine, whose text is already in ClickHouse's words."""
    text = text.strip()
    found = _ENGINE_ERROR.search(text)
    if found is None:
        return query_error(1001, "STD_EXCEPTION", text or "the engine failed without a message")
    names = _ENGINE_NAME.findall(text)
    told = _REPEATED.sub("", text[found.start() :])
    return QueryError(int(found[1]), names[-1] if names else "UNKNOWN", told)


_STATUS: Final[Mapping[int, int]] = {
    **dict.fromkeys((6, 26, 27, 36, 38, 41, 53, 62, 69, 70, 72, 117, 130, 271, 321, 432, 457), 400),
    **dict.fromkeys((16, 46, 47, 50, 56, 60, 73, 75, 81, 115), 404),
    **dict.fromkeys((164, 192, 193, 497, 516), 403),
    194: 401,
    159: 408,
    413: 413,
    48: 501,
    202: 503,
    236: 503,
}


def http_status(code: int) -> int:
    """The HTTP status that ClickHouse gives an error code."""
    return _STATUS.get(code, 500)


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")  # of a setting, a parameter, a format
_QUERY_ID = re.compile(r"[ -~]{1,200}\Z")  # it goes into a header
MAX_SESSION_TIMEOUT_S: Final = 3600


def query_of(url: Mapping[str, str], headers: Mapping[str, str]) -> Query:
    """What the keys of the URL (or of a form) and the headers ask for.

    Raises:
        QueryError: a key is not a setting's name, or asks for what is not offered.
    """
    for key in ("compress", "decompress"):
        if _on(url.get(key)):
            raise query_error(
                48,
                "NOT_IMPLEMENTED",
                f"{key}=1 (ClickHouse's own block compression over HTTP) is not offered by the embedded ClickHouse: "
                "use Content-Encoding and Accept-Encoding.",
            )
    settings = {}
    params = {}
    for key, value in url.items():
        if key not in TRANSPORT_KEYS:
            if not _NAME.match(key):
                raise query_error(115, "UNKNOWN_SETTING", f"Unknown setting {key!r}")
            if key.startswith("param_"):
                params[key.removeprefix("param_")] = value
            else:
                settings[key] = value
    default_format = url.get("default_format") or headers.get("X-ClickHouse-Format") or "TabSeparated"
    if not _NAME.match(default_format):
        raise query_error(73, "UNKNOWN_FORMAT", f"Unknown format {default_format!r}")
    query_id = url.get("query_id") or None
    if query_id is not None and not _QUERY_ID.match(query_id):
        raise query_error(
            36, "BAD_ARGUMENTS", f"A query_id has 1 to 200 printable ASCII characters, found {query_id!r}"
        )
    return Query(
        database=url.get("database") or headers.get("X-ClickHouse-Database") or None,
        session_id=url.get("session_id") or None,
        session_timeout_s=_timeout(url.get("session_timeout") or "60"),
        session_check=_on(url.get("session_check")),
        query_id=query_id,
        default_format=default_format,
        hold=_on(url.get("wait_end_of_query")),
        compress=_on(url.get("enable_http_compression")),
        settings=settings,
        params=params,
    )


def _on(value: str | None) -> bool:
    return value is not None and value.lower() in {"1", "true"}


def _timeout(seconds: str) -> int:
    if not seconds.isdigit() or not 0 < int(seconds) <= MAX_SESSION_TIMEOUT_S:
        raise query_error(
            407,
            "INVALID_SESSION_TIMEOUT",
            f"Invalid session timeout: {seconds!r}, expected 1 to {MAX_SESSION_TIMEOUT_S}.",
        )
    return int(seconds)


def quoted(value: str) -> str:
    """A ClickHouse string literal."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def set_statement(settings: Mapping[str, str]) -> str:
    """One SET for all of these settings; the engine turns the quoted text into each setting's own type."""
    return "SET " + ", ".join(f"{name} = {quoted(value)}" for name, value in settings.items())


def summary(counts: Counts) -> str:
    """The value of X-ClickHouse-Summary: JSON whose numbers are strings, as ClickHouse writes it."""
    return json.dumps(
        {
            "read_rows": str(counts.read_rows),
            "read_bytes": str(counts.read_bytes),
            "written_rows": str(counts.written_rows),
            "written_bytes": str(counts.written_bytes),
            "total_rows_to_read": "0",
            "result_rows": str(counts.result_rows),
            "result_bytes": str(counts.result_bytes),
            "elapsed_ns": str(round(counts.elapsed_s * 1e9)),
        },
        separators=(",", ":"),
    )


def result_headers(result_format: str) -> dict[str, str]:
    """What an answer in this format says about itself."""
    return {
        "X-ClickHouse-Format": result_format,
        "Content-Type": CONTENT_TYPES.get(result_format, "application/octet-stream"),
    }


def broken_stream(tag: str, text: str) -> bytes:
    """How ClickHouse (25.11 and later) says, inside an answer that has begun, that the statement failed."""
    message = text.encode("utf-8", "replace")
    mark = tag.encode()
    return b"\r\n__exception__\r\n%s\r\n%s\n%d %s\r\n__exception__\r\n" % (mark, message, len(message) + 1, mark)
