"""One partition of evidence and what it keeps of it: bad records, kills in the middle of writing, backlogs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from schemas.catalog import load
from schemas.catalog.causes import causes
from schemas.records import Fault, Verdict
from schemas.topics import ANOMALIES, EVENTS, FAULTS
from streams.partitions import FaultPartition, IncidentPartition, Memory, Outcome
from streams.settings import StreamsSettings
from streams.topology import Topology
from tests.streams_scenes import CODEC, START_MS, Message, anomaly, event, in_inventory, log, message

CATALOG = load()
SETTINGS = StreamsSettings()
ENDS = {EVENTS: 10**6, ANOMALIES: 10**6, FAULTS: 10**6}
NOW_MS = START_MS + 500


def partition(
    memory: dict[str, bytes] | None = None, ends: dict[str, int] | None = None, now_ms: int = NOW_MS
) -> FaultPartition:
    return FaultPartition(SETTINGS, CATALOG, causes(), Topology(), CODEC, memory or {}, ends or ENDS, now_ms)


def kept(memory: dict[str, bytes], changes: Memory) -> dict[str, bytes]:
    return {key: state for key, state in (memory | changes).items() if state is not None}


def told(outcome: Outcome) -> list[tuple[str, str, int]]:
    return [(one.component, one.state, one.count) for one in outcome.records if isinstance(one, Fault)]


EVENTS_LOG = log(
    [event(code=79, gpu="a"), event(code=48, gpu="b", at_s=1), event(code=79, gpu="a", at_s=2), event(code=48, gpu="b")]
)


def test_events_become_faults() -> None:
    assert told(partition().run(EVENTS_LOG, NOW_MS)) == [
        ("gpu:a", "open", 1),
        ("gpu:b", "open", 1),
        ("gpu:a", "updated", 2),
        ("gpu:b", "updated", 2),
    ]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (message(b"junk", topic=EVENTS), "not_avro"),
        (message(None, topic=EVENTS), "not_avro"),
        (message(CODEC.encode(anomaly()), topic=EVENTS), "wrong_record"),
        (message(CODEC.encode(event())[:-3], topic=EVENTS), "truncated"),
    ],
)
def test_a_bad_event_is_refused_and_its_neighbours_are_processed(bad: Message, reason: str) -> None:
    outcome = partition().run(log([event(code=79, gpu="a"), bad, event(code=48, gpu="b")]), NOW_MS)
    assert [(one.message.offset, one.reason) for one in outcome.rejected] == [(1, reason)]
    assert told(outcome) == [("gpu:a", "open", 1), ("gpu:b", "open", 1)]


@pytest.mark.parametrize("changes", [{"severity": "fatal"}, {"action": "panic"}, {"state": "perhaps"}])
def test_an_anomaly_in_words_that_nobody_knows_is_refused(changes: dict[str, str]) -> None:
    run = log([anomaly(at_s=5), replace(anomaly("gpu_hot", at_s=6), **changes), anomaly("memory_hot", at_s=7)])
    outcome = partition().run(run, NOW_MS)
    assert [(one.message.offset, one.reason) for one in outcome.rejected] == [(1, "unknown_word")]
    assert len(told(outcome)) == 2


def test_a_fault_class_that_the_catalogue_does_not_know_is_no_crash() -> None:
    held = partition()
    assert len(told(held.run(log([anomaly(at_s=5, fault_class="from_the_future")]), NOW_MS))) == 1
    assert told(held.advance(NOW_MS + 10**9)) == []


# --- kills ------------------------------------------------------------------------------------------------------------


def test_what_was_folded_in_before_a_kill_is_passed_over_after_it() -> None:
    first = partition()
    memory = kept({}, first.run(EVENTS_LOG[:3], NOW_MS).memory)
    again = partition(memory)
    assert told(again.run(EVENTS_LOG, NOW_MS)) == [("gpu:b", "updated", 2)]
    assert told(again.run(EVENTS_LOG, NOW_MS)) == []


def test_offsets_of_the_two_topics_are_counted_apart() -> None:
    held = partition()
    held.run(log([event(code=79, gpu="a")] * 1, first=1000), NOW_MS)
    assert told(held.run(log([anomaly(gpu="z", at_s=5)], first=3), NOW_MS)) == [("gpu:z", "open", 1)]


SCENE: Sequence[Message] = log(
    [
        event(code=79, gpu="a"),
        event(code=48, gpu="b", at_s=1),
        event("gpu_found", gpu="a", at_s=10),
        event(code=79, gpu="a", at_s=20),
        event(code=31, gpu="c", at_s=21),
        event(code=31, gpu="c", at_s=22),
        event("agent_started", gpu=None, at_s=30, boot_id="boot-2"),
        event(code=48, gpu="b", at_s=40, boot_id="boot-2"),
    ]
)


@pytest.mark.parametrize("cut", range(1, len(SCENE)))
def test_a_kill_in_the_middle_of_writing_the_memory_neither_loses_nor_doubles(cut: int) -> None:
    """A run's memory is several records; a kill may leave any first part of them, in the order of writing."""
    straight = partition()
    expected = [*straight.run(SCENE[:cut], NOW_MS).records, *straight.run(SCENE[cut:], NOW_MS).records]
    first = partition()
    written = list(first.run(SCENE[:cut], NOW_MS).records)
    base = kept({}, partition().run(SCENE[:cut], NOW_MS).memory)
    second = first.run(SCENE[cut:], NOW_MS)
    changes = list(second.memory.items())
    for survived in range(len(changes) + 1):
        memory = kept(base, dict(changes[:survived]))
        redone = partition(memory).run(SCENE[cut:], NOW_MS)
        # what is written again is what was written before
        assert all(record in expected for record in redone.records), survived
        done = kept(memory, redone.memory)
        final = kept(base, second.memory)
        assert done == final, survived
    assert [*written, *second.records] == expected


