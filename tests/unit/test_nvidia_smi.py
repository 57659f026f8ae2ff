"""What nvidia-smi prints becomes readings: real captures against values read off them, and what goes wrong."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from producers.kernel_log import numbered
from producers.nvidia_smi import GpuEvent, GpuReading, decode
from producers.nvidia_smi.reading import Decoded
from producers.nvml.metric_table import COLUMNS
from producers.unreadable import Unreadable

H100 = "linux-x86_64__nvidia-h100-80gb-hbm3__590.48.01"
MIB = 1 << 20


def read(text: str, node: str = "") -> list[Decoded]:
    return list(decode(enumerate(text.splitlines(keepends=True), 1), node))


def read_file(path: Path) -> list[Decoded]:
    with path.open("rb") as stream:
        return list(decode(numbered(stream)))


def readings(decoded: list[Decoded]) -> list[GpuReading]:
    return [item for item in decoded if isinstance(item, GpuReading)]


def one(text: str) -> GpuReading:
    (reading,) = readings(read(text))
    return reading


def xml_gpu(serial: str, bus: str, body: str = "<temperature><gpu_temp>40 C</gpu_temp></temperature>") -> str:
    uuid = f"GPU-{serial:0>8}-0000-0000-0000-000000000001"
    return f'<gpu id="00000000:{bus}:00.0">\n<serial>{serial}</serial>\n<uuid>{uuid}</uuid>\n{body}\n</gpu>\n'


def xml(*gpus: str) -> str:
    return (
        '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n<nvidia_smi_log>\n'
        f"<attached_gpus>{len(gpus)}</attached_gpus>\n{''.join(gpus)}</nvidia_smi_log>\n"
    )


def text_gpu(serial: str, bus: str, *lines: str) -> str:
    inner = "\n".join(
        ["    Product Name : H100", f"    Serial Number : {serial}", *lines, "    Processes                : None"]
    )
    return f"GPU 00000000:{bus}:00.0\n{inner}\n"


def text(*gpus: str) -> str:
    return f"==============NVSMI LOG==============\n\nAttached GPUs : {len(gpus)}\n{''.join(gpus)}"


# --- real captures ----------------------------------------------------------------------------------------------------


def test_an_a100_in_mig_mode_is_read_and_what_it_does_not_offer_is_null(shared_data: Path) -> None:
    (reading,) = readings(read_file(shared_data / "nvidia_smi" / "a100-sxm4-v12.xml"))
    assert (reading.component, reading.gpu, reading.pci) == ("gpu:1650522003820", "1650522003820", "0000:01:00")
    assert reading.metrics == {
        "temperature_celsius": 27,
        "memory_temperature_celsius": 44,
        "temperature_margin_celsius": None,
        "power_watts": 67.03,
        "power_average_watts": None,
        "sm_clock_mhz": 1275,
        "memory_clock_mhz": 1593,
        "gpu_utilization_percent": None,  # nvidia-smi: N/A, because MIG is on
        "memory_utilization_percent": None,
        "encoder_utilization_percent": None,
        "decoder_utilization_percent": None,
        "memory_used_bytes": 50 * MIB,
        "bar1_used_bytes": 1 * MIB,
        "fan_speed_percent": None,
        "pcie_tx_bytes_per_second": 4_000_000,
        "pcie_rx_bytes_per_second": 0,
        "performance_state": 0,
        "throttle_reasons": 0,
        "process_count": 0,
    }
    assert reading.state["mig_mode"] == "Enabled"
    assert reading.state["mig_devices"] == 4
    assert reading.state["fabric_state"] is None
    assert reading.state["reset_required"] is False
    assert {
        name for name, value in reading.counters.items() if name.startswith("row_remap") and value is not None
    } == set()
    assert reading.counters["ecc_aggregate_dram_uncorrectable"] == 0
    assert reading.counters["retired_pages_double_bit"] is None
    assert reading.counters["pcie_width"] == 16
    assert reading.counters["pcie_generation_host_max"] == 4
    assert reading.limits["power_limit_watts"] == 500
    assert reading.limits["temperature_slowdown_celsius"] == 89
    assert reading.limits["memory_total_bytes"] == 81920 * MIB
    assert reading.identity["uuid"] == "GPU-513536b6-7d19-9063-b049-1e69664bb298"
    assert reading.identity["driver_version"] == "535.54.03"
    assert reading.identity["vbios_version"] == "92.00.36.00.02"
    assert reading.unreadable == {}


def test_a_t4_whose_serial_is_noughts_goes_by_its_uuid(shared_data: Path) -> None:
    (reading,) = readings(read_file(shared_data / "nvidia_smi" / "tesla-t4.xml"))
    assert reading.gpu == "GPU-d37e67a5-91dd-3774-a5cb-99096249601a"
    assert reading.pci == "0000:00:1e"
    assert reading.metrics["temperature_celsius"] == 40
    assert reading.metrics["memory_temperature_celsius"] is None
    assert reading.metrics["power_watts"] == 26.78
    assert reading.metrics["gpu_utilization_percent"] == 0
    assert reading.metrics["memory_used_bytes"] == 1032 * MIB
    assert reading.metrics["process_count"] == 1  # Xorg draws, python computes
    assert (reading.counters["pcie_width"], reading.counters["pcie_width_max"]) == (8, 16)
    assert reading.counters["retired_pages_single_bit"] == 0
    assert reading.counters["retired_pages_pending"] is False
    assert reading.limits["power_limit_watts"] == 70


# What a public exporter made of the same capture, under its names, and what makes it comparable.
EXPORTER = {
    ("metrics", "temperature_celsius"): ("temperature_gpu", 1),
    ("metrics", "memory_temperature_celsius"): ("temperature_memory", 1),
    ("metrics", "temperature_margin_celsius"): ("temperature_gpu_tlimit", 1),
    ("metrics", "power_watts"): ("power_draw_instant_watts", 1),
    ("metrics", "power_average_watts"): ("power_draw_average_watts", 1),
    ("metrics", "sm_clock_mhz"): ("clocks_current_sm_clock_hz", 1e-6),
    ("metrics", "memory_clock_mhz"): ("clocks_current_memory_clock_hz", 1e-6),
    ("metrics", "gpu_utilization_percent"): ("utilization_gpu_ratio", 100),
    ("metrics", "memory_utilization_percent"): ("utilization_memory_ratio", 100),
    ("metrics", "encoder_utilization_percent"): ("utilization_encoder_ratio", 100),
    ("metrics", "decoder_utilization_percent"): ("utilization_decoder_ratio", 100),
    ("metrics", "memory_used_bytes"): ("memory_used_bytes", 1),
    ("metrics", "performance_state"): ("pstate", 1),
    ("metrics", "throttle_reasons"): ("clocks_event_reasons_active", 1),
    ("counters", "ecc_volatile_sram_correctable"): ("ecc_errors_corrected_volatile_sram", 1),
    ("counters", "ecc_volatile_sram_uncorrectable"): ("ecc_errors_uncorrected_volatile_sram", 1),
    ("counters", "ecc_volatile_dram_correctable"): ("ecc_errors_corrected_volatile_dram", 1),
    ("counters", "ecc_aggregate_dram_uncorrectable"): ("ecc_errors_uncorrected_aggregate_dram", 1),
    ("counters", "ecc_aggregate_sram_uncorrectable_l2"): ("ecc_errors_uncorrected_aggregate_sram_l2", 1),
    ("counters", "ecc_aggregate_sram_uncorrectable_microcontroller"): ("ecc_errors_uncorrected_aggregate_sram_mcu", 1),
    ("counters", "ecc_sram_threshold_exceeded"): ("ecc_errors_uncorrected_aggregate_sram_threshold_exceeded", 1),
    ("counters", "row_remap_correctable"): ("remapped_rows_correctable", 1),
    ("counters", "row_remap_uncorrectable"): ("remapped_rows_uncorrectable", 1),
    ("counters", "row_remap_pending"): ("remapped_rows_pending", 1),
    ("counters", "row_remap_failure"): ("remapped_rows_failure", 1),
    ("counters", "row_remap_banks_max"): ("remapped_rows_histogram_max", 1),
    ("counters", "row_remap_banks_none"): ("remapped_rows_histogram_none", 1),
    ("counters", "pcie_width"): ("pcie_link_width_current", 1),
    ("counters", "pcie_width_max"): ("pcie_link_width_max", 1),
    ("counters", "pcie_generation"): ("pcie_link_gen_current", 1),
    ("counters", "pcie_generation_max"): ("pcie_link_gen_max", 1),
    ("counters", "throttled_sw_power_cap_us"): ("clocks_event_reasons_counters_sw_power_cap_seconds", 1e6),
    ("limits", "power_limit_watts"): ("enforced_power_limit_watts", 1),
    ("limits", "power_limit_default_watts"): ("power_default_limit_watts", 1),
    ("limits", "power_limit_min_watts"): ("power_min_limit_watts", 1),
    ("limits", "memory_total_bytes"): ("memory_total_bytes", 1),
    ("limits", "memory_reserved_bytes"): ("memory_reserved_bytes", 1),
    ("limits", "sm_clock_max_mhz"): ("clocks_max_sm_clock_hz", 1e-6),
}
BETWEEN = {"power_watts", "power_average_watts", "memory_temperature_celsius"}
"""They changed under load between the capture's `-q` and its `--query-gpu`, half a second later."""


