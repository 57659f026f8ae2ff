"""Absence as a signal: nodes that send nothing, and GPUs of which a reporting node reads nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from schemas.records import Anomaly, GpuSample
from streams.readings.processor import SampleProcessor
from streams.settings import StreamsSettings
from tests.streams_scenes import CODEC, START_MS, Message, log, message, sample

NAN = float("nan")


class Watch:
    """A partition's samples, from bytes to the findings of silence. The witness is a node that always reports."""

    def __init__(self, **settings: int) -> None:
        self.processor = SampleProcessor(StreamsSettings(**settings), CODEC)

    def run(self, records: Iterable[GpuSample | Message]) -> list[Anomaly]:
        found = self.processor.run(log(records))
        assert found.rejected == []
        return [one for one in found.anomalies if one.detector == "silence"]

    def witness(self, begin: float, end: float) -> list[Anomaly]:
        return self.run(sample("witness", second) for second in seconds(begin, end))


def seconds(begin: float, end: float, step: float = 1) -> list[float]:
    return [begin + step * number for number in range(round((end - begin) / step))]


def together(*nodes: list[GpuSample]) -> list[GpuSample]:
    return sorted((one for node in nodes for one in node), key=lambda one: one.tick_ms)


def of(node: str, begin: float, end: float, *, unread: Iterable[int] = (), step: float = 1) -> list[GpuSample]:
    """Samples of a node with four GPUs, some of which are read as NaN."""
    values = [NAN if index in set(unread) else 50.0 for index in range(4)]
    period_ms = round(step * 1000)
    return [
        sample(node, second, 4, temperature_celsius=values, interval_ms=period_ms)
        for second in seconds(begin, end, step)
    ]


def told(found: Iterable[Anomaly]) -> list[tuple[str, str, float, float]]:
    """Component, state, decided at, silent since, in seconds."""
    return [
        (one.component, one.state, (one.tick_ms - START_MS) / 1000, (one.begin_ms - START_MS) / 1000) for one in found
    ]


WITNESS = of("witness", 0, 60)


def test_a_node_that_stops_reporting_is_found() -> None:
    found = Watch().run(together(of("n1", 0, 10), WITNESS))
    assert told(found) == [("node:n1", "raised", 14, 9)]
    (one,) = found
    assert (one.node, one.gpu, one.rack, one.rule, one.fault_class) == ("n1", None, "r1", "node_silent", "node_silent")
    assert (one.severity, one.action, one.reason) == (
        "critical",
        "check_hardware",
        "the node has sent nothing for 5 s",
    )


def test_the_gpus_of_a_silent_node_are_not_reported_one_by_one() -> None:
    assert {one.rule for one in Watch().run(together(of("n1", 0, 10), WITNESS))} == {"node_silent"}


def test_a_node_that_reports_again_is_cleared() -> None:
    found = Watch().run(together(of("n1", 0, 10), of("n1", 30, 60), WITNESS))
    assert told(found) == [("node:n1", "raised", 14, 9), ("node:n1", "cleared", 30, 9)]
    assert found[0].anomaly_id == found[1].anomaly_id


def test_each_silence_has_an_id_of_its_own() -> None:
    found = Watch().run(together(of("n1", 0, 10), of("n1", 20, 30), of("n1", 40, 60), WITNESS))
    assert [one.state for one in found] == ["raised", "cleared"] * 2
    assert len({one.anomaly_id for one in found}) == 2


def test_a_gap_shorter_than_the_patience_is_no_silence() -> None:
    assert Watch().run(together(of("n1", 0, 10), of("n1", 14, 60), WITNESS)) == []
    assert Watch(silence_ms=3000).run(together(of("n1", 0, 10), of("n1", 14, 60), WITNESS)) != []


def test_a_gpu_of_which_nothing_is_read_is_found_while_its_node_reports() -> None:
    found = Watch().run(together(of("n1", 0, 10), of("n1", 10, 60, unread=[2]), WITNESS))
    assert told(found) == [("gpu:n1-2", "raised", 14, 9)]
    (one,) = found
    assert (one.gpu, one.node, one.rule, one.fault_class) == ("n1-2", "n1", "gpu_silent", "gpu_silent")
    assert (one.action, one.reason) == ("drain_and_diagnose", "nothing could be read from the GPU for 5 s")


