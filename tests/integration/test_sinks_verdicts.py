"""What planners and operators ask about health, what the views answer; and what faults and incidents say beside it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from schemas.records import Alternative, Fault, GpuSample, Incident, Reason, Verdict
from tests.sinks_database import Database
from tests.sinks_scenes import TICK_MS, in_inventory, place

pytestmark = pytest.mark.integration


def why(
    effect: str = "unhealthy", text: str = "GPU lost (XID 79): it does not answer on the bus", **fields: Any
) -> Reason:
    given = Reason(
        effect=effect, component="gpu:x", fault_class="gpu_lost", severity="critical", fault_id="f", rule="r", text=text
    )
    return replace(given, **fields)


def verdict(serial: str, revision: int = 1, *reasons: Reason, at_s: float = 0, **changes: Any) -> Verdict:
    """A GPU's verdict; healthy and to be rented where nothing else is said."""
    given = Verdict(
        component=f"gpu:{serial}",
        component_kind="gpu",
        revision=revision,
        site="site-1",
        rack=f"rack-{serial}",
        node=f"node-{serial}",
        gpu=serial,
        health="healthy",
        rentable=True,
        reasons=list(reasons),
        since_ms=TICK_MS + round(at_s * 1000),
        decided_ms=TICK_MS + round(at_s * 1000) + 100,
    )
    return replace(given, **changes)


def node_verdict(serial: str, **changes: Any) -> Verdict:
    given = verdict(serial, component=f"node:node-{serial}", component_kind="node", gpu=None)
    return replace(given, **changes)


BAD = {"health": "unhealthy", "rentable": False, "action": "reboot_node"}


def test_the_verdict_on_a_component_is_its_newest_with_its_reasons_as_sentences(db: Database, serial: str) -> None:
    warning = why("warns", "Overheating: 3 K above its baseline")
    db.insert(verdict(serial), verdict(serial, 2, why(), warning, at_s=60, **BAD))
    db.insert(verdict(serial, 2, why(), warning, at_s=60, **BAD))  # written again after a kill
    row = db.row(f"SELECT * FROM $.verdicts WHERE component = 'gpu:{serial}'")
    assert (row["health"], row["rentable"], row["action"], row["revision"]) == ("unhealthy", False, "reboot_node", 2)
    assert row["why"] == [
        "unhealthy: GPU lost (XID 79): it does not answer on the bus",
        "warns: Overheating: 3 K above its baseline",
    ]
    assert row["early_warnings"] == ["Overheating: 3 K above its baseline"]
    assert row["since_at"].timestamp() * 1000 == TICK_MS + 60_000
    assert row["for_seconds"] > 0


def test_a_gpu_that_moved_to_another_partition_has_the_verdict_of_where_it_is(db: Database, serial: str) -> None:
    db.insert(verdict(serial, 7, why(), at_s=0, **BAD), verdict(serial, 1, at_s=60, node="elsewhere"))
    assert db.rows(f"SELECT health, node FROM $.verdicts WHERE gpu = '{serial}'") == [("healthy", "elsewhere")]


def test_two_sites_may_both_have_a_rack_of_one_name(db: Database, serial: str) -> None:
    rack = verdict(serial, component=f"rack:{serial}", component_kind="rack", rack=serial, node=None, gpu=None)
    db.insert(rack, replace(rack, site="site-2", health="unknown", rentable=False, decided_ms=TICK_MS))
    rows = db.rows(f"SELECT site, health FROM $.verdicts WHERE component = 'rack:{serial}' ORDER BY site")
    assert rows == [("site-1", "healthy"), ("site-2", "unknown")]


def test_what_was_taken_out_of_the_fleet_has_no_verdict(db: Database, serial: str) -> None:
    db.insert(verdict(serial))
    db.insert(in_inventory(serial, 0, source="declared"))
    db.insert(in_inventory(serial, 1000, source="declared", removed=True))
    assert db.rows(f"SELECT count() FROM $.verdicts WHERE gpu = '{serial}'") == [(0,)]
    assert db.rows(f"SELECT count() FROM $.verdict_history WHERE gpu = '{serial}'") == [(1,)], "but a history"


