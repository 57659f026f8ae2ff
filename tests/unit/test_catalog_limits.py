"""The tables of rules, what they say of single SKUs, and an operator's file over them."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas import registry
from schemas.catalog import CatalogError, load
from schemas.catalog.metrics import WatchList, watch_list
from schemas.catalog.rules import Finding, GrowthRule, Rule

CATALOG = load()


def over(tmp_path: Path, text: str) -> WatchList:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return watch_list.__wrapped__(path)


def rule(watched: WatchList, name: str) -> Finding:
    return next(one for one in watched.findings() if one.name == name)


# --- as shipped -------------------------------------------------------------------------------------------------------


def test_every_column_that_is_watched_is_a_number_of_the_record() -> None:
    fields = {field["name"]: field["type"] for field in registry.current("GpuCounters").parsed["fields"]}
    for column in watch_list().counter_columns():
        assert fields[column] == {"type": "array", "items": "double"}, column


def test_names_of_rules_are_unique_because_anomalies_are_told_apart_by_them() -> None:
    names = [one.name for one in watch_list().findings()]
    assert len(names) == len(set(names))


def test_every_rule_is_evidence_for_a_fault_class_that_exists() -> None:
    assert watch_list().check(CATALOG.faults)
    with pytest.raises(CatalogError, match="fault_class is 'thermal'; allowed are"):
        watch_list().check(set(CATALOG.faults) - {"thermal"})


def test_what_counters_and_clocks_say_is_a_warning_and_never_a_page_by_itself() -> None:
    watched = watch_list()
    early = [*(one for counter in watched.counters.values() for one in counter.findings()), *watched.sources.findings()]
    assert {one.severity for one in early} == {"warning"}


def test_every_rule_says_why() -> None:
    for one in watch_list().findings():
        assert len(one.reason) > 40, one.name


# --- by SKU -----------------------------------------------------------------------------------------------------------

HOT = watch_list().metrics["temperature_celsius"].rules[0]


def with_skus(**skus: dict[str, float]) -> Rule:
    fields = {name: getattr(HOT, name) for name in HOT.__struct_fields__}
    return Rule(**(fields | {"sku": {name.replace("_", " ") + "*": limits for name, limits in skus.items()}}))


def test_a_sku_has_the_rule_with_its_own_limits() -> None:
    one = with_skus(NVIDIA_L4={"raise_above": 95.0, "clear_below": 90.0}, NVIDIA_T4={"raise_above": float("inf")})
    found = dict(one.variants())
    assert (found["NVIDIA L4*"].raise_above, found["NVIDIA L4*"].clear_below) == (95.0, 90.0)
    assert found["NVIDIA T4*"].raise_above == float("inf")
    assert found["NVIDIA L4*"].for_ms == one.for_ms


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (
            {"for_ms": 5.0},
            "sku 'NVIDIA L4.*' sets for_ms; allowed are raise_above, raise_below, clear_below, clear_above",
        ),
        ({"raise_above": 70.0}, "needs a clear_below that is not above it"),
        ({"raise_below": 70.0}, "exactly one of raise_above, raise_below"),
    ],
)
def test_limits_that_no_detector_could_run_are_refused(limits: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        with_skus(NVIDIA_L4=limits)


# --- an operator's file -----------------------------------------------------------------------------------------------


def test_a_rule_that_is_named_takes_what_is_set_and_keeps_the_rest_and_says_so(tmp_path: Path) -> None:
    found = over(tmp_path, '[[temperature_celsius.rules]]\nname = "gpu_hot"\nraise_above = 90.0\n')
    hot = rule(found, "gpu_hot")
    assert isinstance(hot, Rule)
    assert (hot.raise_above, hot.clear_below, hot.severity) == (90.0, HOT.clear_below, HOT.severity)
    assert hot.set_by == "mine.toml: raise_above was 87.0"
    assert [one.set_by for one in found.findings() if one.set_by] == [hot.set_by], "all others are as shipped"


def test_a_rule_of_another_name_is_a_new_one(tmp_path: Path) -> None:
    text = """
        [[nvlink_replays.growths]]
        name = "many_replays"
        span_ms = 600000
        raise_above = 5.0
        clear_below = 1.0
        for_ms = 0
        clear_for_ms = 0
        fault_class = "nvlink"
        severity = "info"
        action = "none"
        reason = "We look at every one."
    """
    found = over(tmp_path, text)
    mine = rule(found, "many_replays")
    assert isinstance(mine, GrowthRule)
    assert mine.set_by == "mine.toml: a rule of its own"
    assert rule(found, "nvlink_replays_rise")


def test_limits_for_single_skus_and_for_clocks_may_be_set(tmp_path: Path) -> None:
    text = """
        [[temperature_celsius.rules]]
        name = "gpu_hot"
        sku."NVIDIA L4*" = { raise_above = 95.0, clear_below = 92.0 }
        [[clocks]]
        name = "clock_ahead"
        raise_above_s = 1.5
    """
    found = over(tmp_path, text)
    skus = rule(found, "gpu_hot").sku
    assert list(skus) == ["NVIDIA L4*", "Tesla T4"], "beside what is shipped"
    assert skus["NVIDIA L4*"] == {"raise_above": 95.0, "clear_below": 92.0}
    assert rule(found, "gpu_hot").set_by == "mine.toml: limits for NVIDIA L4*"
    assert found.sources.clocks[0].raise_above_s == 1.5


def test_the_operators_row_beats_what_is_shipped_for_single_skus(tmp_path: Path) -> None:
    from schemas.catalog import metrics

    shipped = {"name": "hot", "raise_above": 87.0, "sku": {"NVIDIA L4*": {"raise_above": 95.0, "clear_below": 90.0}}}
    path = tmp_path / "mine.toml"
    changed = metrics._changed(shipped, {"name": "hot", "raise_above": 80.0}, path)
    assert changed["raise_above"] == 80.0
    assert changed["sku"] == {"NVIDIA L4*": {"clear_below": 90.0}}
    both = metrics._changed(shipped, {"name": "hot", "sku": {"NVIDIA L40*": {"raise_above": 1.0}}}, path)
    assert list(both["sku"]) == ["NVIDIA L40*", "NVIDIA L4*"], "the operator's come first"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[", r"mine.toml is not TOML"),
        ("[temperatur]\n", r"found \[temperatur\]; allowed are metrics of gpu.samples"),
        ("temperature_celsius = 3\n", r"found \[temperature_celsius\]; allowed are"),
        ("[temperature_celsius]\nrules = 3\n", r"\[temperature_celsius\] rules is no list of rules"),
        ("[[temperature_celsius.rules]]\nraise_above = 3\n", r"needs a name, and no set_by"),
        ('[[temperature_celsius.rules]]\nname = "gpu_hot"\nset_by = "me"\n', r"needs a name, and no set_by"),
        ('[[temperature_celsius.rules]]\nname = "gpu_hot"\nsku = 3\n', r"gpu_hot: write sku."),
        (
            '[[temperature_celsius.rules]]\nname = "gpu_hot"\nraise_abov = 3\n',
            r"\[temperature_celsius\] gpu_hot: has a key 'raise_abov'; allowed are name, for_ms, .*raise_above",
        ),
        (
            '[[temperature_celsius.rules]]\nname = "gpu_hot"\nseverity = "loud"\n',
            r"gpu_hot: severity: Invalid enum value 'loud'",
        ),
        (
            '[[temperature_celsius.rules]]\nname = "gpu_hot"\nraise_above = 3.0\n',
            r"needs a clear_below that is not above",
        ),
        ('[[temperature_celsius.rules]]\nname = "mine"\nraise_above = 3.0\n', r"mine: Object missing required field"),
        ("[temperature_celsius]\nrulez = []\n", r"\[temperature_celsius\] .*rulez"),
        ("[[throttle_reasons.levels]]\nname = 'x'\n", r"\[throttle_reasons\] x: Object missing required field"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_file_rule_and_what_is_allowed(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(CatalogError, match=says) as caught:
        over(tmp_path, text)
    assert "mine.toml" in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"none.toml cannot be read: No such file"):
        watch_list(tmp_path / "none.toml")
