"""`fleetpulse diagnose`: a run by hand, printed for a human or as JSON, and a request to the agent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from infra.commands.diagnose import FOLDER, app
from infra.errors import MisuseError, OperatorError
from infra.options import Options
from infra.presence import announced
from producers.dcgm.busy import BusyUnknownError, gpu_programs
from producers.dcgm.run import Request, Runs

PASS = json.dumps({"DCGM Diagnostic": {"test_categories": [{"category": "Deployment", "tests": [
    {"name": "software", "results": [{"entity_group": "GPU", "entity_id": 0, "status": "Pass"}]}]}]}})  # fmt: skip
ROOT = Path(__file__).parents[2]


def program(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o755)
    return path


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose programs come first, with an nvidia-smi of idle GPUs and a dcgmi that passes."""
    programs = tmp_path / "bin"
    programs.mkdir()
    program(programs / "nvidia-smi", "exit 0")
    program(programs / "dcgmi", f"echo '{PASS}'")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FLEETPULSE_AGENT__STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def diagnose(node: Path) -> Callable[..., Result]:
    def call(*arguments: str, json_lines: bool = False) -> Result:
        options = Options(config=None, data_dir=node / "data", json_lines=json_lines)
        root = typer.Typer()
        root.add_typer(app, name="diagnose")

        @root.callback()
        def everywhere(context: typer.Context) -> None:
            context.obj = options

        return CliRunner().invoke(root, ["diagnose", *arguments])

    return call


def prints(node: Path, text: str, exit_code: int = 0) -> None:
    (node / "document").write_text(text)
    program(node / "bin" / "dcgmi", f"cat '{node}/document'", f"exit {exit_code}")


def test_a_run_prints_what_is_wrong_first_and_what_to_do(
    diagnose: Callable[..., Result], node: Path, shared_data: Path
) -> None:
    prints(node, (shared_data / "dcgm_diag" / "dcgm1.7_nvidia_per_gpu_fail.json").read_text(), exit_code=1)

    done = diagnose("run", "--level", "3")

    assert done.exit_code == 1
    assert done.exception is None or isinstance(done.exception, SystemExit)
    lines = done.stdout.splitlines()
    assert " ".join(lines[0].split()) == "Test GPUs Result What it means What to do Can explain"
    assert " fail " in lines[1]
    assert "drain and diagnose" in done.stdout
    assert "desired stress level of 3000.0 for GPU 2" in done.stdout
    (skipped,) = [line for line in lines if line.startswith("memory_bandwidth")]
    assert skipped.split()[1:4] == ["0-3", "not", "run"]
    (denylist,) = [line for line in lines if line.startswith("Denylist")]
    assert denylist.split()[1:3] == ["0-3", "pass"]  # GPUs that say the same share a line
    assert "were not run, which is no pass (DCGM 1.7)" in lines[-1]
    assert "the document is kept in" in done.stderr
    assert lines.index(next(line for line in lines if " pass " in line)) > lines.index(lines[1])


def test_all_that_passed_is_exit_0(diagnose: Callable[..., Result]) -> None:
    done = diagnose("run")
    assert done.exit_code == 0, done.output
    assert "1 passed, 0 warned, 0 failed, 0 were not run" in done.stdout


def test_json_gives_one_object_for_each_gpu_and_test(
    diagnose: Callable[..., Result], node: Path, shared_data: Path
) -> None:
    prints(node, (shared_data / "dcgm_diag" / "dcgm4_gb10_partial_skip.json").read_text())

    done = diagnose("run", json_lines=True)

    assert done.exit_code == 0
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["result"] for row in found].count("not_run") == 4
    assert {"source", "component", "gpu", "test", "result", "severity", "action"} <= set(found[0])


def test_jobs_on_gpus_are_named_and_nothing_is_run(diagnose: Callable[..., Result], node: Path) -> None:
    program(node / "bin" / "nvidia-smi", "echo 'GPU-604a, 4711, python3 train.py, with, commas'")

    done = diagnose("run")

    assert isinstance(done.exception, OperatorError)
    assert "pid 4711 python3 train.py, with, commas on GPU-604a" in str(done.exception)
    assert "--force" in str(done.exception)
    assert not (node / "state").exists()
    assert diagnose("run", "--force").exit_code == 0


def test_without_dcgmi_it_says_what_to_install(diagnose: Callable[..., Result], node: Path) -> None:
    (node / "bin" / "dcgmi").unlink()
    done = diagnose("run", "--command", "dcgmi-that-is-not-there")
    assert isinstance(done.exception, OperatorError)
    assert "install NVIDIA's datacenter-gpu-manager" in str(done.exception)


def test_a_run_that_gives_nothing_fails_with_its_reason(diagnose: Callable[..., Result], node: Path) -> None:
    program(node / "bin" / "dcgmi", "echo 'Error: Unable to connect to host engine' >&2", "exit 235")
    done = diagnose("run")
    assert isinstance(done.exception, OperatorError)
    assert "start DCGM's service (systemctl start nvidia-dcgm)" in str(done.exception)


