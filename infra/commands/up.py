"""`fleetpulse up`: the pipeline on this machine, until it is told to stop."""

from __future__ import annotations

import os
import signal
import threading

import structlog

from infra import addresses, observe, pipeline
from infra.options import Options
from infra.presence import announced

log = structlog.get_logger()


class _Stopped(BaseException):
    """A signal to stop, while something was being started."""


def run(options: Options, *, workers: int, agent: bool, simulate: bool) -> None:
    """Run until SIGTERM or Ctrl-C. Raises `OperatorError`, `MisuseError`."""
    settings = options.settings()
    observe.configure_logging("up", level=settings.observe.level, json_lines=settings.observe.json_lines)
    stop = threading.Event()
    started = threading.Event()

    def asked(*_: object) -> None:
        stop.set()
        if not started.is_set():
            started.set()  # once: the way down is not to be interrupted
            raise _Stopped

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked)
    sources = [pipeline.agent()] if agent else []
    if simulate:
        sources.append(pipeline.simulation())
    heartbeat = observe.Heartbeat("up", stale_seconds=settings.observe.stale_seconds)
    host = settings.observe.host
    data_dir = settings.data_dir.absolute()
    try:
        with (
            pipeline.running(settings, options.repeated(settings), workers=workers, sources=sources) as supervisor,
            observe.endpoint(heartbeat, host=host, port=settings.observe.ports.get("up", 0)) as port,
            announced(data_dir, "up", host=host, port=port),
        ):
            started.set()
            here = addresses.clickhouse(settings)
            log.info(
                "the pipeline runs; Ctrl-C stops it",
                kafka=addresses.bootstrap(settings),
                clickhouse=f"http://{here.host}:{here.port}",
                data_dir=str(data_dir),
                pid=os.getpid(),
            )
            while not stop.wait(0.2):
                supervisor.step()
                heartbeat.beat()
            log.info("stopping")
    except _Stopped:
        pass
    log.info("stopped")
