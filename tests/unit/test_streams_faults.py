"""Evidence folded into faults: one component, one class, one life, however often it is reported."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from schemas.records import Anomaly, Fault, HardwareEvent
from tests.streams_book import CATALOG, Book, clears, told
from tests.streams_scenes import START_MS, anomaly, event, in_inventory

DAY_S = 24 * 3600


def test_the_first_evidence_opens_a_fault_with_what_the_catalogue_says() -> None:
    (one,) = Book().take(event(code=79, at_s=3, raw="NVRM: Xid (PCI:0000:91:00): 79, GPU has fallen off the bus."))
    assert (one.state, one.revision, one.count) == ("open", 1, 1)
    assert (one.component, one.component_kind, one.gpu, one.node, one.rack, one.site) == (
        "gpu:n1-0",
        "gpu",
        "n1-0",
        "n1",
        "r1",
        "hall-a",
    )
    entry = CATALOG.entry("xid", 79)
    assert (one.fault_class, one.severity, one.action, one.rule, one.reason, one.code) == (
        "gpu_lost",
        "critical",
        entry.action,
        "xid.79",
        entry.reason,
        79,
    )
    assert (one.first_ms, one.last_ms, one.observed_ms) == (START_MS + 3000, START_MS + 3000, START_MS + 3030)
    assert [(piece.source, piece.text) for piece in one.evidence] == [
        ("kernel_log", "NVRM: Xid (PCI:0000:91:00): 79, GPU has fallen off the bus.")
    ]


def test_more_evidence_of_the_same_class_is_the_same_fault() -> None:
    book = Book()
    first, second = book.take(event(code=79), event("gpu_lost", at_s=2, source="nvml"))
    assert first.fault_id == second.fault_id
    assert (second.state, second.revision, second.count) == ("updated", 2, 2)
    assert (second.first_ms, second.last_ms) == (START_MS, START_MS + 2000)
    assert [piece.source for piece in second.evidence] == ["kernel_log", "nvml"]


def test_another_class_or_another_component_is_another_fault() -> None:
    written = Book().take(event(code=79), event(code=48), event(code=79, gpu="n1-1"), event(code=79, node="n2"))
    assert len({one.fault_id for one in written}) == 3, "the same GPU serial in another node is the same GPU"
    assert {(one.component, one.fault_class) for one in written} == {
        ("gpu:n1-0", "gpu_lost"),
        ("gpu:n1-0", "gpu_memory_uncorrectable"),
        ("gpu:n1-1", "gpu_lost"),
    }


def test_an_event_and_an_anomaly_of_one_class_are_one_fault() -> None:
    book = Book()
    book.take(event("gpu_unreadable", at_s=1, source="nvml"), anomaly("gpu_silent", at_s=5, begin_s=1))
    assert told(book.written) == [("gpu_silent", "open", 1), ("gpu_silent", "updated", 2)]
    assert len({one.fault_id for one in book.written}) == 1


def test_information_opens_no_fault() -> None:
    assert Book().take(event("agent_started", gpu=None), event("gpu_map"), event(code=154)) == []


def test_an_unknown_code_is_shown_and_wakes_nobody() -> None:
    (one,) = Book().take(event(code=9999))
    assert (one.fault_class, one.severity, one.rule) == ("unknown", "warning", "xid.unknown")


def test_what_is_known_of_a_gpu_is_its_slot_until_the_inventory_tells_its_serial() -> None:
    book = Book()
    (unknown,) = book.take(event(code=79, gpu=None, pci="0000:91:00"))
    assert unknown.component == "gpu:n1/0000:91:00"
    book.topology.learn(in_inventory("gpu:S1", node="n1", pci="0000:91:00"))
    (known,) = book.take(event(code=48, gpu=None, pci="0000:91:00"))
    assert (known.component, known.gpu, known.pci) == ("gpu:S1", "S1", "0000:91:00")
    (silent,) = book.take(anomaly("gpu_silent", gpu="S1"))
    assert silent.pci == "0000:91:00"


def test_a_fault_is_about_what_its_class_is_about() -> None:
    book = Book()
    (switch,) = book.take(event("sxid", 11001, gpu=None, pci="0000:c1:00"))
    # an error of a link, in the catalogue's words one of NVLink: and still it is the switch's own
    (retried,) = book.take(event("sxid", 20009, gpu=None, pci="0000:c3:00"))
    assert (retried.fault_class, retried.component) == ("nvlink", "nvswitch:n1/0000:c3:00")
    (port,) = book.take(event("link_flap", gpu=None, details={"interface": "ib0"}))
    (node,) = book.take(event("driver_unavailable", gpu=None))
    assert (switch.component, switch.component_kind) == ("nvswitch:n1/0000:c1:00", "nvswitch")
    assert (port.component, port.component_kind) == ("port:n1/ib0", "port")
    assert (node.component, node.component_kind, node.gpu) == ("node:n1", "node", None)


# --- repeats ----------------------------------------------------------------------------------------------------------


def test_a_storm_of_repeats_is_a_few_records_and_the_exact_count() -> None:
    book = Book()
    for number in range(100_000):
        book.take(event(code=31, at_s=number / 1000, event_id=f"e{number}"))
    book.wait(110)
    assert len(book.written) < 100
    assert book.written[-1].count == 100_000
    assert [one.revision for one in book.written] == list(range(1, len(book.written) + 1))
    assert len({one.fault_id for one in book.written}) == 1


def test_an_event_that_stands_for_many_counts_as_many() -> None:
    book = Book()
    book.take(event(code=31, count=500), event(code=31, at_s=1, count=20))
    book.wait(10)
    assert book.written[-1].count == 520


def test_an_event_that_stands_for_none_is_still_one() -> None:
    assert [one.count for one in Book().take(event(code=79, count=0), event(code=79, at_s=1, count=-5))] == [1, 2]


def test_the_count_of_a_storm_is_written_some_seconds_later_although_it_went_quiet() -> None:
    book = Book()
    for number in range(200):
        book.take(event(code=31, event_id=f"e{number}"))
    assert book.written[-1].count < 200
    assert book.wait(4) == []
    assert [one.count for one in book.wait(5)] == [200]
    assert book.wait(60) == []


def test_evidence_is_the_first_and_the_last_few_pieces() -> None:
    book = Book()
    for number in range(50):
        book.take(event(code=31, at_s=number, event_id=f"e{number}"))
    book.wait(60)
    assert [piece.id for piece in book.written[-1].evidence] == ["e0", "e1", "e2", "e45", "e46", "e47", "e48", "e49"]


def test_a_raw_line_of_any_length_fits_in_a_fault() -> None:
    (one,) = Book().take(event(code=79, raw="x" * 900_000))
    assert len(one.evidence[0].text) <= 2000


def test_the_same_event_delivered_again_is_not_counted_again() -> None:
    book = Book()
    events = [event(code=79, at_s=number, event_id=f"e{number}") for number in range(20)]
    book.take(*events)
    assert book.take(*events) == []
    assert book.written[-1].count == 20


# --- what decides -----------------------------------------------------------------------------------------------------


def escalated(*events: HardwareEvent) -> Fault:
    return Book().take(*events)[-1]


def test_an_early_warning_that_comes_true_knows_when_it_did() -> None:
    book = Book()
    rises = anomaly("nvlink_recoveries_rise", fault_class="nvlink", severity="warning", begin_s=0, at_s=30)
    (early,) = book.take(rises)
    assert (early.severity, early.worsened_ms) == ("warning", None)
    (failed,) = book.take(event(code=149, at_s=3600, details={"variant": "fatal"}))
    assert (failed.fault_id, failed.severity) == (early.fault_id, "critical")
    assert (failed.first_ms, failed.worsened_ms) == (START_MS, START_MS + 3_600_000)
    assert failed.observed_ms == START_MS + 3_600_030, "from then on somebody waits for a page"
    (more,) = book.take(event(code=149, at_s=3700, event_id="again", details={"variant": "fatal"}))
    assert more.worsened_ms == START_MS + 3_600_000, "it did not become worse a second time"
    (late,) = book.take(event(code=149, at_s=3500, event_id="late", details={"variant": "fatal"}))
    assert late.worsened_ms == START_MS + 3_500_000, "what came late was there earlier"
    (echo,) = book.take(event(code=145, at_s=3400, event_id="echo"))
    assert (echo.severity, echo.worsened_ms) == ("critical", START_MS + 3_500_000), "what is less says nothing of it"


def test_a_fault_that_began_as_severe_as_it_is_has_not_become_worse() -> None:
    twice = Book().take(event(code=79), event(code=79, at_s=9, event_id="2"))
    assert [one.worsened_ms for one in twice] == [None, None]


def test_more_severe_evidence_decides_code_action_and_rule() -> None:
    warning = event(code=145, details={"variant": "nonfatal"})
    fatal = event(code=149, at_s=1, details={"variant": "fatal"})
    for first, second in ((warning, fatal), (fatal, warning)):
        one = escalated(first, second)
        assert (one.severity, one.code, one.action, one.rule) == ("critical", 149, "reset_gpu", "xid.149.fatal")


def test_an_escalation_is_written_however_many_repeats_there_were() -> None:
    book = Book()
    for number in range(1000):
        book.take(event(code=145, details={"variant": "nonfatal"}, event_id=f"e{number}"))
    (one,) = book.take(event(code=149, details={"variant": "fatal"}))
    assert (one.severity, one.count) == ("critical", 1001)


def test_between_equals_the_code_that_names_a_cause_decides_and_not_its_echo() -> None:
    echo = event(code=145, details={"variant": "fatal"})
    cause = event(code=149, at_s=1, details={"variant": "fatal"})
    assert escalated(echo, cause).code == escalated(cause, echo).code == 149


def test_evidence_that_arrives_late_moves_the_beginning_back() -> None:
    one = escalated(event(code=79, at_s=10), event("gpu_lost", at_s=4))
    assert (one.first_ms, one.last_ms) == (START_MS + 4000, START_MS + 10_000)


# --- how it ends ------------------------------------------------------------------------------------------------------


def an_event_of(fault_class: str) -> HardwareEvent:
    """Any event that opens a fault of a class."""
    rule = next(one.rule for one in CATALOG if one.fault_class == fault_class and one.rule.count(".") == 1)
    section, key = rule.split(".")
    return event(key) if section == "event" else event(section, int(key) if key.isdigit() else 9999)


QUIET = {
    name: one.clears_after_quiet_s
    for name, one in CATALOG.faults.items()
    if one.clears_after_quiet_s is not None and name != "informational"
}


@pytest.mark.parametrize("name", QUIET)
def test_quiet_for_as_long_as_the_class_says_ends_a_fault(name: str) -> None:
    quiet_s = QUIET[name]
    book = Book()
    (opened,) = book.take(an_event_of(name))
    assert opened.fault_class == name
    assert book.wait(quiet_s - 0.001) == []
    (over,) = book.wait(quiet_s)
    assert (over.state, over.fault_id, over.cleared_ms) == ("cleared", opened.fault_id, START_MS + quiet_s * 1000)


def test_evidence_after_that_quiet_is_a_new_life_also_where_all_of_it_comes_at_once() -> None:
    """A node that was cut off, a worker that was away, a replay: what happened on two days are two faults."""
    book = Book()
    first, late = event(code=31, at_s=0), event(code=31, at_s=QUIET["application"])
    book.book.on_event(first, late.event_ms + 5)
    over, again = book.book.on_event(late, late.event_ms + 5)
    assert (over.state, over.cleared_ms) == ("cleared", START_MS + QUIET["application"] * 1000)
    assert (again.state, again.count) == ("open", 1)
    assert again.fault_id != over.fault_id
    assert book.book.on_event(first, late.event_ms + 6) == []  # of the life before, delivered once more


def test_a_clock_that_is_ahead_tells_nothing_of_a_quiet() -> None:
    book = Book()
    book.book.on_event(event(code=31, at_s=0), START_MS)
    (same,) = book.book.on_event(event(code=31, at_s=DAY_S), START_MS + 1000)
    assert (same.state, same.count) == ("updated", 2)


def test_a_class_that_never_goes_quiet_stays() -> None:
    book = Book()
    book.take(event(code=79), event(code=64))
    book.wait(400 * DAY_S)
    assert clears(book) == []


def test_evidence_puts_the_quiet_end_off() -> None:
    book = Book()
    book.take(event(code=31), event(code=31, at_s=599))
    assert book.wait(1198) == []
    assert told(book.wait(1199)) == [("application", "cleared", 2)]


def test_an_anomaly_that_is_cleared_ends_its_fault() -> None:
    book = Book()
    book.take(anomaly("gpu_hot", at_s=5), anomaly("gpu_hot", "cleared", at_s=60))
    assert told(book.written) == [("thermal", "open", 1), ("thermal", "cleared", 1)]
    assert book.written[-1].cleared_ms == START_MS + 60_000
    assert book.written[-1].revision == 2


def test_a_fault_stands_until_the_last_of_its_anomalies_is_cleared() -> None:
    book = Book()
    book.take(anomaly("gpu_hot", at_s=5), anomaly("memory_hot", at_s=6), anomaly("gpu_hot", "cleared", at_s=60))
    assert clears(book) == []
    book.take(anomaly("memory_hot", "cleared", at_s=70))
    assert clears(book) == ["thermal"]


def test_an_anomaly_that_stands_is_not_quiet() -> None:
    book = Book()
    book.take(anomaly("gpu_hot", at_s=5))
    assert book.wait(10 * DAY_S) == []


def test_clearing_what_never_stood_changes_nothing() -> None:
    assert Book().take(anomaly("gpu_hot", "cleared", at_s=60)) == []


def test_a_gpu_that_reports_again_ends_its_loss() -> None:
    book = Book()
    book.take(event(code=79), anomaly("gpu_silent", at_s=5), anomaly("gpu_silent", "cleared", at_s=90))
    assert sorted(clears(book)) == ["gpu_lost", "gpu_silent"]
    book = Book()
    book.take(event(code=79), event("gpu_lost", at_s=1), event("gpu_found", at_s=90, source="nvml"))
    assert clears(book) == ["gpu_lost"]


def test_another_gpu_that_reports_ends_nothing() -> None:
    book = Book()
    book.take(event(code=79), event("gpu_found", gpu="n1-1", at_s=90), event("gpu_found", node="n2", at_s=90))
    book.take(anomaly("gpu_silent", gpu="n1-1", at_s=5), anomaly("gpu_silent", "cleared", gpu="n1-1", at_s=90))
    assert clears(book) == ["gpu_silent"]


@pytest.mark.parametrize("code", [79, 48, 94, 74, 119, 62, 143])
def test_a_new_boot_ends_what_a_boot_can_mend(code: int) -> None:
    book = Book()
    (opened,) = book.take(event(code=code))
    assert "new_boot" in CATALOG.faults[opened.fault_class].clears_on
    book.take(event("agent_started", gpu=None, at_s=5))
    assert clears(book) == [], "the agent restarted, the node did not"
    book.take(event("agent_started", gpu=None, node="n2", at_s=6, boot_id="boot-2"))
    assert clears(book) == [], "another node"
    book.take(event("agent_started", gpu=None, at_s=300, boot_id="boot-2"))
    assert clears(book) == [opened.fault_class]


def test_a_new_boot_does_not_end_what_no_boot_can_mend_nor_what_still_stands() -> None:
    book = Book()
    book.take(event(code=64), anomaly("gpu_hot", at_s=5))
    book.take(event("agent_started", gpu=None, at_s=300, boot_id="boot-2"))
    assert clears(book) == []


def test_a_fault_that_is_met_again_after_the_boot_goes_on() -> None:
    book = Book()
    book.take(event(code=79), event(code=79, at_s=290, boot_id="boot-2"))
    book.take(event("agent_started", gpu=None, at_s=300, boot_id="boot-2"))
    assert clears(book) == []


def test_the_driver_that_asks_for_nothing_any_more_ends_a_hang() -> None:
    book = Book()
    book.take(event(code=154, details={"variant": "gpu_reset_required"}), event(code=154, at_s=5))
    assert told(book.written) == [("gpu_hang", "open", 1)]
    book.take(event(code=154, at_s=60, details={"variant": "none"}))
    assert clears(book) == ["gpu_hang"]


@pytest.mark.parametrize(
    ("wrong", "well"), [("driver_unavailable", "driver_recovered"), ("source_failed", "source_recovered")]
)
def test_a_recovery_ends_what_it_recovers_on_its_node(wrong: str, well: str) -> None:
    book = Book()
    (opened,) = book.take(event(wrong, gpu=None))
    book.take(event(well, gpu=None, node="n2", at_s=5))
    assert clears(book) == []
    book.take(event(well, gpu=None, at_s=5))
    assert clears(book) == [opened.fault_class]


def test_every_way_to_end_that_the_catalogue_names_is_a_way_that_the_book_knows() -> None:
    from streams.faults import book

    known = {
        *book._CLEARING_KINDS.values(),
        "maintenance_ended",
        "anomaly_cleared",
        "new_boot",
        "recovery_action_none",
        "operator",
    }
    assert {way for one in CATALOG.faults.values() for way in one.clears_on} <= known


def test_a_recovery_from_before_a_fault_does_not_end_it() -> None:
    """An agent that restarts sends its last events once more, after news of its own."""
    book = Book()
    lost, found = event(code=79, at_s=0), event("gpu_found", at_s=60)
    lost_again = event(code=79, at_s=100)
    book.take(lost, found, lost_again)
    book.take(lost, found, lost_again)
    book.take(event("agent_started", gpu=None, at_s=50, boot_id="boot-0"))
    assert [one.state for one in book.written] == ["open", "cleared", "open"]


def test_a_silence_that_ended_before_a_fault_does_not_end_it_when_it_is_delivered_again() -> None:
    book = Book()
    silence = [anomaly("gpu_silent", at_s=5), anomaly("gpu_silent", "cleared", at_s=50)]
    book.take(*silence, event(code=79, at_s=60))
    book.take(*silence)
    assert [(one.fault_class, one.state) for one in book.written][-1] == ("gpu_lost", "open")


def test_a_gpu_that_the_driver_has_found_but_that_cannot_be_read_is_still_silent() -> None:
    book = Book()
    book.take(event(code=79), anomaly("gpu_silent", at_s=5), event("gpu_found", at_s=60))
    assert clears(book) == ["gpu_lost"]
    book.take(anomaly("gpu_silent", "cleared", at_s=70))
    assert clears(book) == ["gpu_lost", "gpu_silent"]


# --- one life ---------------------------------------------------------------------------------------------------------


def test_trouble_that_comes_back_is_a_new_fault() -> None:
    book = Book()
    book.take(event(code=79), event("gpu_found", at_s=60), event(code=79, at_s=100))
    assert [one.state for one in book.written] == ["open", "cleared", "open"]
    assert len({one.fault_id for one in book.written}) == 2
    assert book.written[-1].count == 1


def test_evidence_of_a_fault_that_is_over_gives_it_no_second_life() -> None:
    book = Book()
    scene: list[HardwareEvent | Anomaly] = [event(code=79), event("gpu_lost", at_s=1), event("gpu_found", at_s=60)]
    book.take(*scene)
    assert book.take(*scene) == []
    thermal: list[HardwareEvent | Anomaly] = [anomaly("gpu_hot", at_s=5), anomaly("gpu_hot", "cleared", at_s=60)]
    book.take(*thermal)
    assert book.take(*thermal) == []
    assert [one.state for one in book.written] == ["open", "updated", "cleared", "open", "cleared"]


def test_it_is_remembered_over_a_restart_too() -> None:
    book = Book()
    scene = [event(code=79), event("gpu_found", at_s=60)]
    book.take(*scene)
    assert book.restarted().take(*scene) == []


def test_what_is_over_is_forgotten_in_the_end() -> None:
    book = Book()
    book.take(event(code=31))
    book.wait(600)
    assert len(book.memory()) == 1
    book.wait(600 + 3601)
    assert book.book.changes() == {"gpu:n1-0|application": None}
    assert book.memory() == {}


def test_the_book_does_not_grow_with_what_is_over() -> None:
    book = Book()
    for number in range(500):
        at_s = number * 1000
        book.take(event(code=31, gpu=f"g{number}", at_s=at_s))
        book.wait(at_s + 900)
    assert len(book.book) == 0
    assert len(book.book._shelf.ended) < 10
    assert len(book.book._shelf.open) == 0


# --- memory -----------------------------------------------------------------------------------------------------------

LIFE: Sequence[HardwareEvent | Anomaly] = (
    event(code=145, at_s=0, details={"variant": "nonfatal"}),
    event(code=149, at_s=1, details={"variant": "fatal"}),
    anomaly("gpu_hot", at_s=5),
    event(code=79, at_s=6),
    anomaly("memory_hot", at_s=7),
    event(code=79, at_s=6),
    anomaly("gpu_hot", "cleared", at_s=30),
    event("gpu_found", at_s=40),
    anomaly("memory_hot", "cleared", at_s=50),
    event(code=79, at_s=60),
    event("agent_started", gpu=None, at_s=90, boot_id="boot-2"),
)


@pytest.mark.parametrize("restart_at", range(len(LIFE) + 1))
def test_a_restart_in_the_middle_of_a_life_changes_nothing(restart_at: int) -> None:
    straight = Book()
    straight.take(*LIFE)
    book = Book()
    before = book.take(*LIFE[:restart_at])
    after = book.restarted().take(*LIFE[restart_at:])
    assert [*before, *after] == straight.written


def test_only_what_has_changed_is_kept_again() -> None:
    book = Book()
    book.take(event(code=79), event(code=48))
    assert set(book.book.changes()) == {"gpu:n1-0|gpu_lost", "gpu:n1-0|gpu_memory_uncorrectable"}
    assert book.book.changes() == {}
    book.take(event(code=48, at_s=1))
    assert set(book.book.changes()) == {"gpu:n1-0|gpu_memory_uncorrectable"}
    book.wait(1)
    assert book.book.changes() == {}


# --- events that say that something is over ---------------------------------------------------------------------------


def pdu(kind: str, at_s: float, point: str, over: str = "", component: str = "pdu:a7") -> HardwareEvent:
    details = {"component": component, "point": point} | ({"kind": over} if over else {})
    return event(kind, at_s=at_s, gpu=None, source="facility", details=details)


def test_an_event_may_name_the_component_that_it_is_about() -> None:
    (fault,) = Book().take(pdu("phase_lost", 0, "voltage_volts/phase_2"))
    assert (fault.component, fault.component_kind, fault.fault_class, fault.gpu) == ("pdu:a7", "pdu", "power", None)


def test_a_fault_ends_when_the_last_thing_that_was_reported_is_told_to_be_over() -> None:
    book = Book()
    book.take(pdu("phase_lost", 0, "phase_1"), pdu("phase_lost", 1, "phase_2"))

    assert book.take(pdu("device_alarm_cleared", 5, "phase_1", "phase_lost")) == []
    (over,) = book.restarted().take(pdu("device_alarm_cleared", 6, "phase_2", "phase_lost"))
    assert (over.component, over.state, over.cleared_ms) == ("pdu:a7", "cleared", START_MS + 6000)


def test_what_is_over_elsewhere_or_was_never_reported_ends_nothing() -> None:
    book = Book()
    book.take(pdu("phase_lost", 0, "phase_1"))

    assert book.take(pdu("device_alarm_cleared", 5, "phase_1", "power_alarm")) == []
    assert book.take(pdu("device_alarm_cleared", 5, "phase_1", "phase_lost", "pdu:b7")) == []
    assert book.take(pdu("device_alarm_cleared", -5, "phase_1", "phase_lost")) == []


def test_a_port_at_full_speed_again_ends_its_fault_and_no_other_ports() -> None:
    book = Book()
    ports = [{"component": f"port:n1/mlx5_{number}/1", "interface": f"mlx5_{number}"} for number in (0, 1)]
    book.take(*(event("port_slow", gpu=None, details=port) for port in ports))

    ended = book.take(event("port_full_speed", at_s=9, gpu=None, details=ports[1]))
    assert [(fault.component, fault.state) for fault in ended] == [("port:n1/mlx5_1/1", "cleared")]


def test_a_condition_of_a_gpu_that_is_over_leaves_a_fault_open_for_which_the_kernel_spoke_too() -> None:
    book = Book()
    book.take(event("nvlink_down", source="nvml_counters"), event(code=74, at_s=1))

    over = event("gpu_condition_over", at_s=9, details={"condition": "nvlink_down"})
    assert book.take(over) == []
    other = Book()
    other.take(event("nvlink_down", source="nvml_counters"))
    assert [fault.state for fault in other.take(over)] == ["cleared"]


def silence(at_s: float, state: str = "raised") -> Anomaly:
    return anomaly("node_silent", state, at_s=at_s, begin_s=at_s // 60, gpu=None)


def test_silence_after_an_agent_was_stopped_on_purpose_is_no_fault_of_the_node() -> None:
    book = Book()
    (stopped,) = book.take(event("agent_stopped", gpu=None, source="agent"))
    assert (stopped.fault_class, stopped.severity) == ("source_health", "info")

    (silent,) = book.restarted().take(silence(30))
    assert (silent.fault_id, silent.fault_class, silent.severity) == (stopped.fault_id, "source_health", "info")


def hung(kind: str, at_s: float, source: str = "nvml") -> HardwareEvent:
    return event(kind, at_s=at_s, gpu=None, source="agent", details={"source": source})


@pytest.mark.parametrize("first", ["the probe", "the samples"])
def test_silence_while_the_probe_hangs_is_the_probes_and_over_when_both_are(first: str) -> None:
    book = Book()
    (failed,) = book.take(hung("source_failed", 0))
    (silent,) = book.restarted().take(silence(30))
    assert (silent.fault_id, silent.fault_class, silent.severity) == (failed.fault_id, "source_health", "warning")
    over = [hung("source_recovered", 59), silence(59, "cleared")]
    ended = book.take(silence(30), *(over if first == "the probe" else reversed(over)))
    assert [(one.fault_class, one.state) for one in ended][-1:] == [("source_health", "cleared")]


def test_a_source_that_brings_no_samples_explains_no_silence() -> None:
    book = Book()
    book.take(hung("source_failed", 0, "kernel_log"))
    (silent,) = book.take(silence(30))
    assert (silent.fault_class, silent.severity) == ("node_silent", "critical")


def test_an_agent_that_is_back_ends_it_and_silence_is_a_fault_again() -> None:
    book = Book()
    book.take(event("agent_stopped", gpu=None, source="agent"), silence(30), silence(59, "cleared"))
    ended = book.take(event("agent_started", at_s=61, gpu=None, source="agent"))
    assert [(fault.fault_class, fault.state) for fault in ended] == [("source_health", "cleared")]

    (silent,) = book.take(silence(90))
    assert (silent.fault_class, silent.severity) == ("node_silent", "critical")