def test_the_history_of_a_verdict_says_what_it_was_before_and_each_change_once(db: Database, serial: str) -> None:
    for _ in range(2):
        db.insert(
            verdict(serial),
            verdict(serial, 2, why("warns", "warm"), at_s=60),
            verdict(serial, 3, why(), at_s=90, **BAD),
        )
    rows = db.rows(
        "SELECT revision, health_before, health, rentable, why FROM $.verdict_history "
        f"WHERE component = 'gpu:{serial}' ORDER BY decided_at, revision"
    )
    assert rows == [
        (1, "", "healthy", True, []),
        (2, "healthy", "healthy", True, ["warns: warm"]),
        (3, "healthy", "unhealthy", False, ["unhealthy: GPU lost (XID 79): it does not answer on the bus"]),
    ]


def test_the_history_of_a_gpu_has_its_verdicts(db: Database, serial: str) -> None:
    db.insert(
        verdict(serial),
        verdict(serial, 2, why(), why("warns", "warm"), at_s=60, **BAD),
        verdict(serial, 3, why("blocks", "node:n may not be rented"), at_s=90, rentable=False),
    )
    rows = db.rows(f"SELECT entry, action, text FROM $.gpu_history WHERE gpu = '{serial}' ORDER BY at")
    assert rows == [
        ("verdict", "none", "healthy"),
        (
            "verdict",
            "reboot_node",
            "healthy → unhealthy, not to be rented: GPU lost (XID 79): it does not answer on the bus (and 1 more)",
        ),
        ("verdict", "none", "unhealthy → healthy, not to be rented: node:n may not be rented"),
    ]


def sample(serial: str, *gpus: str) -> GpuSample:
    return GpuSample(**place(serial, TICK_MS, 1000), gpus=list(gpus), gpu_index=list(range(len(gpus))))


def test_a_gpu_that_reports_and_has_no_verdict_yet_is_unknown_and_not_to_be_rented(db: Database, serial: str) -> None:
    db.insert(sample(serial, serial, f"{serial}-new"))
    db.insert(verdict(serial))
    rows = db.rows(f"SELECT gpu, health, rentable FROM $.fleet_now WHERE gpu LIKE '{serial}%' ORDER BY gpu")
    assert rows == [(serial, "healthy", True), (f"{serial}-new", "unknown", False)]


def test_how_much_can_be_sold_now_by_rack_and_sku(db: Database, serial: str) -> None:
    names = [f"{serial}-{number}" for number in range(6)]
    at = {"site": "site-1", "rack": f"rack-{serial}", "node": f"node-{serial}"}
    db.insert(sample(serial, *names))
    db.insert(*(in_inventory(name, 0, sku="H200" if name.endswith("5") else "H100", **at) for name in names))
    gone = in_inventory(f"{serial}-gone", 0, source="declared", sku="H100", **at)
    db.insert(gone, replace(gone, removed=True, seen_ms=TICK_MS + 1))

    def of(number: int, *reasons: Reason, **changes: Any) -> Verdict:
        return verdict(names[number], 1, *reasons, rack=f"rack-{serial}", node=f"node-{serial}", **changes)

    db.insert(
        of(0, why("warns", "warm")),
        of(1, why(), **BAD),
        of(2, why("blocks", "its node"), rentable=False),
        of(3, why("degraded"), health="degraded"),
        of(5),
    )
    rack = verdict(serial, component=f"rack:rack-{serial}", component_kind="rack", node=None, gpu=None)
    db.insert(replace(rack, health="degraded", rentable=False))
    rows = db.client.query(
        f"SELECT * FROM {db.name}.fleet_health WHERE rack = 'rack-{serial}' ORDER BY sku"
    ).named_results()
    h100, h200 = list(rows)
    assert h100 == {
        "site": "site-1", "rack": f"rack-{serial}", "sku": "H100", "gpus": 5, "gpus_rentable": 2, "gpus_healthy": 2,
        "gpus_degraded": 1, "gpus_unhealthy": 1, "gpus_unknown": 1, "gpus_blocked": 1, "gpus_with_warnings": 1,
        "nodes": 1, "nodes_with_rentable_gpus": 1, "rack_health": "degraded", "rack_rentable": False,
    }  # fmt: skip
    assert (h200["sku"], h200["gpus"], h200["gpus_rentable"]) == ("H200", 1, 1)


