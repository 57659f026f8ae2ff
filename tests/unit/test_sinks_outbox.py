"""What the outbox owes: one page per incident and channel, over restarts."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from schemas.records import Incident, Member
from sinks.outbox import FILE, Outbox, OutboxError, deliveries

MINUTE = 60_000


def incident(incident_id: str = "i-1", **changes: object) -> Incident:
    given = Incident(
        incident_id=incident_id,
        revision=1,
        state="open",
        page=True,
        site="s",
        racks=["rack-1"],
        root="gpu:1650",
        root_fault_id="f-1",
        root_class="gpu_lost",
        title="GPU 1650 fell off the bus",
        severity="critical",
        action="drain_and_diagnose",
        reason="XID 79 on its node",
        score=1.0,
        members=[Member(fault_id="f-1", component="gpu:1650", fault_class="gpu_lost", role="root", because="root")],
        evidence=["NVRM: Xid (PCI:0000:91:00): 79, GPU has fallen off the bus."],
        first_ms=1_000,
        last_ms=1_000,
        observed_ms=1_200,
        decided_ms=1_500,
    )
    return msgspec.structs.replace(given, **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / FILE


def test_an_incident_pages_each_channel_once_however_often_it_comes(path: Path) -> None:
    with Outbox(path) as outbox:
        assert outbox.page(incident(), ["console", "webhook"], now_ms=2_000)
        assert not outbox.page(incident(revision=2), ["console", "webhook"], now_ms=3_000)
        for channel in ("console", "webhook"):
            owed = outbox.due(channel, 9_000)
            assert owed is not None
            assert (owed.notice.kind, owed.notice.incident) == ("page", incident())
            outbox.delivered(channel, owed.notice, 9_000)
            assert outbox.due(channel, 99_000) is None
        assert not outbox.page(incident(), ["console"], now_ms=10_000)
        assert outbox.due("console", 99_000) is None


def test_what_is_owed_is_still_owed_after_a_restart(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.page(incident(), ["console"], now_ms=2_000)
    with Outbox(path) as outbox:
        owed = outbox.due("console", 2_000)
        assert owed is not None
        assert owed.notice.incident.incident_id == "i-1"


def test_a_failed_notice_comes_back_when_it_is_due_and_holds_back_no_other(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.page(incident("i-1"), ["webhook"], now_ms=0)
        outbox.page(incident("i-2"), ["webhook"], now_ms=1)
        first = outbox.due("webhook", 10)
        assert first is not None
        outbox.failed("webhook", first.notice, due_ms=MINUTE, refused=False, error="away")
        second = outbox.due("webhook", 10)
        assert second is not None
        assert second.notice.incident.incident_id == "i-2"
        outbox.delivered("webhook", second.notice, 20)
        assert outbox.due("webhook", MINUTE - 1) is None
        again = outbox.due("webhook", MINUTE)
        assert again is not None
        assert (again.notice.incident.incident_id, again.attempts, again.refusals) == ("i-1", 1, 0)


def test_refusals_are_counted_apart_from_absences(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.page(incident(), ["webhook"], now_ms=0)
        for refused in (True, False, True):
            owed = outbox.due("webhook", MINUTE)
            assert owed is not None
            outbox.failed("webhook", owed.notice, due_ms=0, refused=refused, error="no")
        owed = outbox.due("webhook", MINUTE)
        assert owed is not None
        assert (owed.attempts, owed.refusals) == (3, 2)


def test_a_channel_that_never_takes_a_notice_is_not_asked_for_ever(path: Path) -> None:
    with Outbox(path) as outbox:
        outbox.page(incident(), ["webhook"], now_ms=0)
        owed = outbox.due("webhook", 0)
        assert owed is not None
        outbox.given_up("webhook", owed.notice, 10, "answered 404")
        assert outbox.due("webhook", MINUTE) is None
        assert outbox.waiting("webhook") == 0
    assert deliveries(path.parent) == []


def test_the_end_of_an_incident_is_told_once_and_only_where_it_paged(path: Path) -> None:
    with Outbox(path) as outbox:
        assert not outbox.cleared("i-1", 5_000, ["webhook"], 5_000), "it never paged"
        outbox.page(incident(), ["console", "webhook"], now_ms=2_000)
        assert outbox.cleared("i-1", 5_000, ["webhook"], 5_000)
        assert not outbox.cleared("i-1", 5_000, ["webhook"], 6_000)
        page = outbox.due("webhook", 9_000)
        assert page is not None
        assert (page.notice.kind, page.notice.cleared_ms) == ("page", 5_000)
        outbox.delivered("webhook", page.notice, 9_000)
        resolve = outbox.due("webhook", 9_000)
        assert resolve is not None
        assert resolve.notice.kind == "resolve"
        console = outbox.due("console", 9_000)
        assert console is not None
        outbox.delivered("console", console.notice, 9_000)
        assert outbox.due("console", 99_000) is None


def test_deliveries_are_read_beside_the_process_that_makes_them(path: Path) -> None:
    assert deliveries(path.parent) == [], "no file yet"
    path.touch()
    assert deliveries(path.parent) == [], "a file with nothing in it yet"
    with Outbox(path) as outbox:
        outbox.page(incident(observed_ms=1_200), ["console"], now_ms=2_000)
        assert deliveries(path.parent) == []
        owed = outbox.due("console", 2_000)
        assert owed is not None
        outbox.delivered("console", owed.notice, 2_500)
        (found,) = deliveries(path.parent)
    assert (found.incident_id, found.channel, found.root, found.delivered_ms, found.delay_ms) == (
        "i-1",
        "console",
        "gpu:1650",
        2_500,
        1_300,
    )


def test_old_incidents_are_forgotten_but_never_one_that_is_still_owed(path: Path) -> None:
    day = 86_400_000
    with Outbox(path) as outbox:
        outbox.page(incident("told"), ["console"], now_ms=0)
        owed = outbox.due("console", 0)
        assert owed is not None
        outbox.delivered("console", owed.notice, 0)
        outbox.page(incident("owed"), ["console"], now_ms=0)
        assert outbox.forget(90, 90 * day) == 0
        assert outbox.forget(90, 91 * day) == 1
        left = outbox.due("console", 91 * day)
        assert left is not None
        assert left.notice.incident.incident_id == "owed"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutboxError, match="cannot keep alerts in .*file/alerts.sqlite3"):
        Outbox(tmp_path / "file" / FILE)
