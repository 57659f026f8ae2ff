"""`dcgmi diag` documents become one judged result per GPU and test: real ones of several versions, and broken ones."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from infra.commands.decode_sources import register
from producers.dcgm.diagnostics import Decoded, DiagnosticResult, decode
from producers.dcgm.interpretation import rows_of_errors, rows_of_tests
from producers.unreadable import Unreadable
from schemas.catalog import load

CATALOG = load()
ROOT = "DCGM GPU Diagnostic"


def results(decoded: list[Decoded]) -> list[DiagnosticResult]:
    return [item for item in decoded if isinstance(item, DiagnosticResult)]


def read(document: Any, **options: Any) -> list[Decoded]:
    return list(decode(document if isinstance(document, str) else json.dumps(document), catalog=CATALOG, **options))


def document(*entries: dict[str, Any], test: str = "memory", root: str = ROOT, **more: Any) -> dict[str, Any]:
    inner = {"test_categories": [{"category": "Hardware", "tests": [{"name": test, "results": list(entries)}]}]}
    return {root: inner, **more}


def one(entry: dict[str, Any], **options: Any) -> DiagnosticResult:
    (result,) = read(document(entry, **options))
    assert isinstance(result, DiagnosticResult)
    return result


# --- real documents ---------------------------------------------------------------------------------------------------


def test_every_gpu_of_a_dcgm_1_document_has_its_own_results(shared_data: Path) -> None:
    text = (shared_data / "dcgm_diag" / "dcgm1.7_nvidia_per_gpu_fail.json").read_text()
    found = results(read(text))
    by_test = {(result.gpu, result.test): result for result in found}
    assert len(by_test) == len(found) == 17 * 4
    expected = {}
    for category in json.loads(text)[ROOT]["test_categories"]:
        for test in category["tests"]:
            for entry in test["results"]:
                for gpu in entry["gpu_ids"].split(","):
                    expected[int(gpu), test["name"]] = entry["status"]
    assert {key: result.result for key, result in by_test.items()} == {
        key: {"PASS": "pass", "SKIP": "not_run", "FAIL": "fail"}[status] for key, status in expected.items()
    }
    # read by hand from the document
    slow = by_test[2, "sm_stress"]
    assert (slow.component, slow.group, slow.result) == ("gpu:2", "Stress", "fail")
    assert (slow.error_id, slow.error_name, slow.category) == (50, "STRESS_LEVEL", "perf_threshold")
    assert (slow.severity, slow.action) == ("critical", "drain_and_diagnose")
    assert slow.warnings == ("Max stress level of 1096.5 did not exceed desired stress level of 3000.0 for GPU 2",)
    assert "thermal" in slow.explains
    assert by_test[1, "sm_stress"].result == "pass"
    without_ecc = by_test[0, "memory"]
    assert (without_ecc.result, without_ecc.error_name) == ("not_run", "ECC_DISABLED")
    assert (without_ecc.severity, without_ecc.action, without_ecc.explains) == ("warning", "reset_gpu", ())
    assert by_test[1, "memory"].info == ("Allocated 16583361795 bytes (97.2%)",)
    assert by_test[3, "targeted_power"].result == "not_run"
    assert {result.dcgm_version for result in found} == {"1.7"}


def test_a_node_wide_document_in_another_tools_json_is_read(shared_data: Path) -> None:
    found = results(read((shared_data / "dcgm_diag" / "dcgm3_gcm_diag_fail.json").read_text(), node="gpu-17"))
    assert {result.test: result.result for result in found} == {
        "Blacklist": "pass",
        "NVML Library": "pass",
        "CUDA Main Library": "pass",
        "Permissions and OS Blocks": "pass",
        "Persistence Mode": "fail",
        "Environment Variables": "warn",
        "Page Retirement/Row Remap": "pass",
        "Graphics Processes": "pass",
        "Inforom": "pass",
    }
    assert {(result.gpu, result.component) for result in found} == {(None, "node:gpu-17")}
    persistence = next(result for result in found if result.result == "fail")
    assert (persistence.severity, persistence.action) == ("warning", "none")
    assert persistence.error_id is None
    assert "'Persistence Mode'" in persistence.meaning


def test_a_document_of_passes_has_nothing_to_say(shared_data: Path) -> None:
    found = results(read((shared_data / "dcgm_diag" / "dcgm3_gcm_diag_pass.json").read_text()))
    assert len(found) == 9
    assert {(r.result, r.severity, r.action, r.category, r.explains) for r in found} == {
        ("pass", "info", "none", None, ())
    }


def test_what_a_sku_does_not_allow_was_not_run_and_did_not_pass(shared_data: Path) -> None:
    found = results(read((shared_data / "dcgm_diag" / "dcgm4_gb10_partial_skip.json").read_text()))
    assert {result.test: result.result for result in found} == {
        "software": "pass", "pcie": "not_run", "memory": "not_run", "targeted_stress": "not_run",
        "sm_stress": "not_run",
    }  # fmt: skip
    assert "Plugin is not allowed on this SKU" in next(r for r in found if r.test == "pcie").meaning


def test_the_schema_of_documents_is_no_document(shared_data: Path) -> None:
    (complaint,) = read((shared_data / "dcgm_diag" / "dcgm4_schema.json").read_text())
    assert isinstance(complaint, Unreadable)


def test_the_table_has_every_error_of_dcgm_with_its_severity_and_category(shared_data: Path) -> None:
    with (shared_data / "dcgm_diag" / "dcgm_error_table.tsv").open() as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["severity"]]
    assert len(rows) == 130
    for row in rows:
        ours = rows_of_errors()[int(row["error_id"])]
        assert f"DCGM_FR_{ours.name}" == row["name"]
        assert f"DCGM_ERROR_{ours.dcgm_severity.upper()}" == row["severity"], row["name"]
        assert f"DCGM_FR_EC_{ours.category.upper()}" == row["category"], row["name"]


# --- the tables -------------------------------------------------------------------------------------------------------


def test_what_the_tables_say_is_in_our_vocabulary() -> None:
    rows: list[Any] = [*rows_of_errors().values(), *rows_of_tests().values()]
    for row in rows:
        assert set(row.explains) <= set(CATALOG.faults)
        assert row.reason.endswith(".")
    for row in rows_of_errors().values():
        assert row.meaning.endswith(".")


def test_errors_that_isolate_a_gpu_are_critical_but_for_corrected_ones() -> None:
    corrected = {"SBE_VIOLATION", "PCIE_REPLAY_VIOLATION"}
    for row in rows_of_errors().values():
        if row.dcgm_severity == "isolate" and row.name not in corrected:
            assert row.severity == "critical", row.name
            assert row.action != "none", row.name


# --- forms ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "gpus"),
    [
        ({"gpu_ids": "0,1, 3"}, [0, 1, 3]),
        ({"gpu_id": "5"}, [5]),
        ({"gpu_id": 6}, [6]),
        ({"gpu_ids": [1, 2]}, [1, 2]),
        ({"entity_group": "GPU", "entity_group_id": 1, "entity_id": 4}, [4]),
        ({"entity_group_id": 1, "entity_id": 4}, [4]),
        ({"entity_group": "CPU", "entity_group_id": 7, "entity_id": 0}, [None]),
        ({}, [None]),
    ],
)
def test_every_way_to_name_gpus_is_understood(told: dict[str, Any], gpus: list[int | None]) -> None:
    assert [result.gpu for result in results(read(document({"status": "Pass", **told})))] == gpus


def test_dcgm_4_tells_serial_numbers_versions_and_entities() -> None:
    more = {
        "entity_groups": [
            {
                "entity_group": "GPU",
                "entity_group_id": 1,
                "entities": [{"entity_id": 3, "serial_num": "1655022005478", "device_id": "2330"}],
            }
        ],
        "metadata": {"version": "4.2.3", "Driver Version Detected": "570.86.15"},
    }
    entry = {"entity_group": "GPU", "entity_group_id": 1, "entity_id": 3, "status": "Pass"}
    result = one(entry, root="DCGM Diagnostic", **more)
    assert (result.component, result.serial, result.entity) == ("gpu:1655022005478", "1655022005478", "gpu 3")
    assert (result.dcgm_version, result.driver_version) == ("4.2.3", "570.86.15")


def test_dcgm_3_tells_serial_numbers_by_index() -> None:
    made = document({"gpu_id": "0", "status": "Pass"})
    made[ROOT] |= {"GPU Device Serials": {"0": "1650522003820"}, "version": "3.1.8"}
    (result,) = results(read(made))
    assert (result.component, result.dcgm_version) == ("gpu:1650522003820", "3.1.8")


def test_a_gpu_without_serial_is_named_by_node_and_index() -> None:
    (result,) = read(document({"gpu_id": "0", "status": "Pass"}), node="gpu-17")
    assert isinstance(result, DiagnosticResult)
    assert result.component == "gpu:gpu-17/0"


def test_hosts_of_a_multi_node_document_keep_their_names() -> None:
    made = {
        "DCGM Multi-Node Diagnostic": "DCGM Multi-Node Diagnostic",
        "hosts": [{"host_id": 0, "hostname": "a"}, {"host_id": 1, "hostname": "b"}],
        "test_categories": [
            {
                "category": "Hardware",
                "tests": [
                    {
                        "name": "mnubergemm",
                        "results": [{"host_id": 1, "entity_group": "GPU", "entity_id": 2, "status": "Fail"}],
                    }
                ],
            }
        ],
    }
    (result,) = results(read(made))
    assert (result.component, result.result) == ("gpu:b/2", "fail")


@pytest.mark.parametrize("nothing", [None, [], {}, "missing"])
def test_a_test_without_results_was_not_run(nothing: Any) -> None:
    made = document()
    made[ROOT]["test_categories"][0]["tests"][0]["results"] = nothing
    found = results(read(made))
    assert [(result.test, result.gpu, result.result) for result in found] == [("memory", None, "not_run")]


def test_results_hoisted_into_the_summary_count() -> None:
    made = document()
    warning = {"warning": "GPU 1 had uncorrectable memory errors and row remapping failed.", "error_id": 80}
    made[ROOT]["test_categories"][0]["tests"][0] |= {
        "results": None, "test_summary": {"status": "Fail", "warnings": [warning]},
    }  # fmt: skip
    (result,) = results(read(made))
    assert (result.result, result.error_name, result.action) == ("fail", "ROW_REMAP_FAILURE", "replace")


def test_a_summary_that_is_worse_than_every_result_is_not_lost() -> None:
    made = document({"gpu_id": 0, "status": "Pass"}, {"gpu_id": 1, "status": "Skip"})
    made[ROOT]["test_categories"][0]["tests"][0]["test_summary"] = {"status": "Fail"}
    assert [(r.gpu, r.result) for r in results(read(made))] == [(0, "pass"), (1, "not_run"), (None, "fail")]


def test_a_summary_that_repeats_a_result_adds_nothing() -> None:
    made = document({"gpu_id": 0, "status": "Fail"})
    made[ROOT]["test_categories"][0]["tests"][0]["test_summary"] = {"status": "Fail"}
    assert len(read(made)) == 1


@pytest.mark.parametrize(
    ("status", "result"),
    [
        ("PASS", "pass"), ("Pass", "pass"), ("warn", "warn"), ("Fail", "fail"), ("Skip", "not_run"),
        ("Not Run", "not_run"), ("", "not_run"), (None, "not_run"),
    ],
)  # fmt: skip
def test_every_word_for_a_status_is_understood(status: str | None, result: str) -> None:
    assert one({"gpu_id": 0, "status": status}).result == result


@pytest.mark.parametrize("status", ["PASSED?", "perhaps", 1, ["Pass"], {"a": 1}])
def test_an_unknown_status_is_never_a_pass_and_is_said(status: Any) -> None:
    complaint, result = read(document({"gpu_id": 0, "status": status}))
    assert isinstance(complaint, Unreadable)
    assert complaint.place == "test_categories[0].tests[0].results[0].status"
    assert isinstance(result, DiagnosticResult)
    assert result.result == "not_run"


def test_a_pass_that_names_an_error_is_a_warning() -> None:
    result = one({"gpu_id": 0, "status": "Pass", "warnings": [{"warning": "x", "error_id": 5}]})
    assert (result.result, result.error_name) == ("warn", "VOLATILE_SBE_DETECTED")


def test_a_diagnostic_that_could_not_run_says_so() -> None:
    (result,) = results(read({"DCGM Diagnostic": {"runtime_error": "Unable to complete diagnostic: host engine gone"}}))
    assert result.result == "not_run"
    assert "host engine gone" in result.meaning


# --- interpretation ---------------------------------------------------------------------------------------------------


def test_the_gravest_of_several_errors_decides_and_all_may_explain() -> None:
    warnings = [{"warning": "a", "error_id": 29}, {"warning": "b", "error_id": 120}, {"warning": "c", "error_id": 40}]
    result = one({"gpu_id": 0, "status": "Fail", "warnings": warnings})
    assert (result.error_name, result.severity, result.action) == ("FALLEN_OFF_BUS", "critical", "reboot_node")
    assert result.explains == ("gpu_lost", "thermal")
    assert [finding.error_id for finding in result.findings] == [29, 120, 40]
    assert result.warnings == ("a", "b", "c")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Persistence mode for GPU 3 is disabled.", "PERSISTENCE_MODE"),
        ("GPU 2's NvLink link 4 is currently down", "NVLINK_DOWN"),
        ("GPU 0 had uncorrectable memory errors and row remapping failed.", "ROW_REMAP_FAILURE"),
        (
            "GPU 1 is running at PCI link width 8X, which is below the minimum allowed link generation of 16",
            "PCIE_WIDTH",
        ),
        (
            "GPU 1 was unsuccessfully written to by GPU 2 over NVLink in a peer-to-peer test: bad",
            "BROKEN_P2P_NVLINK_MEMORY_DEVICE",
        ),
        ("GPU 1 unsuccessfully wrote data to GPU 2 in a peer-to-peer test: bad", "BROKEN_P2P_WRITER_DEVICE"),
        ("NvSwitch 3 - Only 2 NvLinks are up out of the expected 8", "NVSWITCH_EXPECTED_NVLINKS_UP"),
    ],
)
def test_versions_that_print_no_error_id_are_understood_by_their_sentence(text: str, name: str) -> None:
    assert one({"gpu_id": 0, "status": "Fail", "warnings": text}).error_name == name


def test_an_xid_that_dcgm_quotes_is_judged_by_the_fault_catalogue() -> None:
    result = one(
        {"gpu_id": 0, "status": "Fail", "warnings": [{"warning": "Detected XID 79 for GPU 0", "error_id": 101}]}
    )
    entry = CATALOG.entry("xid", 79)
    assert (result.rule, result.action, result.explains) == ("xid.79", entry.action, (entry.fault_class,))
    assert (result.error_id, result.error_name) == (101, "XID_ERROR")


def test_a_failure_that_names_no_error_is_judged_by_its_test() -> None:
    result = one({"gpu_id": 0, "status": "Fail"}, test="pulse_test")
    assert (result.category, result.action, result.rule) == ("hardware_power", "check_hardware", "dcgm.test.pulse_test")
    unknown = one({"gpu_id": 0, "status": "Fail"}, test="quantum_test")
    assert (unknown.severity, unknown.action, unknown.rule) == ("critical", "drain_and_diagnose", "dcgm.test.unknown")


@pytest.mark.parametrize(("number", "severity", "action"), [(1, "warning", "none"), (6, "critical", "reset_gpu")])
def test_an_error_newer_than_the_table_is_judged_by_dcgms_own_severity(number: int, severity: str, action: str) -> None:
    warning = {"warning": "New trouble", "error_id": 999, "error_severity": number, "error_category": 10}
    result = one({"gpu_id": 0, "status": "Fail", "warnings": [warning]})
    assert (result.severity, result.action, result.category) == (severity, action, "hardware_memory")
    assert "New trouble" in result.meaning


def test_a_failure_is_at_least_a_warning_and_a_skip_at_most_one() -> None:
    aborted = [{"warning": "Test was aborted early due to user signal", "error_id": 47}]
    assert one({"gpu_id": 0, "status": "Fail", "warnings": aborted}).severity == "warning"
    off_bus = [{"warning": "GPU 0 has fallen off the bus", "error_id": 120}]
    skipped = one({"gpu_id": 0, "status": "Skip", "warnings": off_bus})
    assert (skipped.result, skipped.severity, skipped.action) == ("not_run", "warning", "reboot_node")
    assert skipped.explains == ("gpu_lost",)


# --- text around it, and what is broken -------------------------------------------------------------------------------


def test_banner_text_around_the_json_is_gone_past() -> None:
    made = json.dumps(document({"gpu_id": 0, "status": "Pass"}), indent=2)
    banner = "Successfully ran diagnostic for group {all GPUs}.\n[!] {not json}\n"
    (result,) = read(banner + made + "\nDone {ok}.\n")
    assert isinstance(result, DiagnosticResult)
    assert result.result == "pass"


def test_json_that_is_text_in_another_tools_json_is_read() -> None:
    inner = "banner\n" + json.dumps(document({"gpu_id": 0, "status": "Fail"}))
    (result,) = results(read({"hosts": [{"exit_code": 0, "stdout": inner}]}))
    assert result.result == "fail"


def test_documents_that_follow_each_other_are_all_read() -> None:
    made = json.dumps(document({"gpu_id": 0, "status": "Pass"}))
    assert len(results(read(f"{made}\n{made}\n"))) == 2


def test_a_document_that_breaks_off_gives_the_tests_that_are_whole(shared_data: Path) -> None:
    text = (shared_data / "dcgm_diag" / "dcgm1.7_nvidia_per_gpu_fail.json").read_text()
    whole = results(read(text))
    cut = text[: text.index('"targeted_stress"') + 40]
    complaint, *found = read(cut)
    assert isinstance(complaint, Unreadable)
    assert complaint.place == f"line {cut.count(chr(10)) + 1}"
    expected = [result for result in whole if not result.test.startswith("targeted")]
    assert found == [msgspec.structs.replace(result, dcgm_version=None) for result in expected]  # it stood at the end


def test_a_document_that_breaks_off_after_a_whole_one_is_not_lost_silently() -> None:
    made = json.dumps(document({"gpu_id": 0, "status": "Pass"}))
    first, complaint = read(f"{made}\n{made[:-9]}")
    assert isinstance(first, DiagnosticResult)
    assert isinstance(complaint, Unreadable)
    assert complaint.place == "line 2"


@pytest.mark.parametrize("spoilt", ["{oops", '{"gpu_id": 0, "status" "Pass"}', "nul"])
def test_json_that_is_spoilt_inside_one_test_loses_no_other_test(spoilt: str) -> None:
    texts = [json.dumps({"name": name, "results": [{"gpu_id": 0, "status": "Fail"}]}) for name in "abc"]
    texts[1] = texts[1].replace('{"gpu_id": 0, "status": "Fail"}', spoilt)
    made = '{"DCGM Diagnostic": {"test_categories": [{"category": "Stress", "tests": [' + ", ".join(texts) + "]}]}}"
    complaint, *found = read(made)
    assert isinstance(complaint, Unreadable)
    assert [(result.test, result.group, result.result) for result in results(found)] == [
        ("a", "Stress", "fail"), ("c", "Stress", "fail"),
    ]  # fmt: skip


@pytest.mark.parametrize("broken", [None, 7, "test", [], {"results": []}, {"name": 5}])
def test_a_broken_test_costs_only_itself(broken: Any) -> None:
    made = document({"gpu_id": 0, "status": "Pass"})
    made[ROOT]["test_categories"][0]["tests"].insert(0, broken)
    complaint, result = read(made)
    assert isinstance(complaint, Unreadable)
    assert complaint.place == "test_categories[0].tests[0]"
    assert isinstance(result, DiagnosticResult)
    assert result.result == "pass"


def test_deep_nesting_is_refused_in_reasonable_time() -> None:
    decoded = read('{"DCGM Diagnostic":{"test_categories":' + '[{"a":' * 50_000)
    assert all(isinstance(item, Unreadable) for item in decoded)


def test_the_command_prints_one_object_for_each_gpu_and_test() -> None:
    app = typer.Typer()
    register(app)
    text = json.dumps(document({"gpu_ids": "0,1", "status": "Pass"}, {"gpu_ids": "2", "status": "Skip"}))
    done = CliRunner().invoke(app, ["dcgm-diag", "-"], input=text)
    assert done.exit_code == 0
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert Counter(item["result"] for item in found) == {"pass": 2, "not_run": 1}
    assert {item["source"] for item in found} == {"dcgm_diag"}
    assert done.stderr == "3 objects; not_run 1; pass 2\n"