def test_a_run_over_its_time_is_stopped(diagnose: Callable[..., Result], node: Path) -> None:
    program(node / "bin" / "dcgmi", "trap 'exit 9' INT", "while :; do sleep 0.02; done")
    before = time.monotonic()
    done = diagnose("run", "--timeout", "1")
    assert isinstance(done.exception, OperatorError)
    assert "was stopped because its time was over" in str(done.exception)
    assert time.monotonic() - before < 10


def test_a_run_beside_another_is_refused(diagnose: Callable[..., Result], node: Path) -> None:
    program(node / "bin" / "dcgmi", "sleep 300")
    other = Runs(node / "state" / FOLDER, boot_id="boot")
    begun = other.start(4, 600, by="alice")
    assert begun.pid is not None
    try:
        done = diagnose("run")
        assert isinstance(done.exception, OperatorError)
        assert "runs on this node already: level 4, asked for by alice" in str(done.exception)
    finally:
        os.killpg(begun.pid, signal.SIGKILL)
        os.waitpid(begun.pid, 0)


def test_what_was_run_by_hand_waits_there_for_the_agent(diagnose: Callable[..., Result], node: Path) -> None:
    diagnose("run", "--level", "2")
    (run,) = Runs(node / "state" / FOLDER, boot_id="boot").poll()
    assert (run.level, run.by, run.exit_code, run.reported) == (2, "fleetpulse diagnose", 0, False)


def test_a_request_is_left_for_the_agent(diagnose: Callable[..., Result], node: Path) -> None:
    before_ms = time.time_ns() // 1_000_000
    with announced(node / "data", "agent", host="127.0.0.1", port=1):
        done = diagnose("request", "--level", "3", "--force")
    assert done.exit_code == 0, done.output
    found = Runs(node / "state" / FOLDER, boot_id="boot").take_request()
    assert isinstance(found, Request)
    assert (found.level, found.force) == (3, True)
    assert found.asked_ms is not None
    assert before_ms <= found.asked_ms <= time.time_ns() // 1_000_000


@pytest.mark.parametrize("other", [None, "loader"])
def test_without_an_agent_on_the_data_directory_nothing_is_asked_and_nothing_left(
    diagnose: Callable[..., Result], node: Path, other: str | None
) -> None:
    with announced(node / "data", other, host="127.0.0.1", port=1) if other else nullcontext():
        done = diagnose("request", "--level", "2")
    assert isinstance(done.exception, OperatorError)
    assert not isinstance(done.exception, MisuseError)
    assert f"no agent runs on the data directory {node / 'data'}" in str(done.exception)
    assert "fleetpulse diagnose run --level 2" in str(done.exception)
    assert not (node / "state").exists()
    assert not (node / "data" / "agent").exists()


def test_an_agent_that_was_killed_takes_no_request(diagnose: Callable[..., Result], node: Path) -> None:
    with announced(node / "data", "agent", host="127.0.0.1", port=1):
        left = (node / "data" / "run" / "agent.json").read_text()
    gone = subprocess.Popen(["true"])
    gone.wait()
    (node / "data" / "run" / "agent.json").write_text(left.replace(f'"pid":{os.getpid()}', f'"pid":{gone.pid}'))
    assert isinstance(diagnose("request").exception, OperatorError)
    assert not (node / "state").exists()


def test_ctrl_c_stops_the_run_and_its_processes(node: Path) -> None:
    program(node / "bin" / "dcgmi", f"echo $$ > '{node}/pid'", "trap 'exit 130' INT", "while :; do sleep 0.02; done")
    script = (
        "import typer\nfrom pathlib import Path\nfrom infra.commands.diagnose import app\n"
        "from infra.options import Options\nroot = typer.Typer()\nroot.add_typer(app, name='diagnose')\n"
        "@root.callback()\ndef everywhere(context: typer.Context):\n"
        f"    context.obj = Options(None, Path({str(node)!r}), False)\n"
        "root(['diagnose', 'run'])\n"
    )
    done = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 20
    while not ((node / "pid").exists() and (node / "pid").read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)  # the trap has to stand
    done.send_signal(signal.SIGINT)
    _, errors = done.communicate(timeout=20)

    assert "stopping it" in errors
    assert done.returncode != 0
    assert not Path(f"/proc/{(node / 'pid').read_text().strip()}").exists()


# --- who holds GPUs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (
            ("echo 'NVIDIA-SMI has failed because it could not communicate with the driver'", "exit 9"),
            "exit 9, it says",
        ),
        (("sleep 60",), "no answer for 0 s; the driver or a GPU may hang"),
    ],
)
def test_where_nvidia_smi_fails_nobody_says_that_gpus_are_free(
    tmp_path: Path, lines: tuple[str, ...], why: str
) -> None:
    smi = program(tmp_path / "smi", *(f"exec {line}" if line.startswith("sleep") else line for line in lines))
    with pytest.raises(BusyUnknownError, match=why):
        gpu_programs(str(smi), timeout_s=0.3)


def test_without_nvidia_smi_nobody_says_that_gpus_are_free(tmp_path: Path) -> None:
    with pytest.raises(BusyUnknownError, match="No such file"):
        gpu_programs(str(tmp_path / "smi"))
