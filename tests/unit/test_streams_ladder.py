"""The action ladder: repeats, repairs that did not help, and what cannot help lead on from the catalogue's action."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.catalog import ACTIONS, CatalogError, load
from schemas.catalog.metrics import metrics
from schemas.records import Fault, HardwareEvent
from streams.faults.history import DAY_MS, History, Life
from streams.faults.source import CLOCK, Source
from streams.topology import Topology
from tests.streams_book import CATALOG, Book, clears
from tests.streams_scenes import START_MS, event, in_inventory

DAY_S = 86_400


def one(written: list[Fault]) -> Fault:
    (fault,) = written
    return fault


def losses(days: list[float]) -> list[Fault]:
    """A GPU that is lost and found again on these days: how each of its faults began."""
    book = Book()
    for day in days:
        at_s = day * DAY_S
        book.take(event(code=79, at_s=at_s), event("gpu_found", at_s=at_s + 600))
    return [fault for fault in book.written if fault.state == "open"]


def steps(faults: list[Fault]) -> list[tuple[str, str]]:
    return [(fault.action, fault.action_rule) for fault in faults]


def test_the_first_action_is_the_catalogues_and_names_its_entry() -> None:
    fault = one(Book().take(event(code=79)))
    assert (fault.action, fault.action_rule, fault.recurrence) == ("reboot_node", "xid.79", 0)


def test_what_comes_again_and_again_climbs_and_says_which_row_chose_and_why() -> None:
    first, second, third, fourth, fifth = losses([0, 3, 6, 9, 12])
    assert steps([first, second]) == [("reboot_node", "xid.79")] * 2
    assert steps([third, fourth]) == [("check_hardware", "ladder.gpu_is_lost_again")] * 2
    assert steps([fifth]) == [("replace", "ladder.gpu_is_lost_for_good")]
    assert third.reason.endswith("That is 3 times within 30 days: seat, riser and power cables come before the board.")
    assert (third.rule, third.code, third.recurrence, fifth.recurrence) == ("xid.79", 79, 2, 4)


def test_what_is_long_ago_does_not_count() -> None:
    faults = losses([0, 1, 40, 41])
    assert {rule for _, rule in steps(faults)} == {"xid.79"}
    assert [fault.recurrence for fault in faults] == [0, 1, 0, 1]


def test_another_gpu_and_another_class_do_not_count() -> None:
    book = Book()
    for number, code in enumerate((79, 119, 48)):
        book.take(event(code=code, at_s=number), event(code=79, gpu=f"g{number}", at_s=number))
    assert {fault.recurrence for fault in book.written} == {0}


def test_what_is_back_after_a_reboot_is_not_rebooted_again() -> None:
    book = Book()
    book.take(event(code=79), event("agent_started", gpu=None, at_s=600, boot_id="boot-2"))
    assert clears(book) == ["gpu_lost"]
    back = one(book.restarted().take(event(code=79, at_s=3600, boot_id="boot-2")))
    assert (back.action, back.action_rule) == ("drain_and_diagnose", "ladder.back_after_reboot")
    assert back.reason.endswith("It was back within a day of a reboot, so another one will not mend it.")


def test_what_goes_on_after_a_reboot_that_nobody_has_told_of_yet_is_not_rebooted_again_either() -> None:
    book = Book()
    book.take(event(code=119))
    assert one(book.take(event(code=119, at_s=900, boot_id="boot-2"))).action_rule == "ladder.back_after_reboot"


def test_a_reboot_long_ago_and_a_boot_of_another_node_say_nothing() -> None:
    book = Book()
    book.take(event(code=79), event("agent_started", gpu=None, at_s=600, boot_id="boot-2"))
    assert one(book.take(event(code=79, at_s=600 + 2 * DAY_S, boot_id="boot-2"))).action_rule == "xid.79"
    moved = Book()
    moved.take(event(code=79), event("gpu_found", at_s=60))
    assert one(moved.take(event(code=79, at_s=900, node="n2", boot_id="boot-9"))).action_rule == "xid.79"


def reset(at_s: float) -> HardwareEvent:
    return event(code=154, at_s=at_s, details={"variant": "none"})


def test_what_is_back_after_a_reset_gets_a_reboot() -> None:
    book = Book()
    book.take(event(code=119), reset(300))
    goes_on = one(book.take(event(code=119, at_s=900)))
    assert (goes_on.action, goes_on.action_rule) == ("reboot_node", "ladder.back_after_reset")

    hung = Book()
    hung.take(event(code=154, details={"variant": "gpu_reset_required"}), reset(300))
    assert clears(hung) == ["gpu_hang"]
    again = one(hung.restarted().take(event(code=154, at_s=900, details={"variant": "gpu_reset_required"})))
    assert (again.action, again.action_rule) == ("reboot_node", "ladder.back_after_reset")


def test_a_reset_before_a_fault_is_no_repair_of_it() -> None:
    book = Book()
    book.take(event(code=48, at_s=0), reset(300))
    assert one(book.take(event(code=119, at_s=900))).action_rule == "xid.119"


def test_a_gpu_that_is_off_the_bus_is_not_reset() -> None:
    book = Book()
    gsp = one(book.take(event(code=119)))
    lost, changed = book.take(event(code=79, at_s=20))
    assert (gsp.action, lost.fault_class) == ("reset_gpu", "gpu_lost")
    assert (changed.fault_id, changed.action, changed.action_rule) == (
        gsp.fault_id,
        "reboot_node",
        "ladder.off_the_bus",
    )
    later = one(book.take(event(code=74, at_s=30)))
    assert (later.fault_class, later.action_rule) == ("nvlink", "ladder.off_the_bus")
    elsewhere = one(book.take(event(code=119, gpu="n1-1", at_s=40)))
    assert elsewhere.action_rule == "xid.119"


@pytest.mark.parametrize(("driver", "action"), [
    ("550.54.15", "reset_gpu"), ("565.57.01", "none"), ("570.86.15", "none"), (None, "none"), ("unknown", "none"),
])  # fmt: skip
def test_before_r565_nobody_says_whether_a_reset_is_needed(driver: str | None, action: str) -> None:
    topology = Topology()
    topology.learn(in_inventory("gpu:n1-0", node="n1", driver_version=driver))
    fault = one(Book(topology).take(event(code=145, details={"variant": "follow_154"})))
    assert fault.action == action


def test_what_is_informational_asks_for_nothing_however_often_it_comes() -> None:
    book = Book()
    for number in range(40):
        book.take(event(code=43, at_s=number * 1000))
        book.wait(number * 1000 + 700)
    assert {fault.action for fault in book.written} == {"none"}


def test_an_action_that_an_operator_has_set_stands_but_for_what_cannot_work(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('[xid.79]\naction = "reboot_node"\n[xid.119]\naction = "reset_gpu"\n')
    book = Book(catalog=load(file))
    for day in range(6):
        book.take(event(code=79, at_s=day * DAY_S), event("gpu_found", at_s=day * DAY_S + 60))
    assert {fault.action_rule for fault in book.written} == {"xid.79"}, "also where it is the same as ours"

    bus = Book(catalog=load(file))
    bus.take(event(code=79))
    assert one(bus.take(event(code=119, at_s=5))).action_rule == "ladder.off_the_bus"


def test_a_site_changes_the_ladder_in_its_own_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        "[ladder.gpu_is_lost_again]\ntimes = 2\n[ladder.gpu_is_lost_for_good]\noff = true\n"
        '[ladder.ours]\nclasses = ["thermal"]\ntimes = 2\nwithin_days = 1\naction = "replace"\nreason = "Ours."\n'
    )
    catalog = load(file)
    assert catalog.ladder["gpu_is_lost_again"].times == 2
    assert "gpu_is_lost_for_good" not in catalog.ladder
    assert list(catalog.ladder)[-1] == "ours"


@pytest.mark.parametrize(("text", "said"), [
    ('[ladder.x]\naction = "replace"\nreason = "."\n', "asks for nothing"),
    ('[ladder.x]\naction = "replace"\ntimes = 2\nreason = "."\n', "belong together"),
    ('[ladder.x]\naction = "replace"\nafter = "reboot"\nreason = "."\n', "belong together"),
    ('[ladder.x]\naction = "explode"\ntimes = 2\nwithin_days = 1\nreason = "."\n', "action is 'explode'; allowed"),
    ('[ladder.x]\naction = "replace"\nafter = "rest"\nwithin_hours = 1\nreason = "."\n', "after is 'rest'; allowed"),
    ('[ladder.x]\naction = "replace"\nbeside = ["nope"]\nreason = "."\n', "nope; allowed are fault classes"),
    ('[ladder.x]\naction = "replace"\nbeside = ["gpu_lost"]\nreason = "{who}"\n', "allowed is {times}"),
    ('[ladder.x]\naction = "replace"\nform = ["none"]\nreason = "."\n', "key 'form'; allowed are classes, rules, from"),
])  # fmt: skip
def test_a_ladder_that_cannot_be_used_is_refused_with_the_reason(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(CatalogError) as refused:
        load(file)
    assert said in str(refused.value)


def test_every_row_of_the_ladder_leads_up_and_is_about_classes_that_can_reach_it() -> None:
    asked = {(entry.fault_class, entry.action) for entry in CATALOG}
    asked |= {(found.fault_class, found.action) for metric in metrics().values() for found in metric.findings()}
    for name, step in CATALOG.ladder.items():
        assert step.action in ACTIONS, name
        for before in step.from_ or ():
            assert ACTIONS.index(before) < ACTIONS.index(step.action), name
        if step.classes:
            assert any(step.changes(action) for of, action in asked if of in step.classes), name
        assert step.reason.endswith("."), name


# --- history ----------------------------------------------------------------------------------------------------------


def life(number: int, **fields: object) -> Life:
    first_ms = START_MS + number * DAY_MS
    return Life(f"f{number}", "gpu_lost", first_ms, Source(is_event=True, offset=number), first_ms, **fields)  # type: ignore[arg-type]


def test_a_history_is_bounded_in_size_and_in_time() -> None:
    import msgspec

    history = History()
    for number in range(100):
        history.begin(life(number, node="gpu-node-0001", boot_id="c1afc46e-fbf8-6223-2536-bfe4a7314ca4"))
        history.reset(START_MS + number, CLOCK)
    assert (len(history.lives), len(history.resets)) == (24, 4)
    assert len(msgspec.msgpack.encode(history)) < 3500
    assert not history.forget(START_MS + 90 * DAY_MS)
    assert [one.fault_id for one in history.lives] == [f"f{number}" for number in range(90, 100)]
    assert history.forget(START_MS + 900 * DAY_MS)


def test_a_history_answers_as_of_the_record_that_asks() -> None:
    """A run is done again after a kill, and the memory has what came later in it."""
    history = History()
    for number in range(4):
        history.begin(life(number))
    history.lives[1].ended = Source(is_event=True, offset=3)
    asking = Source(is_event=True, offset=2)
    assert [one.fault_id for one in history.earlier("gpu_lost", "f2", asking)] == ["f0", "f1"]
    assert history.lives[1].is_open(asking)
    assert not history.lives[1].is_open(Source(is_event=True, offset=3))
    assert len(history.earlier("gpu_lost", "", CLOCK)) == 4
    assert len(history.earlier("gpu_lost", "", Source(is_event=False, offset=0))) == 4, "the other topic was before"


def test_histories_are_let_go_of_when_nothing_of_them_counts_any_more() -> None:
    book = Book()
    book.take(event(code=31))
    book.wait(700)
    assert set(book.histories()) == {"gpu:n1-0"}
    book.wait(40 * DAY_S)
    assert book.histories() == {}
