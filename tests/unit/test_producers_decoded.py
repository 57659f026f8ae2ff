"""JSON lines, as `fleetpulse decode` prints them, read back as events."""

from __future__ import annotations

import json
from typing import Any

import pytest

from producers.decoded import EventLines, Place, Reading
from producers.kernel_log import events_of_lines
from producers.unreadable import Unreadable
from schemas.catalog import load
from schemas.records import HardwareEvent

CATALOG = load()
NOW_MS = 1_740_400_000_000
XID = "[Sun Feb 23 16:24:18 2025] NVRM: Xid (PCI:0000:9b:00): 79, pid=1, GPU has fallen off the bus."
LINE: dict[str, Any] = {"line": 1, "kind": "xid", "code": 79, "pci": "0000:9b:00", "node": "n1", "raw": XID,
                        "event_ms": 1_740_327_858_000, "source": "kernel_log", "details": {"pid": "1"}}  # fmt: skip


def reader(node: str = "") -> EventLines:
    return EventLines(CATALOG, lambda node: Place("hall", f"rack-of-{node}"), node=node, now_ms=NOW_MS)


def read(*lines: dict[str, Any] | str, node: str = "") -> list[Any]:
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    return list(reader(node).read(enumerate(texts, 1)))


def test_a_line_is_the_event_that_a_replay_of_the_log_itself_gives() -> None:
    (ours,) = read(LINE)
    (itself,) = events_of_lines([(1, XID)], site="hall", rack="rack-of-n1", node="n1", now_ms=NOW_MS)
    assert ours.event_id == itself.event_id
    same = ("site", "rack", "node", "boot_id", "event_ms", "source", "kind", "code", "pci", "severity", "action", "raw")
    assert [getattr(ours, name) for name in same] == [getattr(itself, name) for name in same]


def test_what_a_line_says_itself_goes_before_what_is_given() -> None:
    own = {"site": "s", "rack": "r", "node": "n2", "boot_id": "b", "event_id": "e", "count": 3, "observed_ms": 5}
    (event,) = read(LINE | own, node="n1")
    assert {name: getattr(event, name) for name in own} == own


def test_severity_and_action_are_the_catalogues() -> None:
    (event,) = read(LINE | {"severity": "info", "action": "none"})
    assert (event.severity, event.action) == ("critical", "reboot_node")


def test_lines_without_a_node_take_the_one_that_is_given_and_are_refused_where_none_is() -> None:
    nameless = {name: value for name, value in LINE.items() if name != "node"}
    (event,) = read(nameless, node="n9")
    assert (event.node, event.rack) == ("n9", "rack-of-n9")
    (refused,) = read(nameless)
    assert isinstance(refused, Unreadable)
    assert refused.place == "line 1"
    assert "--node" in refused.reason


def test_an_event_without_a_time_happened_with_its_neighbour_in_the_log() -> None:
    timeless = LINE | {"event_ms": None}
    found = read(timeless, LINE | {"line": 2}, timeless | {"line": 3}, timeless | {"node": "n2"})
    at = {(event.node, event.raw == XID): event.event_ms for event in found}
    assert [event.event_ms for event in found if event.node == "n1"] == [LINE["event_ms"]] * 3
    assert at["n2", True] == NOW_MS


@pytest.mark.parametrize(
    ("timestamp", "event_ms"),
    [("2025-02-23T16:24:18Z", 1_740_327_858_000), ("2025-02-23 16:24:18.250", 1_740_327_858_250),
     ("2025-02-23T17:24:18+01:00", 1_740_327_858_000)],
)  # fmt: skip
def test_other_tools_and_the_history_write_the_time_out(timestamp: str, event_ms: int) -> None:
    for name in ("timestamp", "event_at"):
        (event,) = read(LINE | {"event_ms": None, name: timestamp})
        assert event.event_ms == event_ms


def test_the_same_line_read_twice_is_one_event_and_two_events_of_one_line_are_two() -> None:
    once, again, other = read(LINE, LINE, LINE | {"code": 48})
    assert once.event_id == again.event_id != other.event_id


def test_repeats_that_name_no_line_are_as_many_events_as_there_are() -> None:
    first, second = read(*[{"kind": "xid", "code": 31, "node": "n1", "event_ms": 1}] * 2)
    assert first.event_id != second.event_id


def test_readings_are_told_apart_from_events() -> None:
    found = read(
        {"node": "n1", "metrics": {"power_watts": 1}}, {"test": "pcie", "result": "pass"}, {"errors": {}}, LINE
    )
    assert [type(one) for one in found] == [Reading, Reading, Reading, HardwareEvent]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("NVRM: Xid (PCI:0000:9b:00): 79", "kernel-log"),
        ('{"kind": "xid", "code": 79', "no JSON object"),
        ("[1, 2]", "expected `object`, got `array`"),
        ('{"node": "n1"}', "no kind"),
        ('{"kind": "xid", "node": "n1", "code": "79"}', "code: expected `int | null`, got `str`"),
        ('{"kind": "xid", "node": "n1", "code": 99999999999}', "code: expected `int` <= 2147483647"),
        ('{"kind": "xid", "node": "n1", "event_ms": -5}', "event_ms: expected"),
        ('{"kind": "xid", "node": "n1", "event_ms": 1e300}', "event_ms: expected"),
        ('{"kind": "xid", "node": "n1", "timestamp": "yesterday"}', "'yesterday', wanted ISO 8601"),
        ('{"kind": "xid", "node": ["n1"]}', "node: expected"),
        ("\ufffd\x00", "no JSON object"),
    ],
)
def test_what_cannot_be_read_is_named_and_the_rest_goes_on(line: str, reason: str) -> None:
    before, bad, after = read(LINE, line, LINE | {"line": 3})
    assert isinstance(bad, Unreadable)
    assert bad.place == "line 2"
    assert reason in bad.reason
    assert before.kind == after.kind == "xid"


def test_a_kind_that_nobody_knows_is_kept_as_unknown_and_empty_lines_are_nothing() -> None:
    (event,) = read("", "  ", LINE | {"kind": "flux_capacitor", "code": None})
    assert CATALOG.of(event).fault_class == "unknown"
