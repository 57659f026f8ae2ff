"""What every process of ours has around its body: logs, signals, health, presence, and an end that is an end."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import structlog

from infra import observe
from infra.presence import announced


class Body(Protocol):
    """What a process does."""

    def __call__(self, *, stop: threading.Event, beat: Callable[[], None], ready: Callable[[], None]) -> None:
        """Run until `stop` is set. Call `beat` at least each second while alive, and `ready` once when at work."""


class Settings(Protocol):
    """What is needed of the settings."""

    @property
    def data_dir(self) -> Path:
        """Where everything is kept."""

    @property
    def observe(self) -> Any:
        """The part `[observe]`."""


log = structlog.get_logger()

_END_SECONDS = 25.0
"""A body that was asked to stop and has not for so long is ended: a supervisor, or a user, waits."""


def serve(process: str, settings: Settings, body: Body) -> None:
    """Run `body` as the process `process` until SIGTERM or Ctrl-C; serve its metrics and health meanwhile.

    Exceptions of the body pass through. A second signal, or a body that does not end in time, ends the process.
    """
    faulthandler.enable()  # what crashes in native code says where it was
    observe.configure_logging(process, level=settings.observe.level, json_lines=settings.observe.json_lines)
    stop = threading.Event()
    _stop_on_signals(stop, process)
    heartbeat = observe.Heartbeat(process, stale_seconds=settings.observe.stale_seconds)
    host, port = settings.observe.host, settings.observe.ports.get(process, 0)
    with ExitStack() as open_:
        bound = open_.enter_context(observe.endpoint(heartbeat, host=host, port=port))
        # A thread from before the body: one that confines itself (ClickHouse) may write no file of ours afterwards.
        herald = open_.enter_context(ThreadPoolExecutor(1, thread_name_prefix="herald"))
        herald.submit(int).result()
        # the address that reaches this process from this machine
        reach = "127.0.0.1" if host in {"0.0.0.0", "::"} else host  # noqa: S104 - compared, not bound
        here = announced(settings.data_dir.absolute(), process, host=reach, port=bound)

        def ready() -> None:
            herald.submit(here.__enter__).result()
            open_.callback(lambda: herald.submit(here.__exit__, None, None, None).result())
            log.info("started", pid=os.getpid(), metrics=f"http://{reach}:{bound}/metrics")

        body(stop=stop, beat=heartbeat.beat, ready=ready)
    log.info("stopped")


def _stop_on_signals(stop: threading.Event, process: str) -> None:
    def end() -> None:
        log.error("the process did not end in time and is ended", name=process, seconds=_END_SECONDS)
        sys.stderr.flush()
        os._exit(1)

    def asked(number: int, _: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            os._exit(130)
        if not stop.is_set():
            stop.set()
            timer = threading.Timer(_END_SECONDS, end)
            timer.daemon = True
            timer.start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked)
