"""Records lived through in event time: what was quiet has ended, what was over has paged, and when to wait."""

from __future__ import annotations

from msgspec.structs import replace

from schemas.catalog import load
from schemas.catalog.causes import causes
from schemas.records import HardwareEvent, InventoryRecord
from streams.replay import Arrived, Outcome, Said, Told, live_through, pauses
from tests.streams_scenes import START_MS, event, in_inventory

CATALOG = load()
HOUR_S = 3600


def through(*records: HardwareEvent | InventoryRecord) -> tuple[list[Told], list[Said], Outcome]:
    arrived = [Arrived(one.event_ms if isinstance(one, HardwareEvent) else one.seen_ms, one) for one in records]
    told, said = live_through(arrived, catalog=CATALOG, table=causes(), settle_ms=1000)
    outcome = Outcome()
    for one in told:
        outcome.take(one.fault)
    for each in said:
        outcome.take(each.incident)
    return told, said, outcome


def test_what_is_quiet_ends_in_its_time_and_what_comes_later_is_another_fault() -> None:
    quiet_s = CATALOG.faults["nvlink"].clears_after_quiet_s or 0
    told, _, outcome = through(event(code=74, at_s=0), event(code=74, at_s=3 * quiet_s))
    assert [one.fault.state for one in told] == ["open", "cleared", "open"]
    over = told[1]
    assert over.fault.cleared_ms == START_MS + quiet_s * 1000
    assert 0 <= over.at_ms - over.fault.cleared_ms < 60_000
    assert [(came.incident.state, came.pages) for came in outcome.standing()] == [("cleared", 1), ("open", 1)]


def test_behind_the_last_record_nothing_ends_that_nobody_has_seen_to_be_quiet() -> None:
    told, _, outcome = through(event(code=74, at_s=0))
    assert [one.fault.state for one in told] == ["open"]
    assert [came.incident.state for came in outcome.standing()] == ["open"]


def test_counts_of_a_storm_are_whole_in_the_end() -> None:
    _, _, outcome = through(*(event(code=31, at_s=at / 10) for at in range(500)))
    assert [fault.count for fault in outcome.faults.values()] == [500]


def test_years_between_two_events_are_a_moment() -> None:
    _, _, outcome = through(event(code=79, at_s=0), event(code=79, at_s=10 * 365 * 24 * HOUR_S, node="n2", gpu="n2-0"))
    assert len(outcome.standing()) == 2


def test_an_incident_pages_for_what_stood_when_it_spoke_although_it_is_over_by_now() -> None:
    _, _, outcome = through(event(code=119, at_s=0), event("agent_started", at_s=60, gpu=None, boot_id="boot-2"))
    (came,) = outcome.standing()
    assert (came.incident.state, came.pages) == ("cleared", 1)


def test_where_a_gpu_was_at_that_time_is_where_its_event_was() -> None:
    here = in_inventory("gpu:S1", node="n1", pci="0000:91:00")
    instead = replace(here, component="gpu:S2", seen_ms=START_MS + 10 * HOUR_S * 1000)
    before, after = (event(code=79, at_s=at_s, gpu=None, pci="0000:91:00") for at_s in (1, 11 * HOUR_S))
    _, _, outcome = through(here, before, instead, after)
    assert [came.incident.root for came in outcome.standing()] == ["gpu:S1", "gpu:S2"]


def test_a_pipeline_is_waited_for_only_where_something_would_end_before_it_was_told() -> None:
    """Three incidents, the first of which ends by an event: one wait does, between its page and its end."""
    told, said, outcome = through(
        event(code=74, at_s=0),
        event(code=119, at_s=5, node="n2", gpu="n2-0"),
        event("agent_started", at_s=600, node="n2", gpu=None, boot_id="boot-2"),
        event(code=74, at_s=700, node="n3", gpu="n3-0"),
    )
    ended = [one.at_ms for one in told if one.fault.state == "cleared"]
    assert len(outcome.standing()) == 3
    assert pauses(told, said) == ended == [START_MS + 600_000]
    assert pauses([], []) == []


def test_incidents_that_turn_out_to_be_one_are_one_and_their_pages_are_counted_together() -> None:
    _, said, _ = through(event(code=79, at_s=0))
    first = said[0].incident
    second, third = replace(first, incident_id="second"), replace(first, incident_id="third", page=False)
    over = replace(second, revision=2, state="cleared", page=False, merged_into="third")
    further = replace(third, revision=2, state="cleared", merged_into=first.incident_id)
    outcome = Outcome()
    for record in (first, second, third, over, further, over):  # one of them delivered twice
        outcome.take(record)
    (came,) = outcome.standing()
    assert came == (first, 2, ("second", "third"))


def test_many_ends_share_one_wait() -> None:
    opened = [event(code=74, at_s=number, node=f"n{number}", gpu=f"n{number}-0") for number in range(20)]
    again = [event(code=74, at_s=2 * HOUR_S + number, node=f"n{number}", gpu=f"n{number}-0") for number in range(20)]
    told, said, outcome = through(*opened, *again)
    assert len(outcome.standing()) >= 2
    assert len(pauses(told, said)) == 1
