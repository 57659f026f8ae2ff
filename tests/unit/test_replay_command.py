"""`fleetpulse replay` in this process, as a user runs it."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from infra.cli import app
from infra.errors import MisuseError, OperatorError
from tests.replay_scenes import INVENTORY, START_MS, as_text, line, rack_log

SYSLOG = "Mar  3 10:00:00 gpu-17 kernel: NVRM: Xid (PCI:0000:9b:00): 79, pid=1, GPU has fallen off the bus.\n"


def replay(*arguments: str | Path, text: str | None = None) -> Result:
    return CliRunner().invoke(app, ["replay", *map(str, arguments)], input=text)


def incidents(done: Result) -> list[dict[str, Any]]:
    return [json.loads(one) for one in done.stdout.splitlines()]


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(INVENTORY)
    return path


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_text(as_text(rack_log()))
    return path


def test_a_rack_of_events_becomes_its_incidents(events: Path, inventory: Path) -> None:
    done = replay("events", events, "--inventory", inventory, "--incidents", "-")
    assert done.exit_code == 0, done.stderr
    link, lost, memory, processor, again = incidents(done)
    assert link["root"]["component"] == "gpu:tray-1-gpu0"
    assert {member["node"] for member in link["members"]} == {"tray-1", "tray-2", "tray-3", "tray-4"}
    assert link["racks"] == ["dense"]
    root = lost["root"]
    assert (root["component"], root["node"], root["gpu"], root["pci"], root["code"]) == (
        "gpu:box-1-gpu0", "box-1", "box-1-gpu0", "0000:91:00", 79,
    )  # fmt: skip
    assert lost["action"] == "reboot_node"
    assert sorted(member["role"] for member in lost["members"]) == ["root", *["symptom"] * 7]
    assert memory["root"]["code"] == 48
    assert (processor["root"]["code"], processor["state"], again["state"]) == (119, "cleared", "open")
    assert processor["members"][0]["count"] == 30
    assert processor["incident_id"] != again["incident_id"]
    assert [one["pages"] for one in (link, lost, memory, processor, again)] == [0, 1, 1, 1, 1]
    assert link["first_ms"] == START_MS
    assert done.stderr.splitlines()[-1] == "faults 23; incidents 5; pages 4"


def test_the_order_of_the_lines_and_lines_read_twice_change_nothing(
    events: Path, inventory: Path, tmp_path: Path
) -> None:
    lines = [*rack_log(), *rack_log()]
    random.Random(7).shuffle(lines)
    shuffled = tmp_path / "shuffled.jsonl.gz"
    shuffled.write_bytes(gzip.compress(as_text(lines).encode()))
    straight = replay("events", events, "--inventory", inventory, "--incidents", "-")
    mixed = replay("events", shuffled, "--inventory", inventory, "--incidents", "-")
    assert incidents(mixed) == incidents(straight)


def test_without_an_inventory_a_node_is_its_own_domain(events: Path) -> None:
    done = replay("events", events, "--incidents", "-")
    echoes = [one for one in incidents(done) if one["root"]["code"] in {145, 149}]
    assert {one["root"]["node"] for one in echoes} >= {"tray-1"}
    assert all(len({member["node"] for member in one["members"]}) == 1 for one in echoes)
    assert {(one["site"], *one["racks"]) for one in incidents(done)} == {("replay", "replay")}


def test_bad_lines_are_named_the_rest_goes_on_and_the_exit_is_1(inventory: Path) -> None:
    good = as_text([line(79, "box-1", 0)])
    done = replay(
        "events", "-", "--inventory", inventory, "--incidents", "-", text=f"{good}oops\n\n{{}}\n{good}" + "x\n" * 30
    )
    assert done.exit_code == 1
    assert len(incidents(done)) == 1
    assert "standard input: line 2: 'oops' is no JSON object" in done.stderr
    assert "standard input: line 4: it has no kind" in done.stderr
    assert "… and 12 more lines that cannot be read" in done.stderr


def test_an_empty_log_has_no_incidents(tmp_path: Path) -> None:
    done = replay("events", "-", "--incidents", "-", text="")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "nothing to replay" in done.stderr


def test_incidents_go_to_a_file_too(events: Path, tmp_path: Path) -> None:
    done = replay("events", events, "--incidents", tmp_path / "out.jsonl")
    assert done.stdout == ""
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) >= 5


def test_a_kernel_log_itself_gives_the_same_as_its_decoded_lines(shared_data: Path, tmp_path: Path) -> None:
    capture = shared_data / "kernel_log" / "gpud_dmesg-with-xid-119.log"
    itself = replay("kernel-log", capture, "--node", "gpu-17", "--incidents", "-")
    decoded = CliRunner().invoke(app, ["decode", "kernel-log", str(capture), "--node", "gpu-17"])
    (tmp_path / "events.jsonl").write_text(decoded.stdout)
    events = replay("events", tmp_path / "events.jsonl", "--incidents", "-")
    (incident,) = incidents(itself)
    assert incidents(events) == [incident]
    assert incident["root"]["gpu"] == "1650124014249"
    assert (incident["root"]["code"], incident["action"], incident["pages"]) == (119, "reset_gpu", 1)
    assert incident["members"][0]["count"] == 6


def test_for_people_it_prints_faults_and_incidents(shared_data: Path) -> None:
    capture = shared_data / "kernel_log" / "gpud_dmesg-with-xid-119.log"
    done = replay("kernel-log", capture, "--node", "gpu-17", "--no-broker")
    assert "1 incident\n" in done.stdout
    assert "  root      gpu:1650124014249" in done.stdout


def test_lines_without_a_time_are_told(tmp_path: Path) -> None:
    bare = "[  123.456] NVRM: Xid (PCI:0000:9b:00): 79, pid=1, GPU has fallen off the bus.\n"
    (tmp_path / "dmesg").write_text(bare)
    done = replay("kernel-log", tmp_path / "dmesg", "--node", "n", "--incidents", "-")
    assert "1 of 1 events have no time" in done.stderr
    placed = replay("kernel-log", tmp_path / "dmesg", "--node", "n", "--boot-ms", str(START_MS), "--incidents", "-")
    assert "no time" not in placed.stderr
    assert incidents(placed)[0]["first_ms"] == START_MS + 123_456
    timeless = replay("events", "-", "--incidents", "-", text=as_text([line(79, "n", 0, event_ms=None)]))
    assert "1 events have no time of their own" in timeless.stderr


def test_the_place_of_a_node_is_the_inventorys_unless_it_is_said(tmp_path: Path, inventory: Path) -> None:
    (tmp_path / "kern.log").write_text(SYSLOG)
    command = ("kernel-log", tmp_path / "kern.log", "--node", "box-1", "--inventory", inventory, "--incidents", "-")
    (declared,) = incidents(replay(*command))
    assert (declared["site"], declared["racks"]) == ("hall-a", ["plain"])
    (said,) = incidents(replay(*command, "--rack", "elsewhere"))
    assert (said["site"], said["racks"]) == ("hall-a", ["elsewhere"])


def test_a_simulated_fleet_in_files_can_be_replayed(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet"
    simulate = ["simulate", "--gpus", "72", "--hours", "0.5", "--interval-s", "30", "--fault-rate", "20000", "--out"]
    assert CliRunner().invoke(app, [*simulate, str(fleet)]).exit_code == 0
    done = replay("events", fleet / "events.jsonl", "--inventory", fleet / "inventory.jsonl", "--incidents", "-")
    assert done.exit_code == 0, done.stderr
    assert incidents(done)
    assert {one["site"] for one in incidents(done)} == {"demo"}


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        (("events", "nowhere.jsonl"), MisuseError, "nowhere.jsonl cannot be read"),
        (("kernel-log", "nowhere.log", "--node", "n"), MisuseError, "nowhere.log cannot be read"),
        (("events", "-", "--inventory", "bad.jsonl"), OperatorError, "line 2, is no inventory record"),
        (("events", "-", "--inventory", "bad.yaml"), OperatorError, "1 error"),
    ],
)
def test_what_is_not_there_or_wrong_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], error: type[Exception], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    record = '{"component":"node:n","kind":"node","site":"s","rack":"r","source":"declared","seen_ms":1}'
    Path("bad.jsonl").write_text(f"{record}\n{{}}\n")
    Path("bad.yaml").write_text("site: s\nrakcs: []\n")
    done = replay(*arguments, "--incidents", "-", text="")
    assert isinstance(done.exception, error)
    assert said in str(done.exception)
