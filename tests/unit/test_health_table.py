"""The table that turns faults into health: what it must hold, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from schemas.catalog.health import EFFECTS, FaultRow, HealthTable, health_table
from tests.streams_scenes import fault

TABLE = health_table()


def row(name: str = "one", **fields: Any) -> FaultRow:
    return FaultRow(**({"name": name, "fault_class": "gpu_lost", "effect": "unhealthy", "reason": "r"} | fields))


def with_rows(*rows: FaultRow) -> HealthTable:
    """The shipped table with other rows for `gpu_lost`."""
    return replace(TABLE, faults=(*rows, *(one for one in TABLE.faults if one.fault_class != "gpu_lost")))


def remade(table: HealthTable) -> HealthTable:
    """Built again, so that it is checked: `replace` does not."""
    return HealthTable(**{name: getattr(table, name) for name in table.__struct_fields__})


def test_every_row_says_why_and_sources_are_addresses() -> None:
    for one in TABLE.rows():
        assert len(one.reason) > 20, one.name
        assert one.source is None or one.source.startswith("https://"), one.name


def test_every_effect_is_used() -> None:
    used = {one.effect for one in (*TABLE.faults, *TABLE.parts, *TABLE.wholes, *TABLE.repeats)}
    assert used == set(EFFECTS)


def test_rows_of_one_name_are_refused_because_verdicts_cite_them() -> None:
    with pytest.raises(ValueError, match="found twice: gpu_lost"):
        remade(with_rows(row("gpu_lost"), row("gpu_lost")))


def test_a_class_that_leaves_a_fault_without_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="the last row of gpu_lost must fit all of it"):
        remade(with_rows(row(least="warning")))


def test_a_row_that_leaves_nothing_to_those_below_it_is_refused() -> None:
    with pytest.raises(ValueError, match="row wide: it leaves nothing to the rows of gpu_lost below it"):
        remade(with_rows(row("wide"), row("narrow", least="critical"), row("last")))


def test_a_table_without_rows_for_what_is_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="give rows for the class unknown"):
        remade(replace(TABLE, faults=tuple(one for one in TABLE.faults if one.fault_class != "unknown")))


@pytest.mark.parametrize(
    "fields", [{"effect": "degraded"}, {"effect": "unhealthy", "rentable": True}, {"held": "degraded"}]
)
def test_a_row_says_whether_what_is_degraded_may_be_rented_and_only_that(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="row one: give rentable where something is degraded, and only there"):
        row(**fields)


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        ({}, True),
        ({"least": "warning"}, True),
        ({"least": "critical"}, False),
        ({"of": ("gpu",)}, True),
        ({"of": ("node", "rack")}, False),
        ({"rules": ("xid.79", "counter_rate.*")}, True),
        ({"rules": ("counter_rate",)}, False),
        ({"asks": ("reset_gpu",)}, True),
        ({"asks": ("none",)}, False),
        ({"least": "warning", "of": ("gpu",), "rules": ("*.rise",), "asks": ("none",)}, False),
    ],
)
def test_a_row_fits_where_all_that_it_names_is_so(fields: dict[str, Any], fits: bool) -> None:
    assert row(**fields).fits(fault(severity="warning", rule="counter_rate.rise", action="reset_gpu")) is fits