def test_who_takes_care_of_what_may_not_be_rented(db: Database, serial: str) -> None:
    db.insert(
        Fault(
            fault_id=f"f-{serial}", revision=2, state="updated", site="site-1", rack="r", component=f"gpu:{serial}",
            component_kind="gpu", fault_class="gpu_lost", severity="critical", action="reboot_node", rule="xid.79",
            reason="r", first_ms=TICK_MS, last_ms=TICK_MS, count=1, evidence=[], observed_ms=TICK_MS,
            action_rule="ladder.second_reset", recurrence=3, flapping=True, job="train-7", maintenance="work-1",
            acknowledged_by="ann", acknowledged_ms=TICK_MS + 1000, snoozed_until_ms=TICK_MS + 60_000,
        )
    )  # fmt: skip
    db.insert(verdict(serial, 1, why(fault_id=f"f-{serial}"), **BAD))
    rows = db.rows(
        "SELECT v.component, f.acknowledged_by, f.action FROM $.verdicts AS v ARRAY JOIN v.reasons AS reason "
        f"INNER JOIN $.fault_history AS f ON f.fault_id = reason.fault_id WHERE v.gpu = '{serial}'"
    )
    assert rows == [(f"gpu:{serial}", "ann", "reboot_node")]
    row = db.row(f"SELECT * FROM $.fault_history WHERE fault_id = 'f-{serial}'")
    assert (row["action_rule"], row["recurrence"], row["flapping"]) == ("ladder.second_reset", 3, True)
    assert (row["job"], row["maintenance"], row["acknowledged_by"]) == ("train-7", "work-1", "ann")
    assert row["acknowledged_at"].timestamp() * 1000 == TICK_MS + 1000
    assert row["snoozed_until"].timestamp() * 1000 == TICK_MS + 60_000


def test_an_incident_says_what_else_could_explain_it(db: Database, serial: str) -> None:
    other = Alternative(
        component="pdu:west",
        fault_class="power",
        score=0.4,
        because="both nodes hang on it",
        tell_apart="read its phases",
    )
    db.insert(
        Incident(
            incident_id=f"i-{serial}", revision=1, state="open", page=True, site="site-1", racks=["r"], root="gpu:a",
            root_fault_id="f", root_class="gpu_lost", title="t", severity="critical", action="none", reason="r",
            score=0.9, members=[], evidence=[], first_ms=TICK_MS, last_ms=TICK_MS, observed_ms=TICK_MS,
            decided_ms=TICK_MS, alternatives=[other], chance=0.001, jobs=["train-7"], split_from="i-0",
            acknowledged_by="ann",
        )
    )  # fmt: skip
    row = db.row(f"SELECT * FROM $.incidents WHERE incident_id = 'i-{serial}'")
    assert [one["tell_apart"] for one in row["alternatives"]] == ["read its phases"]
    assert (row["chance"], row["jobs"], row["split_from"], row["merged_into"]) == (0.001, ["train-7"], "i-0", None)
    assert row["acknowledged_by"] == "ann"


def test_the_history_of_one_verdict_reads_no_other(db: Database, serial: str) -> None:
    version = tuple(int(part) for part in str(db.client.server_version).split(".")[:2])
    if version < (26, 9):
        pytest.skip(f"ClickHouse {db.client.server_version} may not move conditions through windows (25.8 does not)")
    db.insert(verdict(serial))
    plan = db.rows("EXPLAIN indexes = 1 SELECT * FROM $.verdict_history WHERE component = 'this one'")
    assert any("Condition:" in line and "component in ['this one'" in line for (line,) in plan)