def test_a_gpu_that_is_read_again_is_cleared() -> None:
    found = Watch().run(together(of("n1", 0, 10), of("n1", 10, 30, unread=[2]), of("n1", 30, 60), WITNESS))
    assert told(found) == [("gpu:n1-2", "raised", 14, 9), ("gpu:n1-2", "cleared", 30, 9)]


def test_a_gpu_that_is_no_longer_listed_is_found_too() -> None:
    gone = [sample("n1", second, ["n1-0", "n1-1", "n1-3"]) for second in seconds(10, 60)]
    assert told(Watch().run(together(of("n1", 0, 10), gone, WITNESS))) == [("gpu:n1-2", "raised", 14, 9)]


def test_one_metric_that_can_be_read_is_enough_to_be_heard() -> None:
    values: dict[str, Any] = {"temperature_celsius": NAN, "power_watts": 300.0}
    assert Watch().run([sample("n1", second, **values) for second in seconds(0, 60)]) == []
    only_bits: dict[str, Any] = {"temperature_celsius": NAN, "throttle_reasons": 0}
    assert Watch().run([sample("n1", second, **only_bits) for second in seconds(0, 60)]) == []


def test_a_gpu_that_was_never_read_is_found_from_when_it_was_first_listed() -> None:
    assert told(Watch().run(of("n1", 0, 60, unread=[3]))) == [("gpu:n1-3", "raised", 5, 0)]


def test_a_node_without_gpus_that_reports_is_not_silent() -> None:
    assert Watch().run(together([sample("n1", second, 0) for second in seconds(0, 60)], WITNESS)) == []


# --- slow and unpunctual nodes ----------------------------------------------------------------------------------------


def test_a_node_that_samples_rarely_is_given_three_of_its_own_intervals() -> None:
    rare = of("n1", 0, 40, step=10)
    assert told(Watch().run(together(rare, of("witness", 0, 90)))) == [("node:n1", "raised", 60, 30)]
    assert Watch().run(together(of("n1", 0, 90, step=10), of("witness", 0, 90))) == []


def test_a_gpu_of_a_node_that_samples_rarely_is_found_too() -> None:
    rare = together(of("n1", 0, 30, step=10), of("n1", 30, 200, step=10, unread=[1]), of("witness", 0, 200))
    assert told(Watch().run(rare)) == [("gpu:n1-1", "raised", 50, 20)]


@pytest.mark.parametrize("missing", [2, 3, 5])
def test_a_gpu_is_found_although_its_node_misses_a_tick_now_and_then(missing: int) -> None:
    patchy = [one for number, one in enumerate(of("n1", 10, 60, unread=[0])) if number % missing]
    found = Watch().run(together(of("n1", 0, 10), patchy, WITNESS))
    assert [(one.component, one.state) for one in found] == [("gpu:n1-0", "raised")]


def test_the_time_in_which_its_node_says_nothing_does_not_count_towards_a_gpus_silence() -> None:
    # the node restarts its agent; the GPU is read a little later than the others
    back = together(of("n1", 14, 17, unread=[0]), of("n1", 17, 60))
    assert Watch().run(together(of("n1", 0, 10), back, WITNESS)) == []


def test_after_a_nodes_silence_its_gpus_are_given_their_own_patience() -> None:
    scene = together(of("n1", 0, 10), of("n1", 40, 60, unread=[0]), WITNESS)
    found = told(Watch().run(scene))
    assert found[:2] == [("node:n1", "raised", 14, 9), ("node:n1", "cleared", 40, 9)]
    assert [one[:3] for one in found[2:]] == [("gpu:n1-0", "raised", 44)]


@pytest.mark.parametrize("behind_s", [3, 30, 3000])
def test_a_node_whose_clock_is_behind_is_not_silent_and_neither_are_its_gpus(behind_s: int) -> None:
    behind = [
        message(sample("behind", second - behind_s, 4), at_ms=START_MS + 1000 * round(second))
        for second in seconds(0, 60)
    ]
    mixed = [one for pair in zip(WITNESS, behind, strict=True) for one in pair]
    assert Watch().run(mixed) == []


