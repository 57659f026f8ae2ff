"""What comes out depends on the log, never on where its runs are cut, how often they come, or who was killed."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import Anomaly
from streams.detect import SampleProcessor
from streams.partitions import SamplePartition
from streams.settings import StreamsSettings
from tests.streams_scenes import CODEC, START_MS, Message, log, message, runs, sample

SETTINGS = StreamsSettings()
NAN = float("nan")
NODES = ("n1", "n2", "n3")
cuts = st.lists(st.integers(0, 10**6), max_size=12)


@st.composite
def logs(draw: st.DrawFn) -> list[Message]:
    """Some minutes of a partition: heat, unread GPUs, gaps, late and early clocks, moves, newcomers, junk."""
    made: list[Message] = []
    length = draw(st.integers(20, 70))
    quiet = {node: (draw(st.integers(0, 70)), draw(st.integers(0, 25))) for node in NODES}
    heat = {node: (draw(st.integers(0, 60)), draw(st.integers(0, 40))) for node in NODES}
    unread = {node: (draw(st.integers(0, 60)), draw(st.integers(0, 30))) for node in NODES}
    offset_s = {node: draw(st.sampled_from([0, 0, 0, 0.4, -1, -3, -40, 5])) for node in NODES}
    interval_s = {node: draw(st.sampled_from([1, 1, 1, 2, 7])) for node in NODES}
    mover_at = draw(st.integers(0, 90))

    def within(second: int, span: tuple[int, int]) -> bool:
        return span[0] <= second < span[0] + span[1]

    for second in range(length):
        order = draw(st.permutations(NODES))
        for node in order:
            if within(second, quiet[node]) or second % interval_s[node]:
                continue
            serials = [f"{node}-0", *(["mover"] if node == ("n1" if second < mover_at else "n2") else [])]
            first = 91.0 if within(second, heat[node]) else 50.0
            values = [NAN if within(second, unread[node]) else first, 60.0][: len(serials)]
            one = sample(
                node,
                second + offset_s[node],
                serials,
                interval_ms=1000 * interval_s[node],
                temperature_celsius=values,
            )
            made.append(message(one, at_ms=START_MS + 1000 * second + 30))
        if draw(st.integers(0, 30)) == 0:
            made.append(message(b"junk", at_ms=START_MS + 1000 * second))
        if draw(st.integers(0, 10)) == 0 and made:
            made.append(made[draw(st.integers(0, len(made) - 1))])
    return log(made)


def anomalies(parts: Sequence[Sequence[Message]]) -> list[Anomaly]:
    processor = SampleProcessor(SETTINGS, CODEC)
    return [one for run in parts if run for one in processor.run(run).anomalies]


@settings(max_examples=25, deadline=None)
@given(logs(), cuts)
def test_the_same_log_cut_anywhere_gives_the_same_anomalies_in_the_same_order(
    messages: list[Message], where: list[int]
) -> None:
    assert anomalies(runs(messages, where)) == anomalies([messages])


@settings(max_examples=5, deadline=None)
@given(logs())
def test_message_by_message_gives_the_same_as_all_at_once(messages: list[Message]) -> None:
    assert anomalies([[one] for one in messages]) == anomalies([messages])


@settings(max_examples=20, deadline=None)
@given(logs(), cuts, st.integers(0, 100))
def test_a_run_that_is_delivered_twice_changes_nothing(messages: list[Message], where: list[int], twice: int) -> None:
    parts = runs(messages, where)
    at = twice % len(parts) if parts else 0
    assert anomalies([*parts[: at + 1], *parts[at:]]) == anomalies(parts)


@settings(max_examples=15, deadline=None)
@given(logs(), cuts, st.integers(0, 2))
def test_a_kill_after_any_run_gives_the_same_anomalies(messages: list[Message], where: list[int], redone: int) -> None:
    """Each run is the last one of a worker that is killed before its last `redone` runs were committed."""
    parts = runs(messages, where)
    expected = [(one.anomaly_id, one.state) for one in anomalies([messages])]
    memory: dict[str, bytes] = {}
    written: list[tuple[str, str]] = []
    for number in range(len(parts)):
        first = parts[max(0, number - redone)][0].offset
        held = SamplePartition(SETTINGS, CODEC, memory, len(messages))
        held.rebuild(messages[:first])
        held.resume(first, START_MS)
        for run in parts[max(0, number - redone) : number + 1]:
            outcome = held.run(run, START_MS)
            for one in outcome.records:
                assert isinstance(one, Anomaly)
                if (one.anomaly_id, one.state) not in written:
                    written.append((one.anomaly_id, one.state))
            kept = memory | outcome.memory
            memory = {key: state for key, state in kept.items() if state is not None}
    assert written == list(dict.fromkeys(expected))
