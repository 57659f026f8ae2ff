"""One partition of samples and what it keeps: kills, redone runs, quiet partitions and a broker that is away."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from schemas.records import Anomaly, GpuSample
from streams.partitions import Memory, Outcome, SamplePartition, dead_letter
from streams.partitions.quiet import QuietClock
from streams.readings.decode import Rejected
from streams.settings import StreamsSettings
from tests.streams_scenes import CODEC, START_MS, Message, log, message, runs, sample

SETTINGS = StreamsSettings()
NOW_MS = START_MS + 1_000_000
END = 10**6


def partition(memory: dict[str, bytes] | None = None, end: int = END) -> SamplePartition:
    return SamplePartition(SETTINGS, CODEC, memory or {}, end)


def begun(memory: dict[str, bytes] | None = None) -> SamplePartition:
    held = partition(memory)
    held.resume(0, NOW_MS)
    return held


def told(outcome: Outcome) -> list[tuple[str, str]]:
    return [(one.rule, one.state) for one in outcome.records if isinstance(one, Anomaly)]


def kept(memory: dict[str, bytes], changes: Memory) -> dict[str, bytes]:
    """The memory after changes were delivered."""
    return {key: state for key, state in (memory | changes).items() if state is not None}


def heat(begin: int, end: int, celsius: float) -> list[GpuSample]:
    return [sample("n1", second, 1, temperature_celsius=celsius) for second in range(begin, end)]


HEAT = log([*heat(0, 10, 50), *heat(10, 40, 90), *heat(40, 80, 50)])
"""Raised at 15 s, cleared at 50 s; offsets are seconds."""


def killed_and_restarted(
    messages: Sequence[Message], cuts: Iterable[int], *, memory_kept: bool, redone: int, window: int = 120
) -> list[tuple[str, str, str]]:
    """All anomalies of a partition whose worker is killed after each run, and of which `redone` runs are not committed.

    Gives (id, state, ...) of what each worker wrote, the redone ones included.
    """
    memory: dict[str, bytes] = {}
    written: list[tuple[str, str, str]] = []
    parts = runs(messages, cuts)
    for number, run in enumerate(parts):
        first = parts[max(0, number - redone)][0].offset
        held = partition(memory)
        held.rebuild(messages[max(0, first - window) : first])
        held.resume(first, NOW_MS)
        for again in parts[max(0, number - redone) : number + 1]:
            outcome = held.run(again, NOW_MS)
            written += [(one.anomaly_id, one.state, one.rule) for one in outcome.records if isinstance(one, Anomaly)]
            if memory_kept or again is not run:
                memory = kept(memory, outcome.memory)
        if not memory_kept:
            memory = kept(memory, outcome.memory)
    return written


@pytest.mark.parametrize("redone", [0, 1, 3])
@pytest.mark.parametrize("cuts", [range(0, 80, 7), range(0, 80, 20), (14, 16), (49, 51), (12,), (30, 60)])
def test_kills_and_redone_runs_raise_and_clear_each_anomaly_under_one_id(cuts: Iterable[int], redone: int) -> None:
    straight = begun().run(HEAT, NOW_MS)
    (raised, cleared) = [one for one in straight.records if isinstance(one, Anomaly)]
    written = killed_and_restarted(HEAT, cuts, memory_kept=True, redone=redone)
    assert set(written) == {(raised.anomaly_id, "raised", "gpu_hot"), (cleared.anomaly_id, "cleared", "gpu_hot")}


def test_a_run_that_raised_is_done_again_from_before_it_was_raised() -> None:
    # the dead worker wrote all, and was killed before it committed; half of this run is before the anomaly
    memory: dict[str, bytes] = {}
    first = begun()
    outcome = first.run(HEAT[:30], NOW_MS)
    assert told(outcome) == [("gpu_hot", "raised")]
    memory = kept(memory, outcome.memory)
    again = begun(memory)
    assert told(again.run(HEAT[:30], NOW_MS)) == [("gpu_hot", "raised")], "and not first cleared"


def test_a_run_that_cleared_is_done_again_from_before_it_was_cleared() -> None:
    memory: dict[str, bytes] = {}
    first = begun()
    raised = first.run(HEAT[:30], NOW_MS)
    memory = kept(memory, raised.memory)
    cleared = first.run(HEAT[30:], NOW_MS)
    assert told(cleared) == [("gpu_hot", "cleared")]
    memory = kept(memory, cleared.memory)
    again = partition(memory)
    again.rebuild(HEAT[:30])
    again.resume(30, NOW_MS)
    redone = again.run(HEAT[30:], NOW_MS)
    assert redone.records == cleared.records, "and nothing new is raised by the heat that was left"


def test_what_is_over_is_forgotten_some_time_after_no_run_can_be_redone() -> None:
    held = begun()
    memory = kept({}, held.run(HEAT, NOW_MS).memory)
    assert len(memory) == 1
    assert kept(memory, held.run(log(heat(80, 81, 50), 80), NOW_MS + 1000).memory) == memory
    assert kept(memory, held.run(log(heat(81, 82, 50), 81), NOW_MS + 10 * 60_000).memory) == {}


def test_nothing_is_kept_where_nothing_happens() -> None:
    assert begun().run(HEAT[:10], NOW_MS).memory == {}


def test_a_memory_of_a_topic_that_was_made_anew_still_stands() -> None:
    memory = kept({}, begun().run(HEAT[:30], NOW_MS).memory)
    anew = SamplePartition(SETTINGS, CODEC, memory, end=2)
    anew.resume(0, NOW_MS)
    assert told(anew.run(log(heat(60, 80, 50)), NOW_MS)) == [("gpu_hot", "cleared")]


def test_a_memory_that_another_build_wrote_is_left_out_and_the_rest_stands() -> None:
    memory = kept({}, begun().run(HEAT[:30], NOW_MS).memory)
    held = begun({"standing|odd": b"not ours", "standing|list": b"\x93\x01\x02\x03", "fault|x": b"junk", **memory})
    held.resume(30, NOW_MS)
    assert told(held.run(HEAT[30:], NOW_MS)) == [("gpu_hot", "cleared")]


def test_bad_messages_are_handed_on_with_their_reasons() -> None:
    outcome = begun().run(log([sample("n1", 0), b"junk", sample("n1", 1)]), NOW_MS)
    assert [(one.message.offset, one.reason) for one in outcome.rejected] == [(1, "not_avro")]
    assert outcome.readings == 4


def test_a_run_of_nothing_but_junk_still_moves_on() -> None:
    held = begun()
    held.run(log([b"junk", None], 7), NOW_MS)
    assert held.next_offset == 9


# --- quiet ------------------------------------------------------------------------------------------------------------


def test_a_partition_is_idle_when_nothing_has_come_for_long_after_something_had() -> None:
    held = begun()
    assert not held.idle(NOW_MS + 10**9)
    held.run(HEAT[:10], NOW_MS)
    assert not held.idle(NOW_MS + SETTINGS.idle_ms)
    assert held.idle(NOW_MS + SETTINGS.idle_ms + 1)


def test_quiet_time_goes_on_from_the_newest_tick_at_the_speed_of_the_clock() -> None:
    # the clock may be any amount off: only how much it has gone on counts
    for off_ms in (0, 10**9, -(10**9)):
        held = begun()
        held.run(HEAT[:10], NOW_MS + off_ms)
        assert told(held.advance(NOW_MS + off_ms + 6_000)) == []
        outcome = held.advance(NOW_MS + off_ms + 7_000)
        assert told(outcome) == [("node_silent", "raised")]
        assert [one.tick_ms for one in outcome.records if isinstance(one, Anomaly)] == [START_MS + 14_000]
        assert told(held.advance(NOW_MS + off_ms + 60_000)) == []


def test_quiet_that_cannot_be_seen_is_no_quiet() -> None:
    held = begun()
    held.run(HEAT[:10], NOW_MS)
    hour_later = NOW_MS + 3_600_000
    held.unseen(hour_later)  # the broker was away for an hour
    assert not held.idle(hour_later + SETTINGS.idle_ms)
    assert told(held.advance(hour_later + 5_000)) == []


def test_a_rack_that_is_dark_when_its_worker_starts_is_missed() -> None:
    """Nothing comes any more, and the worker that would have missed it was killed with it."""
    messages = HEAT[:10]
    held = partition()
    held.rebuild(messages)
    now_ms = messages[-1].timestamp + 60_000
    held.resume(10, now_ms, messages[-1])
    assert held.idle(now_ms)
    assert told(held.advance(now_ms)) == [("node_silent", "raised")]


def test_a_rack_that_is_dark_is_missed_once_however_often_its_worker_restarts() -> None:
    messages, memory = HEAT[:10], dict[str, bytes]()
    found = []
    for restart in range(3):
        held = partition(memory)
        held.rebuild(messages)
        now_ms = messages[-1].timestamp + 60_000 * (restart + 1)
        held.resume(10, now_ms, messages[-1])
        outcome = held.advance(now_ms)
        found += told(outcome)
        memory = kept(memory, outcome.memory)
    assert found == [("node_silent", "raised")]
    held = partition(memory)
    held.rebuild(messages)
    held.resume(10, now_ms)
    assert told(held.run(log(heat(500, 501, 50), 10), now_ms)) == []
    assert told(held.run(log(heat(503, 504, 50), 11), now_ms)) == [("node_silent", "cleared")]


def test_the_clock_says_nothing_before_anything_has_come() -> None:
    assert begun().advance(NOW_MS) == Outcome()


class TestQuietClock:
    def test_it_is_the_time_of_the_newest_record_and_goes_on_with_the_clock(self) -> None:
        clock = QuietClock(10_000)
        clock.heard(1000, 50)
        assert clock.time_ms(1000) == 50
        assert clock.time_ms(3500) == 2550

    def test_it_is_never_quiet_before_something_came(self) -> None:
        assert not QuietClock(10_000).is_quiet(10**12)


# --- dead letters -----------------------------------------------------------------------------------------------------


def test_a_dead_letter_holds_the_bytes_as_they_came_where_from_and_why() -> None:
    letter = dead_letter(Rejected(message(b"junk", 7), "not_avro", "no Avro"), "streams", NOW_MS)
    assert (letter.topic, letter.partition, letter.offset) == ("gpu.samples", 0, 7)
    assert (letter.value, letter.reason, letter.detail, letter.reader) == (b"junk", "not_avro", "no Avro", "streams")


def test_a_dead_letter_fits_in_a_record_although_its_message_hardly_did() -> None:
    letter = dead_letter(Rejected(message(b"x" * 1_000_000), "not_avro", "no Avro"), "streams", NOW_MS)
    assert len(CODEC.encode(letter)) < 1_000_000
    assert "of 1000000 bytes" in letter.detail


def test_a_dead_letter_of_no_bytes_is_one_too() -> None:
    assert dead_letter(Rejected(message(None), "not_avro", "no bytes"), "streams", NOW_MS).value == b""
