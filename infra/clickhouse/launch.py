"""The embedded ClickHouse as a child process: for tests, and for whoever needs one for a while."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.clickhouse.access import WRITER, writer_password


@dataclass(frozen=True, slots=True)
class Running:
    """A server that answers, and how to log in to write."""

    host: str
    port: int
    username: str
    password: str
    pid: int


@contextmanager
def launched(data_dir: Path, port: int = 0) -> Iterator[Running]:
    """Start a server on `data_dir`, hand out how to reach it, and stop it afterwards.

    Raises:
        RuntimeError: it did not come up; the text is what it said.
    """
    command = [sys.executable, "-m", "infra.clickhouse", "--data-dir", str(data_dir), "--port", str(port)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        line = child.stdout.readline().split()
        if line[:1] != ["ready"]:
            raise RuntimeError(f"the embedded ClickHouse on {data_dir} did not start (exit status {child.wait()})")
        yield Running(line[1], int(line[2]), WRITER, writer_password(data_dir / "writer.password"), child.pid)
    finally:
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdout:
            child.stdout.close()
