"""The demo's picture says what was seen, in a small terminal and in a large one."""

from __future__ import annotations

import io
import math

import pytest
from msgspec.structs import replace
from rich.console import Console

from infra.demo.scorecard import Injected, Told, score
from infra.demo.seen import Delivered, GpuNow, Seen, hops
from infra.demo.view import card, heat_map, incidents, screen
from schemas.records import Incident, Member


def _drawn(what: object, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(what)
    out = console.file
    assert isinstance(out, io.StringIO)
    return out.getvalue()


def _gpu(node: str, index: int, **fields: object) -> GpuNow:
    given = {"temperature_celsius": 60.0, "age_seconds": 1.0, "worst_severity": ""}
    return GpuNow(rack="r1", node=node, gpu_index=index, gpu=f"{node}-{index}", **{**given, **fields})  # type: ignore[arg-type]


def _incident(number: int) -> Incident:
    return Incident(
        incident_id=f"i{number}", revision=1, state="open", page=True, site="demo", racks=["r1"], root=f"gpu:{number}",
        root_fault_id=f"f{number}", root_class="gpu_lost", title=f"GPU number {number} lost", severity="critical",
        action="drain_and_diagnose", reason="alone", score=1.0,
        members=[
            Member(fault_id=f"f{number}", component=f"gpu:{number}", fault_class="gpu_lost", role="root", because="")
        ],
        evidence=["kernel_log: 2026-01-31T10:00:00,000000+00:00 NVRM: Xid 79"],
        first_ms=number, last_ms=number, observed_ms=number, decided_ms=number + 1000,
    )  # fmt: skip


def _warning(number: int) -> Told:
    early = replace(_incident(number), page=False, severity="warning", title=f"NVLink {number} trains again")
    return Told(early, early)


def _seen(count: int = 1, warnings: int = 0) -> Seen:
    told = {f"i{number}": Told(_incident(number), _incident(number), _incident(number)) for number in range(count)}
    told |= {f"w{number}": _warning(100 + number) for number in range(warnings)}
    gpus = [_gpu(f"n{node}", index) for node in range(4) for index in range(8)]
    return Seen(
        hops=hops({}, {}, 1.0),
        gpus=gpus,
        told=told,
        delivered=[Delivered("i0", 0, "GPU number 0 lost", "console", 1.2)],
    )


def test_an_incident_shows_evidence_and_what_to_do() -> None:
    text = _drawn(screen(_seen(), elapsed_seconds=1, total_seconds=90, phase="the fleet runs"))
    assert "GPU number 0 lost" in text
    assert "because  kernel_log: NVRM: Xid 79" in text
    assert "do       drain and diagnose   gpu:0" in text
    assert "page after 1.2 s" in text


def test_an_early_warning_is_told_and_not_counted_among_what_wakes_nobody() -> None:
    told = {"i1": Told(_incident(1), _incident(1), _incident(1)), "w": _warning(2)}
    text = _drawn(incidents(Seen(told=told), 8))
    assert "warning  NVLink 2 trains again   early: wakes nobody" in text
    assert "and 1 that wake nobody" not in text


@pytest.mark.parametrize("height", [24, 30, 40, 60])
def test_the_newest_incident_fits_every_terminal(height: int) -> None:
    seen = _seen(12, warnings=5)
    text = _drawn(screen(seen, elapsed_seconds=1, total_seconds=90, phase="", size=(100, height)), width=100)
    assert len(text.splitlines()) <= height
    assert "GPU number 11 lost" in text


def test_what_is_wrong_with_a_gpu_shows_in_its_cell() -> None:
    gpus = [
        _gpu("n1", 0),
        _gpu("n1", 1, worst_severity="critical"),
        _gpu("n1", 2, worst_severity="warning"),
        _gpu("n1", 3, age_seconds=30.0),
        _gpu("n1", 4, temperature_celsius=math.nan),
    ]
    assert "■ ✗ ▲ ? ?" in _drawn(heat_map(gpus))


def test_a_rack_of_many_small_nodes_is_drawn_flat() -> None:
    gpus = [_gpu(f"n{node:02}", index) for node in range(18) for index in range(4)]
    lines = [line for line in _drawn(heat_map(gpus)).splitlines() if line.startswith("■ ■")]
    assert [line.count("■") for line in lines] == [18] * 4


def test_rates_are_gains_over_the_time_between_two_looks_and_never_negative() -> None:
    loaded = "fleetpulse_loader_records_total"
    rates = {hop.name: hop.per_second for hop in hops({loaded: 500.0}, {loaded: 100.0}, 4.0)}
    assert rates["Kafka → ClickHouse"] == 100.0
    restarted = {hop.name: hop.per_second for hop in hops({loaded: 5.0}, {loaded: 100.0}, 4.0)}
    assert restarted["Kafka → ClickHouse"] is None


def test_the_card_says_why_it_failed() -> None:
    missed = Injected(fault="gpu_overheats", component="gpu:X", node="n1", start_ms=0, first_observable_ms=0)
    text = _drawn(card(score([missed], [Told(_incident(10_000), _incident(10_000), _incident(10_000))])))
    assert "✗ no" in text
    assert "false alarms: 1" in text
    assert "failed: 1 of 1 faults were not found; 1 false alarms woke somebody" in text
