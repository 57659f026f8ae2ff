"""`fleetpulse decode kernel-log` as a user runs it."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CAPTURE = ROOT / ".." / "shared" / "data" / "kernel_log" / "gpud_dmesg-with-xid-119.log"
COMMAND = [sys.executable, "-m", "infra.commands.decode", "kernel-log"]


def decode(*arguments: str, text: str | None = None) -> tuple[int, list[dict[str, Any]], str]:
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, input=text, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_one_object_for_each_event_and_the_counts_aside() -> None:
    text = (
        "[Sun Feb 23 16:24:18 2025] NVRM: GPU at PCI:0000:9b:00: GPU-509665ad-b600-ac93-3616-d754b23d636d\n"
        "[Sun Feb 23 16:24:18 2025] NVRM: GPU Board Serial Number: 1650124014249\n"
        "nothing of interest\n"
        "[Sun Feb 23 16:24:18 2025] NVRM: Xid (PCI:0000:9B:00.0): 79, pid=1, GPU has fallen off the bus.\n"
    )
    code, (_, _, event), counts = decode("-", text=text)
    assert code == 0
    assert counts == "3 hardware events; gpu_map 1; gpu_serial 1; xid 1\n"
    assert event.pop("raw") == text.splitlines()[3]
    assert event.pop("name") == "GPU has fallen off the bus"
    assert event == {
        "line": 4, "kind": "xid", "code": 79, "pci": "0000:9b:00", "gpu": "1650124014249", "link": None,
        "severity": "critical", "action": "reboot_node", "fault_class": "gpu_lost", "nvidia_action": "RESTART_BM",
        "rule": "xid.79", "overridden": False, "event_ms": 1740327858000, "source": "kernel_log",
        "details": {"pid": "1"},
    }  # fmt: skip


def test_a_real_log() -> None:
    if not CAPTURE.exists():
        pytest.skip("the real kernel log is not here")
    code, found, counts = decode(str(CAPTURE))
    assert code == 0
    assert [event["line"] for event in found] == [1, 2, 3, 38, 40, 41, 42, 43]
    assert counts == "8 hardware events; gpu_map 1; gpu_serial 1; gsp_text 1; xid 5\n"


def test_a_log_of_nothing_prints_nothing() -> None:
    assert decode("-", text="") == (0, [], "0 hardware events\n")


def test_what_the_line_says_refines_the_catalogue() -> None:
    lines = "NVRM: Xid (PCI:0:1:0): 149, NETIR Fatal XC0 i0 Link 1\nNVRM: Xid (PCI:0:1:0): 145, RLW Nonfatal Link 1\n"
    _, found, _ = decode("-", text=lines)
    assert [(event["severity"], event["rule"]) for event in found] == [
        ("critical", "xid.149.fatal"),
        ("warning", "xid.145.nonfatal"),
    ]


def test_the_version_of_the_driver_decides_what_nvlink_registers_mean() -> None:
    line = "NVRM: Xid (PCI:0:1:0): 145, RLW_REMAP Nonfatal XC1 i0 Link 10 (0x00000082 0x00000040)\n"
    rules = [
        decode(*driver, "-", text=line)[1][0]["rule"] for driver in ((), ("--driver", "570.86"), ("--driver", "580"))
    ]
    assert rules == ["xid.145.reset_nonfatal", "xid.145.reset_nonfatal", "xid.145.nonfatal"]


def test_a_catalogue_of_ones_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('[xid.31]\nseverity = "critical"\naction = "replace"\n')
    _, (event,), _ = decode("--catalog", str(mine), "-", text="NVRM: Xid (PCI:0000:01:00): 31\n")
    assert (event["severity"], event["action"], event["overridden"]) == ("critical", "replace", True)


@pytest.mark.parametrize(("arguments", "code", "said"), [
    (["/nowhere/kern.log"], 1, "decoding the kernel log /nowhere/kern.log: no such file or directory\n"),
    (["/"], 1, "decoding the kernel log /: is a directory\n"),
    (["--catalog", "/no.toml", "-"], 1, "the catalogue file /no.toml cannot be read: No such file or directory\n"),
])  # fmt: skip
def test_what_cannot_be_read_is_one_line(arguments: list[str], code: int, said: str) -> None:
    assert decode(*arguments, text="") == (code, [], f"fleetpulse decode: {said}")


def test_a_compressed_log_is_read_as_it_is_and_a_damaged_one_as_far_as_it_goes(tmp_path: Path) -> None:
    lines = "".join(f"NVRM: Xid (PCI:0000:01:00): 31, pid={number}\n" for number in range(20_000))
    path = tmp_path / "kern.log.2.gz"
    path.write_bytes(gzip.compress(lines.encode()))
    assert [event["line"] for event in decode(str(path))[1]] == list(range(1, 20_001))
    path.write_bytes(path.read_bytes()[:-2000])
    code, found, said = decode(str(path))
    assert code == 1
    assert [event["line"] for event in found] == list(range(1, len(found) + 1))
    assert len(found) > 1000
    assert f"decoding the kernel log {path}: the compressed log is damaged after line {len(found)}" in said


def test_misuse_exits_with_2() -> None:
    assert decode()[0] == 2
    assert decode("--no-such-option", "-")[0] == 2
    code, _, said = decode("--driver", "R570", "-", text="")
    assert code == 2
    assert "570.86" in said


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    line = "NVRM: Xid (PCI:0000:01:00): 31\n"
    with subprocess.Popen(
        [*COMMAND, "-"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdin
        assert running.stdout
        assert running.stderr
        running.stdin.write(line)
        running.stdin.flush()
        assert json.loads(running.stdout.readline())["code"] == 31  # at once: the log is still being written
        running.stdout.close()
        running.stdin.write(line * 1000)
        running.stdin.close()
        assert running.wait(timeout=30) == 0
        said = running.stderr.read()
    assert "Traceback" not in said
    assert "BrokenPipe" not in said
