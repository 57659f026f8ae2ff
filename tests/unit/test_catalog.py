"""The fault catalogue: what ships, and an operator's file layered over it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from schemas.catalog import ACTIONS, SEVERITIES, CatalogError, load
from schemas.records import HardwareEvent

FACTS = Path(__file__).parents[2] / ".." / "shared" / "data" / "facts"
CATALOG = load()


def codes(name: str, column: str) -> list[int]:
    path = FACTS / name
    if not path.exists():
        pytest.skip(f"the public table {name} is not here")
    with path.open(newline="") as rows:
        return [int(row[column]) for row in csv.DictReader(rows, delimiter="\t")]


def override(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("kind", "table", "column"), [
    ("xid", "xid_catalog.tsv", "code"), ("sxid", "sxid_catalog.tsv", "sxid"),
])  # fmt: skip
def test_every_public_code_is_in_the_catalogue(kind: str, table: str, column: str) -> None:
    missing = [code for code in codes(table, column) if CATALOG.entry(kind, code).rule != f"{kind}.{code}"]
    assert missing == []


def test_an_entry_repeats_what_nvidia_says() -> None:
    path = FACTS / "xid_catalog.tsv"
    if not path.exists():
        pytest.skip("the public table xid_catalog.tsv is not here")
    with path.open(newline="") as rows:
        for row in csv.DictReader(rows, delimiter="\t"):
            entry = CATALOG.entry("xid", int(row["code"]))
            assert entry.nvidia_action == (row["nvidia_immediate_action"] or None), entry.rule
            assert entry.mnemonic is None or row["mnemonic"].startswith(entry.mnemonic)


@pytest.mark.parametrize(("code", "severity", "action", "fault_class"), [
    (13, "warning", "restart_app", "application"),
    (31, "warning", "restart_app", "application"),
    (43, "info", "none", "application"),
    (45, "info", "none", "application"),
    (48, "critical", "reset_gpu", "gpu_memory_uncorrectable"),
    (54, "critical", "check_hardware", "power"),
    (63, "warning", "reset_gpu", "row_remap"),
    (64, "critical", "drain_and_diagnose", "row_remap_failure"),
    (74, "critical", "reset_gpu", "nvlink"),
    (79, "critical", "reboot_node", "gpu_lost"),
    (92, "warning", "none", "memory_correctable"),
    (94, "warning", "restart_app", "gpu_memory_contained"),
    (95, "critical", "reset_gpu", "gpu_memory_uncorrectable"),
    (119, "critical", "reset_gpu", "gsp"),
    (140, "critical", "reset_gpu", "gpu_memory_uncorrectable"),
])  # fmt: skip
def test_well_known_codes_are_judged_as_an_operator_would(
    code: int, severity: str, action: str, fault_class: str
) -> None:
    entry = CATALOG.entry("xid", code)
    assert (entry.severity, entry.action, entry.fault_class) == (severity, action, fault_class)


def test_nothing_critical_asks_for_nothing_and_nothing_informational_asks_for_much() -> None:
    for entry in CATALOG:
        if entry.severity == "critical":
            assert entry.action not in {"none", "restart_app"}, entry.rule
        if entry.severity == "info":
            assert entry.action == "none", entry.rule


def test_a_program_error_wakes_nobody() -> None:
    assert not CATALOG.faults["application"].pages
    assert not CATALOG.faults["informational"].pages
    assert all(entry.severity != "critical" for entry in CATALOG if entry.fault_class == "application")


def test_every_entry_belongs_to_a_class_and_gives_a_reason() -> None:
    for entry in CATALOG:
        assert entry.fault_class in CATALOG.faults, entry.rule
        assert entry.reason.endswith("."), entry.rule
        assert entry.severity in SEVERITIES
        assert entry.action in ACTIONS
        assert not entry.overridden


def test_what_nobody_listed_is_shown_and_wakes_nobody() -> None:
    for kind, code, rule in (("xid", 999, "xid.unknown"), ("xid", None, "xid.unknown"), ("sxid", 1, "sxid.unknown"),
                             ("no_such_kind", None, "event.unknown"), ("unknown", 3, "event.unknown")):  # fmt: skip
        entry = CATALOG.entry(kind, code)
        assert entry.rule == rule
        assert entry.severity == "warning"


def test_fatal_in_the_line_beats_the_table_of_nvlink_errors() -> None:
    assert CATALOG.entry("xid", 149, "fatal").severity == "critical"
    assert CATALOG.entry("xid", 149, "fatal").action == "reset_gpu"
    assert CATALOG.entry("xid", 145, "nonfatal").severity == "warning"
    assert CATALOG.entry("xid", 79, "fatal") == CATALOG.entry("xid", 79)


def test_the_recovery_action_of_xid_154_is_the_action() -> None:
    actions = {name: CATALOG.entry("xid", 154, name).action for name in (
        "none", "gpu_reset_required", "node_reboot_required", "drain_p2p", "drain_and_reset")}  # fmt: skip
    assert actions == {
        "none": "none",
        "gpu_reset_required": "reset_gpu",
        "node_reboot_required": "reboot_node",
        "drain_p2p": "drain_and_diagnose",
        "drain_and_reset": "reset_gpu",
    }


def test_the_word_of_a_switch_line_raises_and_lowers_within_its_bounds() -> None:
    assert CATALOG.entry("sxid", 11001).severity == "critical"
    assert CATALOG.entry("sxid", 11001, "nonfatal").severity == "warning"
    assert CATALOG.entry("sxid", 12028).severity == "info"
    assert CATALOG.entry("sxid", 12028, "nonfatal").severity == "info"
    assert CATALOG.entry("sxid", 12028, "fatal").severity == "critical"
    assert CATALOG.entry("sxid", 77777, "fatal").severity == "critical"
    assert CATALOG.entry("sxid", 20034, "fatal") == CATALOG.entry("sxid", 20034)


def test_an_event_is_looked_up_with_its_variant() -> None:
    event = HardwareEvent(
        event_id="1", site="s", rack="r", node="n", boot_id="b", sequence=0, event_ms=0, observed_ms=0,
        source="kernel_log", kind="xid", code=149, severity="critical", details={"variant": "fatal"},
    )  # fmt: skip
    assert CATALOG.of(event).rule == "xid.149.fatal"


def test_an_override_may_be_partial_and_is_shown(tmp_path: Path) -> None:
    catalog = load(override(tmp_path, '[xid.63]\nseverity = "critical"\n[fault.link_flap]\npages = true\n'))
    entry = catalog.entry("xid", 63)
    assert (entry.severity, entry.action, entry.overridden) == ("critical", "reset_gpu", True)
    assert "mine.toml" in entry.reason
    assert "severity was warning" in entry.reason
    assert catalog.faults["link_flap"].pages
    assert [other.rule for other in catalog if other.overridden] == ["xid.63"]


def test_an_override_that_changes_nothing_is_none(tmp_path: Path) -> None:
    catalog = load(override(tmp_path, '[xid.79]\nseverity = "critical"\n'))
    assert catalog.entry("xid", 79) == CATALOG.entry("xid", 79)


def test_an_override_beats_shipped_variants_and_its_own_variant_beats_it(tmp_path: Path) -> None:
    text = '[xid.149]\nseverity = "info"\naction = "none"\n[xid.149.variant.fatal]\nseverity = "warning"\n'
    catalog = load(override(tmp_path, text))
    assert catalog.entry("xid", 149).severity == "info"
    assert catalog.entry("xid", 149, "nonfatal").severity == "info"
    assert catalog.entry("xid", 149, "fatal").severity == "warning"


def test_an_override_may_change_what_holds_for_every_switch_code(tmp_path: Path) -> None:
    catalog = load(override(tmp_path, '[sxid.every.variant.fatal]\naction = "reboot_node"\n'))
    assert catalog.entry("sxid", 12028, "fatal").action == "reboot_node"
    assert catalog.entry("sxid", 12028).action == "none"


def test_an_override_may_add_a_code_that_the_driver_invented(tmp_path: Path) -> None:
    catalog = load(override(tmp_path, '[xid.185]\nname = "Sparing event"\nseverity = "info"\n'))
    entry = catalog.entry("xid", 185)
    assert (entry.name, entry.severity, entry.fault_class) == ("Sparing event", "info", "unknown")
    assert entry.overridden


@pytest.mark.parametrize(("text", "key", "found", "allowed"), [
    ('[xid.79]\nseverity = "fatal"\n', "xid.79", "'fatal'", "info, warning, critical"),
    ('[xid.79]\naction = "pray"\n', "xid.79", "'pray'", "reset_gpu"),
    ('[xid.79]\nfault_class = "gpu_gone"\n', "xid.79", "'gpu_gone'", "gpu_lost"),
    ('[xid.79]\nseverty = "info"\n', "xid.79", "'severty'", "severity"),
    ("[xid.79]\nname = 3\n", "xid.79", "3", "str"),
    ('[xid.seventy]\nname = "x"\n', "xid.seventy", "seventy", "decimal code"),
    ('[xid.79.variant.fatal]\nseverity = "bad"\n', "xid.79.variant.fatal", "'bad'", "critical"),
    ('[event.gpu_lots]\naction = "none"\n', "event.gpu_lots", "gpu_lots", "gpu_lost"),
    ('[xids.79]\nname = "x"\n', "xids", "'xids'", "xid, sxid, event, fault"),
    ('[fault.nvlink]\nclears_on = ["full_moon"]\n', "fault.nvlink", "'full_moon'", "new_boot"),
    ('[fault.mine]\ntitle = "x"\n', "fault.mine", "component_kind", ""),
    ("[fault.gpu_lost]\nclears_on = []\n", "fault.gpu_lost", "never ends", "clears_after_quiet_s"),
    ("xid = 3\n", "xid", "'xid'", "tables"),
])  # fmt: skip
def test_a_wrong_override_is_refused_with_file_key_finding_and_choice(
    tmp_path: Path, text: str, key: str, found: str, allowed: str
) -> None:
    path = override(tmp_path, text)
    with pytest.raises(CatalogError) as refused:
        load(path)
    for part in (str(path), key, found, allowed):
        assert part in str(refused.value)


def test_an_override_that_is_not_there_or_not_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"nowhere.toml cannot be read: No such file"):
        load(tmp_path / "nowhere.toml")
    with pytest.raises(CatalogError, match=r"mine.toml is not TOML"):
        load(override(tmp_path, "[xid"))
