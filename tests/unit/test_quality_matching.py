"""Which alarm may be put down to which true fault, and what is counted of it."""

from __future__ import annotations

import pytest

from producers.simulate.library import library
from producers.simulate.truth import Truth
from schemas.catalog import load
from schemas.records import Fault, Incident, Member
from streams.replay import SeenIncident
from tests.quality.judging import Outcome, SeenFault
from tests.quality.matching import LATE_MS, Matched, TrueFault, match, rules, true_faults
from tests.quality.recording import Recording, Scene
from tests.quality.scores import FaultScore, fault_score, incident_score
from tests.quality.seeds import SCORING, TUNING, parse, purpose

_MINUTE_MS = 60_000
_SCENE = Scene(seed=1, mix="even", fault_rate=1.0, gpus=500, hours=24.0)
_BEGIN_MS = _SCENE.end_ms - 20 * 60 * _MINUTE_MS
_UNTIL_MS = _BEGIN_MS + 30 * _MINUTE_MS


def _truth(fault: str = "nvlink_degrades", component: str = "gpu:A", role: str = "root", **given: object) -> Truth:
    fields = {
        "fault": fault,
        "component": component,
        "node": "n1",
        "rack": "r1",
        "gpu": None,
        "role": role,
        "start_ms": _BEGIN_MS,
        "first_observable_ms": _BEGIN_MS + _MINUTE_MS,
        "cleared_ms": _UNTIL_MS,
        "fault_id": "t1",
    }
    return Truth(**(fields | given))  # type: ignore[arg-type]


def _seen(
    fault_class: str, component: str, at_ms: int, *, node: str = "n1", alarmed: bool = True, fault_id: str = ""
) -> SeenFault:
    fault = Fault(
        fault_id=fault_id or f"{component}|{fault_class}|{at_ms}", revision=1, state="open", site="s", rack="r1",
        node=node, component=component, component_kind="gpu", fault_class=fault_class,
        severity="critical" if alarmed else "info", action="none", rule="xid.1", reason="", first_ms=at_ms,
        last_ms=at_ms, count=1, evidence=[], observed_ms=at_ms,
    )  # fmt: skip
    return SeenFault(fault, fault, at_ms, at_ms if alarmed else None, [at_ms] if alarmed else [])


def _incident(incident_id: str, root: str, members: list[SeenFault], *, page: bool = True) -> Incident:
    return Incident(
        incident_id=incident_id, revision=1, state="open", page=page, site="s", racks=["r1"], root=root,
        root_fault_id="", root_class="nvlink", title="", severity="critical", action="none", reason="", score=1.0,
        members=[
            Member(fault_id=f.newest.fault_id, component=f.newest.component, fault_class="nvlink", role="", because="")
            for f in members
        ],
        evidence=[], first_ms=0, last_ms=0, observed_ms=0, decided_ms=_BEGIN_MS + 2 * _MINUTE_MS,
    )  # fmt: skip


def _match(truth: list[Truth], *seen: SeenFault) -> Matched:
    return match(true_faults(truth), {one.newest.fault_id: one for one in seen}, _SCENE.end_ms)


def _recording(truth: list[Truth]) -> Recording:
    return Recording(_SCENE, (), tuple(truth), (), 0, 0)


def test_every_kind_of_true_fault_has_a_rule_that_finds_it_and_none_is_for_what_is_harmless() -> None:
    kinds = {name for name, kind in library().items() if not kind.harmless}
    assert {kind for kind, of_kind in rules().items() if any(rule.finds for rule in of_kind)} == kinds


def test_rules_name_fault_classes_that_the_catalogue_has() -> None:
    named = {name for of_kind in rules().values() for rule in of_kind for name in rule.classes}
    assert named - {"compute"} <= set(load().faults)


def test_the_right_class_on_the_right_component_in_time_finds_a_fault() -> None:
    at_ms = _BEGIN_MS + 5 * _MINUTE_MS
    matched = _match([_truth()], _seen("nvlink", "gpu:A", at_ms))
    assert matched.verdicts[0].found_ms == at_ms
    assert not matched.false_alarms


