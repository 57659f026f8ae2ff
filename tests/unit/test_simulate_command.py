"""`fleetpulse simulate`: what is said on the command line counts, or is refused; nothing of it is passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from infra.commands.simulate import _given, simulate
from infra.errors import MisuseError
from infra.options import Options
from producers.settings import SimulateSettings

SHORT = ("--interval-s", "10", "--seed", "7")
SCRIPTED = {"gpu_falls_off_bus", "gpu_overheats", "node_goes_silent", "nvlink_fails"}


def run(folder: Path, *arguments: str, settings: str = "duration_s = 90.0") -> Result:
    """Into the files of folder/out, for as long as the settings say."""
    config = folder / "fleetpulse.toml"
    config.write_text(f"[simulate]\n{settings}\n")
    app = typer.Typer()
    app.command()(simulate)

    @app.callback()
    def everywhere(context: typer.Context) -> None:
        context.obj = Options(config, folder / "data", json_lines=False)

    return CliRunner().invoke(app, ["simulate", *SHORT, "--out", str(folder / "out"), *arguments])


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def refusal(result: Result) -> str:
    assert isinstance(result.exception, MisuseError), result.output
    return str(result.exception)


@pytest.fixture
def declared(tmp_path: Path) -> str:
    """Settings that name an inventory of 2 nodes."""
    path = tmp_path / "declared.yaml"
    path.write_text("site: a\nracks:\n- {name: r1, nodes: 'n[1-2]', gpus_per_node: 8}\n")
    return f'duration_s = 30.0\ninventory = "{path}"'


def fleet(folder: Path) -> tuple[int, set[str]]:
    """How many GPUs, and which nodes."""
    found = {str(line.get("component")) for line in lines(folder / "out" / "inventory.jsonl")}
    return sum(one.startswith("gpu:") for one in found), {one for one in found if one.startswith("node:")}


def test_a_number_of_gpus_goes_before_the_inventory_of_the_settings(tmp_path: Path, declared: str) -> None:
    done = run(tmp_path, "--gpus", "64", settings=declared)
    assert done.exit_code == 0, done.output
    gpus, nodes = fleet(tmp_path)
    assert gpus == 64
    assert not nodes & {"node:n1", "node:n2"}


def test_without_a_fleet_on_the_command_line_the_inventory_of_the_settings_is_simulated(
    tmp_path: Path, declared: str
) -> None:
    assert run(tmp_path, "--hours", "0.005", settings=declared).exit_code == 0
    assert fleet(tmp_path) == (16, {"node:n1", "node:n2"})


@pytest.mark.parametrize("more", [(), ("--inventory", "declared.yaml")])
def test_machines_without_gpus_are_refused(
    tmp_path: Path, declared: str, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refusal(run(tmp_path, "--machines", "nvl72", *more, settings=declared))
    assert said == "--machines says what the racks of --gpus are made of: give --gpus too"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("machines", "kinds"), [("hgx", {"hgx"}), ("nvl72", {"nvl72"}), (None, {"hgx", "nvl72"})])
def test_the_racks_are_of_the_machines_that_were_asked_for(
    tmp_path: Path, machines: str | None, kinds: set[str]
) -> None:
    words = ("--machines", machines) if machines else ()
    assert run(tmp_path, "--gpus", "288", *words, settings="duration_s = 10.0").exit_code == 0
    _, nodes = fleet(tmp_path)
    assert {node.removeprefix("node:").split("-")[0] for node in nodes} == kinds


def faults(folder: Path) -> set[str]:
    return {str(line["fault"]) for line in lines(folder / "out" / "truth.jsonl")}


def test_without_options_the_faults_of_the_script_are_played(tmp_path: Path) -> None:
    assert run(tmp_path).exit_code == 0
    assert faults(tmp_path) == SCRIPTED


@pytest.mark.parametrize(
    "option",
    [
        ("--gpus", "64"),
        ("--hours", "0.025"),
        ("--fault-rate", "1"),
        ("--fault-mix", "even"),
        ("--fault-mix", "published"),
        ("--kind", "cooling_degrades"),
    ],
)
def test_faults_come_by_chance_as_soon_as_one_option_says_how_and_its_help_names_it(
    tmp_path: Path, option: tuple[str, str]
) -> None:
    done = run(tmp_path, *option)
    assert done.exit_code == 0, (done.output, done.exception)
    assert not faults(tmp_path) & SCRIPTED  # 90 s with four faults on schedule, and next to none by chance
    assert simulate.__doc__ is not None
    switch = simulate.__doc__[simulate.__doc__.index("With --gpus") : simulate.__doc__.index("by chance instead")]
    assert option[0] in switch
    assert "--inventory" in switch


@pytest.mark.parametrize(("rate", "said", "counts"), [(0.0, None, 1.0), (50.0, None, 50.0), (50.0, 0.0, 0.0)])
def test_a_mix_alone_brings_faults_at_the_rate_of_the_settings_or_the_published_one(
    rate: float, said: float | None, counts: float
) -> None:
    given = _given(
        SimulateSettings(fault_rate=rate), fault_mix="even", fault_rate=said, kinds=[],
        gpus=None, inventory=None, machines=None, hours=None, interval_s=None, seed=None, truth=None, speed=None,
    )  # fmt: skip
    assert (given.faults, given.fault_rate, given.fault_mix) == ((), counts, "even")
