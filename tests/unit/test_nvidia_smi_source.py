"""The nvidia-smi source, run on a real program: a small stand-in on PATH that prints real captures, or misbehaves."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pynvml
import pytest

from producers.discovery import Roster, inventory
from producers.nvidia_smi.run import NvidiaSmi, NvidiaSmiError
from producers.nvidia_smi.source import NvidiaSmiSource
from producers.nvml import NvmlSource
from producers.settings import AgentSettings
from producers.simulate.nvml import SimulatedNvml
from producers.source import Origin
from schemas.catalog import Catalog, load
from schemas.codec import SingleObjectCodec
from schemas.records import GpuCounters, GpuSample, HardwareEvent, Record

ORIGIN = Origin("site", "rack", "node-1", "boot")
MIB = 1 << 20
A100, T4 = "a100-sxm4-v12.xml", "tesla-t4.xml"
A100_SERIAL, T4_UUID = "1650522003820", "GPU-d37e67a5-91dd-3774-a5cb-99096249601a"


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load()


@dataclass
class Node:
    """A node with a made-up `nvidia-smi`, and time that passes when it is told to."""

    source: NvidiaSmiSource
    folder: Path
    roster: Roster
    now_s: float = 1_000.0
    wanted: bool = True

    def prints(self, text: str, code: int = 0) -> None:
        (self.folder / "report").write_text(text)
        self.does(f'cat "{self.folder / "report"}"; exit {code}')

    def does(self, script: str) -> None:
        program = self.folder / "nvidia-smi"
        fresh = self.folder / "new"  # a script that is being written cannot be run
        fresh.write_text(f'#!/bin/sh\n[ "$*" = "-q -x" ] || exit 64\n{script}\n')
        fresh.chmod(0o755)
        fresh.replace(program)

    def read(self, seconds: float = 10.0) -> list[Record]:
        self.now_s += seconds
        return list(self.source.read(int(self.now_s * 1000)))

    def events(self, seconds: float = 10.0) -> list[HardwareEvent]:
        return [record for record in self.read(seconds) if isinstance(record, HardwareEvent)]

    def sample(self) -> GpuSample:
        (sample,) = (record for record in self.read() if isinstance(record, GpuSample))
        return sample


@pytest.fixture
def node(catalog: Catalog, tmp_path: Path) -> Node:
    roster = Roster()
    made = Node(None, tmp_path, roster)  # type: ignore[arg-type]
    made.source = NvidiaSmiSource(
        ORIGIN,
        catalog,
        roster,
        lambda: made.wanted,
        smi=NvidiaSmi(str(tmp_path / "nvidia-smi"), timeout_s=5.0, output_bytes=4 * MIB),
        clock=lambda: made.now_s,
        wall_ms=lambda: int(made.now_s * 1000) + 7,
    )
    return made


@pytest.fixture
def capture(shared_data: Path) -> Callable[[str], str]:
    return lambda name: (shared_data / "nvidia_smi" / name).read_text()


def gpu(serial: str, bus: str, body: str = "") -> str:
    return (
        f'<gpu id="00000000:{bus}:00.0">\n<product_name>Made up</product_name>\n<serial>{serial}</serial>\n'
        f"<uuid>GPU-{serial:0>8}-0000-4000-8000-000000000001</uuid>\n"
        f"<temperature><gpu_temp>4{serial} C</gpu_temp></temperature>\n{body}</gpu>\n"
    )


def report(*gpus: str) -> str:
    return f"<nvidia_smi_log>\n<attached_gpus>{len(gpus)}</attached_gpus>\n{''.join(gpus)}</nvidia_smi_log>\n"


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def kinds(events: list[HardwareEvent]) -> list[tuple[str, str | None]]:
    return [(event.kind, event.gpu) for event in events]


# --- real captures ----------------------------------------------------------------------------------------------------


def test_an_a100_is_the_same_records_that_nvml_would_give(node: Node, capture: Callable[[str], str]) -> None:
    node.prints(capture(A100))

    records = node.read()

    sample, counters = records
    assert isinstance(sample, GpuSample)
    assert isinstance(counters, GpuCounters)
    assert (sample.gpus, sample.gpu_index, sample.interval_ms) == ([A100_SERIAL], [0], 10_000)
    assert (sample.tick_ms, sample.observed_ms) == (1_010_000, 1_010_007)
    assert sample.temperature_celsius == [27]
    assert sample.memory_temperature_celsius == [44]
    assert sample.power_watts == [67.03]
    assert (sample.sm_clock_mhz, sample.memory_clock_mhz) == ([1275], [1593])
    assert (sample.memory_used_bytes, sample.bar1_used_bytes) == ([50 * MIB], [1 * MIB])
    assert (sample.pcie_tx_bytes_per_second, sample.pcie_rx_bytes_per_second) == ([4_000_000], [0])
    assert (sample.performance_state, sample.throttle_reasons) == ([0], [0])
    assert sample.gpu_utilization_percent == []  # MIG is on: N/A
    assert (sample.fan_speed_percent, sample.power_average_watts) == ([], [])

    assert (counters.source, counters.interval_ms, counters.gpus) == ("nvidia_smi", 30_000, [A100_SERIAL])
    assert counters.ecc_volatile_dram_correctable == [0]
    assert counters.ecc_aggregate_sram_uncorrectable == [0]
    assert (counters.pcie_width, counters.pcie_width_max) == ([16], [16])
    assert (counters.pcie_generation, counters.pcie_generation_host_max) == ([4], [4])
    assert (counters.pcie_replays, counters.pcie_replay_rollovers) == ([0], [0])
    assert counters.power_limit_watts == counters.power_limit_max_watts == [500]
    assert counters.power_limit_min_watts == [100]
    assert (counters.temperature_shutdown_celsius, counters.temperature_slowdown_celsius) == ([92], [89])
    assert counters.memory_temperature_max_operating_celsius == [95]
    assert (counters.memory_total_bytes, counters.memory_reserved_bytes) == ([81920 * MIB], [869 * MIB])
    assert counters.bar1_total_bytes == [131072 * MIB]
    assert (counters.sm_clock_max_mhz, counters.memory_clock_max_mhz) == ([1410], [1593])
    assert (counters.mig_mode, counters.ecc_mode, counters.ecc_mode_pending) == (["enabled"],) * 3
    assert (counters.persistence_mode, counters.compute_mode) == (["disabled"], ["default"])
    assert counters.row_remap_pending == counters.retired_pages_pending == counters.fabric_state == []

    codec = SingleObjectCodec()
    for record in records:
        assert isinstance(record, GpuSample | GpuCounters)
        assert codec.decode(codec.encode(record), type(record)).gpus == [A100_SERIAL]


def test_a_t4_that_has_no_serial_goes_by_its_uuid(node: Node, capture: Callable[[str], str]) -> None:
    node.prints(capture(T4))

    sample, counters = node.read()

    assert isinstance(sample, GpuSample)
    assert isinstance(counters, GpuCounters)
    assert sample.gpus == [T4_UUID]
    assert (sample.temperature_celsius, sample.power_watts, sample.process_count) == ([40], [26.78], [1])
    assert (sample.gpu_utilization_percent, sample.memory_used_bytes) == ([0], [1032 * MIB])
    assert sample.memory_temperature_celsius == []
    assert (counters.pcie_width, counters.pcie_width_max, counters.pcie_generation) == ([8], [16], [3])
    assert (counters.retired_pages_single_bit, counters.retired_pages_pending) == ([0], [0])
    assert (counters.power_limit_watts, counters.power_limit_min_watts) == ([70], [60])
    assert counters.mig_mode == []


def test_the_inventory_knows_the_gpu_as_by_nvml(node: Node, capture: Callable[[str], str]) -> None:
    assert node.source.identities() is None
    node.prints(capture(A100))
    node.read()
    identities = node.source.identities()
    assert identities is not None

    record = inventory(ORIGIN, AgentSettings(), identities, seen_ms=5)[1]

    assert (record.component, record.gpu_uuid) == (f"gpu:{A100_SERIAL}", "GPU-513536b6-7d19-9063-b049-1e69664bb298")
    assert (record.pci, record.slot, record.sku) == ("0000:01:00", 4, "NVIDIA A100-SXM4-80GB")
    assert (record.driver_version, record.vbios_version) == ("535.54.03", "92.00.36.00.02")
    assert (record.board_part_number, record.inforom_version) == ("692-2G506-0212-002", "G506.0212.00.01")


# --- when it runs -----------------------------------------------------------------------------------------------------


def test_it_runs_at_most_every_ten_seconds_and_tells_counters_every_thirty(node: Node) -> None:
    node.does(f"echo run >> \"{node.folder / 'runs'}\"; echo '{report(gpu('1', '01'))}'")

    found = [node.read(1.0) for _ in range(60)]

    assert len((node.folder / "runs").read_text().splitlines()) == 6
    assert sum(isinstance(record, GpuSample) for records in found for record in records) == 6
    assert sum(isinstance(record, GpuCounters) for records in found for record in records) == 2


def test_it_does_not_run_while_it_is_not_wanted_or_not_there(node: Node) -> None:
    assert not node.source.available()
    assert node.read() == []

    node.does(f'touch "{node.folder / "ran"}"')
    node.wanted = False
    assert node.source.available()
    assert node.read() == []
    assert not (node.folder / "ran").exists()


def test_where_nvml_is_missing_nvidia_smi_speaks_alone(node: Node, catalog: Catalog) -> None:
    nvml = SimulatedNvml()
    nvml.driver_error = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    node.roster.known = []
    fast = NvmlSource(ORIGIN, catalog, nvml, node.roster, gpu_on_bus=lambda: True, stand_in=node.source.available)
    node.prints(report(gpu("1", "01")))

    said = [*fast.read(1_000), *fast.read(2_000)]
    node.wanted = fast.library_missing

    assert said == []
    assert fast.library_missing
    assert node.sample().gpus == ["1"]
    assert list(fast.read(3_000)) == []


def test_a_stand_in_that_goes_away_leaves_the_driver_reported(node: Node, catalog: Catalog) -> None:
    nvml = SimulatedNvml()
    nvml.driver_error = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    now_s = 0.0
    fast = NvmlSource(
        ORIGIN,
        catalog,
        nvml,
        Roster(),
        gpu_on_bus=lambda: True,
        stand_in=node.source.available,
        clock=lambda: now_s,
    )
    node.prints(report(gpu("1", "01")))
    assert list(fast.read(1_000)) == []

    (node.folder / "nvidia-smi").unlink()
    now_s = 31.0

    (event,) = fast.read(32_000)
    assert isinstance(event, HardwareEvent)
    assert event.kind == "driver_unavailable"


def test_where_nvml_is_missing_and_nvidia_smi_too_that_is_an_event(node: Node, catalog: Catalog) -> None:
    nvml = SimulatedNvml()
    nvml.driver_error = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    fast = NvmlSource(ORIGIN, catalog, nvml, Roster(), gpu_on_bus=lambda: True, stand_in=node.source.available)

    (event,) = fast.read(1_000)

    assert isinstance(event, HardwareEvent)
    assert event.kind == "driver_unavailable"


# --- what goes wrong with the program ---------------------------------------------------------------------------------


def test_a_program_that_hangs_is_ended_with_what_it_started(node: Node) -> None:
    node.source._smi = NvidiaSmi(str(node.folder / "nvidia-smi"), timeout_s=0.5)
    node.does(f'echo $$ > "{node.folder / "pid"}"; sleep 60 & wait')
    started = time.monotonic()

    with pytest.raises(NvidiaSmiError, match="did not end within 0.5 s.*kernel log"):
        node.read()

    assert time.monotonic() - started < 10
    group = int((node.folder / "pid").read_text())
    deadline = time.monotonic() + 5
    while alive(group) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(group)
    assert node.source.doing == "nothing"


def test_a_program_that_ends_its_output_and_hangs_is_ended_too(node: Node) -> None:
    node.source._smi = NvidiaSmi(str(node.folder / "nvidia-smi"), timeout_s=0.5)
    node.does("exec >&- 2>&-; sleep 60")

    with pytest.raises(NvidiaSmiError, match="printed its report and did not end"):
        node.read()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo Segmentation fault; exit 139", r"no report \(exit code 139\); it begins 'Segmentation fault'"),
        ("exit 0", r"no report \(exit code 0\)"),
        ("head -c 100000 /dev/urandom", "no report"),
        ("yes '<gpu>'", "more than 4 MiB"),
    ],
)
def test_output_that_is_no_report_is_said_with_what_to_do(node: Node, script: str, message: str) -> None:
    node.does(script)

    with pytest.raises(NvidiaSmiError, match=message) as caught:
        node.read()

    assert "run it by hand" in str(caught.value)
    node.prints(report(gpu("1", "01")))
    assert node.sample().temperature_celsius == [41]


def test_a_file_that_is_no_program_is_said(tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("\x7fELF nonsense")
    program.chmod(0o755)

    with pytest.raises(NvidiaSmiError, match="cannot be run: Exec format error"):
        NvidiaSmi(str(program)).query()


def test_no_second_program_is_started_beside_one_that_does_not_die(node: Node) -> None:
    class Stuck:
        pid = 4711

        def poll(self) -> None:
            return None

    node.prints(report(gpu("1", "01")))
    node.source._smi._stuck = Stuck()  # type: ignore[assignment]

    with pytest.raises(NvidiaSmiError, match="process 4711.*does not die.*reboot"):
        node.read()


# --- what goes wrong with the GPUs ------------------------------------------------------------------------------------


def test_a_driver_that_does_not_answer_is_one_event_and_every_known_gpu_is_nan(node: Node) -> None:
    node.prints(report(gpu("1", "01"), gpu("2", "02")))
    node.read()
    node.prints("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", code=9)

    first = node.read()
    again = node.events()

    assert kinds([record for record in first if isinstance(record, HardwareEvent)]) == [("driver_unavailable", None)]
    (sample,) = (record for record in first if isinstance(record, GpuSample))
    assert sample.gpus == ["1", "2"]
    assert all(map(math.isnan, sample.temperature_celsius))
    assert again == []

    node.prints(report(gpu("1", "01"), gpu("2", "02")))
    assert kinds(node.events()) == [("driver_recovered", None)]


def test_a_gpu_that_is_lost_is_one_event_and_its_neighbours_are_read(node: Node) -> None:
    whole = report(gpu("1", "01"), gpu("2", "02"))
    node.prints(whole)
    node.read()
    lost = "Unable to determine the device handle for GPU0000:02:00.0: GPU is lost.  Reboot the system\n"
    node.prints(report(gpu("1", "01")) + lost, code=15)

    records = node.read()
    more = node.events()

    events = [record for record in records if isinstance(record, HardwareEvent)]
    assert [(event.kind, event.gpu, event.pci) for event in events] == [("gpu_lost", "2", "0000:02:00")]
    assert events[0].severity == "critical"
    (sample,) = (record for record in records if isinstance(record, GpuSample))
    assert sample.temperature_celsius[0] == 41
    assert math.isnan(sample.temperature_celsius[1])
    assert sample.throttle_reasons[1] == -1
    assert more == []

    node.prints(whole)
    assert kinds(node.events()) == [("gpu_found", "2")]


def test_a_gpu_that_is_no_longer_listed_is_lost(node: Node) -> None:
    node.prints(report(gpu("1", "01"), gpu("2", "02")))
    node.read()
    node.prints(report(gpu("1", "01")))

    assert kinds(node.events()) == [("gpu_lost", "2")]
    assert node.sample().gpus == ["1", "2"]
    assert node.events() == []


def test_a_report_that_breaks_off_declares_nobody_lost(node: Node) -> None:
    whole = report(gpu("1", "01"), gpu("2", "02"))
    node.prints(whole)
    node.read()
    node.prints(whole[: whole.index("<serial>2")])

    records = node.read()

    assert not [record for record in records if isinstance(record, HardwareEvent) and record.kind == "gpu_lost"]
    (sample,) = (record for record in records if isinstance(record, GpuSample))
    assert sample.gpus == ["1", "2"]
    assert sample.temperature_celsius[0] == 41
    assert math.isnan(sample.temperature_celsius[1])


def test_what_is_news_in_counters_is_news_here_too(node: Node) -> None:
    def remapped(pending: str, action: str) -> str:
        rows = f"<remapped_rows><remapped_row_pending>{pending}</remapped_row_pending></remapped_rows>\n"
        return report(gpu("1", "01", f"{rows}<gpu_recovery_action>{action}</gpu_recovery_action>\n"))

    node.prints(remapped("No", "None"))
    assert node.events() == []
    node.prints(remapped("Yes", "Reset"))

    events = node.events()

    assert [(event.kind, event.source, event.severity) for event in events] == [
        ("row_remap_pending", "nvidia_smi", "warning"),
        ("gpu_recovery_action", "nvidia_smi", "critical"),
    ]
    assert events[1].details["now"] == "gpu_reset"
    assert node.events() == []


def test_a_value_that_is_trouble_is_nan_and_told_once(node: Node) -> None:
    node.prints(report(gpu("1", "01", "<fan_speed>ERR!</fan_speed>")))

    records = node.read()

    (sample,) = (record for record in records if isinstance(record, GpuSample))
    assert math.isnan(sample.fan_speed_percent[0])
    assert [record.kind for record in records if isinstance(record, HardwareEvent)] == ["metric_unreadable"]
    assert node.events() == []
