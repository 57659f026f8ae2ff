"""The embedded ClickHouse as a process body: prepare, confine, serve, stop."""

import asyncio
import errno
import functools
import os
import queue
import socket
import sysconfig
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import structlog
from aiohttp import web
from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from infra.clickhouse.access import Keys, writer_password
from infra.clickhouse.analyst import Policy, rules
from infra.clickhouse.confine import AUXILIARY_VECTOR, OPEN, SYSTEM_PATHS, Confinement, confine
from infra.clickhouse.engine import Engine
from infra.clickhouse.folder import Folder, StartError, held, told
from infra.clickhouse.front import Front
from infra.clickhouse.job import Limits
from infra.clickhouse.settings import EmbeddedClickHouseSettings

log = structlog.get_logger()

TICK_S: Final = 0.2
STOP_S: Final = 5.0  # for connections, once no statement runs any more
AUTOGROUP: Final = Path("/proc/self/autogroup")  # man 7 sched
_FEW_TIMES: Final = stop_after_attempt(5)
MAX_URL_BYTES: Final = 2**20  # as a ClickHouse server


@dataclass(frozen=True, slots=True)
class _Prepared:
    """All that is taken before the process is confined."""

    settings: EmbeddedClickHouseSettings
    folder: Folder
    keys: Keys
    listener: socket.socket
    memory_bytes: int
    analyst_rules: Mapping[str, Any]


Tell = Callable[[Callable[[], None]], None]


def run(
    settings: EmbeddedClickHouseSettings,
    *,
    stop: threading.Event,
    beat: Callable[[], None],
    ready: Callable[[int], None],
) -> None:
    """Serve until `stop` is set, then let running statements finish and close the engine.

    The engine and the server run in a thread of their own, which is confined (`confine.py`) together with all that it
    starts. The calling thread stays free; in it `ready` is told the port, and `beat` is called while the server's loop
    turns.

    Raises:
        StartError: it cannot start; one line that names the thing and the remedy.
    """
    memory_bytes = settings.memory_bytes or _half_of_the_memory()
    with held(settings.data_dir, memory_bytes=memory_bytes, keep_free_bytes=settings.keep_free_bytes) as folder:
        keys = _keys(settings, folder)
        with _listener(settings) as listener:
            prepared = _Prepared(settings, folder, keys, listener, memory_bytes, rules())
            calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
            failed: list[BaseException] = []

            def body() -> None:
                try:
                    _serve(prepared, stop, calls.put, beat, ready)
                except BaseException as error:  # noqa: BLE001 - raised again in the calling thread
                    failed.append(error)
                finally:
                    calls.put(None)

            thread = threading.Thread(target=body, name="clickhouse")
            thread.start()
            try:
                while (call := calls.get()) is not None:
                    call()
            finally:  # also for what `beat` and `ready` raise, and for a Ctrl-C that nobody caught
                stop.set()
                thread.join()
            if failed:
                raise failed[0]


def _half_of_the_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _keys(settings: EmbeddedClickHouseSettings, folder: Folder) -> Keys:
    path = settings.password_path
    if path.resolve().is_relative_to(folder.engine):
        raise StartError(f"the password file {path} lies in the engine's reach: keep it outside {folder.engine}")
    with told(f"read the writer's password from {path}"):
        try:
            writer = writer_password(path)
        except PermissionError as error:
            if error.errno is None:  # our own words
                raise StartError(str(error)) from None
            raise
    analyst = settings.analyst_password
    return Keys(writer=writer, analyst=analyst.get_secret_value() if analyst else None)


def _listener(settings: EmbeddedClickHouseSettings) -> socket.socket:
    where = f"{settings.host}:{settings.port}"
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=family, backlog=128)
    except OSError as error:
        remedy = {
            errno.EADDRINUSE: "another program listens there: stop it, or choose another port",
            errno.EACCES: "ports below 1024 need special rights: choose another port",
            errno.EADDRNOTAVAIL: "this machine has no such address: choose another host",
        }.get(error.errno or 0, "choose another host or port")
        raise StartError(f"cannot listen on {where}: {error.strerror or error}; {remedy}") from error


