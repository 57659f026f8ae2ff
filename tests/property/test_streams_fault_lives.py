"""Faults follow from the log of evidence: not from its cuts, its redelivery, its interleaving, or who was killed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.catalog import load
from schemas.catalog.causes import causes
from schemas.records import Anomaly, Fault, HardwareEvent, Record
from schemas.topics import ANOMALIES, EVENTS
from streams.faults.words import WORDS
from streams.partitions import FaultPartition, Memory
from streams.settings import StreamsSettings
from streams.topology import Topology
from tests.streams_scenes import CODEC, START_MS, Message, anomaly, event, log, message, runs

CATALOG, SETTINGS = load(), StreamsSettings()
COMPONENTS = ("a", "b", "c")
cuts = st.lists(st.integers(0, 10**6), max_size=8)


def partition(memory: dict[str, bytes] | None = None, end: int = 10**6) -> FaultPartition:
    ends = {EVENTS: end, ANOMALIES: end}
    return FaultPartition(SETTINGS, CATALOG, causes(), Topology(), CODEC, memory or {}, ends, START_MS)


def evidence_of(gpu: str) -> st.SearchStrategy[list[HardwareEvent | Anomaly]]:
    """A life of one GPU in its own node, so that nothing of it touches another."""
    node = f"node-{gpu}"

    @st.composite
    def life(draw: st.DrawFn) -> list[HardwareEvent | Anomaly]:
        made: list[HardwareEvent | Anomaly] = []
        raised: dict[str, float] = {}
        boot = 1
        for number in range(draw(st.integers(0, 12))):
            at_s, identity = number * 10, f"{gpu}-{number}"
            boot_id = f"boot-{boot}"
            kind = draw(st.integers(0, 12))
            if kind < 4:
                code = draw(st.sampled_from([79, 48, 145, 149, 31, 154, 9999]))
                variant = draw(st.sampled_from([{}, {"variant": "fatal"}, {"variant": "none"}]))
                count = draw(st.sampled_from([1, 1, 30]))
                made.append(
                    event(
                        code=code,
                        at_s=at_s,
                        gpu=gpu,
                        node=node,
                        boot_id=boot_id,
                        event_id=identity,
                        details=variant,
                        count=count,
                    )
                )
            elif kind < 7:
                rule = draw(st.sampled_from(["gpu_silent", "gpu_hot"]))
                if rule in raised:
                    made.append(anomaly(rule, "cleared", at_s=at_s, begin_s=raised.pop(rule), gpu=gpu, node=node))
                else:
                    raised[rule] = at_s - 5
                    made.append(anomaly(rule, at_s=at_s, begin_s=at_s - 5, gpu=gpu, node=node))
            elif kind > 8:
                made.append(word(draw, gpu, node, at_s, identity))
            else:
                what = draw(st.sampled_from(["gpu_found", "agent_started"]))
                boot += what == "agent_started"
                started = f"boot-{boot}"
                made.append(event(what, at_s=at_s, gpu=gpu, node=node, event_id=identity, boot_id=started))
        return made

    return life()


def word(draw: st.DrawFn, gpu: str, node: str, at_s: int, identity: str) -> HardwareEvent:
    """Something that an operator says of the GPU or its node."""
    kind = draw(st.sampled_from(sorted(WORDS)))
    details = {"by": draw(st.sampled_from(["ann", "bob"]))}
    if kind.startswith("maintenance"):
        begin_s, lasts_s = draw(st.sampled_from([-15, 0, 15])), draw(st.sampled_from([10, 40, 4000]))
        details |= {"scope": draw(st.sampled_from([f"node:{node}", f"gpu:{gpu}"]))}
        details |= {"begin_s": str(begin_s), "until_s": str(begin_s + lasts_s)}
    else:
        details |= {"component": f"gpu:{gpu}", "until_s": str(draw(st.sampled_from([5, 25, 4000])))}
        details |= draw(st.sampled_from([{}, {"fault_class": "gpu_lost"}]))
    return event(kind, at_s=at_s, gpu=None, node=node, event_id=identity, source="operator", details=details)


lives = st.tuples(*(evidence_of(gpu) for gpu in COMPONENTS))


def interleaved(parts: Sequence[Sequence[Record]], chance: st.DataObject) -> list[Record]:
    """The lives in one log, each in its own order."""
    waiting = [list(part) for part in parts]
    made: list[Record] = []
    while any(waiting):
        at = chance.draw(st.sampled_from([number for number, part in enumerate(waiting) if part]))
        made.append(waiting[at].pop(0))
    return made


def logged(records: Sequence[Record]) -> list[Message]:
    """Both topics with their own offsets, in the order in which they are handled."""
    offsets = dict.fromkeys((EVENTS, ANOMALIES), 0)
    made = []
    for record in records:
        one = message(record)
        (placed,) = log([one], offsets[one.topic])
        offsets[one.topic] += 1
        made.append(placed)
    return made


def by_topic(run: Sequence[Message]) -> list[list[Message]]:
    """Runs of one topic each, as they come from Kafka."""
    parts: list[list[Message]] = []
    for one in run:
        if parts and parts[-1][0].topic == one.topic:
            parts[-1].append(one)
        else:
            parts.append([one])
    return parts


def faults(held: FaultPartition, parts: Sequence[Sequence[Message]]) -> list[Fault]:
    found: list[Fault] = []
    for run in parts:
        for part in by_topic(run):
            outcome = held.run(part, START_MS)
            assert outcome.rejected == []
            found += [one for one in outcome.records if isinstance(one, Fault)]
    return found


@settings(max_examples=60, deadline=None)
@given(lives, cuts, st.data())
def test_the_same_log_cut_anywhere_gives_the_same_faults(
    parts: Sequence[Sequence[Record]], where: list[int], chance: st.DataObject
) -> None:
    messages = logged(interleaved(parts, chance))
    assert faults(partition(), runs(messages, where)) == faults(partition(), [messages])


@settings(max_examples=60, deadline=None)
@given(lives, st.data())
def test_faults_do_not_depend_on_how_evidence_of_different_components_is_interleaved(
    parts: Sequence[Sequence[Record]], chance: st.DataObject
) -> None:
    def by_component(records: Sequence[Record]) -> dict[str, list[Fault]]:
        told = defaultdict(list)
        for one in faults(partition(), [logged(records)]):
            told[one.component].append(one)
        return told

    in_turn = [record for part in parts for record in part]
    assert by_component(interleaved(parts, chance)) == by_component(in_turn)


@settings(max_examples=60, deadline=None)
@given(lives, st.data())
def test_what_is_delivered_again_is_not_counted_again(parts: Sequence[Sequence[Record]], chance: st.DataObject) -> None:
    """A producer sends the newest records of its spool once more: the same ids at new offsets."""
    records = interleaved(parts, chance)
    end = chance.draw(st.integers(0, len(records)))
    first = chance.draw(st.integers(0, end))
    twice = [*records[:end], *records[first:end], *records[end:]]
    assert faults(partition(), [logged(twice)]) == faults(partition(), [logged(records)])


@settings(max_examples=60, deadline=None)
@given(lives, cuts, st.data())
def test_a_fault_has_one_life(parts: Sequence[Sequence[Record]], where: list[int], chance: st.DataObject) -> None:
    lives_told: dict[str, list[Fault]] = defaultdict(list)
    for one in faults(partition(), runs(logged(interleaved(parts, chance)), where)):
        lives_told[one.fault_id].append(one)
    for life in lives_told.values():
        assert [one.revision for one in life] == list(range(1, len(life) + 1))
        assert life[0].state == "open"
        assert "cleared" not in [one.state for one in life[:-1]]
        assert [one.count for one in life] == sorted(one.count for one in life)


@settings(max_examples=60, deadline=None)
@given(lives, cuts, st.data())
def test_a_kill_anywhere_in_the_writing_loses_and_doubles_nothing(
    parts: Sequence[Sequence[Record]], where: list[int], chance: st.DataObject
) -> None:
    """Workers are killed with the outputs of a run written and only a part of its memory."""
    messages = logged(interleaved(parts, chance))
    cut = [part for run in runs(messages, where) for part in by_topic(run)]
    straight = {(one.fault_id, one.revision): one for one in faults(partition(), [messages])}
    memory: dict[str, bytes] = {}
    written: dict[tuple[str, int], Fault] = {}

    def keep(changes: Memory) -> None:
        for key, state in changes.items():
            memory.pop(key, None)
            if state is not None:
                memory[key] = state

    for run in cut:
        for killed in (True, False):
            outcome = partition(memory).run(run, START_MS)
            for one in outcome.records:
                if isinstance(one, Fault):
                    assert written.setdefault((one.fault_id, one.revision), one) == one
            changes = list(outcome.memory.items())
            keep(dict(changes[: chance.draw(st.integers(0, len(changes)))] if killed else changes))
    assert written == straight
