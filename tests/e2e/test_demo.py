"""The demo as a newcomer starts it, short: its scorecard is held against what was really injected."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def test_the_demo_finds_every_injected_fault_at_its_root_and_wakes_nobody_for_nothing(tmp_path: Path) -> None:
    data_dir = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli", "--data-dir", str(data_dir), "demo", "--short"],
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    story = f"{done.stdout}\n{done.stderr}"
    assert (data_dir / "truth.jsonl").exists(), story
    injected = [msgspec.json.decode(line) for line in (data_dir / "truth.jsonl").read_bytes().splitlines()]
    roots = {one["component"]: one["fault"] for one in injected if one["role"] == "root"}
    assert sorted(roots.values()) == ["gpu_falls_off_bus", "gpu_overheats", "node_goes_silent", "nvlink_fails"], story

    # what the demo said, read independently of its scorecard: one incident per root, at the root
    named = re.findall(r"incident  .*; root (\S+);", done.stdout)
    assert sorted(named) == sorted(roots), story
    assert len(re.findall(r"  page      ", done.stdout)) == len(roots), story
    assert "false alarms: none" in done.stdout
    assert done.returncode == 0, story

    # plain lines where there is no terminal
    assert "\x1b" not in done.stdout
    # three questions, each with its SQL and an answer
    for question in ("1. Which GPUs are unhealthy", "2. What happened to GPU", "3. Is it one GPU, or the whole rack"):
        assert question in done.stdout
    lost = next(one["gpu"] for one in injected if one["fault"] == "gpu_falls_off_bus")
    assert re.search(rf"{lost} +\S+ +unhealthy +False", done.stdout), story
