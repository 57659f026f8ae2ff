"""`fleetpulse health`, as somebody reads it who has never seen the project."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from infra.commands import health
from infra.errors import MisuseError
from infra.settings import Settings
from schemas.records import Evidence, Fault, GpuSample, Reason, Verdict
from tests.sinks_database import Database, connected, migrated
from tests.sinks_scenes import TICK_MS, in_inventory

pytestmark = pytest.mark.integration

LINE = "NVRM: Xid (PCI:0000:41:00): 48, An uncorrectable double bit error (DBE) has been detected"
TEXT = "Uncorrectable GPU memory error (XID 48): its memory gave wrong data, and it was not reset since"


def fault(fault_class: str, **fields: Any) -> Fault:
    given: dict[str, Any] = {
        "fault_id": f"{fault_class}-0123456789",
        "revision": 2,
        "state": "updated",
        "site": "fra1",
        "rack": "r1",
        "node": "n1",
        "gpu": "1650324",
        "component": "gpu:1650324",
        "component_kind": "gpu",
        "severity": "critical",
        "action": "reset_gpu",
        "rule": "xid.48",
        "reason": "because",
        "first_ms": TICK_MS,
        "last_ms": TICK_MS + 3000,
        "count": 7,
        "evidence": [
            Evidence(id=str(at), at_ms=TICK_MS + at * 1000, source="kernel_log", text=LINE if at == 0 else f"line {at}")
            for at in range(4)
        ],
        "observed_ms": TICK_MS,
    }
    return Fault(fault_class=fault_class, **(given | fields))


def reason(effect: str, rule: str, text: str, **fields: Any) -> Reason:
    given: dict[str, Any] = {
        "component": "gpu:1650324",
        "fault_class": "gpu_memory_uncorrectable",
        "severity": "critical",
        "fault_id": "gpu_memory_uncorrectable-0123456789",
    }
    return Reason(effect=effect, rule=rule, text=text, **(given | fields))


def verdict(component: str, *reasons: Reason, **fields: Any) -> Verdict:
    kind, _, name = component.partition(":")
    given: dict[str, Any] = {
        "revision": 1,
        "site": "fra1",
        "rack": "r1",
        "node": None if kind == "rack" else "n1",
        "gpu": name if kind == "gpu" else None,
        "health": "healthy",
        "rentable": True,
        "since_ms": TICK_MS,
        "decided_ms": TICK_MS + 100,
    }
    return Verdict(component=component, component_kind=kind, reasons=list(reasons), **(given | fields))


SICK = {"health": "unhealthy", "rentable": False, "action": "reset_gpu", "revision": 2, "decided_ms": TICK_MS + 200}
HELD = {"health": "degraded", "rentable": False, "action": "reset_gpu", "revision": 2, "decided_ms": TICK_MS + 200}
REMAP = reason(
    "warns", "row_remap_waits", "Memory row remap waits for a reset (XID 63)", fault_id="row_remap-0123456789",
    fault_class="row_remap", severity="warning",
)  # fmt: skip


@pytest.fixture(scope="module")
def settings(clickhouse: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with connected(clickhouse) as client, migrated(client) as db:
        filled(db)
        yield of(clickhouse, db.name, tmp_path_factory.mktemp("health"))


def of(clickhouse: Any, database: str, data_dir: Path) -> Settings:
    """Settings that reach one database of the ClickHouse under test, by the login that the tests have."""
    where = {"host": clickhouse.host, "port": clickhouse.port, "database": database}
    login = {"analyst_username": clickhouse.username, "analyst_password": SecretStr(clickhouse.password)}
    return Settings.model_validate({"data_dir": data_dir, "clickhouse": where | login})


def filled(db: Database) -> None:
    """A node with a sick GPU, one that is warned of, and two sound ones."""
    serials = ["1650324", "1650325", "1650326", "1650327"]
    at = {"site": "fra1", "rack": "r1", "node": "n1"}
    db.insert(
        GpuSample(
            **at, boot_id="b", sequence=0, tick_ms=TICK_MS, observed_ms=TICK_MS, gpus=serials, gpu_index=[0, 1, 2, 3]
        )
    )
    db.insert(*(in_inventory(serial, 0, sku="H100", **at) for serial in serials))
    db.insert(
        fault("gpu_memory_uncorrectable", recurrence=3, acknowledged_by="ann"),
        fault("row_remap", rule="xid.63", count=1, evidence=[]),
    )
    waits = "node:n1 may not be rented: gpu:1650324 is unhealthy"
    db.insert(
        *(verdict(f"gpu:{serial}") for serial in serials),
        verdict("node:n1"),
        verdict("rack:r1", reason("blocks", "node_held_back", waits, component="node:n1"), rentable=False),
        verdict("gpu:1650324", reason("unhealthy", "memory_uncorrectable", TEXT), REMAP, **SICK),
        verdict("node:n1", reason("degraded", "gpu_unhealthy", f"gpu:1650324 is unhealthy: {TEXT}"), **HELD),
        *(
            verdict(
                f"gpu:{serial}", reason("blocks", "rented_with_its_node", waits, component="node:n1"),
                rentable=False, revision=2, decided_ms=TICK_MS + 200,
            )
            for serial in serials[1:]
        ),
    )  # fmt: skip


def printed(settings: Settings, name: str | None, capfd: pytest.CaptureFixture[str], *, as_json: bool = False) -> str:
    health.run(settings, name, json_lines=as_json)
    return capfd.readouterr().out


def test_a_gpus_verdict_says_health_since_when_what_to_do_and_how_we_know(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = [line.rstrip() for line in printed(settings, "1650324", capfd).splitlines()]
    assert lines[0] == "gpu:1650324  unhealthy, not to be rented"
    assert lines[1].startswith("  since    2025-11-13 02:14:00 UTC, for ")
    assert lines[2:10] == [
        "  where    node n1, rack r1, site fra1",
        "  do       reset gpu",
        f"  why      {TEXT}",
        f"             2025-11-13 02:14:00  kernel_log: {LINE}",
        "             2025-11-13 02:14:02  kernel_log: line 2",
        "             2025-11-13 02:14:03  kernel_log: line 3",
        "             fault gpu_memory_u by xid.48, health rule memory_uncorrectable; seen 7 times; "
        "number 3 of its kind lately; ann takes care of it",
        "  warning  Memory row remap waits for a reset (XID 63)",
    ]
    assert "  before   healthy until 2025-11-13 02:14:00" in lines


def test_a_nodes_verdict_names_what_in_it_is_not_healthy(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    text = printed(settings, "node:n1", capfd)
    assert text.startswith("node:n1  degraded, not to be rented\n")
    inside = text[text.index("in it") :]
    assert "gpu:1650324" in inside
    assert "gpu:1650325" not in inside, "which is healthy"
    assert "node:n1 " not in inside, "nobody is in itself"


def test_a_rack_that_waits_for_a_node_says_so(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    text = printed(settings, "r1", capfd)
    assert text.startswith("rack:r1  healthy, not to be rented\n")
    assert "node:n1 may not be rented: gpu:1650324 is unhealthy" in text
    assert text.index("node:n1 ", text.index("in it")) < text.index("gpu:1650324 ", text.index("in it"))


def test_without_a_name_it_says_how_much_can_be_sold_and_what_is_in_the_way(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    text = printed(settings, None, capfd)
    assert text.startswith("0 of 4 GPUs may be rented\n")
    (row,) = [line.split() for line in text.splitlines() if line.startswith("H100")]
    assert row == ["H100", "4", "0", "3", "0", "1", "0", "3", "1"]
    assert "1 in trouble" in text, "the node is in trouble for the GPU's sake only"
    assert "1 with an early warning" in text


def test_as_json_a_verdict_has_its_reasons_with_their_evidence(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    (found,) = [json.loads(line) for line in printed(settings, "1650324", capfd, as_json=True).splitlines()]
    assert (found["health"], found["rentable"], found["action"]) == ("unhealthy", False, "reset_gpu")
    assert found["reasons"][0]["evidence"][0]["text"] == LINE
    assert [one["effect"] for one in found["reasons"]] == ["unhealthy", "warns"]
    (fleet,) = [json.loads(line) for line in printed(settings, None, capfd, as_json=True).splitlines()]
    assert (fleet["rack"], fleet["sku"], fleet["gpus"], fleet["gpus_rentable"]) == ("r1", "H100", 4, 0)


def test_a_name_that_nobody_has_is_misuse_and_the_likely_one_is_named(settings: Settings) -> None:
    with pytest.raises(MisuseError, match=r"no verdict on '1650342' \(6 components have one\); did you mean gpu:"):
        health.run(settings, "1650342", json_lines=False)


def test_a_fleet_of_which_nothing_is_known_says_what_to_start(
    clickhouse: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with connected(clickhouse) as client, migrated(client) as db:
        assert "`fleetpulse up`" in printed(of(clickhouse, db.name, tmp_path), None, capfd)
