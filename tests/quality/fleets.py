"""Simulated fleets: how well faults are found and put together, beside simpler ways, and with each detector off."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context

from schemas.records import Anomaly, InventoryRecord
from streams.garbage import collect_seldom
from tests.benchmarks.table import Row, judged
from tests.quality.context import Context
from tests.quality.judging import Outcome, TimeOnly, fold, ours, outcome, seen, shuffled
from tests.quality.matching import match, true_faults
from tests.quality.recording import Scene, record
from tests.quality.scores import (
    FaultScore,
    IncidentScore,
    KindScore,
    fault_score,
    incident_score,
    kinds_of,
    spread,
)

RATES = {"even": 100.0, "published": 20.0}
"""How many times as many faults as in real fleets: enough of each kind to count, few enough that most stand alone."""
_NOTHING = "\N{EN DASH}"
_WAYS = ("ours", "time only", "shuffled")


@dataclass(slots=True)
class SceneScore:
    """All that is kept of one fleet."""

    scene: Scene
    faults: FaultScore
    incidents: dict[str, IncidentScore]
    """By the way of putting faults together."""
    without: dict[str, FaultScore] = field(default_factory=dict)
    """With a detector off; those that said nothing in this fleet are left out."""
    homeless: int = 0
    refused: int = 0


def score(scene: Scene) -> SceneScore:
    """Live through one fleet and judge it in every way."""
    recording = record(scene)
    truth = true_faults(recording.truth)
    moves = [one for one in recording.arrived if isinstance(one.record, InventoryRecord)]
    fresh = ours(recording)
    written = fold(recording)
    with_ours = outcome(written, moves, *fresh())
    matched = match(truth, with_ours.faults, scene.end_ms)
    ways = {
        "ours": with_ours,
        "time only": outcome(written, moves, TimeOnly()),
        # which fault is whose is judged by when it really was
        "shuffled": _with_faults_of(outcome(shuffled(written, scene.seed), moves, *fresh()), with_ours),
    }
    detectors = sorted({one.record.detector for one in recording.arrived if isinstance(one.record, Anomaly)})
    without = {}
    for name in detectors:
        left = seen(fold(recording, without=name))
        without[name] = fault_score(recording, match(truth, left, scene.end_ms))
    return SceneScore(
        scene,
        fault_score(recording, matched),
        {way: incident_score(recording, matched, found) for way, found in ways.items()},
        without,
        recording.homeless,
        recording.refused,
    )


def run(context: Context) -> Iterator[Row]:
    """All rows about simulated fleets."""
    seeds = context.seeds
    # fewer for the mix of real fleets: it is there for what most alarms are in practice, not for the rare kinds
    scenes = [
        Scene(seed, mix, RATES[mix], gpus=context.gpus, hours=context.hours)
        for mix, of_mix in (("even", seeds), ("published", seeds[: max(1, 2 * len(seeds) // 5)]))
        for seed in of_mix
    ]
    found: dict[str, list[SceneScore]] = {mix: [] for mix in RATES}
    for number, one in enumerate(_in_parallel(scenes, context.processes), start=1):
        found[one.scene.mix].append(one)
        context.say(f"{number} of {len(scenes)} fleets")
    even, published = found["even"], found["published"]
    yield _caption("faults, every kind as often", even)
    yield from _fault_rows(_summed([one.faults for one in even]))
    yield _caption("faults, as often as in real fleets, one to another", published)
    yield from _overall(_summed([one.faults for one in published]))
    for mix, scored in found.items():
        yield from _incident_rows(mix, scored)
    yield from _ablation(even)


def _with_faults_of(found: Outcome, real: Outcome) -> Outcome:
    return Outcome(real.faults, found.incidents)


def _in_parallel(scenes: Sequence[Scene], processes: int) -> Iterator[SceneScore]:
    # each fleet is one thread: two of NumPy's on one core would only be in each other's way
    os.environ |= dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_settle_down) as pool:
        waiting = [pool.submit(score, scene) for scene in scenes]
        for done in as_completed(waiting):
            yield done.result()


def _settle_down() -> None:
    """A process that lives through a fleet: what was imported stays, and Python looks for garbage as in a worker."""
    gc.freeze()
    collect_seldom()


def _summed(scores: Sequence[FaultScore]) -> FaultScore:
    total = FaultScore()
    for one in scores:
        total.add(one)
    return total


def _caption(what: str, scored: Sequence[SceneScore]) -> Row:
    scene = scored[0].scene
    seeds = sorted(one.scene.seed for one in scored)
    return Row(
        f"**{what}**",
        f"{len(scored)} fleets × {scene.gpus} GPUs × {scene.hours:g} h",
        f"seeds {seeds[0]} to {seeds[-1]}, {scene.fault_rate:g} times the published rate, a tick each "
        f"{scene.interval_ms / 1000:g} s; {sum(one.homeless for one in scored)} faults found no place, "
        f"{sum(one.refused for one in scored)} samples refused",
    )


def _overall(score: FaultScore) -> Iterator[Row]:
    asked = sum(kind.asked for kind in score.kinds.values())
    p50, p99 = spread(score.delays_s)
    yield judged(
        "precision: alarms that something explains",
        f"{score.precision:.3f}",
        "≥ 0.95",
        met=score.precision >= 0.95,
        beside=f"{score.alarms} alarms",
    )
    yield judged(
        "recall: faults found",
        f"{score.recall:.3f}",
        "≥ 0.95",
        met=score.recall >= 0.95,
        beside=f"{asked} faults; delay {_seconds(p50)} median, {_seconds(p99)} p99",
    )
    worst = ", ".join(f"{what} {count}" for what, count in score.false_by.most_common(4))
    yield judged(
        "false alarms a day for 500 GPUs",
        f"{score.false_a_day:.2f}",
        "≤ 0.5",
        met=score.false_a_day <= 0.5,
        beside=f"{score.false_alarms} in {score.gpu_days:,.0f} GPU-days" + (f": {worst}" if worst else ""),
    )


def _fault_rows(score: FaultScore) -> Iterator[Row]:
    yield from _overall(score)
    for name in kinds_of(score):
        kind = score.kinds[name]
        if not kind.asked:
            continue
        p50, p99 = spread(kind.delays_s)
        false_a_day = kind.false / score.gpu_days * 500
        parts = [
            f"{kind.found} of {kind.asked}",
            f"delay {_seconds(p50)} median, {_seconds(p99)} p99",
            f"{false_a_day:.2f} false a day" if kind.false else "",
            _warning(kind),
        ]
        yield judged(
            name,
            f"P {_share(kind.precision)} R {_share(kind.recall)} F1 {_share(kind.f1)}",
            "R ≥ 0.85",
            met=kind.recall >= 0.85,
            beside="; ".join(filter(None, parts)),
        )


def _warning(kind: KindScore) -> str:
    if not kind.warnings:
        return ""
    best = spread(kind.best_leads_s, (0.5,))[0]
    if not kind.leads_s:
        return f"none of {kind.warnings} told before work died, {_seconds(best)} were to be had"
    lead = spread(kind.leads_s, (0.5,))[0]
    return (
        f"{len(kind.leads_s)} of {kind.warnings} told before work died, by {_seconds(lead)} (median; {_seconds(best)} "
        "were to be had)"
    )


def _incident_rows(mix: str, scored: Sequence[SceneScore]) -> Iterator[Row]:
    total = {way: IncidentScore() for way in _WAYS}
    for one in scored:
        for way, of_way in one.incidents.items():
            total[way].add(of_way)
    we, time_only, chance = (total[way] for way in _WAYS)
    of = "every kind as often" if mix == "even" else "as in real fleets"
    wrong = ", ".join(f"{what} {count}" for what, count in we.wrong_roots.most_common(4))
    yield Row(
        f"**incidents, {of}**", f"{we.told} true faults", "beside: time-only chaining, and ours on shuffled onsets"
    )
    yield judged(
        "root right, top 1",
        f"{we.root_share:.3f}",
        "≥ 0.97",
        met=we.root_share >= 0.97,
        beside=f"time only {time_only.root_share:.3f}, shuffled {chance.root_share:.3f}"
        + (f"; wrong: {wrong}" if wrong else ""),
    )
    many = sorted(we.paged_of, key=lambda kind: we.pages_of[kind] - we.paged_of[kind], reverse=True)[:3]
    most = ", ".join(f"{kind} {we.pages_of[kind]} for {we.paged_of[kind]}" for kind in many)
    yield judged(
        "pages for each true fault that pages",
        f"{we.pages_each:.2f}",
        "≤ 1.05",
        met=we.pages_each <= 1.05,
        beside=f"time only {time_only.pages_each:.2f}, shuffled {chance.pages_each:.2f}; most: {most}",
    )
    yield Row(
        "pages for nothing a day for 500 GPUs",
        f"{we.false_pages_a_day:.2f}",
        f"time only {time_only.false_pages_a_day:.2f}, shuffled {chance.false_pages_a_day:.2f}",
    )
    for what, name in (
        ("alarms put together: V-measure", "v_measure"),
        ("alarms put together: adjusted Rand index", "rand_index"),
        ("with the program errors they led to: V-measure", "wide_v_measure"),
    ):
        mine, first, second = (getattr(total[way], name) for way in _WAYS)
        yield judged(
            what,
            f"{mine:.3f}",
            "above both",
            met=mine > max(first, second) or mine == 1.0,  # nothing is above 1
            beside=f"time only {first:.3f}, shuffled {second:.3f}",
        )


def _ablation(scored: Sequence[SceneScore]) -> Iterator[Row]:
    base = _summed([one.faults for one in scored])
    names = sorted({name for one in scored for name in one.without})
    yield Row("**each detector off in turn**", f"R {base.recall:.3f} P {base.precision:.3f}", "with all of them")
    for name in names:
        left = _summed([one.without.get(name, one.faults) for one in scored])
        lost = {
            kind: base.kinds[kind].recall - left.kinds[kind].recall
            for kind in kinds_of(base)
            if base.kinds[kind].asked and left.kinds[kind].recall < base.kinds[kind].recall
        }
        later = {
            kind: spread(left.kinds[kind].delays_s, (0.5,))[0] - spread(base.kinds[kind].delays_s, (0.5,))[0]
            for kind in kinds_of(base)
            if left.kinds[kind].delays_s and base.kinds[kind].delays_s
        }
        words = [
            f"{kind} loses {share:.2f} recall" for kind, share in sorted(lost.items(), key=lambda one: -one[1])[:3]
        ]
        words += [
            f"{kind} {_seconds(by_s)} later"
            for kind, by_s in sorted(later.items(), key=lambda one: -one[1])[:2]
            if by_s >= 1
        ]
        yield Row(
            f"without {name}",
            f"R {left.recall:.3f} P {left.precision:.3f}",
            "; ".join([f"{left.false_a_day:.2f} false a day (with it {base.false_a_day:.2f})", *words]),
        )


def _share(value: float) -> str:
    return _NOTHING if value != value else f"{value:.2f}"


def _seconds(seconds: float) -> str:
    if seconds != seconds:
        return _NOTHING
    if abs(seconds) < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if abs(seconds) < 7200 else f"{seconds / 3600:.1f} h"
