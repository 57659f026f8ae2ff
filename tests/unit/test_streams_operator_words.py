"""What operators say of faults: somebody takes care of it, it may wait, it is over."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from schemas.records import Fault
from tests.streams_book import CATALOG, Book, clears, says, told
from tests.streams_scenes import START_MS, anomaly, event

LOST = event(code=79)


def one(written: list[Fault]) -> Fault:
    (fault,) = written
    return fault


def at(at_s: float) -> str:
    return str(START_MS + round(at_s * 1000))


# --- acknowledgement --------------------------------------------------------------------------------------------------


def test_an_acknowledgement_is_a_revision_that_says_who_and_when() -> None:
    book = Book()
    lost = one(book.take(LOST))
    fault = one(book.take(says("fault_acknowledged", at_s=60, fault_id=lost.fault_id, by="ann", note="on my way")))
    assert (fault.fault_id, fault.revision, fault.state) == (lost.fault_id, 2, "updated")
    assert (fault.acknowledged_by, fault.acknowledged_ms) == ("ann", START_MS + 60_000)
    assert (fault.count, fault.last_ms) == (1, lost.last_ms), "a word is no evidence of trouble"
    assert [piece.source for piece in fault.evidence] == ["kernel_log", "operator"]


def test_it_lasts_as_long_as_the_fault_and_the_next_one_has_none() -> None:
    book = Book()
    book.take(LOST, says("fault_acknowledged", at_s=1, component="gpu:n1-0", by="ann"))
    worse = one(book.take(event("gpu_lost", at_s=2)))
    assert worse.acknowledged_by == "ann"
    over, again = book.take(event("gpu_found", at_s=60), event(code=79, at_s=5000))
    assert (over.state, over.acknowledged_by) == ("cleared", "ann")
    assert (again.state, again.acknowledged_by, again.acknowledged_ms) == ("open", None, None)


def test_a_fault_that_becomes_worse_says_so_although_somebody_takes_care_of_it() -> None:
    book = Book()
    for number in range(50):
        book.take(event(code=145, details={"variant": "nonfatal"}, event_id=f"e{number}"))
    book.take(says("fault_acknowledged", at_s=1, component="gpu:n1-0", by="ann"))
    worse = one(book.take(event(code=149, at_s=2, details={"variant": "fatal"})))
    assert (worse.severity, worse.acknowledged_by) == ("critical", "ann")


def test_the_newest_acknowledgement_counts_whichever_came_first() -> None:
    first = says("fault_acknowledged", at_s=1, component="gpu:n1-0", by="ann")
    second = says("fault_acknowledged", at_s=2, component="gpu:n1-0", by="bob")
    for words in ((first, second), (second, first)):
        assert Book().take(LOST, *words)[-1].acknowledged_by == "bob"


def test_who_does_not_say_his_name_is_an_operator() -> None:
    assert Book().take(LOST, says("fault_acknowledged", component="gpu:n1-0"))[-1].acknowledged_by == "an operator"


# --- which faults -----------------------------------------------------------------------------------------------------


def test_a_component_stands_for_all_its_faults_and_a_class_narrows_it() -> None:
    book = Book()
    book.take(LOST, event(code=48), event(code=79, gpu="n1-1"))
    both = book.take(says("fault_acknowledged", at_s=1, component="gpu:n1-0"))
    assert [fault.fault_class for fault in both] == ["gpu_lost", "gpu_memory_uncorrectable"]
    narrowed = book.take(says("fault_acknowledged", at_s=2, component="gpu:n1-0", fault_class="gpu_lost"))
    assert [fault.fault_class for fault in narrowed] == ["gpu_lost"]


@pytest.mark.parametrize("kind", ["fault_acknowledged", "fault_snoozed", "fault_ended"])
@pytest.mark.parametrize("details", [
    {}, {"fault_id": "unknown"}, {"component": "gpu:other"}, {"component": ""}, {"fault_id": ""},
    {"component": "gpu:n1-0", "fault_class": "no_such_class"},
])  # fmt: skip
def test_words_about_nothing_that_is_known_do_nothing(kind: str, details: dict[str, str]) -> None:
    book = Book()
    book.take(LOST)
    assert book.take(says(kind, at_s=1, until_ms=at(99), **details)) == []


def test_words_of_somebody_who_is_no_operator_do_nothing() -> None:
    book = Book()
    book.take(LOST)
    word = says("fault_ended", at_s=1, component="gpu:n1-0")
    assert book.take(replace(word, source="kernel_log"), replace(word, source="agent", event_id="x")) == []


def test_a_word_from_before_a_fault_is_not_about_it_unless_it_names_it() -> None:
    book = Book()
    lost = one(book.take(event(code=79, at_s=100)))
    assert book.take(says("fault_ended", at_s=50, component="gpu:n1-0")) == []
    # the clock of the operator's machine may be behind
    assert one(book.take(says("fault_ended", at_s=51, fault_id=lost.fault_id))).state == "cleared"


# --- snooze -----------------------------------------------------------------------------------------------------------


def test_a_snoozed_fault_says_until_when_and_speaks_again_afterwards() -> None:
    book = Book()
    book.take(LOST)
    snoozed = one(book.take(says("fault_snoozed", at_s=60, component="gpu:n1-0", until_ms=at(7200), by="ann")))
    assert snoozed.snoozed_until_ms == START_MS + 7_200_000
    assert book.wait(7199) == []
    awake = one(book.wait(7200))
    assert (awake.state, awake.severity, awake.snoozed_until_ms) == ("updated", "critical", None)
    assert book.wait(9000) == []


def test_a_snooze_can_be_made_longer_or_taken_back() -> None:
    book = Book()
    book.take(LOST, says("fault_snoozed", at_s=1, component="gpu:n1-0", until_ms=at(100)))
    longer = one(book.take(says("fault_snoozed", at_s=2, component="gpu:n1-0", until_s="3600")))
    assert longer.snoozed_until_ms == START_MS + 3_602_000
    book.take(says("fault_snoozed", at_s=3, component="gpu:n1-0", until_s="0.001"))
    assert one(book.wait(4)).snoozed_until_ms is None


@pytest.mark.parametrize("until", [{}, {"until_ms": "later"}, {"until_ms": "nan"}, {"until_s": "1e999"}])
def test_a_snooze_without_an_end_does_nothing(until: dict[str, str]) -> None:
    book = Book()
    book.take(LOST)
    assert book.take(says("fault_snoozed", at_s=1, component="gpu:n1-0", **until)) == []


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [79, 64, 31, 48])
def test_an_operator_ends_a_fault_of_any_class(code: int) -> None:
    book = Book()
    fault = one(book.take(event(code=code)))
    over = one(book.take(says("fault_ended", at_s=60, fault_id=fault.fault_id, by="ann", note="board replaced")))
    assert (over.state, over.cleared_ms) == ("cleared", START_MS + 60_000)
    assert over.reason.endswith(". Ended by ann: board replaced")


def test_every_class_that_only_an_operator_ends_says_so() -> None:
    only = {name for name, one in CATALOG.faults.items() if one.clears_on == ("operator",)}
    assert only == {"row_remap_failure", "compute"}
    book = Book()
    book.take(event("diag_fault", source="dcgm_diag"), event(code=64))
    book.wait(400 * 86_400)
    assert clears(book) == []
    book.take(says("fault_ended", at_s=400 * 86_400, component="gpu:n1-0"))
    assert set(clears(book)) == only


def test_what_a_detector_still_holds_up_comes_back_only_when_it_is_found_anew() -> None:
    book = Book()
    book.take(anomaly("gpu_hot", at_s=5), says("fault_ended", at_s=60, component="gpu:n1-0"))
    assert clears(book) == ["thermal"]
    assert book.take(anomaly("gpu_hot", "cleared", at_s=90)) == []
    assert told(book.take(anomaly("gpu_hot", at_s=900, begin_s=890))) == [("thermal", "open", 1)]


def test_words_that_are_delivered_again_change_nothing() -> None:
    book = Book()
    scene = [
        LOST,
        says("fault_acknowledged", at_s=1, component="gpu:n1-0", by="ann"),
        says("fault_snoozed", at_s=2, component="gpu:n1-0", until_ms=at(7200)),
        says("fault_ended", at_s=3, component="gpu:n1-0"),
        event(code=79, at_s=100),
    ]
    book.take(*scene)
    assert book.take(*scene) == []
    assert book.restarted().take(*scene) == []
    assert [fault.state for fault in book.written] == ["open", "updated", "updated", "cleared", "open"]


def test_a_restart_keeps_what_was_said() -> None:
    book = Book()
    book.take(
        LOST,
        says("fault_acknowledged", at_s=1, component="gpu:n1-0", by="ann"),
        says("fault_snoozed", at_s=2, component="gpu:n1-0", until_ms=at(7200)),
    )
    again = book.restarted()
    more = one(again.take(event("gpu_lost", at_s=9)))
    assert (more.acknowledged_by, more.snoozed_until_ms) == ("ann", START_MS + 7_200_000)
    assert one(again.wait(7200)).snoozed_until_ms is None
