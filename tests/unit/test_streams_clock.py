"""Clocks that are off: found, told from slow delivery, and never taken for silence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from msgspec.structs import replace

from schemas.records import Anomaly
from streams.readings.processor import SampleProcessor
from streams.settings import StreamsSettings
from tests.streams_scenes import CODEC, START_MS, Message, log, message, runs, sample

HOUR_S = 3600


def sent(node: str, second: float, off_s: float, *, late_s: float = 0.03, **fields: Any) -> Message:
    """What a node sends at a true second by a clock that is off; it reaches Kafka a moment later."""
    one = sample(node, second + off_s, 1, **fields)
    return message(replace(one, sequence=round(1000 * second)), at_ms=START_MS + round(1000 * (second + late_s)))


def rack(seconds: Iterable[float], **off_s: Callable[[float], float] | float) -> list[Message]:
    """Three sound nodes and those whose clocks are off, second by second."""
    made = []
    for second in seconds:
        made += [sent(node, second, 0) for node in ("a", "b", "c")]
        for node, off in off_s.items():
            made.append(sent(node, second, off(second) if callable(off) else off))
    return log(made)


def found(messages: list[Message], cuts: Iterable[int] = ()) -> list[Anomaly]:
    processor = SampleProcessor(StreamsSettings(), CODEC)
    return [one for run in runs(messages, cuts) if run for one in processor.run(run).anomalies]


def told(anomalies: Iterable[Anomaly]) -> list[tuple[str, str, str]]:
    return [(one.rule, one.component, one.state) for one in anomalies]


@pytest.mark.parametrize("off_s", [7, 45, 600, HOUR_S, 3 * HOUR_S, 10**9])
def test_a_clock_that_is_ahead_is_found_and_its_node_is_not_silent(off_s: float) -> None:
    (one,) = found(rack(range(200), odd=off_s))
    assert told([one]) == [("clock_ahead", "node:odd", "raised")]
    assert (one.fault_class, one.severity, one.gpu, one.metric) == ("source_health", "warning", None, None)
    assert one.value == pytest.approx(off_s, abs=0.1)
    assert one.limit == 2.0
    assert "ahead of the broker's" in one.reason


@pytest.mark.parametrize("off_s", [-7, -45, -600, -HOUR_S, -3 * HOUR_S, -START_MS / 1000, -(10**10)])
def test_a_clock_that_is_behind_is_found_and_its_node_is_not_silent(off_s: float) -> None:
    (one,) = found(rack(range(200), odd=off_s))
    assert told([one]) == [("clock_behind", "node:odd", "raised")]


@pytest.mark.parametrize("off_s", [-3 * HOUR_S, -45, -7, 7, 45, 3 * HOUR_S])
def test_one_that_jumps_is_never_silent_and_is_over_when_it_is_set_right(off_s: float) -> None:
    anomalies = found(rack(range(600), odd=lambda second: off_s if 100 <= second < 400 else 0))
    rule = "clock_ahead" if off_s > 0 else "clock_behind"
    assert told(anomalies) == [(rule, "node:odd", "raised"), (rule, "node:odd", "cleared")]
    assert anomalies[0].anomaly_id == anomalies[1].anomaly_id


@pytest.mark.parametrize("off_s", [0, 1.5, -3])
def test_a_clock_that_is_off_by_little_is_none(off_s: float) -> None:
    assert found(rack(range(200), odd=off_s)) == []


def test_a_node_whose_clock_is_off_is_found_when_it_dies() -> None:
    for off_s in (45, 3 * HOUR_S, -3 * HOUR_S):
        dies = [one for one in rack(range(200), odd=off_s) if b"odd" not in (one.value or b"")
                or one.timestamp < START_MS + 130_000]  # fmt: skip
        assert ("node_silent", "node:odd", "raised") in told(found(log(dies))), off_s


def test_a_spool_that_is_sent_is_no_clock_however_late_its_records_are() -> None:
    # an hour's outage, sent at ten times the speed; new records queue behind it
    made = []
    backlog = [float(second) for second in range(-HOUR_S, 0)]
    for second in range(500):
        made += [sent(node, second, 0) for node in ("a", "b", "c")]
        backlog.append(float(second))
        for made_s in backlog[:10]:
            one = replace(sample("odd", made_s, 1), sequence=round(made_s))
            made.append(message(one, at_ms=START_MS + 1000 * second + 30))
        del backlog[:10]
    assert found(log(made)) == []


def test_a_slow_way_that_delivers_in_bursts_is_no_clock() -> None:
    made = []
    for second in range(400):
        made += [sent(node, second, 0) for node in ("a", "b", "c")]
        if second % 15 == 14:
            made += [sent("odd", made_s, 0, late_s=second - made_s) for made_s in range(second - 14, second + 1)]
    assert [one for one in found(log(made)) if one.detector == "clock"] == []


@pytest.mark.parametrize("off_s", [-3600, -20, 20, 3600])
def test_where_all_nodes_are_off_it_is_the_brokers_clock_and_no_nodes(off_s: float) -> None:
    made = [sent(node, second, off_s) for second in range(200) for node in ("a", "b", "c")]
    assert found(log(made)) == []


@pytest.mark.parametrize("off_s", [3 * HOUR_S, 20, -20, -3 * HOUR_S])
def test_a_rack_of_one_node_has_nobody_else_to_ask_and_is_found_all_the_same(off_s: float) -> None:
    made = [sent("only", second, off_s) for second in range(200)]
    assert [one.rule for one in found(log(made))] == ["clock_ahead" if off_s > 0 else "clock_behind"]


def test_readings_of_a_time_that_cannot_be_are_dead_letters_and_evidence_at_once() -> None:
    processor = SampleProcessor(StreamsSettings(), CODEC)
    outcome = processor.run(rack(range(100), odd=HOUR_S))
    assert {one.reason for one in outcome.rejected} == {"time_in_future"}
    assert len(outcome.rejected) == 100
    assert told(outcome.anomalies) == [("clock_ahead", "node:odd", "raised")]
    assert outcome.readings == 300, "what is refused is not counted as read"


def test_what_is_delivered_again_hours_later_says_nothing_of_a_clock_or_of_life() -> None:
    early = rack(range(20), dead=0)
    again = [
        replace_time(one, START_MS + 1000 * second + 40) for second, one in zip(range(60, 260), early * 3, strict=False)
    ]
    later = rack(range(20, 300))
    mixed = sorted([*early, *later, *again], key=lambda one: one.timestamp)
    assert told(found(log(mixed))) == [("node_silent", "node:dead", "raised")]


def replace_time(one: Message, at_ms: int) -> Message:
    return Message(one.topic, one.partition, one.offset, at_ms, one.key, one.value)


def test_results_do_not_depend_on_where_runs_are_cut() -> None:
    messages = rack(range(400), early=3600, late=lambda second: -45 if second > 100 else 0, odd=-7)
    assert found(messages, range(0, len(messages), 37)) == found(messages) != []
