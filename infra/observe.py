"""How a process of ours is seen from outside: one log line format, Prometheus metrics, and whether it is alive.

`/metrics` is Prometheus text; `/healthz` answers 200 while the main loop beats and 503 with what stopped when it does
not: a process that hangs is not a process that is up.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TextIO

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from structlog.typing import EventDict, Processor

from infra.errors import OperatorError
from infra.metrics import BEAT_AGE_SECONDS

_QUIET_LIBRARIES = {
    # one line per fetch session, request or rebalance step; warnings of theirs stay
    "aiokafka": logging.WARNING,
    "faust": logging.WARNING,
    "mode": logging.WARNING,
    "asyncio": logging.WARNING,
    # one line per attempt that fails; the loader says once that ClickHouse is away, and once that it is back
    "urllib3": logging.ERROR,
    "clickhouse_connect": logging.ERROR,
    "aiohttp.access": logging.WARNING,
}


def configure_logging(process: str, *, level: str = "info", json_lines: bool = False, to: TextIO | None = None) -> None:
    """Log in one line format, whichever library speaks: `TIME LEVEL process message key=value …`, or one JSON object.

    Replaces what was configured before. Standard-library logging (Faust, aiokafka, librdkafka's) goes the same way.
    """
    out = to or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _named(process),
    ]
    ends: list[Processor]
    if json_lines:
        ends = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    else:
        ends = [structlog.processors.format_exc_info, _line]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.PositionalArgumentsFormatter(), _plain_foreign, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ends],
        )
    )
    root = logging.getLogger()
    handler.addFilter(_OnceAMinute())
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, floor in _QUIET_LIBRARIES.items():
        logging.getLogger(name).setLevel(max(floor, root.level))
    logging.captureWarnings(True)


class _OnceAMinute(logging.Filter):
    """Lets what librdkafka repeats several times a second while a broker is away through once a minute."""

    _QUIET_SECONDS = 60.0

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is new enough to be said."""
        if record.name != "librdkafka":
            return True
        # which client says it, and for how long it has been so, makes no difference
        gist = re.sub(r"\d+ms|#(producer|consumer)-\d+|, \d+ identical error\(s\) suppressed", "", record.getMessage())
        if record.created - self._said.get(gist, 0.0) < self._QUIET_SECONDS:
            return False
        self._said = {known: at for known, at in self._said.items() if record.created - at < self._QUIET_SECONDS}
        self._said[gist] = record.created
        return True


def _named(process: str) -> Processor:
    def add(_: Any, __: str, event: EventDict) -> EventDict:
        return {"process": process, **event}

    return add


def _plain_foreign(_: Any, __: str, event: EventDict) -> EventDict:
    # libraries colour and break their lines; a log line is one line
    record = event.get("_record")
    event["event"] = " ".join(str(event.get("event", "")).split())
    if record is not None:
        event["logger"] = record.name
    return event


def _line(_: Any, __: str, event: EventDict) -> str:
    """`2026-01-31T10:00:00.123Z info    streams   message key=value`."""
    stamp = str(event.pop("timestamp", ""))
    level = str(event.pop("level", "info"))
    process = str(event.pop("process", ""))
    text = str(event.pop("event", ""))
    trace = event.pop("exception", None)
    pairs = "".join(f" {key}={_value(value)}" for key, value in event.items() if not key.startswith("_"))
    line = f"{stamp[:23]}Z {level:<7} {process:<10} {text}{pairs}"
    return f"{line}\n{trace}" if trace else line


def _value(value: Any) -> str:
    text = str(value).replace("\n", "⏎")
    return f'"{text}"' if " " in text or not text else text


class Heartbeat:
    """When the main loop last said that it is alive. `now` gives seconds that only grow."""

    def __init__(self, what: str, *, stale_seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._stale_seconds = stale_seconds
        self._now = now
        self._last = now()
        BEAT_AGE_SECONDS.set_function(lambda: self.age_seconds)

    def beat(self) -> None:
        """The main loop is alive."""
        self._last = self._now()

    @property
    def age_seconds(self) -> float:
        """Seconds since the last beat."""
        return self._now() - self._last

    def report(self) -> tuple[int, dict[str, Any]]:
        """HTTP status and body of `/healthz`."""
        age = self.age_seconds
        if age > self._stale_seconds:
            return 503, {
                "status": "unhealthy",
                "process": self._what,
                "stopped": f"the main loop of {self._what}",
                "silent_seconds": round(age, 1),
                "allowed_seconds": self._stale_seconds,
            }
        return 200, {"status": "ok", "process": self._what, "silent_seconds": round(age, 1)}


@contextmanager
def endpoint(
    heartbeat: Heartbeat, *, host: str = "127.0.0.1", port: int = 0, registry: CollectorRegistry = REGISTRY
) -> Iterator[int]:
    """Serve `/metrics` and `/healthz` while inside; gives the port. Raises `OperatorError` where it is taken."""
    handler = type("Handler", (_Handler,), {"heartbeat": heartbeat, "registry": registry})
    try:
        server = ThreadingHTTPServer((host, port), handler)
    except OSError as error:
        raise OperatorError(
            f"metrics and health cannot be served on {host}:{port}: {error.strerror}; "
            "choose another port in observe.ports, or none"
        ) from error
    server.daemon_threads = True
    ends = threading.Event()

    def answer() -> None:
        while not ends.is_set():  # not serve_forever, which wakes up several times a second to see whether it shall end
            server.handle_request()

    thread = threading.Thread(target=answer, name="endpoint", daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        ends.set()
        server.socket.shutdown(socket.SHUT_RDWR)  # wakes it
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    heartbeat: Heartbeat
    registry: CollectorRegistry

    def do_GET(self) -> None:
        if self.path.split("?")[0] == "/metrics":
            self._answer(200, CONTENT_TYPE_LATEST, generate_latest(self.registry))
        elif self.path.split("?")[0] == "/healthz":
            status, body = self.heartbeat.report()
            self._answer(status, "application/json", json.dumps(body).encode() + b"\n")
        else:
            self._answer(404, "text/plain; charset=utf-8", b"there are /metrics and /healthz\n")

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Scrapes are no news."""