@pytest.mark.parametrize("phase", ["idle", "load"])
def test_an_h100_reads_as_a_public_exporter_reads_it(shared_data: Path, phase: str) -> None:
    folder = shared_data / "nvidia_smi"
    page = (folder / f"{H100}__{phase}.expected.metrics").read_text()
    expected = {
        sample.name: sample.value for family in text_string_to_metric_families(page) for sample in family.samples
    }
    found = readings(read_file(folder / f"{H100}.txt"))
    assert [reading.form for reading in found] == ["text", "csv", "text", "csv"]
    text_form, csv_form = found[:2] if phase == "idle" else found[2:]
    for (group, name), (theirs, scale) in EXPORTER.items():
        value = expected[f"nvidia_smi_{theirs}"] * scale
        assert getattr(csv_form, group)[name] == pytest.approx(value), name
        if phase == "idle" or name not in BETWEEN:
            assert getattr(text_form, group)[name] == pytest.approx(value), name
    assert text_form.metrics["process_count"] == expected["nvidia_smi_compute_apps"]


def test_what_only_the_text_of_the_h100_says_is_as_it_stands_there(shared_data: Path) -> None:
    idle, _, load, _ = readings(read_file(shared_data / "nvidia_smi" / f"{H100}.txt"))
    assert load.timestamp == "Tue Jul 14 08:12:53 2026"
    assert (load.metrics["power_watts"], load.metrics["power_average_watts"]) == (588.39, 629.45)
    assert load.metrics["memory_temperature_celsius"] == 55
    assert load.metrics["bar1_used_bytes"] == 19819 * MIB
    assert load.metrics["pcie_rx_bytes_per_second"] == 6_346_000
    assert (idle.throttle["gpu_idle"], load.throttle["gpu_idle"]) == (True, False)
    assert load.counters["pcie_replays"] == 9
    assert load.counters["pcie_generation_host_max"] is None
    assert load.limits["temperature_margin_shutdown_celsius"] == -8
    assert load.state["fabric_state"] == "Completed"
    assert load.state["recovery_action"] == "None"
    assert load.state["unrepairable_memory"] is False
    assert (load.gpu, load.component) == (None, "gpu:0000:00:09")  # serial and UUID are masked by noughts


