"""Supervision with real processes: what dies is started again, what stops leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from infra.errors import OperatorError
from infra.presence import present
from infra.supervise import Backoff, Role, Supervisor, sole

# a process of ours as the supervisor knows them, without anything it would do
_CHILD = """
import os, signal, sys, threading
from pathlib import Path
from infra.presence import announced
name, data_dir, mode = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
if mode == "broken":
    sys.exit("no room")
with announced(data_dir, name, host="127.0.0.1", port=9):
    if mode == "once":
        sys.exit(0)
    stop.wait(60)
Path(data_dir, "order").open("a").write(name + "\\n")
"""


def _role(name: str, data_dir: Path, mode: str = "run", tier: int = 0, *, ends: bool = False) -> Role:
    return Role(name, (name, str(data_dir), mode), tier, ends=ends)


def _until(condition: Callable[[], bool], supervisor: Supervisor | None = None, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        if supervisor:
            supervisor.step()
        time.sleep(0.02)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    one = Supervisor(
        tmp_path,
        log_dir=tmp_path / "log",
        backoff=Backoff(first_seconds=0.05),
        program=(sys.executable, "-c", _CHILD),
    )
    yield one
    one.stop()


def _pid(supervisor: Supervisor, name: str) -> int | None:
    return next(one.pid for one in supervisor.status() if one.name == name)


def test_a_process_that_is_killed_is_started_again(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start([_role("loader", tmp_path)])
    first = _pid(supervisor, "loader")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    _until(lambda: _pid(supervisor, "loader") not in (None, first), supervisor)
    _until(lambda: "loader" in present(tmp_path), supervisor)
    assert [one.restarts for one in supervisor.status()] == [1]


def test_a_process_that_dies_again_and_again_is_started_less_and_less_often() -> None:
    waits = [Backoff().wait_seconds(deaths) for deaths in range(1, 12)]
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert waits == sorted(waits)
    assert waits[-1] == 30.0


def test_a_process_that_cannot_start_fails_the_start_with_its_last_words(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    with pytest.raises(OperatorError, match=r"loader did not start .exit 1.(.|\n)*no room"):
        supervisor.start([_role("loader", tmp_path, "broken")])


def test_a_process_that_has_done_its_work_is_not_started_again(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start([_role("simulate", tmp_path, "once", ends=True)])
    _until(lambda: supervisor.is_done("simulate"), supervisor)
    for _ in range(20):
        supervisor.step()
        time.sleep(0.01)
    assert [(one.state, one.restarts) for one in supervisor.status()] == [("done", 0)]


def test_sources_stop_before_servers(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start([_role("kafka", tmp_path, tier=0), _role("loader", tmp_path, tier=1)])
    supervisor.start([_role("agent", tmp_path, tier=2)])
    supervisor.stop()
    assert (tmp_path / "order").read_text().split() == ["agent", "loader", "kafka"]


def test_nothing_stays_behind_when_the_supervisor_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib\n"
        "from infra.supervise import Role, Supervisor\n"
        "data = pathlib.Path(sys.argv[1])\n"
        "one = Supervisor(data, program=(sys.executable, '-c', sys.argv[2]))\n"
        "one.start([Role('loader', ('loader', str(data), 'run'), 0)])\n"
        "print(one.status()[0].pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(tmp_path), _CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        owner.kill()
    _until(lambda: not psutil.pid_exists(pid))


def test_a_data_directory_has_one_supervisor(tmp_path: Path) -> None:
    with sole(tmp_path), pytest.raises(OperatorError, match=f"already runs on .*process {os.getpid()}"), sole(tmp_path):
        pass
    with sole(tmp_path):
        pass


def test_a_data_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("")
    with pytest.raises(OperatorError, match="data directory .*/var cannot be used"), sole(tmp_path / "var"):
        pass


def test_the_file_of_a_killed_process_does_not_count_as_running(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.start([_role("loader", tmp_path)])
    assert set(present(tmp_path)) == {"loader"}
    pid = _pid(supervisor, "loader")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    _until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert (tmp_path / "run" / "loader.json").exists()
    assert present(tmp_path) == {}
