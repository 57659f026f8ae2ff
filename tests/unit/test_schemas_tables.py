"""The metric and cause tables speak of metrics, fault classes and codes that exist."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from schemas import registry
from schemas.catalog import load
from schemas.catalog.causes import ANY, causes
from schemas.catalog.metrics import metrics
from schemas.catalog.rules import Rule

CATALOG = load()


def test_the_metrics_are_those_of_a_sample_in_its_order() -> None:
    arrays = [field["name"] for field in registry.current("GpuSample").parsed["fields"] if field.get("default") == []]
    assert list(metrics()) == arrays


def test_a_bit_mask_is_watched_bit_by_bit_and_a_number_by_limits() -> None:
    for name, metric in metrics().items():
        for rule in metric.rules:
            assert (rule.raise_bits is not None) == (metric.kind == "bits"), f"{name}: {rule.name}"


def test_rule_names_are_unique_because_anomalies_are_told_apart_by_them() -> None:
    rules = [rule.name for metric in metrics().values() for rule in metric.rules]
    assert len(rules) == len(set(rules))
    assert not {"gpu_silent", "node_silent"} & set(rules), "these are the silence detector's"


def test_every_rule_is_evidence_for_a_fault_class_that_its_end_can_clear() -> None:
    for metric in metrics().values():
        for rule in metric.rules:
            assert "anomaly_cleared" in CATALOG.faults[rule.fault_class].clears_on, rule.name


def test_silence_is_a_fault_class_of_its_own_that_its_end_clears() -> None:
    for name in ("gpu_silent", "node_silent"):
        assert "anomaly_cleared" in CATALOG.faults[name].clears_on


@pytest.mark.parametrize(
    "changes",
    [
        {"raise_above": None},
        {"raise_below": 1.0, "clear_above": 2.0},
        {"clear_below": None},
        {"clear_below": 88.0},
        {"raise_above": None, "clear_below": None, "raise_below": 5.0},
        {"raise_above": None, "clear_below": None, "raise_below": 5.0, "clear_above": 4.0},
    ],
)
def test_a_rule_that_no_detector_could_run_is_refused(changes: dict[str, float | None]) -> None:
    rule = metrics()["temperature_celsius"].rules[0]
    with pytest.raises(ValueError, match=rule.name):
        Rule(**({name: getattr(rule, name) for name in rule.__struct_fields__} | changes))
    assert replace(rule, clear_below=rule.raise_above)  # no hysteresis is still a rule


def test_causes_tie_fault_classes_that_exist() -> None:
    for row in causes().causes:
        assert {row.cause, row.effect} <= {*CATALOG.faults, ANY}, row.name
        assert row.cause != ANY, row.name
    for common in causes().common_causes:
        assert common.effect in CATALOG.faults, common.name
    assert set(causes().tell_apart) <= set(CATALOG.faults)


def test_what_would_tell_apart_names_only_the_two_that_it_is_about() -> None:
    table = causes()
    with pytest.raises(ValueError, match="node"):
        replace(table, tell_apart={"gpu_lost": "boot {node}"}).__post_init__()
    every = {row.tell_apart for row in table.common_causes} | set(table.tell_apart.values())
    assert all("{root}" in text for text in every), "each says where to look otherwise"


def test_cause_codes_belong_to_the_class_that_they_narrow() -> None:
    for row in causes().causes:
        for fault_class, codes in ((row.cause, row.cause_codes), (row.effect, row.effect_codes)):
            for code in codes:
                kind = "sxid" if code >= 10_000 else "xid"  # a link's trouble is told by both ends
                assert CATALOG.entry(kind, code).fault_class == fault_class, f"{row.name}: {code}"


def test_the_names_of_causes_are_unique_because_incidents_cite_them() -> None:
    rows = [row.name for row in causes().causes] + [row.name for row in causes().common_causes]
    assert len(rows) == len(set(rows))


def test_a_weight_is_a_share() -> None:
    assert all(0 < row.weight <= 1 for row in causes().causes)
