"""Who runs on a data directory: each process leaves a small file while it lives, so that others find it.

`run/streams-0.json` under the data directory names the process, where its metrics and health are, and when it began. A
file whose process is gone (killed) counts as absent.
"""

from __future__ import annotations

import contextlib
import http.client
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil

_FOLDER = "run"
_SAME_START_SECONDS = 2.0
"""How far two readings of one process's start may differ; a reused process id differs by more."""


class Presence(msgspec.Struct, frozen=True):
    """One running process of ours."""

    process: str
    pid: int
    started_seconds: float
    """When it began, Unix time as the kernel tells it."""
    port: int
    """Where `/metrics` and `/healthz` are, on `host`."""
    host: str = "127.0.0.1"


@contextmanager
def announced(data_dir: Path, process: str, *, host: str, port: int) -> Iterator[None]:
    """Be found as `process` while inside."""
    path = data_dir / _FOLDER / f"{process}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    mine = Presence(process, os.getpid(), psutil.Process().create_time(), port, host)
    temporary = path.with_suffix(f".{os.getpid()}.new")
    temporary.write_bytes(msgspec.json.encode(mine))
    temporary.replace(path)
    try:
        yield
    finally:
        # a successor may have taken the name already
        if (left := _read(path)) is not None and left.pid == mine.pid:
            path.unlink(missing_ok=True)


def present(data_dir: Path) -> dict[str, Presence]:
    """The processes that run on `data_dir`, by name."""
    found = (_read(path) for path in sorted((data_dir / _FOLDER).glob("*.json")))
    return {one.process: one for one in found if one is not None and _runs(one)}


def ask(process: Presence, path: str, *, timeout_seconds: float = 2.0) -> tuple[int, bytes]:
    """Status and body of a GET to a process. Raises `OSError` where it does not answer."""
    connection = http.client.HTTPConnection(process.host, process.port, timeout=timeout_seconds)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"{process.process} gave no HTTP answer to {path}: {error!r}") from error
    finally:
        connection.close()


def is_healthy(process: Presence) -> bool:
    """Whether `/healthz` of a process says so."""
    try:
        return ask(process, "/healthz")[0] == http.HTTPStatus.OK
    except OSError:
        return False


def _read(path: Path) -> Presence | None:
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode(path.read_bytes(), type=Presence)
    return None


def _runs(one: Presence) -> bool:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(one.pid)
        same = abs(process.create_time() - one.started_seconds) < _SAME_START_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    return False
