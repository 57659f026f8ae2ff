"""The embedded ClickHouse as a child process: for tests, and for whoever needs one for a while."""

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from infra.clickhouse.access import WRITER, writer_password

START_WITHIN_S = 60
STOP_WITHIN_S = 30


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers, and how to log in to write."""

    host: str
    port: int
    username: str
    password: str
    pid: int


@contextmanager
def launched(data_dir: Path, port: int = 0, *options: str) -> Iterator[Running]:
    """Start a server on `data_dir`, hand out how to reach it, and stop it afterwards.

    `options` are more words for the command line of `python -m infra.clickhouse`.

    Raises:
        RuntimeError: it did not come up; the text is what it said.
    """
    module = [sys.executable, "-P", "-m", "infra.clickhouse"]
    command = [*module, "--data-dir", str(data_dir.absolute()), "--port", str(port)]
    with tempfile.TemporaryFile("w+") as said, _started([*command, *options], said) as child:
        line = _first_line(child)
        if line[:1] != ["ready"]:
            child.terminate()
            child.wait(STOP_WITHIN_S)
            said.seek(0)
            raise RuntimeError(f"the embedded ClickHouse on {data_dir} did not start: {said.read().strip()}")
        yield Running(line[1], int(line[2]), WRITER, writer_password(data_dir / "writer.password"), child.pid)


def _first_line(child: subprocess.Popen[str]) -> list[str]:
    if child.stdout is None or not select.select([child.stdout], [], [], START_WITHIN_S)[0]:
        return []
    return child.stdout.readline().split()


@contextmanager
def _started(command: list[str], said: IO[str]) -> Iterator[subprocess.Popen[str]]:
    places = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]  # this package, wherever we are
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True
    ) as child:
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                child.kill()