def test_a_memory_of_topics_that_were_made_anew_does_not_hide_what_comes() -> None:
    memory = kept({}, partition().run(log([event(code=79, gpu="a")], first=5000), NOW_MS).memory)
    anew = partition(memory, ends={EVENTS: 1, ANOMALIES: 0})
    assert told(anew.run(log([event(code=79, gpu="a", at_s=9), event(code=48, gpu="b")]), NOW_MS)) == [
        ("gpu:a", "updated", 2),
        ("gpu:b", "open", 1),
    ]


def test_a_memory_that_another_build_wrote_is_left_out() -> None:
    memory = kept({}, partition().run(log([event(code=79, gpu="a")]), NOW_MS).memory)
    held = partition({"fault|odd": b"not ours", "standing|x": b"junk", **memory})
    assert told(held.run(log([event(code=79, gpu="a", at_s=9)], first=1), NOW_MS)) == [("gpu:a", "updated", 2)]
    assert len(IncidentPartition(SETTINGS, CATALOG, causes(), Topology(), CODEC, {"incident|x": b"junk"}, ENDS)) == 0


def test_a_fault_is_never_kept_without_the_history_that_it_knows() -> None:
    keys = [key.partition("|")[0] for key in partition().run(SCENE, NOW_MS).memory]
    assert keys == sorted(keys, key=["health", "history", "fault", "applied"].index)


def test_what_a_component_went_through_survives_a_restart() -> None:
    memory = kept({}, partition().run(SCENE[:3], NOW_MS).memory)
    again = partition(memory).run(SCENE[3:4], NOW_MS)
    assert [(one.fault_class, one.recurrence) for one in again.records if isinstance(one, Fault)] == [("gpu_lost", 1)]


# --- verdicts ---------------------------------------------------------------------------------------------------------


def judged(outcome: Outcome) -> dict[str, Verdict]:
    return {one.component: one for one in outcome.records if isinstance(one, Verdict)}


def test_a_fault_is_followed_by_the_verdicts_that_it_leads_to() -> None:
    outcome = partition().run(log([event(code=79, gpu="a")]), NOW_MS)
    assert [type(one).__name__ for one in outcome.records] == ["Fault", "Verdict", "Verdict", "Verdict"]
    found = judged(outcome)
    assert {component: (one.health, one.rentable) for component, one in found.items()} == {
        "gpu:a": ("unhealthy", False),
        "node:n1": ("unhealthy", False),
        "rack:r1": ("degraded", False),
    }, "its only GPU is all that the node has"
    assert found["gpu:a"].decided_ms == START_MS, "when the event reached Kafka"


def test_the_health_of_a_rack_is_kept_before_the_faults_that_changed_it() -> None:
    kept_as = [key.partition("|")[0] for key in partition().run(EVENTS_LOG, NOW_MS).memory]
    assert kept_as.index("health") < kept_as.index("fault")


def test_what_quiet_ends_is_judged_as_of_when_it_was_quiet_for_long_enough() -> None:
    held = partition()
    held.run(log([event(code=94, gpu="a")]), NOW_MS)
    quiet_ms = quiet_after("gpu_memory_contained")
    later = judged(held.advance(NOW_MS + quiet_ms + 5000))
    assert (later["gpu:a"].reasons, later["gpu:a"].decided_ms) == ([], START_MS + quiet_ms)


