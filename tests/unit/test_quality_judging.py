"""The rivals of our correlation, and a small fleet from the simulator to the scores."""

from __future__ import annotations

import numpy as np

from schemas.records import Fault, InventoryRecord
from streams.replay import Told
from tests.quality.baselines import BASELINES
from tests.quality.judging import CHAIN_MS, TimeOnly, fold, ours, outcome, shuffled
from tests.quality.matching import match, true_faults
from tests.quality.recording import Scene, record
from tests.quality.scores import fault_score, incident_score


def _written(fault_id: str, at_ms: int, component: str = "gpu:A") -> Told:
    return Told(
        at_ms,
        Fault(
            fault_id=fault_id, revision=1, state="open", site="s", rack="r", node="n", component=component,
            component_kind="gpu", fault_class="gpu_lost", severity="critical", action="none", rule="", reason="",
            first_ms=at_ms, last_ms=at_ms, count=1, evidence=[], observed_ms=at_ms,
        ),
    )  # fmt: skip


def test_time_only_chains_what_follows_soon_and_names_the_first() -> None:
    written = [_written("a", 0), _written("b", CHAIN_MS - 1, "gpu:B"), _written("c", 3 * CHAIN_MS, "gpu:C")]
    found = outcome(written, [], TimeOnly())
    assert [sorted(m.fault_id for m in one.newest.members) for one in found.incidents.values()] == [["a", "b"], ["c"]]
    assert [one.newest.root for one in found.incidents.values()] == ["gpu:A", "gpu:C"]
    assert all(one.page is not None for one in found.incidents.values())


def test_shuffling_keeps_every_fault_and_every_onset_but_not_who_has_which() -> None:
    written = [_written(str(number), number * 1000) for number in range(50)]
    moved = shuffled(written, seed=1)
    assert sorted(one.at_ms for one in moved) == [one.at_ms for one in written]
    assert sorted(one.fault.fault_id for one in moved) == sorted(one.fault.fault_id for one in written)
    assert all(one.fault.first_ms == one.at_ms for one in moved)
    assert [one.fault.fault_id for one in moved] != [one.fault.fault_id for one in written]


def test_a_small_fleet_goes_from_the_simulator_to_the_scores() -> None:
    scene = Scene(seed=1, mix="even", fault_rate=4000.0, gpus=144, hours=1.5)
    recording = record(scene)
    moves = [one for one in recording.arrived if isinstance(one.record, InventoryRecord)]
    written = fold(recording)
    found = outcome(written, moves, *ours(recording)())
    matched = match(true_faults(recording.truth), found.faults, scene.end_ms)
    score = fault_score(recording, matched)
    assert sum(kind.asked for kind in score.kinds.values()) >= 5
    # what the kernel log says plainly is found, at once
    assert score.kinds["memory_fails"].found + score.kinds["gpu_falls_off_bus"].found >= 1
    assert score.recall > 0.3
    assert incident_score(recording, matched, found).told >= 1
    assert [one.at_ms for one in recording.arrived] == sorted(one.at_ms for one in recording.arrived)
    # a detector that is off says nothing
    assert len(fold(recording, without="silence")) < len(written)


def test_each_baseline_scores_a_jump_above_what_it_learnt_from() -> None:
    draw = np.random.default_rng(1)
    train, rows = draw.normal(0, 1, (500, 4)), draw.normal(0, 1, (100, 4))
    rows[50] = [9.0, -9.0, 9.0, -9.0]
    for name, learn in BASELINES.items():
        scores = learn(train)(rows)
        assert scores.shape == (100,), name
        assert int(np.argmax(scores)) == 50, name
