"""`fleetpulse decode nvidia-smi` as a user runs it; what holds for its siblings too is shown here once."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from infra.commands.decode_sources import register

XML = """<nvidia_smi_log><gpu id="00000000:01:00.0">
<serial>1650522003820</serial><temperature><gpu_temp>40 C</gpu_temp></temperature></gpu></nvidia_smi_log>
"""
app = typer.Typer()
register(app)


def run(*arguments: str, text: str | bytes = "") -> tuple[int, list[dict[str, Any]], str]:
    done = CliRunner().invoke(app, [*arguments], input=text)
    return done.exit_code, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def test_one_object_for_each_gpu_and_the_counts_aside() -> None:
    code, (reading,), counts = run("nvidia-smi", "-", text=XML)
    assert code == 0
    assert counts == "1 object; reading 1\n"
    assert reading["source"] == "nvidia_smi"
    assert reading["component"] == "gpu:1650522003820"
    assert reading["metrics"]["temperature_celsius"] == 40
    assert reading["metrics"]["power_watts"] is None


def test_a_lost_gpu_is_judged_by_the_catalogue(tmp_path: Path) -> None:
    line = "Unable to determine the device handle for GPU0000:91:00.0: GPU is lost\n"
    code, (event,), counts = run("nvidia-smi", "--node", "gpu-17", "-", text=line)
    assert code == 0
    assert counts == "1 object; gpu_lost 1\n"
    assert (event["kind"], event["pci"], event["severity"]) == ("gpu_lost", "0000:91:00", "critical")
    assert (event["action"], event["fault_class"]) == ("reboot_node", "gpu_lost")
    own = tmp_path / "mine.toml"
    own.write_text('[event.gpu_lost]\naction = "replace"\n')
    _, (event,), _ = run("nvidia-smi", "--catalog", str(own), "-", text=line)
    assert (event["action"], event["overridden"]) == ("replace", True)


def test_what_cannot_be_read_ends_with_1_after_what_could(tmp_path: Path) -> None:
    file = tmp_path / "smi.xml"
    file.write_text(XML + "<nvidia_smi_log>\n<gpu id='00000000:02:00.0'><serial>2</serial>")
    code, found, said = run("nvidia-smi", str(file))
    assert code == 1
    assert [reading["gpu"] for reading in found] == ["1650522003820", "2"]
    complaint, counts = said.splitlines()
    assert complaint.startswith(f"{file}: line 4: the XML of GPU 00000000:02:00.0: ")
    assert counts == "2 objects; reading 2; could not be read: 1 place, see above"


@pytest.mark.parametrize("command", ["nvidia-smi", "dcgm-diag", "dcgm-exporter", "infiniband"])
def test_a_file_that_is_not_there_is_named(command: str) -> None:
    assert run(command, "/nowhere/at-all") == (
        1,
        [],
        "fleetpulse decode: decoding /nowhere/at-all: no such file or directory\n",
    )


@pytest.mark.parametrize("command", ["nvidia-smi", "dcgm-diag", "dcgm-exporter", "infiniband"])
@pytest.mark.parametrize("text", ["", "nothing of the kind\n", b"\xff\x00\xfe{<\n"])
def test_foreign_input_ends_with_1_and_a_reason(command: str, text: str | bytes) -> None:
    code, found, said = run(command, "-", text=text)
    assert (code, found) == (1, [])
    assert said.startswith("standard input: line 1: ")


@pytest.mark.parametrize("command", ["nvidia-smi", "dcgm-diag", "dcgm-exporter"])
def test_a_missing_argument_is_misuse(command: str) -> None:
    assert run(command)[0] == 2


def test_a_wrong_catalogue_is_said(tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.write_text("[event.nonsense]\n")
    code, found, said = run("nvidia-smi", "--catalog", str(own), "-", text=XML)
    assert (code, found) == (1, [])
    assert "event.nonsense" in said


def test_a_reader_that_has_seen_enough_ends_it_quietly() -> None:
    root = Path(__file__).parents[2]
    program = "import typer; from infra.commands.decode_sources import register; a = typer.Typer(); register(a); a()"
    with subprocess.Popen(
        [sys.executable, "-c", program, "nvidia-smi", "-"],
        cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(XML.encode())
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["gpu"] == "1650522003820"  # at once, not at the end
        process.stdout.close()
        with suppress(BrokenPipeError):  # it may have gone before everything was written
            process.stdin.write(XML.encode() * 2000)
            process.stdin.close()
        assert process.stderr.read() == b""
        process.wait(30)
