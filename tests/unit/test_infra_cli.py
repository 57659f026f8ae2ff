"""The command line: help that is there at once, misuse that exits 2, failures in one line."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.cli import hoist

ROOT = Path(__file__).parents[2]


def _run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "infra.cli", *arguments],
        cwd=cwd,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["up", "--data-dir", "d"], ["--data-dir", "d", "up"]),
        (["up", "--data-dir=d", "--workers", "2", "--json"], ["--data-dir=d", "--json", "up", "--workers", "2"]),
        (["sql", "--", "--json"], ["sql", "--", "--json"]),
        (["sql", "SELECT 1"], ["sql", "SELECT 1"]),
        (["--data-dir"], ["--data-dir"]),
    ],
)
def test_options_of_every_command_may_stand_anywhere(given: list[str], meant: list[str]) -> None:
    assert hoist(given) == meant


def test_help_names_every_command_and_imports_no_heavy_library(tmp_path: Path) -> None:
    script = (
        "import sys; sys.argv = ['fleetpulse', '--help']\n"
        "from infra.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit: pass\n"
        "heavy = {'faust', 'polars', 'numpy', 'confluent_kafka', 'chdb', 'pydantic', 'clickhouse_connect'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        check=True,
    )
    for command in (
        "demo",
        "up",
        "doctor",
        "sql",
        "health",
        "replay",
        "decode",
        "streams",
        "loader",
        "alerts",
        "agent",
    ):
        assert f" {command} " in done.stdout
    assert "heavy: []" in done.stdout


def test_an_unknown_command_is_misuse(tmp_path: Path) -> None:
    assert _run("upp", cwd=tmp_path).returncode == 2


def test_wrong_settings_are_misuse_and_told_without_a_trace(tmp_path: Path) -> None:
    done = _run("doctor", cwd=tmp_path, FLEETPULSE_KAFKA__PORT="x")
    assert done.returncode == 2
    assert done.stderr.startswith("fleetpulse doctor: the settings cannot be used:")
    assert "Traceback" not in done.stderr


def test_a_question_without_a_history_says_what_to_start(tmp_path: Path) -> None:
    done = _run("sql", "SELECT 1", cwd=tmp_path)
    assert done.returncode == 1
    assert "there is no ClickHouse" in done.stderr
    assert "fleetpulse up" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_debug_shows_the_trace(tmp_path: Path) -> None:
    assert "Traceback" in _run("sql", "SELECT 1", "--debug", cwd=tmp_path).stderr


@pytest.mark.parametrize("what", ["kernel-log", "nvidia-smi", "dcgm-diag", "dcgm-exporter", "infiniband"])
def test_input_that_is_not_there_is_told_in_one_line_with_the_commands_name(tmp_path: Path, what: str) -> None:
    done = _run("decode", what, "nowhere", cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("fleetpulse decode: decoding ")
    assert line.endswith("nowhere: no such file or directory")


def test_the_demo_does_not_fill_somebody_elses_servers(tmp_path: Path) -> None:
    done = _run("demo", cwd=tmp_path, FLEETPULSE_KAFKA__BOOTSTRAP="prod:9092")
    assert done.returncode == 2
    assert "kafka.bootstrap names yours" in done.stderr


def test_the_demo_empties_no_directory_that_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    done = _run("demo", "--data-dir", "mine", cwd=tmp_path)
    assert done.returncode == 2
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_an_embedded_server_is_not_started_beside_one_of_yours(tmp_path: Path) -> None:
    assert _run("kafka", cwd=tmp_path, FLEETPULSE_KAFKA__BOOTSTRAP="k:9092").returncode == 2
    assert _run("clickhouse", cwd=tmp_path, FLEETPULSE_CLICKHOUSE__HOST="c").returncode == 2


def test_doctor_tells_a_directory_that_cannot_be_used_and_exits_1(tmp_path: Path) -> None:
    (tmp_path / "var").write_text("a file")
    started = time.monotonic()
    done = _run("doctor", cwd=tmp_path)
    assert done.returncode == 1
    assert "✗" in done.stdout
    assert "data directory" in done.stdout
    assert time.monotonic() - started < 30


def test_the_version_is_told(tmp_path: Path) -> None:
    assert _run("version", cwd=tmp_path).stdout.startswith("fleetpulse")