@pytest.mark.parametrize(
    "seen",
    [
        _seen("thermal", "gpu:A", _BEGIN_MS + 1000),
        _seen("nvlink", "gpu:B", _BEGIN_MS + 1000),
        _seen("nvlink", "gpu:A", _BEGIN_MS - 2000),
        _seen("nvlink", "gpu:A", _UNTIL_MS + LATE_MS + 1),
    ],
    ids=["another class", "another GPU", "too early", "too late"],
)
def test_what_is_wrong_in_class_place_or_time_is_a_false_alarm_and_finds_nothing(seen: SeenFault) -> None:
    matched = _match([_truth()], seen)
    assert matched.verdicts[0].found_ms is None
    assert matched.false_alarms == (seen,)


def test_a_consequence_is_no_false_alarm_and_no_finding() -> None:
    truth = [_truth(), _truth(component="gpu:B", role="symptom")]
    matched = _match(truth, _seen("nvlink", "gpu:B", _BEGIN_MS + 1000))
    assert matched.verdicts[0].found_ms is None
    assert not matched.false_alarms
    assert len(matched.verdicts[0].alarms) == 1


def test_a_node_that_was_shut_down_on_purpose_is_a_false_alarm_when_it_is_called_silent() -> None:
    truth = [_truth("rack_maintenance", "rack:r1", "harmless"), _truth("rack_maintenance", "node:n1", "harmless")]
    matched = _match(truth, _seen("node_silent", "node:n1", _BEGIN_MS + 1000))
    assert not matched.verdicts
    assert len(matched.false_alarms) == 1


def test_what_is_known_to_be_no_alarm_is_neither_found_nor_false() -> None:
    matched = _match([_truth()], _seen("nvlink", "gpu:A", _BEGIN_MS + 1000, alarmed=False))
    assert (matched.alarms, len(matched.false_alarms), matched.verdicts[0].found_ms) == (0, 0, None)


def test_a_program_that_died_with_a_fault_belongs_to_it() -> None:
    truth = [_truth(), _truth(component="gpu:B", role="symptom")]
    seen = _seen("application", "gpu:B", _BEGIN_MS + 1000, alarmed=False)
    assert _match(truth, seen).label == {seen.newest.fault_id: "t1"}


def test_a_fault_that_stood_before_finds_another_one_only_with_news() -> None:
    seen = _seen("nvlink", "gpu:A", _BEGIN_MS - _MINUTE_MS)
    assert _match([_truth()], seen).verdicts[0].found_ms is None
    seen.told_ms.append(_BEGIN_MS + _MINUTE_MS)
    matched = _match([_truth()], seen)
    assert matched.verdicts[0].found_ms == _BEGIN_MS + _MINUTE_MS
    assert matched.false_alarms == (seen,)  # when it came up there was no reason for it


def test_delay_counts_from_when_it_could_be_seen_and_lead_until_work_died() -> None:
    truth = [_truth(hard_ms=_BEGIN_MS + 11 * _MINUTE_MS)]
    matched = _match(truth, _seen("nvlink", "gpu:A", _BEGIN_MS + 5 * _MINUTE_MS))
    kind = fault_score(_recording(truth), matched).kinds["nvlink_degrades"]
    assert (kind.asked, kind.found, kind.delays_s) == (1, 1, [240])
    assert (kind.leads_s, kind.best_leads_s) == ([360], [600])


def test_false_alarms_count_against_every_kind_that_has_their_class() -> None:
    truth = [_truth(), _truth("cooling_degrades", "gpu:C", fault_id="t2")]
    matched = _match(truth, _seen("thermal", "gpu:D", _BEGIN_MS + 1000))
    score = fault_score(_recording(truth), matched)
    assert {kind: one.false for kind, one in score.kinds.items() if one.false} == {
        "cooling_degrades": 1, "paste_drifts": 1, "rack_cooling_fails": 1,
    }  # fmt: skip
    assert score.false_alarms == 1
    assert score.false_a_day == 1.0  # 500 GPUs for a day