def test_a_report_that_breaks_off_gives_what_is_there_and_says_what_is_not(shared_data: Path) -> None:
    reading, event, complaint = read_file(shared_data / "nvidia_smi" / "nvidia-smi-query.535.183.01.out.0.invalid")
    assert isinstance(reading, GpuReading)
    assert (reading.gpu, reading.pci) == ("1655022005478", "0000:53:00")
    assert reading.counters["pcie_replays"] == 120
    assert reading.metrics["performance_state"] == 0
    assert reading.metrics["temperature_celsius"] is None
    assert reading.throttle["hw_slowdown"] is None  # its label is spoilt in the capture
    assert reading.metrics["throttle_reasons"] is None
    assert reading.cut == "Clocks Event Reasons/Display Clock Setting"
    assert isinstance(event, GpuEvent)
    assert (event.kind, event.gpu, event.details) == (
        "gpu_unreadable", "1655022005478", {"attached": "8", "shown": "1"},
    )  # fmt: skip
    assert isinstance(complaint, Unreadable)
    assert complaint.place == "line 91"
    assert "1 of 8 attached GPUs" in complaint.reason


# --- what is no value -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", ["N/A", "[N/A]", "[Not Supported]", "Requested functionality has been deprecated"])
def test_what_the_board_does_not_offer_is_null_and_no_trouble(nothing: str) -> None:
    reading = one(xml(xml_gpu("1", "01", f"<fan_speed>{nothing}</fan_speed>")))
    assert reading.metrics["fan_speed_percent"] is None
    assert reading.unreadable == {}


