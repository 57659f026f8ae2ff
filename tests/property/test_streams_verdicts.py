"""Verdicts follow from what is open: not from cuts, redelivery, the order of what has nothing to do with each other, or
who was killed."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas.catalog import load
from schemas.catalog.causes import causes
from schemas.catalog.health import health_table
from schemas.records import Anomaly, Fault, HardwareEvent, Record, Verdict
from schemas.topics import ANOMALIES, EVENTS
from streams.health import HealthBook, Heard, Where
from streams.partitions import FaultPartition, Memory
from streams.settings import StreamsSettings
from streams.topology import Topology
from tests.streams_scenes import CODEC, START_MS, Message, anomaly, event, fault, in_inventory, log, message, runs

CATALOG, SETTINGS, TABLE = load(), StreamsSettings(), health_table()
NODES = {f"n{node}": [f"n{node}-{gpu}" for gpu in range(3)] for node in range(3)}
LATER_MS = START_MS + 3_600_000
cuts = st.lists(st.integers(0, 10**6), max_size=8)


def inventory() -> Topology:
    topology = Topology()
    for node, gpus in NODES.items():
        topology.learn(in_inventory(f"node:{node}"))
        for gpu in gpus:
            topology.learn(replace(in_inventory(f"gpu:{gpu}", node=node), source="discovered"))
    return topology


def partition(memory: dict[str, bytes] | None = None) -> FaultPartition:
    ends = {EVENTS: 10**6, ANOMALIES: 10**6}
    return FaultPartition(SETTINGS, CATALOG, causes(), inventory(), CODEC, memory or {}, ends, START_MS)


@st.composite
def evidence(draw: st.DrawFn) -> list[Message]:
    """A morning of a rack: codes of its GPUs, silent nodes and hot GPUs, boots that end what they end."""
    made: list[Record] = []
    raised: dict[tuple[str, str | None], Anomaly] = {}
    boots = dict.fromkeys(NODES, "boot-1")
    for at_s in range(draw(st.integers(0, 14))):
        node = draw(st.sampled_from(list(NODES)))
        gpu, boot = draw(st.sampled_from(NODES[node])), {"boot_id": boots[node]}
        kind = draw(st.sampled_from(["xid", "xid", "node_event", "silent", "hot", "boot", "found"]))
        if kind == "xid":
            made.append(event(code=draw(st.sampled_from([79, 48, 63, 94, 31])), at_s=at_s, node=node, gpu=gpu, **boot))
        elif kind == "node_event":
            name = draw(st.sampled_from(["source_failed", "source_recovered", "agent_stopped", "dimm_error"]))
            made.append(event(name, at_s=at_s, node=node, gpu=None, **boot))
        elif kind in {"silent", "hot"}:
            rule, of = ("node_silent", None) if kind == "silent" else ("gpu_hot", gpu)
            stood = raised.pop((node, of), None)
            one = anomaly(rule, at_s=at_s, begin_s=at_s - 0.5, node=node, gpu=of)
            if stood is not None:
                one = replace(stood, state="cleared", tick_ms=one.tick_ms)
            else:
                raised[node, of] = one
            made.append(one)
        else:
            if kind == "boot":
                boots[node] = f"boot-{at_s + 2}"
            name = {"boot": "agent_started", "found": "gpu_found"}[kind]
            of = gpu if kind == "found" else None
            made.append(event(name, at_s=at_s, node=node, gpu=of, boot_id=boots[node]))
    offsets = dict.fromkeys((EVENTS, ANOMALIES), 0)
    placed = []
    for record in made:
        one = message(record)
        placed += log([one], offsets[one.topic])
        offsets[one.topic] += 1
    return placed


def by_topic(run: Sequence[Message]) -> list[list[Message]]:
    parts: list[list[Message]] = []
    for one in run:
        if parts and parts[-1][0].topic == one.topic:
            parts[-1].append(one)
        else:
            parts.append([one])
    return parts


def told(held: FaultPartition, parts: Sequence[Sequence[Message]]) -> list[Verdict]:
    records: list[Record] = list(held.advance(START_MS).records)
    for part in parts:
        records += held.run(part, START_MS).records
    return [one for one in records if isinstance(one, Verdict)]


def gist(one: Verdict) -> tuple[object, ...]:
    return one.health, one.rentable, one.action, tuple(one.reasons)


@settings(max_examples=60, deadline=None)
@given(evidence(), cuts)
def test_the_same_log_cut_anywhere_gives_the_same_verdicts(messages: list[Message], where: list[int]) -> None:
    cut = [part for run in runs(messages, where) for part in by_topic(run)]
    assert told(partition(), cut) == told(partition(), by_topic(messages))


@settings(max_examples=60, deadline=None)
@given(evidence(), st.data())
def test_a_fault_record_that_is_delivered_again_leads_to_no_verdict(
    messages: list[Message], chance: st.DataObject
) -> None:
    held, book = partition(), HealthBook(TABLE, CATALOG, inventory())
    written = [one for part in by_topic(messages) for one in held.run(part, START_MS).records if isinstance(one, Fault)]
    for one in written:
        book.on_time(one, one.last_ms)
    book.advance(LATER_MS)
    for one in chance.draw(st.lists(st.sampled_from(written))) if written else []:
        assert book.on_time(one, LATER_MS) == []


@settings(max_examples=60, deadline=None)
@given(evidence(), cuts, st.data())
def test_a_kill_anywhere_in_the_writing_loses_and_doubles_no_verdict(
    messages: list[Message], where: list[int], chance: st.DataObject
) -> None:
    """Workers are killed with the outputs of a run written and only a part of its memory."""
    straight = {(one.component, one.revision): one for one in told(partition(), by_topic(messages))}
    memory: dict[str, bytes] = {}
    written: dict[tuple[str, int], Verdict] = {}

    def live(part: Sequence[Message] | None) -> None:
        for killed in (True, False):
            held = partition(memory)
            outcome = held.advance(START_MS) if part is None else held.run(part, START_MS)
            for one in outcome.records:
                if isinstance(one, Verdict):
                    assert written.setdefault((one.component, one.revision), one) == one
            changes = list(outcome.memory.items())
            keep(dict(changes[: chance.draw(st.integers(0, len(changes)))] if killed else changes))

    def keep(changes: Memory) -> None:
        for key, state in changes.items():
            memory.pop(key, None)
            if state is not None:
                memory[key] = state

    live(None)
    for run in runs(messages, where):
        for part in by_topic(run):
            live(part)
    assert written == straight


faults = st.lists(
    st.builds(
        lambda what, severity, place, work, count: fault(
            what,
            severity=severity,
            node=place[0],
            gpu=place[1],
            maintenance="work-1" if work else None,
            recurrence=count,
            at_s=sum(map(ord, f"{what}{place}")) % 60,
        ),
        st.sampled_from(["gpu_lost", "thermal", "row_remap", "source_health", "node_silent", "nvlink", "host_memory"]),
        st.sampled_from(["info", "warning", "critical"]),
        st.sampled_from([(node, gpu) for node, gpus in NODES.items() for gpu in (None, *gpus)]),
        st.sampled_from([False, False, False, True]),
        st.integers(0, 4),
    ),
    unique_by=lambda one: one.fault_id,
    max_size=12,
)


def judged(records: Sequence[Fault]) -> tuple[HealthBook, dict[str, Verdict]]:
    book = HealthBook(TABLE, CATALOG, inventory())
    newest = {one.component: one for one in book.advance(LATER_MS)}
    for one in records:
        heard = Heard(Where("hall-a", "r1"), one.node, one.gpu, one.last_ms, one.last_ms + 100)
        newest |= {verdict.component: verdict for verdict in book.on_record(heard, [one])}
    return book, newest


@settings(max_examples=100, deadline=None)
@given(faults, st.randoms(use_true_random=False))
def test_the_order_of_independent_faults_does_not_matter(records: list[Fault], chance: object) -> None:
    shuffled = list(records)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = judged(records)[1], judged(shuffled)[1]
    assert {component: gist(verdict) for component, verdict in one.items()} == {
        component: gist(verdict) for component, verdict in other.items()
    }
    gpus = [component for component in one if component.startswith("gpu:")]
    assert [one[gpu].since_ms for gpu in gpus if one[gpu].health == "unhealthy"] == [
        other[gpu].since_ms for gpu in gpus if other[gpu].health == "unhealthy"
    ]


@settings(max_examples=100, deadline=None)
@given(faults, st.data())
def test_a_verdict_is_a_function_of_the_faults_that_are_open(records: list[Fault], chance: st.DataObject) -> None:
    over = chance.draw(st.lists(st.sampled_from(records), unique_by=lambda one: one.fault_id)) if records else []
    ends = [replace(one, state="cleared", revision=2, cleared_ms=one.last_ms + 1000) for one in over]
    left = [one for one in records if one not in over]
    lived, fresh = judged([*records, *ends])[1], judged(left)[1]
    assert {component: gist(one) for component, one in lived.items()} == {
        component: gist(one) for component, one in fresh.items()
    }


@settings(max_examples=100, deadline=None)
@given(faults)
def test_what_is_counted_is_what_was_told_last(records: list[Fault]) -> None:
    book, newest = judged(records)
    counted = {key: count for key, count in book.counts.items() if count}
    expected: dict[tuple[str, str], int] = {}
    for one in newest.values():
        expected[one.component_kind, one.health] = expected.get((one.component_kind, one.health), 0) + 1
    assert counted == expected


@settings(max_examples=60, deadline=None)
@given(faults)
def test_only_what_is_healthy_or_mildly_degraded_may_be_rented(records: list[Fault]) -> None:
    _, newest = judged(records)
    for one in newest.values():
        assert not (one.rentable and one.health in {"unhealthy", "unknown"})
        if one.component_kind == "gpu":
            assert not one.rentable or newest[f"node:{one.node}"].rentable, "a GPU is rented with its node"
        assert one.rentable == all(
            reason.effect not in {"unhealthy", "unknown", "blocks"} for reason in one.reasons
        ) or (not one.rentable and any(reason.effect == "degraded" for reason in one.reasons))


def test_events_that_say_nothing_of_health_lead_to_first_verdicts_only() -> None:
    held = partition()
    quiet: list[HardwareEvent] = [event("link_up", at_s=at_s, node="n1", gpu=None) for at_s in range(5)]
    verdicts = told(held, [log(quiet)])
    assert {one.revision for one in verdicts} <= {1, 2}, "declared, then heard of"
