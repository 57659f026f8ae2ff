"""`fleetpulse up` as a user runs it: what is killed comes back, Ctrl-C leaves nothing behind, neither does kill -9."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from infra.presence import is_healthy, present

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

PARTS = {"up", "kafka", "clickhouse", "loader", "alerts", "streams-0", "simulate"}


def _until(condition: Callable[[], bool], what: str, log: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: waited in vain\n{log.read_text()[-3000:]}"
        time.sleep(0.1)


def _processes_of(data_dir: Path) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(data_dir) in line and process.pid != os.getpid() and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(line)
    return found


@dataclass(slots=True)
class Up:
    """One `fleetpulse up` and its surroundings."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    log: Path

    def say(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command on the same data directory."""
        command = [sys.executable, "-m", "infra.cli", "--data-dir", str(self.data_dir), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@contextmanager
def _started(data_dir: Path, log: Path) -> Iterator[Up]:
    command = [sys.executable, "-m", "infra.cli", "--data-dir", str(data_dir), "up", "--simulate", "--no-agent"]
    with log.open("ab") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            _until(lambda: set(present(data_dir)) >= PARTS, "everything is there", log)
            yield Up(process, data_dir, log)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(60)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Started once; these tests go through its life in order."""
    folder = tmp_path_factory.mktemp("up")
    with _started(folder / "var", folder / "up.log") as running:
        yield running


def test_doctor_finds_nothing_broken_while_it_runs(up: Up) -> None:
    doctor = up.say("doctor")
    assert doctor.returncode == 0, doctor.stdout
    assert "✗" not in doctor.stdout


def test_a_real_kernel_log_goes_through_the_running_pipeline(up: Up, shared_data: Path) -> None:
    capture = shared_data / "kernel_log" / "gpud_dmesg-with-xid-119.log"
    replay = ("replay", "kernel-log", "--node", "gpu-17", "--rack", "r12", "--site", "here", str(capture))
    first = up.say(*replay)
    assert first.returncode == 0, first.stderr
    assert re.search(r"gpu:1650124014249 +gsp +119 +critical +reset_gpu +6 ", first.stdout), first.stdout
    assert "1 incident\n" in first.stdout
    # the same log again is the same events: nothing new comes of it
    assert up.say(*replay).stdout == first.stdout
    query = "SELECT count() FROM fault_history WHERE node = 'gpu-17'"
    assert up.say("sql", "--format", "csv", query).stdout == "count()\n1\n"


def test_an_analyst_who_wants_to_write_is_refused_in_one_line(up: Up) -> None:
    refused = up.say("sql", "DROP TABLE gpu_samples")
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1


def test_what_is_killed_comes_back(up: Up) -> None:
    killed = {name: present(up.data_dir)[name].pid for name in ("loader", "streams-0", "kafka")}
    [broker] = psutil.Process(killed["kafka"]).children()
    assert "java" in broker.name()
    for pid in (killed["loader"], killed["streams-0"], broker.pid):
        os.kill(pid, signal.SIGKILL)
    for name, pid in killed.items():
        _until(
            lambda name=name, pid=pid: name in present(up.data_dir) and present(up.data_dir)[name].pid != pid,
            f"{name} is started again",
            up.log,
        )
    _until(lambda: all(is_healthy(one) for one in present(up.data_dir).values()), "all are healthy", up.log)
    assert "started again name=loader" in up.log.read_text()


def test_ctrl_c_leaves_nothing_behind(up: Up) -> None:
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0, up.log.read_text()[-3000:]
    assert _processes_of(up.data_dir) == []


def test_kill_9_leaves_nothing_behind_either(up: Up) -> None:
    assert up.process.poll() is not None
    with _started(up.data_dir, up.log) as again:  # on what the first one left
        again.process.kill()
        again.process.wait()
        _until(lambda: _processes_of(up.data_dir) == [], "the children end by themselves", up.log)