@pytest.mark.parametrize("trouble", ["Unknown Error", "[Unknown Error]", "ERR!", "40 Fahrenheit", "0x28", "-", "nan"])
def test_what_cannot_be_read_is_null_and_said(trouble: str) -> None:
    reading = one(xml(xml_gpu("1", "01", f"<temperature><gpu_temp>{trouble}</gpu_temp></temperature>")))
    assert reading.metrics["temperature_celsius"] is None
    assert reading.unreadable == {"temperature_celsius": trouble}


def test_a_gpu_of_which_nothing_can_be_measured_is_unreadable() -> None:
    broken = "<temperature><gpu_temp>Unknown Error</gpu_temp></temperature><fan_speed>ERR!</fan_speed>"
    _, event = read(xml(xml_gpu("1", "01", broken)))
    assert isinstance(event, GpuEvent)
    assert (event.kind, event.component) == ("gpu_unreadable", "gpu:1")


def test_the_first_place_that_holds_a_value_counts() -> None:
    body = (
        "<gpu_power_readings><instant_power_draw>N/A</instant_power_draw><power_draw>81.5 W</power_draw>"
        "<average_power_draw>80.00 W</average_power_draw></gpu_power_readings>"
    )
    metrics = one(xml(xml_gpu("1", "01", body))).metrics
    assert (metrics["power_watts"], metrics["power_average_watts"]) == (81.5, 80)


def test_throttle_reasons_are_nvmls_mask() -> None:
    reading = one(
        text(
            text_gpu(
                "1",
                "01",
                "    Clocks Throttle Reasons",
                "        Idle                        : Not Active",
                "        SW Power Cap                : Active",
                "        HW Slowdown                 : Active",
                "            HW Thermal Slowdown     : Active",
                "            HW Power Brake Slowdown : Not Active",
            )
        )
    )
    assert reading.metrics["throttle_reasons"] == 0x4 | 0x8 | 0x40
    assert reading.throttle["hw_thermal_slowdown"] is True
    assert reading.throttle["sync_boost"] is None


def test_a_mask_with_an_unknown_bit_is_unknown() -> None:
    reasons = "".join(
        f"<clocks_event_reason_{name}>{value}</clocks_event_reason_{name}>"
        for name, value in (("sw_power_cap", "Active"), ("hw_slowdown", "Unknown Error"))
    )
    reading = one(xml(xml_gpu("1", "01", f"<clocks_event_reasons>{reasons}</clocks_event_reasons>")))
    assert reading.metrics["throttle_reasons"] is None
    assert reading.throttle["sw_power_cap"] is True


def test_sram_errors_told_by_kind_are_summed() -> None:
    body = (
        "<ecc_errors><volatile><sram_uncorrectable_parity>2</sram_uncorrectable_parity>"
        "<sram_uncorrectable_secded>3</sram_uncorrectable_secded></volatile></ecc_errors>"
    )
    counters = one(xml(xml_gpu("1", "01", body))).counters
    assert counters["ecc_volatile_sram_uncorrectable"] == 5
    assert counters["ecc_aggregate_sram_uncorrectable"] is None


def test_older_boards_tell_ecc_errors_by_bits() -> None:
    body = (
        "<ecc_errors><aggregate><double_bit><device_memory>7</device_memory><register_file>1</register_file>"
        "<total>8</total></double_bit></aggregate></ecc_errors>"
    )
    counters = one(xml(xml_gpu("1", "01", body))).counters
    assert counters["ecc_aggregate_dram_uncorrectable"] == 7
    assert counters["ecc_aggregate_uncorrectable"] == 8


def test_metrics_are_columns_of_gpu_samples() -> None:
    assert set(one(xml(xml_gpu("1", "01"))).metrics) <= set(COLUMNS)


