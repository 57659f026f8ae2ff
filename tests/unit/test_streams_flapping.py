"""A fault that comes and goes is one fault that stands, until it has been quiet for long."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.catalog import CatalogError, load
from schemas.records import Anomaly, Fault, HardwareEvent
from tests.streams_book import CATALOG, Book, clears, says
from tests.streams_scenes import anomaly, event

RULE = CATALOG.faults["gpu_lost"].flapping


def flaps(times: int, *, every_s: float = 300, first_s: float = 0) -> list[HardwareEvent | Anomaly]:
    """A GPU that is lost and found again and again."""
    scene: list[HardwareEvent | Anomaly] = []
    for number in range(times):
        at_s = first_s + number * every_s
        scene += [event(code=79, at_s=at_s), event("gpu_found", at_s=at_s + 60)]
    return scene


def lives(written: list[Fault]) -> list[str]:
    return list(dict.fromkeys(fault.fault_id for fault in written))


def test_from_so_many_returns_on_it_is_one_fault_that_stands() -> None:
    book = Book()
    book.take(*flaps(20))
    assert len(lives(book.written)) == RULE.times
    assert clears(book) == ["gpu_lost"] * (RULE.times - 1)
    (last,) = book.wait(19 * 300 + 70)
    assert (last.state, last.flapping, last.count) == ("updated", True, 20 - (RULE.times - 1))
    assert last.reason.endswith("It comes and goes, and stands until it has been quiet for long.")
    assert [fault.flapping for fault in book.written if fault.state == "open"] == [False] * (RULE.times - 1) + [True]


def test_it_ends_when_it_has_been_quiet_for_long() -> None:
    book = Book()
    book.take(*flaps(5))
    quiet_from_s = 4 * 300 + 60
    assert book.wait(quiet_from_s + RULE.quiet_s - 1) == []
    (over,) = book.wait(quiet_from_s + RULE.quiet_s)
    assert (over.state, over.flapping) == ("cleared", True)


def test_one_that_was_not_told_to_be_over_does_not_end_for_quiet() -> None:
    book = Book()
    book.take(*flaps(4)[:-1])
    assert book.wait(10**6) == []


def test_slow_returns_are_faults_of_their_own() -> None:
    book = Book()
    book.take(*flaps(6, every_s=RULE.within_s))
    assert len(lives(book.written)) == 6
    assert not any(fault.flapping for fault in book.written)
    assert [fault.recurrence for fault in book.written if fault.state == "open"] == [0, 1, 2, 3, 4, 5]


def test_one_that_flapped_and_is_soon_back_flaps_at_once() -> None:
    book = Book()
    book.take(*flaps(4))
    over_s = 3 * 300 + 60 + RULE.quiet_s
    book.wait(over_s)
    (again,) = book.take(event(code=79, at_s=over_s + 600))
    assert (again.state, again.flapping) == ("open", True)


def test_what_an_operator_has_ended_is_counted_anew() -> None:
    book = Book()
    book.take(*flaps(RULE.times - 1))
    (lost, over) = book.take(
        event(code=79, at_s=1000), says("fault_ended", at_s=1010, component="gpu:n1-0", note="reseated")
    )
    assert (lost.flapping, over.state) == (True, "cleared"), "an operator's word ends also what flaps"
    (again,) = book.take(event(code=79, at_s=1100))
    assert not again.flapping


def test_a_detectors_finding_that_comes_and_goes_is_damped_too() -> None:
    book = Book()
    for number in range(5):
        at_s = 600 * number
        book.take(anomaly("gpu_hot", at_s=at_s + 10, begin_s=at_s))
        book.take(anomaly("gpu_hot", "cleared", at_s=at_s + 300, begin_s=at_s))
    assert clears(book) == ["thermal"] * (CATALOG.faults["thermal"].flapping.times - 1)
    last_s = 600 * 4 + 300
    assert book.wait(last_s + CATALOG.faults["thermal"].flapping.quiet_s - 1) == []
    assert [fault.state for fault in book.wait(last_s + CATALOG.faults["thermal"].flapping.quiet_s)] == ["cleared"]


def test_other_components_and_classes_are_not_counted() -> None:
    book = Book()
    for number in range(4):
        book.take(event(code=79, gpu=f"g{number}", at_s=number), event("gpu_found", gpu=f"g{number}", at_s=number + 60))
    assert not any(fault.flapping for fault in book.written)


def test_a_restart_does_not_forget_it() -> None:
    scene = flaps(RULE.times + 1)
    straight = Book()
    straight.take(*scene)
    for cut in range(len(scene) + 1):
        book = Book()
        assert [*book.take(*scene[:cut]), *book.restarted().take(*scene[cut:])] == straight.written, cut


def test_every_class_says_how_it_flaps_and_a_site_may_say_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[fault.every]\nflapping = { times = 9, within_s = 60, quiet_s = 60, reason = "Ours." }\n')
    changed = load(file)
    assert (changed.faults["gpu_lost"].flapping.times, changed.faults["thermal"].flapping.times) == (9, 3)
    file.write_text('[fault.gpu_lost]\nflapping = { times = 1, within_s = 60, quiet_s = 60, reason = "Ours." }\n')
    with pytest.raises(CatalogError, match=r"fault\.gpu_lost.*times from 2 on"):
        load(file)