def _serve(
    prepared: _Prepared,
    stop: threading.Event,
    tell: Tell,
    beat: Callable[[], None],
    ready: Callable[[int], None],
) -> None:
    settings, folder = prepared.settings, prepared.folder
    _stand_back(settings.nice)
    # open until the engine has read it: the kernel makes files of /proc anew at will, and a new one is walled off
    with AUXILIARY_VECTOR.open("rb") if AUXILIARY_VECTOR.exists() else nullcontext():
        confinement = _confine(settings, folder)
        os.environ["TMPDIR"] = str(folder.temporary)  # chDB makes a folder there when it is imported
        engine = Engine(folder)
    try:
        with engine.handle() as handle:
            policy = Policy.of(prepared.analyst_rules, handle)
        front = Front(
            engine,
            folder,
            policy,
            prepared.keys,
            limits=_limits(settings, prepared.memory_bytes),
            confinement=confinement,
            handles=settings.handles,
            open_to_hosts=not _is_loopback(settings.host),
        )
        asyncio.run(_listen(front, prepared, stop, tell, beat, ready))
    finally:
        engine.close()
        log.info("clickhouse closed", data_dir=str(folder.root))


def _stand_back(nice: int) -> None:
    """Let others have the processor first: for the calling thread and all that it starts."""
    os.nice(nice)
    if os.getsid(0) != os.getpid():
        return
    # where the kernel shares by sessions (sched_autogroup_enabled), ours stands back as a whole; it takes ten of these
    # a second of the whole machine, and where it does not share so there is no such file
    patiently = Retrying(retry=retry_if_exception_type(BlockingIOError), wait=wait_fixed(TICK_S), stop=_FEW_TIMES)
    with suppress(OSError, RetryError):
        patiently(AUTOGROUP.write_text, str(nice))


def _confine(settings: EmbeddedClickHouseSettings, folder: Folder) -> Confinement:
    if settings.confine == "off":
        log.warning("clickhouse is not confined", why="the setting `confine` is off")
        return OPEN
    try:
        confinement = confine(keep=[folder.engine], read=[folder.config, *libraries()])
    except OSError as error:
        raise StartError(
            f"the embedded ClickHouse cannot confine itself: {error.strerror}; set `confine` to off to run without"
        ) from error
    gaps = confinement.gaps()
    if gaps and settings.confine == "require":
        raise StartError(
            f"the embedded ClickHouse cannot be confined as required: {'; '.join(gaps)}; "
            "use a newer kernel, or set `confine` to auto"
        )
    if gaps:
        log.warning("clickhouse is confined in part only", gaps=gaps)
    return confinement


def libraries() -> set[Path]:
    """What Python and the engine load code from."""
    found = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    for name in ("chdb", "pyarrow", "pandas", "numpy"):
        spec = find_spec(name)
        if spec is not None:
            found |= {Path(place).parent for place in spec.submodule_search_locations or ()}
    return found | {Path(path) for path in SYSTEM_PATHS}


def _limits(settings: EmbeddedClickHouseSettings, memory_bytes: int) -> Limits:
    """Bounds of single statements; the server as a whole is bounded by the engine's configuration."""
    return Limits(
        writer={},
        analyst={
            "max_execution_time": str(settings.analyst_seconds),
            "max_memory_usage": str(memory_bytes // 2),
            "max_temporary_data_on_disk_size_for_query": str(memory_bytes * 2),
        },
        held_bytes=memory_bytes,
        result_bytes=max(memory_bytes // 8, 2**27),
        keep_free_bytes=settings.keep_free_bytes,
    )


def _is_loopback(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")


async def _listen(
    front: Front,
    prepared: _Prepared,
    stop: threading.Event,
    tell: Tell,
    beat: Callable[[], None],
    ready: Callable[[int], None],
) -> None:
    settings, listener = prepared.settings, prepared.listener
    runner = web.AppRunner(
        front.application(),
        access_log=None,
        handler_cancellation=True,  # a client that goes away takes its statement with it
        shutdown_timeout=STOP_S,
        read_bufsize=2**20,
        max_line_size=MAX_URL_BYTES,
    )
    await runner.setup()
    site = web.SockSite(runner, listener)
    await site.start()
    port = listener.getsockname()[1]
    log.info("clickhouse ready", host=settings.host, port=port, data_dir=str(prepared.folder.root), **front.status())
    tell(functools.partial(ready, port))
    while not stop.is_set():
        tell(beat)
        await front.sweep()
        await asyncio.sleep(TICK_S)
    log.info("clickhouse stops", running=front.running, grace_seconds=settings.grace_seconds)
    await site.stop()
    await front.drain(grace_s=settings.grace_seconds, tick_s=TICK_S, tick=functools.partial(tell, beat))
    await runner.cleanup()
    await front.close()
