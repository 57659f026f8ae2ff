"""The same faults in any order of arrival are the same incidents with the same roots."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas.catalog import load
from schemas.catalog.causes import causes
from schemas.records import Fault, Incident
from streams.correlation import Correlator
from streams.correlation.incidents import is_worth_a_record
from streams.correlation.roots import Candidate, judge
from streams.topology import Topology
from tests.streams_scenes import START_MS, fault, in_inventory

CATALOG = load()
CODES: dict[str, list[int | None]] = {
    "gpu_lost": [79],
    "gpu_silent": [None],
    "nvlink": [149, 145, 74, 146],
    "nvswitch": [11001],
    "application": [45],
    "gsp": [119],
    "gpu_hang": [109],
    "thermal": [None],
    "node_silent": [None],
    "power": [None],
    "link_flap": [None],
    "unknown": [None],
}
BY_NODE = {"node_silent", "link_flap"}


def topology() -> Topology:
    """Two racks, one of them an NVLink domain, on two PDUs each and on one leaf switch; two jobs across them."""
    made = Topology()
    for node in range(4):
        shared = {"pdu": f"pdu-{'ab'[node % 2]}", "leaf_switch": "leaf"}
        made.learn(in_inventory(f"node:d{node}", rack="dense", nvlink_domain="dense", **shared))
        made.learn(in_inventory(f"node:p{node}", rack="plain", **shared))
        for rack in "dp":
            for slot in range(2):
                given = {"node": f"{rack}{node}", "job": f"job-{slot}"}
                made.learn(in_inventory(f"gpu:{rack}{node}-{slot}", rack={"d": "dense", "p": "plain"}[rack], **given))
    return made


@st.composite
def fault_sets(draw: st.DrawFn) -> list[Fault]:
    made = []
    for number in range(draw(st.integers(1, 14))):
        fault_class = draw(st.sampled_from(sorted(CODES)))
        node = draw(st.sampled_from(["d0", "d1", "d2", "d3", "p0", "p1", "p2"]))
        rack = "dense" if node.startswith("d") else "plain"
        gpu = None if fault_class in BY_NODE else f"{node}-{draw(st.integers(0, 1))}"
        at_s = draw(st.sampled_from([0, 0.5, 1, 3, 8, 20, 50, 70, 200]))
        one = fault(
            fault_class,
            draw(st.sampled_from(CODES[fault_class])),
            at_s=at_s,
            gpu=gpu,
            node=node,
            rack=rack,
            severity=draw(st.sampled_from(["info", "warning", "critical"])),
            action=draw(st.sampled_from(["none", "reset_gpu", "reboot_node"])),
            fault_id=f"f{number}",
        )
        lasts_ms = draw(st.sampled_from([0, 0, 5000, 40_000]))
        made.append(replace(one, last_ms=one.first_ms + lasts_ms))
    return made


Told = set[tuple[frozenset[tuple[str, str]], str, str, float]]


def told(faults: list[Fault], speak_after: set[int] = frozenset()) -> Told:  # type: ignore[assignment]
    """What stands in the end: members with their roles, root, severity, score. It speaks after some of the faults."""
    correlator = Correlator(CATALOG, causes(), topology(), settle_ms=0)
    newest: dict[str, Incident] = {}
    for number, one in enumerate(faults):
        now_ms = START_MS + 2000 * number
        correlator.on_fault(one, now_ms)
        if number in speak_after:
            newest |= {said.incident_id: said for said in correlator.advance(now_ms)}
    newest |= {said.incident_id: said for said in correlator.advance(START_MS + 100_000)}
    return {
        (
            frozenset((member.fault_id, member.role) for member in said.members),
            said.root,
            said.severity,
            round(root.score, 3),
        )
        for said in newest.values()
        if said.merged_into is None and (root := stands(correlator, said)) is not None
    }


def stands(correlator: Correlator, said: Incident) -> Candidate | None:
    """Its root as it is now: a score that has changed alone is no news. None where it would be no incident any more,
    had it not been one before: its faults may have gone over to others.
    """
    faults = correlator._members[said.incident_id]
    root = judge(faults, correlator._ties, causes(), correlator._topology).root
    return root if is_worth_a_record(faults.values(), root, CATALOG) else None


@settings(max_examples=150, deadline=None)
@given(fault_sets(), st.randoms(use_true_random=False))
def test_any_order_of_arrival_gives_the_same_incidents_and_roots(faults: list[Fault], chance: object) -> None:
    shuffled = list(faults)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert told(shuffled) == told(faults)


@settings(max_examples=100, deadline=None)
@given(fault_sets(), st.randoms(use_true_random=False), st.sets(st.integers(0, 14)))
def test_whatever_was_said_under_way(faults: list[Fault], chance: object, speak_after: set[int]) -> None:
    shuffled = list(faults)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert told(shuffled, speak_after) == told(faults)


@settings(max_examples=100, deadline=None)
@given(fault_sets(), st.randoms(use_true_random=False))
def test_faults_that_are_heard_of_twice_or_grow_in_length_under_way(faults: list[Fault], chance: object) -> None:
    first = [replace(one, last_ms=one.first_ms) for one in faults]
    grown = [replace(one, revision=2, state="updated") for one in faults]
    shuffled = [*first, *first]
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    again = [*grown, *first]
    chance.shuffle(again)  # type: ignore[attr-defined]
    assert told([*shuffled, *again]) == told(faults)


@settings(max_examples=150, deadline=None)
@given(fault_sets(), st.randoms(use_true_random=False), st.sets(st.integers(0, 30)))
def test_faults_that_end_and_come_back(faults: list[Fault], chance: object, speak_after: set[int]) -> None:
    """Each life is heard of in its own order, the lives in any."""
    over = [
        replace(one, revision=2, state="cleared", cleared_ms=one.last_ms + 3000 * (number % 3))
        for number, one in enumerate(faults)
    ]
    numbers = [*range(len(faults)), *range(0, len(faults), 2)]
    seen: set[int] = set()

    def lives(order: list[int]) -> list[Fault]:
        seen.clear()
        return [over[number] if number in seen else (seen.add(number) or faults[number]) for number in order]  # type: ignore[func-returns-value]

    shuffled = list(numbers)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert told(lives(shuffled), speak_after) == told(lives(numbers))


@settings(max_examples=100, deadline=None)
@given(fault_sets(), st.randoms(use_true_random=False), st.sets(st.integers(0, 14)))
def test_an_incident_pages_at_most_once_and_only_for_what_stands(
    faults: list[Fault], chance: object, speak_after: set[int]
) -> None:
    correlator = Correlator(CATALOG, causes(), topology(), settle_ms=0)
    said: list[Incident] = []
    for number, one in enumerate(faults):
        correlator.on_fault(one, START_MS + 2000 * number)
        if number in speak_after:
            said += correlator.advance(START_MS + 2000 * number)
    said += correlator.advance(START_MS + 100_000)
    paged = [incident.incident_id for incident in said if incident.page]
    assert len(paged) == len(set(paged))
    for incident in said:
        revisions = [other.revision for other in said if other.incident_id == incident.incident_id]
        assert revisions == list(range(1, len(revisions) + 1))
    bad = {one.fault_id for one in faults if one.severity == "critical" and CATALOG.faults[one.fault_class].pages}
    troubled = {one.fault_id for one in faults if one.severity != "info"}
    for incident in said:
        if incident.page:
            members = {member.fault_id for member in incident.members}
            # a switch that many ports point at wakes somebody, although no port alone would
            assert bad & members or (incident.root.startswith("switch:") and len(troubled & members) > 1)
    for incident in {incident.incident_id: incident for incident in said}.values():
        if incident.merged_into is None and bad & {member.fault_id for member in incident.members}:
            # what has fallen off an incident that paged was on that page
            assert incident.incident_id in paged or correlator._groups[incident.incident_id].paged