def test_a_fault_of_the_last_half_hour_is_not_asked_for() -> None:
    late_ms = _SCENE.end_ms - 10 * _MINUTE_MS
    truth = [_truth(start_ms=late_ms, first_observable_ms=late_ms, cleared_ms=None)]
    assert fault_score(_recording(truth), _match(truth)).kinds["nvlink_degrades"].asked == 0


def test_scores_of_fleets_add_up() -> None:
    truth = [_truth()]
    one = fault_score(_recording(truth), _match(truth, _seen("nvlink", "gpu:A", _BEGIN_MS + 2 * _MINUTE_MS)))
    none = fault_score(_recording(truth), _match(truth))
    total = FaultScore()
    total.add(one)
    total.add(none)
    assert (total.recall, total.precision, total.gpu_days) == (0.5, 1.0, 1000.0)


def test_two_pages_for_one_fault_are_one_too_many_and_a_wrong_root_is_wrong() -> None:
    truth = [_truth(), _truth(component="gpu:B", role="symptom")]
    root, echo = _seen("nvlink", "gpu:A", _BEGIN_MS + 1000), _seen("nvlink", "gpu:B", _BEGIN_MS + 1000)
    matched = _match(truth, root, echo)
    faults = {one.newest.fault_id: one for one in (root, echo)}
    together, apart = _incident("i1", "gpu:A", [root, echo]), _incident("i2", "gpu:B", [echo])
    good = incident_score(_recording(truth), matched, Outcome(faults, {"i1": _told(together)}))
    assert (good.pages, good.paged, good.root_right, good.v_measure) == (1, 1, 1, 1.0)
    wrong = _incident("i1", "gpu:B", [root])
    bad = incident_score(_recording(truth), matched, Outcome(faults, {"i1": _told(wrong), "i2": _told(apart)}))
    assert (bad.pages, bad.paged, bad.root_right) == (2, 1, 0)
    assert bad.v_measure < 1


def test_a_page_that_nothing_explains_is_a_page_for_nothing() -> None:
    seen = _seen("node_silent", "node:n9", _BEGIN_MS, node="n9")
    matched = _match([_truth()], seen)
    outcome = Outcome({seen.newest.fault_id: seen}, {"i1": _told(_incident("i1", "node:n9", [seen]))})
    score = incident_score(_recording([_truth()]), matched, outcome)
    assert (score.false_pages, score.false_pages_a_day, score.told) == (1, 1.0, 0)


def test_a_merged_incident_counts_as_the_one_it_went_into() -> None:
    outcome = Outcome({}, {"a": _told(_incident("a", "gpu:A", [])), "b": _told(_incident("b", "gpu:B", []))})
    outcome.incidents["a"].merged_into = "b"
    assert outcome.last_of("a") == "b"
    outcome.incidents["b"].merged_into = "a"  # never, but it must end
    assert outcome.last_of("a") in {"a", "b"}


def test_true_faults_are_put_together_by_their_id() -> None:
    (found,) = true_faults([_truth(), _truth(component="gpu:B", role="symptom"), _truth(fault_id=None)])
    assert isinstance(found, TrueFault)
    assert [part.component for part in found.parts] == ["gpu:A", "gpu:B"]


def test_seeds_for_tuning_and_for_scoring_never_mix() -> None:
    assert not set(TUNING) & set(SCORING)
    assert len(SCORING) >= 20
    assert parse("101-103,110") == (101, 102, 103, 110)
    assert purpose(parse("1-3")) == "tuning"
    for mixed in ("1-3,101", "20-21", "100", ""):
        with pytest.raises(ValueError, match="seed"):
            parse(mixed)


def _told(incident: Incident) -> SeenIncident:
    return SeenIncident(incident, incident, incident if incident.page else None)