# --- GPUs that are gone -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "kind", "component"),
    [
        (
            "Unable to determine the device handle for GPU 0000:0C:00.0: GPU is lost.  Reboot the system to recover "
            "this GPU",
            "gpu_lost",
            "gpu:gpu-17/0000:0c:00",
        ),
        (
            "Unable to determine the device handle for GPU0: 0000:24:00.0: GPU is lost",
            "gpu_lost",
            "gpu:gpu-17/0000:24:00",
        ),
        (
            "Unable to determine the device handle for GPU0000:91:00.0: Unknown Error",
            "gpu_unreadable",
            "gpu:gpu-17/0000:91:00",
        ),
        ("Unable to determine the device handle for GPU3: Not Found", "gpu_lost", "gpu:gpu-17/index 3"),
        ("Failed to initialize NVML: Driver/library version mismatch", "driver_unavailable", "node:gpu-17"),
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.",
            "driver_unavailable",
            "node:gpu-17",
        ),
        ("No devices were found", "gpu_count_changed", "node:gpu-17"),
    ],
)
def test_what_nvidia_smi_says_instead_of_a_report_is_an_event(line: str, kind: str, component: str) -> None:
    (event,) = read(line + "\n", node="gpu-17")
    assert isinstance(event, GpuEvent)
    assert (event.kind, event.component, event.raw) == (kind, component, line)


def test_a_gpu_that_calls_itself_lost_is_an_event_and_its_neighbours_are_read() -> None:
    gone = ("    Temperature", "        GPU Current Temp : GPU is lost", "    Fan Speed : GPU is lost")
    good = ("    Temperature", "        GPU Current Temp : 41 C")
    decoded = read(text(text_gpu("1", "01", *good), text_gpu("2", "02", *gone), text_gpu("3", "03", *good)))
    first, second, event, third = decoded
    assert isinstance(event, GpuEvent)
    assert (event.kind, event.gpu, event.pci) == ("gpu_lost", "2", "0000:02:00")
    assert isinstance(second, GpuReading)
    assert second.lost
    assert set(second.metrics.values()) <= {None, 0}  # 0 processes are told
    for reading in (first, third):
        assert isinstance(reading, GpuReading)
        assert reading.metrics["temperature_celsius"] == 41
        assert not reading.lost


def test_a_handle_that_is_missing_between_two_reports_loses_neither() -> None:
    good = ("    Temperature", "        GPU Current Temp : 41 C")
    line = "Unable to determine the device handle for GPU0000:02:00.0: GPU is lost\n"
    decoded = read(text(text_gpu("1", "01", *good)) + line + text(text_gpu("3", "03", *good)))
    assert [type(item).__name__ for item in decoded] == ["GpuReading", "GpuEvent", "GpuReading"]


# --- documents that are broken, joined or hostile ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "broken",
    [
        '<gpu id="00000000:02:00.0"><serial>2</serial><temperature><gpu_temp>50 C</gpu_temp></gpu>\n',
        '<gpu id="00000000:02:00.0"><serial>2</serial><processes>a & b</processes></gpu>\n',
        '<gpu id="00000000:02:00.0"><serial>2</serial>\x01</gpu>\n',
        '<gpu id="00000000:02:00.0"><serial>2</serial>\n',
    ],
)
def test_a_broken_gpu_costs_only_itself(broken: str) -> None:
    decoded = read(xml(xml_gpu("1", "01"), broken, xml_gpu("3", "03")))
    assert [reading.gpu for reading in readings(decoded)] == ["1", "2", "3"]
    assert [reading.metrics["temperature_celsius"] for reading in readings(decoded)][::2] == [40, 40]
    (complaint,) = [item for item in decoded if isinstance(item, Unreadable)]
    assert complaint.what == "the XML of GPU 00000000:02:00.0"


def test_entities_of_a_document_never_reach_the_parser() -> None:
    bomb = '<!ENTITY a "ha">\n' + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 50}">\n' for i in range(12))
    document = (
        f'<?xml version="1.0"?>\n<!DOCTYPE nvidia_smi_log [\n{bomb}]>\n<nvidia_smi_log>\n'
        f"{xml_gpu('1', '01', '<product_name>&m;</product_name>')}{xml_gpu('2', '02')}</nvidia_smi_log>\n"
    )
    decoded = read(document)
    assert [reading.gpu for reading in readings(decoded)] == ["1", "2"]
    assert readings(decoded)[0].identity["name"] is None
    assert sum(isinstance(item, Unreadable) for item in decoded) == 1


