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


@contextmanager
def _up(data_dir: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "infra.cli", "--data-dir", str(data_dir), "up", "--simulate", "--no-agent"]
    with log.open("ab") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            _until(lambda: set(present(data_dir)) >= PARTS, "everything is there", log)
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(60)


def _fleetpulse(data_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infra.cli", "--data-dir", str(data_dir), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_real_kernel_log_goes_through_the_running_pipeline(tmp_path: Path, shared_data: Path) -> None:
    data_dir, log = tmp_path / "var", tmp_path / "up.log"
    capture = shared_data / "kernel_log" / "gpud_dmesg-with-xid-119.log"
    with _up(data_dir, log):
        doctor = _fleetpulse(data_dir, "doctor")
        assert doctor.returncode == 0, doctor.stdout
        replay = ("replay", "kernel-log", "--node", "gpu-17", "--rack", "r12", "--site", "here", str(capture))
        first = _fleetpulse(data_dir, *replay)
        assert first.returncode == 0, first.stderr
        assert re.search(r"gpu:1650124014249 +gsp +119 +critical +reset_gpu +6 ", first.stdout), first.stdout
        assert "1 incident\n" in first.stdout
        # the same log again is the same events: nothing new comes of it
        assert _fleetpulse(data_dir, *replay).stdout == first.stdout
        query = "SELECT count() FROM fault_history WHERE node = 'gpu-17'"
        assert _fleetpulse(data_dir, "sql", "--format", "csv", query).stdout == "count()\n1\n"
        refused = _fleetpulse(data_dir, "sql", "DROP TABLE gpu_samples")
        assert refused.returncode == 1
        assert len(refused.stderr.splitlines()) == 1


def test_what_is_killed_comes_back_and_nothing_stays_behind(tmp_path: Path) -> None:
    data_dir, log = tmp_path / "var", tmp_path / "up.log"
    with _up(data_dir, log) as process:
        killed = {name: present(data_dir)[name].pid for name in ("loader", "streams-0", "kafka")}
        [broker] = psutil.Process(killed["kafka"]).children()
        assert "java" in broker.name()
        for pid in (killed["loader"], killed["streams-0"], broker.pid):
            os.kill(pid, signal.SIGKILL)
        for name, pid in killed.items():
            _until(
                lambda name=name, pid=pid: name in present(data_dir) and present(data_dir)[name].pid != pid,
                f"{name} is started again",
                log,
            )
        _until(lambda: all(is_healthy(one) for one in present(data_dir).values()), "all are healthy", log)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()[-3000:]
    assert _processes_of(data_dir) == []
    assert "started again name=loader" in log.read_text()

    # and on what it left, once more; this time the supervisor itself is killed
    with _up(data_dir, log) as process:
        process.kill()
        process.wait()
        _until(lambda: _processes_of(data_dir) == [], "the children end by themselves", log)
