"""The demo's scorecard can fail: each way of being wrong shows."""

from __future__ import annotations

import pytest

from infra.demo.scorecard import Injected, Told, fold, read_truth, score
from schemas.records import Incident, Member

START = 1_000_000


def _member(component: str, role: str) -> Member:
    return Member(fault_id=f"f-{component}", component=component, fault_class="x", role=role, because="")


def _incident(root: str, root_class: str, *, members: tuple[str, ...] = (), **fields: object) -> Incident:
    given = {
        "incident_id": f"i-{root}-{root_class}",
        "revision": 1,
        "state": "open",
        "page": True,
        "site": "demo",
        "racks": ["r1"],
        "root": root,
        "root_fault_id": f"f-{root}",
        "root_class": root_class,
        "title": "",
        "severity": "critical",
        "action": "drain_and_diagnose",
        "reason": "",
        "score": 1.0,
        "members": [_member(root, "root"), *(_member(one, "symptom") for one in members)],
        "evidence": [],
        "first_ms": START,
        "last_ms": START,
        "observed_ms": START,
        "decided_ms": START + 1500,
    }
    return Incident(**{**given, **fields})


def _told(*revisions: Incident) -> list[Told]:
    told: dict[str, Told] = {}
    for revision in revisions:
        fold(told, revision)
    return list(told.values())


LOST = Injected(
    fault="gpu_falls_off_bus", component="gpu:A", role="root", start_ms=START, first_observable_ms=START + 200
)
LINK = Injected(fault="nvlink_fails", component="gpu:B", role="root", start_ms=START, first_observable_ms=START)
ECHO = Injected(fault="nvlink_fails", component="gpu:C", role="symptom", start_ms=START, first_observable_ms=START)


def test_a_fault_found_at_its_root_passes_with_its_delay() -> None:
    card = score([LOST], _told(_incident("gpu:A", "gpu_lost")))
    assert card.passed
    assert card.rows[0].delay_seconds == pytest.approx(1.3)


def test_a_fault_nobody_found_fails() -> None:
    card = score([LOST, LINK], _told(_incident("gpu:A", "gpu_lost")))
    assert {row.injected.component: row.found for row in card.rows} == {"gpu:A": True, "gpu:B": False}
    assert not card.passed


def test_an_echo_named_as_the_root_is_found_with_the_wrong_root() -> None:
    card = score([LINK, ECHO], _told(_incident("gpu:C", "nvlink", members=("gpu:B",))))
    assert (card.rows[0].found, card.rows[0].root_right) == (True, False)
    assert not card.passed


def test_a_root_that_is_right_only_after_the_page_is_not_right() -> None:
    first = _incident("gpu:C", "nvlink", members=("gpu:B",), incident_id="i")
    later = _incident("gpu:B", "nvlink", members=("gpu:C",), incident_id="i", revision=2, page=False)
    assert not score([LINK], _told(first, later)).rows[0].root_right


def test_the_right_component_with_the_wrong_class_is_not_found() -> None:
    card = score([LOST], _told(_incident("gpu:A", "thermal")))
    assert not card.rows[0].found


def test_a_page_for_a_healthy_component_is_a_false_alarm() -> None:
    card = score([LOST], _told(_incident("gpu:A", "gpu_lost"), _incident("gpu:Z", "thermal")))
    assert [told.newest.root for told in card.false_alarms] == ["gpu:Z"]
    assert not card.passed


def test_a_second_page_for_the_same_fault_is_a_false_alarm() -> None:
    card = score([LOST], _told(_incident("gpu:A", "gpu_lost"), _incident("gpu:A", "gpu_silent")))
    assert len(card.false_alarms) == 1


def test_echoes_that_page_by_themselves_are_false_alarms() -> None:
    card = score([LINK, ECHO], _told(_incident("gpu:B", "nvlink"), _incident("gpu:C", "nvlink")))
    assert [told.newest.root for told in card.false_alarms] == ["gpu:C"]


def test_an_incident_that_pages_nobody_is_no_alarm() -> None:
    card = score([LOST], _told(_incident("gpu:A", "gpu_lost"), _incident("gpu:Z", "application", page=False)))
    assert card.passed


def test_a_page_from_before_the_injection_does_not_count_as_finding_it() -> None:
    old = _incident("gpu:A", "gpu_lost", first_ms=START - 60_000, last_ms=START - 60_000)
    card = score([LOST], _told(old))
    assert not card.rows[0].found
    assert len(card.false_alarms) == 1


def test_what_warned_early_counts_from_the_failure_and_says_how_long_before_it_was_there() -> None:
    seen_ms = START - 14_000
    link = Injected(fault="nvlink_fails", component="gpu:B", first_observable_ms=seen_ms, hard_ms=START)
    early = _incident("gpu:B", "nvlink", page=False, severity="warning", decided_ms=START - 8000)
    page = _incident("gpu:B", "nvlink", members=("gpu:C",), revision=2, decided_ms=START + 1200)
    (row,) = score([link], _told(early, page), alerted_ms={page.incident_id: START + 1300}).rows
    assert (row.delay_seconds, row.alerted_seconds, row.warned_seconds) == (1.2, 1.3, 8.0)
    (late,) = score([link], _told(page)).rows
    assert (late.found, late.warned_seconds) == (True, None), "nobody had warned of it"


def test_without_faults_nothing_is_proved() -> None:
    assert not score([], []).passed


def test_a_repeated_or_late_record_changes_nothing() -> None:
    first = _incident("gpu:A", "gpu_lost")
    second = _incident("gpu:A", "gpu_lost", revision=2, page=False, decided_ms=START + 9000)
    assert _told(first, second, first, first) == _told(first, second) == [Told(first, second, first)]


def test_the_first_page_counts_when_a_record_is_delivered_twice() -> None:
    page = _incident("gpu:A", "gpu_lost")
    [told] = _told(page, page)
    assert told.page == page


def test_a_truth_line_that_is_still_being_written_waits() -> None:
    whole = b'{"fault":"gpu_overheats","component":"gpu:A","role":"root","start_ms":1,"first_observable_ms":2}\n'
    assert [one.component for one in read_truth([whole, b'{"fault":"node_goes'])] == ["gpu:A"]


def test_a_fault_that_never_came_to_show_proves_nothing() -> None:
    card = score([LOST], _told(_incident("gpu:A", "gpu_lost")), expected=2)
    assert card.failures == ["only 1 of 2 faults came to show"]


def test_the_alert_is_timed_from_when_the_fault_could_be_seen() -> None:
    told = _told(_incident("gpu:A", "gpu_lost"))
    card = score([LOST], told, alerted_ms={told[0].newest.incident_id: LOST.first_observable_ms + 1700})
    assert card.rows[0].alerted_seconds == pytest.approx(1.7)
