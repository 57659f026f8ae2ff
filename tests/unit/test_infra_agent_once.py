"""`fleetpulse agent --once --print`: the page is for a human, the lines for a program; both say the same."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from rich.console import Console

from infra.commands.agent_once import page, run
from infra.settings import Settings
from producers.host.settings import HostSettings
from producers.node import collect_once
from producers.settings import AgentSettings
from producers.simulate.nvml import SimulatedNvml

SETTINGS = AgentSettings(node="node-1", rack="rack-7", site="hall-a")


def shown(nvml: SimulatedNvml, settings: AgentSettings = SETTINGS) -> str:
    console = Console(width=140, record=True, file=StringIO())
    console.print(page(collect_once(settings, nvml=nvml, pause_s=0.01), settings))
    return console.export_text()


def line(text: str, begins: str) -> str:
    """The one table row that begins so."""
    rows = [row for row in text.splitlines() if row.startswith("│")]
    (found,) = [row for row in rows if row.split("│")[1].strip() == begins]
    return " ".join(found.replace("│", " ").split())


def test_what_is_the_same_on_all_gpus_stands_once_with_its_unit() -> None:
    text = shown(SimulatedNvml(gpus=8))

    assert "node node-1, rack rack-7, site hall-a" in text
    assert line(text, "temperature") == "temperature 58 °C"
    assert line(text, "bar1 used") == "bar1 used 3.0 M B"
    assert line(text, "pcie width max") == "pcie width max 16"
    assert "gpu:1654321000007" in text
    assert "fan_speed_percent" in text.partition("Not offered here, or not read:")[2]


def test_a_gpu_that_differs_is_shown_beside_the_others_and_what_is_wrong_comes_first() -> None:
    nvml = SimulatedNvml(gpus=4)
    nvml.gpus[2].fails["temperature"] = 999
    text = shown(nvml)

    assert line(text, "temperature") == "temperature 58 58 - 58 °C"
    assert text.index("metric_unreadable") < text.index("gpu.samples")


def test_a_machine_without_a_gpu_gives_a_useful_page() -> None:
    text = shown(SimulatedNvml(gpus=0))

    assert "Nothing was found of: GPUs" in text
    assert line(text, "memory total").endswith("bytes")
    assert "%" in line(text, "cpu utilization")
    assert "node:node-1" in text


def test_a_rack_that_is_not_set_is_pointed_out() -> None:
    assert "set agent.rack" in shown(SimulatedNvml(gpus=0), AgentSettings(node="n"))
    assert "set agent.rack" not in shown(SimulatedNvml(gpus=0))


def test_json_gives_one_record_per_line(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    settings = Settings.model_validate(
        {"agent": SETTINGS.model_copy(update={"host": HostSettings(enabled=False)}), "observe": {"json_lines": True}}
    )
    run(settings)

    records = [json.loads(row) for row in capfdbinary.readouterr().out.splitlines()]
    assert {record["record"] for record in records} >= {"InventoryRecord"}
    assert all(record.get("node") == "node-1" for record in records)