def test_what_an_operator_says_of_a_node_is_no_sign_that_it_lives() -> None:
    held = partition()
    said = event("maintenance_ended", gpu=None, source="operator")
    assert judged(held.run(log([said]), NOW_MS)) == {}
    assert set(judged(held.run(log([event("link_up", gpu=None)], first=1), NOW_MS))) == {"node:n1", "rack:r1"}


def test_one_part_in_two_places_is_unknown_and_a_wrong_line_in_a_file_is_only_warned_of() -> None:
    details = {"component": "node:n1", "point": "declared_elsewhere"}
    wrong = event("inventory_contradiction", gpu=None, source="inventory", details=details)
    verdict = judged(partition().run(log([wrong]), NOW_MS))["node:n1"]
    assert (verdict.health, verdict.rentable, len(verdict.reasons)) == ("healthy", True, 1)
    twice = replace(wrong, details=details | {"point": "two_places", "variant": "two_places"})
    verdict = judged(partition().run(log([twice]), NOW_MS))["node:n1"]
    assert (verdict.health, verdict.rentable) == ("unknown", False)


def test_what_the_inventory_shows_is_judged_at_the_next_step_of_time() -> None:
    topology = Topology()
    ends, known = ENDS, replace(in_inventory("gpu:S1", node="n1"), source="discovered")
    held = FaultPartition(SETTINGS, CATALOG, causes(), topology, CODEC, {}, ends, NOW_MS)
    topology.learn(known)
    held.learnt(known)
    outcome = held.advance(NOW_MS)
    assert set(judged(outcome)) == {"gpu:S1", "node:n1", "rack:r1"}
    assert held.health == {("gpu", "healthy"): 1, ("node", "healthy"): 1, ("rack", "healthy"): 1}
    assert held.advance(NOW_MS + 100) == Outcome()


# --- time -------------------------------------------------------------------------------------------------------------

HOUR_MS = 3_600_000


def quiet_after(fault_class: str) -> int:
    quiet_s = CATALOG.faults[fault_class].clears_after_quiet_s
    assert quiet_s is not None
    return quiet_s * 1000


def test_a_worker_that_was_away_for_long_does_not_end_what_has_evidence_waiting() -> None:
    memory = kept({}, partition().run(log([event(code=31)]), NOW_MS).memory)
    quiet_ms = quiet_after("application")
    later_ms = NOW_MS + 10 * quiet_ms
    again = partition(memory, now_ms=later_ms)
    assert again.advance(later_ms) == Outcome(), "it has not looked yet"
    waiting = log([event(code=31, at_s=300), event(code=31, at_s=600), event(code=31, at_s=900)], first=1)
    for number, one in enumerate(waiting):
        assert [state for _, state, _ in told(again.run([one], later_ms + 100 * number))] == ["updated"]
        assert told(again.advance(later_ms + 100 * number + 50)) == []
    # now it is as late as the last of them says
    assert told(again.advance(later_ms + quiet_ms - 1000)) == []
    assert told(again.advance(later_ms + quiet_ms + 1000)) == [("gpu:n1-0", "cleared", 4)]


def test_where_nothing_waits_what_went_quiet_while_the_worker_was_away_ends() -> None:
    memory = kept({}, partition().run(log([event(code=31)]), NOW_MS).memory)
    later_ms = NOW_MS + 10 * quiet_after("application")
    again = partition(memory, now_ms=later_ms)
    assert told(again.advance(later_ms + SETTINGS.idle_ms + 1)) == [("gpu:n1-0", "cleared", 1)]


def test_a_topic_that_is_behind_holds_the_time_back() -> None:
    quiet_ms = quiet_after("application")
    held = partition(now_ms=NOW_MS)
    held.run(log([event(code=31)]), NOW_MS)
    ahead = message(anomaly("gpu_hot", gpu="z", at_s=0), at_ms=START_MS + 10 * quiet_ms)
    held.run([ahead], NOW_MS)
    assert told(held.advance(NOW_MS + SETTINGS.idle_ms + 1)) == []


def test_the_workers_own_clock_may_be_wrong_by_any_amount() -> None:
    quiet_ms = quiet_after("application")
    for off_ms in (-5 * HOUR_MS, 5 * HOUR_MS):
        now_ms = NOW_MS + off_ms
        held = partition(now_ms=now_ms)
        held.run(log([event(code=31)]), now_ms)
        assert told(held.advance(now_ms + quiet_ms - 1000)) == []
        assert told(held.advance(now_ms + quiet_ms)) == [("gpu:n1-0", "cleared", 1)]