def test_a_node_whose_clock_is_behind_is_found_when_it_stops() -> None:
    behind = [
        message(sample("behind", second - 30), at_ms=START_MS + 1000 * round(second)) for second in seconds(0, 20)
    ]
    mixed: list[GpuSample | Message] = [one for pair in zip(WITNESS, behind, strict=False) for one in pair]
    found = Watch().run([*mixed, *WITNESS[20:]])
    assert told(found) == [("node:behind", "raised", 24, 19)]


def test_a_gpu_that_moves_to_another_node_is_not_silent() -> None:
    first = [sample("n1", second, ["a", "b"]) for second in seconds(0, 20)]
    then = [sample("n1", second, ["a"]) for second in seconds(20, 60)]
    there = [sample("n2", second, ["b"]) for second in seconds(20, 60)]
    assert Watch().run(together(first, then, there)) == []


def test_who_joins_a_running_partition_in_a_long_run_was_not_silent_before() -> None:
    assert Watch().run(together(WITNESS, of("new", 40, 60))) == []


# --- the clock --------------------------------------------------------------------------------------------------------


def test_where_nothing_comes_at_all_the_clock_finds_everybody_silent() -> None:
    watch = Watch()
    watch.run(together(of("n1", 0, 10), of("n2", 0, 10)))
    found = watch.processor.advance(START_MS + 30_000)
    assert told(found) == [("node:n1", "raised", 14, 9), ("node:n2", "raised", 14, 9)]
    back = watch.run(together(of("n1", 40, 50), of("n2", 40, 50)))
    assert told(back) == [("node:n1", "cleared", 40, 9), ("node:n2", "cleared", 40, 9)]
    assert {one.anomaly_id for one in back} == {one.anomaly_id for one in found}


# --- after a restart --------------------------------------------------------------------------------------------------


def restarted(standing: Iterable[Anomaly], replayed: Iterable[GpuSample] = ()) -> Watch:
    again = Watch()
    again.run(list(replayed))
    again.processor.restore(standing)
    return again


@pytest.mark.parametrize("window_s", [0, 3, 8, 12, 20])
def test_a_node_that_was_silent_at_a_restart_is_cleared_when_it_reports(window_s: int) -> None:
    before = together(of("n1", 0, 10), of("witness", 0, 20))
    standing = Watch().run(before)
    assert told(standing) == [("node:n1", "raised", 14, 9)]
    # what is read back may begin anywhere: after the node was last heard, too
    again = restarted(standing, [one for one in before if one.tick_ms >= START_MS + (20 - window_s) * 1000])
    found = again.run(together(of("witness", 20, 60), of("n1", 30, 60)))
    assert [(one.state, one.anomaly_id) for one in found] == [("cleared", standing[0].anomaly_id)]


@pytest.mark.parametrize("window_s", [0, 3, 8, 12, 20])
def test_a_gpu_that_was_silent_at_a_restart_is_cleared_when_it_is_read(window_s: int) -> None:
    before = together(of("n1", 0, 10), of("n1", 10, 20, unread=[1]))
    standing = Watch().run(before)
    again = restarted(standing, [one for one in before if one.tick_ms >= START_MS + (20 - window_s) * 1000])
    found = again.run(together(of("n1", 20, 30, unread=[1]), of("n1", 30, 60)))
    assert [(one.state, one.anomaly_id) for one in found] == [("cleared", standing[0].anomaly_id)]


def test_a_rack_that_the_clock_found_silent_is_cleared_after_a_restart_though_the_log_knows_no_silence() -> None:
    watch = Watch()
    watch.run(of("n1", 0, 10))
    standing = watch.processor.advance(START_MS + 30_000)
    found = restarted(standing, of("n1", 0, 10)).run(of("n1", 40, 50))
    assert [(one.state, one.anomaly_id) for one in found] == [("cleared", standing[0].anomaly_id)]


def test_a_silence_that_was_not_written_before_a_restart_is_raised_after_it() -> None:
    before = together(of("n1", 0, 10), of("witness", 0, 20))
    found = restarted([], before).run(of("witness", 20, 30))
    assert [(one.component, one.state) for one in found] == [("node:n1", "raised")]