def test_an_embedded_dtd_is_gone_past() -> None:
    dtd = "<!DOCTYPE nvidia_smi_log [\n<!ELEMENT gpu (serial, uuid)>\n<!ATTLIST gpu id CDATA #REQUIRED>\n]>\n"
    document = xml(xml_gpu("1", "01")).replace('<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n', dtd)
    assert one(document).gpu == "1"


def test_documents_that_follow_each_other_are_all_read() -> None:
    document = xml(xml_gpu("1", "01"), xml_gpu("2", "02"))
    assert [reading.gpu for reading in readings(read(document * 3))] == ["1", "2"] * 3


def test_a_document_in_one_line_is_read() -> None:
    document = xml(xml_gpu("1", "01"), xml_gpu("2", "02")).replace("\n", "")
    assert [reading.gpu for reading in readings(read(document))] == ["1", "2"]


def test_two_gpus_on_one_board_that_share_its_serial_go_by_their_uuids() -> None:
    first, second = xml_gpu("7", "01"), xml_gpu("7", "02").replace("-000000000001", "-000000000002")
    assert [reading.gpu for reading in readings(read(xml(first, second)))] == [
        "GPU-00000007-0000-0000-0000-000000000001",
        "GPU-00000007-0000-0000-0000-000000000002",
    ]


def test_part_of_a_report_is_no_report_that_breaks_off() -> None:
    """`nvidia-smi -q -d TEMPERATURE` shows nothing else, and that is how it should be."""
    (reading,) = read("==NVSMI LOG==\nAttached GPUs : 8\nGPU 00000000:01:00.0\n    Fan Speed : 30 %\n")
    assert isinstance(reading, GpuReading)
    assert reading.metrics["fan_speed_percent"] == 30
    assert reading.cut is None


def test_csv_takes_its_units_from_the_head_where_the_cells_have_none() -> None:
    rows = "index, uuid, memory.used [MiB], power.draw [W], temperature.gpu\n0, GPU-1a, 512, 71.5, 44\n"
    reading = one(rows)
    assert reading.metrics["memory_used_bytes"] == 512 * MIB
    assert reading.metrics["power_watts"] == 71.5
    assert reading.identity["index"] == 0
    assert reading.metrics["process_count"] is None


def test_a_csv_row_that_is_short_costs_only_itself() -> None:
    decoded = read("uuid, temperature.gpu\nGPU-1a, 44\nGPU-2b, 45, 3\nGPU-3c, 46\n")
    assert [reading.gpu for reading in readings(decoded)] == ["GPU-1a", "GPU-3c"]
    assert [item.place for item in decoded if isinstance(item, Unreadable)] == ["line 3"]


def test_csv_of_processes_is_no_reading_of_gpus() -> None:
    decoded = read("timestamp, gpu_name, gpu_uuid, pid, process_name\n2026/07/14, H100, GPU-1a, 1, x\n")
    assert readings(decoded) == []


@pytest.mark.parametrize("nothing", ["", "\n\n", "hello\n", "GPU\n", "<html></html>\n"])
def test_what_is_no_output_of_nvidia_smi_is_said(nothing: str) -> None:
    (complaint,) = read(nothing)
    assert isinstance(complaint, Unreadable)


@pytest.mark.parametrize("between", ["", "\n"])
def test_a_megabyte_of_tags_takes_time_that_grows_with_its_size_alone(between: str) -> None:
    document = "<nvidia_smi_log>\n" + between.join(['<gpu id="00000000:01:00.0">'] * 40_000) + "\n</nvidia_smi_log>\n"
    started = time.process_time()

    found = read(document)

    assert len(readings(found)) == 40_000
    assert time.process_time() - started < 8, "it took 11 s where each tag was looked for from the document's beginning"


def test_a_gpu_that_breaks_is_found_in_the_line_where_it_stands() -> None:
    document = xml(xml_gpu("1", "01"), '<gpu id="00000000:02:00.0">\n<serial>2', xml_gpu("3", "03"))
    (complaint,) = [item for item in read(document) if isinstance(item, Unreadable)]
    place = next(number for number, line in enumerate(document.splitlines(), 1) if "<serial>2" in line)
    assert complaint.place == f"line {place}"
