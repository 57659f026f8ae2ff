"""A page of dcgm-exporter becomes one reading per GPU, in our names and units; what DCGM leaves blank is null."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from infra.commands.decode_sources import register
from producers.dcgm.exporter import Decoded, ExporterReading, decode, targets
from producers.nvml.metric_table import COLUMNS
from producers.unreadable import Unreadable

GPU = 'gpu="0",UUID="GPU-1a",device="nvidia0",modelName="NVIDIA H100 80GB HBM3",Hostname="gpu-17"'


def read(text: str, node: str = "") -> list[Decoded]:
    return list(decode(enumerate(text.splitlines(keepends=True), 1), node))


def readings(decoded: list[Decoded]) -> list[ExporterReading]:
    return [item for item in decoded if isinstance(item, ExporterReading)]


def one(text: str) -> ExporterReading:
    (reading,) = read(text)
    assert isinstance(reading, ExporterReading)
    return reading


# --- real files -------------------------------------------------------------------------------------------------------


def test_the_exporters_own_example_is_three_pages_of_one_gpu(shared_data: Path) -> None:
    text = (shared_data / "dcgm_exporter" / "dcgm_exporter_readme.prom").read_text()
    decoded = read(text)
    assert len(readings(decoded)) == len(decoded) == 3
    for reading in readings(decoded):
        assert reading.component == "gpu:GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52"
        assert reading.index == 0
        assert reading.metrics == {
            "sm_clock_mhz": 139,
            "memory_clock_mhz": 405,
            "memory_temperature_celsius": None,  # 9223372036854775794: the board has no such sensor
        }


def test_every_field_of_the_default_list_has_a_name_of_ours_or_keeps_its_own(shared_data: Path) -> None:
    text = (shared_data / "dcgm_exporter" / "dcgm_exporter_default-counters.csv").read_text()
    listed = set(re.findall(r"^#? ?(DCGM_FI_\w+) ?,\s*(?:gauge|counter)", text, re.MULTILINE))
    assert len(listed) == 48
    without = {field for field in listed if field not in targets()}
    assert without == {
        "DCGM_FI_DEV_POWER_VIOLATION",  # nanoseconds here, microseconds in the versions before
        "DCGM_FI_DEV_THERMAL_VIOLATION",
        "DCGM_FI_DEV_SYNC_BOOST_VIOLATION",
        "DCGM_FI_DEV_BOARD_LIMIT_VIOLATION",
        "DCGM_FI_DEV_LOW_UTIL_VIOLATION",
        "DCGM_FI_DEV_RELIABILITY_VIOLATION",
        "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL",  # a total of unsaid unit
        "DCGM_FI_DEV_NVLINK_BANDWIDTH_L0",
        "DCGM_FI_DEV_VGPU_LICENSE_STATUS",
        "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
        "DCGM_FI_PROF_SM_OCCUPANCY",
        "DCGM_FI_PROF_PIPE_FP64_ACTIVE",
        "DCGM_FI_PROF_PIPE_FP32_ACTIVE",
        "DCGM_FI_PROF_PIPE_FP16_ACTIVE",
    }


def test_a_list_of_fields_is_no_page(shared_data: Path) -> None:
    (complaint,) = read((shared_data / "dcgm_exporter" / "dcgm_exporter_default-counters.csv").read_text())
    assert isinstance(complaint, Unreadable)


def test_metrics_are_columns_of_gpu_samples() -> None:
    assert {target.name for target in targets().values() if target.group == "metrics"} <= set(COLUMNS)


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value", "group", "name", "ours"),
    [
        ("DCGM_FI_DEV_FB_USED", "512", "metrics", "memory_used_bytes", 512 << 20),
        ("DCGM_FI_DEV_POWER_USAGE", "71.342000", "metrics", "power_watts", 71.342),
        ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "0.25", "metrics", "tensor_active_percent", 25),
        ("DCGM_FI_PROF_PCIE_TX_BYTES", "1234567", "metrics", "pcie_tx_bytes_per_second", 1234567),
        ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "5000", "counters", "energy_joules", 5),
        ("DCGM_FI_DEV_ROW_REMAP_FAILURE", "1", "counters", "row_remap_failure", True),
        ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "2", "counters", "ecc_volatile_uncorrectable", 2),
        ("DCGM_FI_DEV_XID_ERRORS", "79", "counters", "last_xid", 79),
        ("dcgm_gpu_temp", "41", "metrics", "temperature_celsius", 41),
        ("DCGM_FI_PROF_SM_OCCUPANCY", "0.5", "other", "DCGM_FI_PROF_SM_OCCUPANCY", 0.5),
    ],
)
def test_fields_become_our_names_and_units(field: str, value: str, group: str, name: str, ours: float) -> None:
    assert getattr(one(f"{field}{{{GPU}}} {value}\n"), group) == {name: ours}


@pytest.mark.parametrize("start", [0x7FFFFFF0, 0x7FFFFFFFFFFFFFF0, 2**47])
@pytest.mark.parametrize("offset", range(4))
@pytest.mark.parametrize("form", ["{:d}", "{:.6f}", "{:.15e}"])
def test_dcgms_blanks_of_every_type_are_null(start: int, offset: int, form: str) -> None:
    reading = one(f"DCGM_FI_DEV_MEMORY_TEMP{{{GPU}}} {form.format(start + offset)}\n")
    assert reading.metrics == {"memory_temperature_celsius": None}


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "1e400", "9" * 400])
def test_what_is_no_finite_number_is_null(value: str) -> None:
    assert one(f"DCGM_FI_DEV_GPU_TEMP{{{GPU}}} {value}\n").metrics == {"temperature_celsius": None}


@pytest.mark.parametrize("value", [0x7FFFFFEF, 0x80000000, 2**47 - 1, 2**47 + 4096])
def test_large_counts_beside_the_blanks_are_kept(value: int) -> None:
    assert one(f"DCGM_FI_DEV_PCIE_REPLAY_COUNTER{{{GPU}}} {value}\n").counters == {"pcie_replays": value}


def test_of_two_fields_for_one_metric_the_better_that_has_a_value_counts() -> None:
    usage, instant = f"DCGM_FI_DEV_POWER_USAGE{{{GPU}}} 70\n", f"DCGM_FI_DEV_POWER_USAGE_INSTANT{{{GPU}}} "
    for page in (f"{usage}{instant}90\n", f"{instant}90\n{usage}"):
        assert one(page).metrics == {"power_watts": 90}
    for page in (f"{usage}{instant}{0x7FFFFFFFFFFFFFF0}\n", f"{instant}{0x7FFFFFFFFFFFFFF0}\n{usage}"):
        assert one(page).metrics == {"power_watts": 70}


# --- whose they are ---------------------------------------------------------------------------------------------------


def test_each_gpu_instance_and_link_is_read_by_itself() -> None:
    page = (
        'DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-1a",pci_bus_id="00000000:0F:00.0"} 41\n'
        'DCGM_FI_DEV_GPU_TEMP{gpu="1",UUID="GPU-2b"} 42\n'
        'DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-1a",GPU_I_ID="3",GPU_I_PROFILE="1g.10gb"} 5\n'
        'DCGM_FI_DEV_NVSWITCH_TEMPERATURE_CURRENT{nvswitch="2",hostname="gpu-17"} 50\n'
        'DCGM_FI_DEV_CPU_UTIL_TOTAL{cpu="0",Hostname="gpu-17"} 0.5\n'
    )
    found = readings(read(page))
    assert [reading.component for reading in found] == [
        "gpu:GPU-1a", "gpu:GPU-2b", "gpu:GPU-1a", "nvswitch:gpu-17/2", "node:gpu-17",
    ]  # fmt: skip
    assert found[0].pci == "0000:0f:00"
    assert found[2].labels["GPU_I_ID"] == "3"


def test_a_serial_in_the_labels_is_the_identity() -> None:
    reading = one(f'DCGM_FI_DEV_GPU_TEMP{{{GPU},DCGM_FI_DEV_SERIAL="1650522003820"}} 41\n')
    assert (reading.gpu, reading.component, reading.node) == ("1650522003820", "gpu:1650522003820", "gpu-17")


def test_pods_that_share_a_gpu_make_no_second_gpu() -> None:
    page = "".join(f'DCGM_FI_DEV_GPU_TEMP{{{GPU},pod="{pod}"}} 41\n' for pod in ("a", "b"))
    assert one(page).labels["pod"] == "a"


def test_values_that_a_label_tells_apart_are_kept_apart() -> None:
    page = "".join(
        f'DCGM_EXP_XID_ERRORS_COUNT{{{GPU},window_size_in_ms="300000",xid="{xid}"}} {count}\n'
        for xid, count in ((31, 2), (79, 1))
    )
    assert one(page).other == {"DCGM_EXP_XID_ERRORS_COUNT{xid=31}": 2, "DCGM_EXP_XID_ERRORS_COUNT{xid=79}": 1}


def test_other_programs_metrics_on_the_page_are_left_alone() -> None:
    assert one(f"go_goroutines 12\nDCGM_FI_DEV_GPU_TEMP{{{GPU}}} 41\n").other == {}


# --- what is broken ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["DCGM_FI_DEV_SM_CLOCK{gpu= 5", "DCGM_FI_DEV_SM_CLOCK abc", "}{", 'x{a="b"', "\x00"])
def test_a_broken_line_costs_only_itself(broken: str) -> None:
    complaint, reading = read(f"DCGM_FI_DEV_GPU_TEMP{{{GPU}}} 41\n{broken}\nDCGM_FI_DEV_FAN_SPEED{{{GPU}}} 30\n")
    assert isinstance(complaint, Unreadable)
    assert complaint.place == "line 2"
    assert isinstance(reading, ExporterReading)
    assert reading.metrics == {"temperature_celsius": 41, "fan_speed_percent": 30}


def test_the_command_prints_one_object_for_each_gpu() -> None:
    app = typer.Typer()
    register(app)
    done = CliRunner().invoke(app, ["dcgm-exporter", "-"], input=f"DCGM_FI_DEV_GPU_TEMP{{{GPU}}} 41\nnonsense\n")
    assert done.exit_code == 1
    assert [json.loads(line)["metrics"] for line in done.stdout.splitlines()] == [{"temperature_celsius": 41}]
    assert done.stderr.startswith("standard input: line 2: a value of dcgm-exporter: ")


def test_a_file_that_is_no_page_at_all_is_told_in_one_line_and_not_line_by_line() -> None:
    (unreadable,) = decode(enumerate(["root:x:0:0:root:/root:/bin/sh"] * 20, 1))
    assert unreadable == Unreadable(
        place="line 20", what="a page of dcgm-exporter", reason="no line with a DCGM_FI_… field in it"
    )


def test_what_could_not_be_read_before_the_first_value_is_told_in_its_place() -> None:
    bad, reading = decode(enumerate(["root:x:0:0:root", f"DCGM_FI_DEV_SM_CLOCK{{{GPU}}} 139"], 1))
    assert (type(bad), type(reading)) == (Unreadable, ExporterReading)
    assert bad.place == "line 1"
