"""From matched recordings to numbers: small sums for each fleet, that add up and travel between processes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.quality.judging import Outcome
from tests.quality.matching import Matched, Verdict, claimed_by, rules
from tests.quality.measures import adjusted_rand, f1, quantile, ratio, v_measure
from tests.quality.recording import Recording

YOUNG_MS = 1_800_000
"""A fault that came to show in the last half hour of a recording is not asked for: nobody could tell yet."""
WARNS_MS = 60_000
"""A fault gives warning where it shows a minute before work dies of it."""


@dataclass(slots=True)
class KindScore:
    """What became of the faults of one kind."""

    asked: int = 0
    found: int = 0
    alarms: int = 0
    """Alarms that it explains."""
    false: int = 0
    """False alarms that would have been its finding; each counts against every kind that has the class."""
    delays_s: list[float] = field(default_factory=list)
    warnings: int = 0
    """Faults that showed before work died of them."""
    leads_s: list[float] = field(default_factory=list)
    """How long before the end of the work, where it was told before."""
    best_leads_s: list[float] = field(default_factory=list)
    """What a perfect observer had."""

    @property
    def recall(self) -> float:
        """Share of its faults that were found."""
        return ratio(self.found, self.asked)

    @property
    def precision(self) -> float:
        """Share of the alarms in its name that it explains."""
        return ratio(self.alarms, self.alarms + self.false)

    @property
    def f1(self) -> float:
        """Both in one."""
        return f1(self.precision, self.recall) if self.alarms + self.false else 0.0

    def add(self, other: KindScore) -> None:
        """Add another fleet's."""
        for name in ("asked", "found", "alarms", "false", "warnings"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.delays_s += other.delays_s
        self.leads_s += other.leads_s
        self.best_leads_s += other.best_leads_s


@dataclass(slots=True)
class FaultScore:
    """How well the faults of some fleets were found."""

    kinds: dict[str, KindScore] = field(default_factory=lambda: defaultdict(KindScore))
    gpu_days: float = 0.0
    alarms: int = 0
    false_alarms: int = 0
    false_by: Counter[str] = field(default_factory=Counter)
    """Class and rule of the false alarms."""

    @property
    def recall(self) -> float:
        """Over all kinds, each fault once."""
        return ratio(sum(kind.found for kind in self.kinds.values()), sum(kind.asked for kind in self.kinds.values()))

    @property
    def precision(self) -> float:
        """Share of all alarms that something explains."""
        return 1 - ratio(self.false_alarms, self.alarms)

    @property
    def false_a_day(self) -> float:
        """False alarms a day for 500 GPUs."""
        return ratio(self.false_alarms, self.gpu_days) * 500

    @property
    def delays_s(self) -> list[float]:
        """Of all kinds."""
        return [delay for kind in self.kinds.values() for delay in kind.delays_s]

    def add(self, other: FaultScore) -> None:
        """Add another fleet's."""
        for name, kind in other.kinds.items():
            self.kinds[name].add(kind)
        self.gpu_days += other.gpu_days
        self.alarms += other.alarms
        self.false_alarms += other.false_alarms
        self.false_by.update(other.false_by)


@dataclass(slots=True)
class IncidentScore:
    """How well faults were put together."""

    gpu_days: float = 0.0
    told: int = 0
    """True faults of which an incident spoke."""
    root_right: int = 0
    paged: int = 0
    """True faults somebody was woken for."""
    pages: int = 0
    """Pages for them."""
    false_pages: int = 0
    v_measures: list[float] = field(default_factory=list)
    """One for each fleet."""
    rand_indices: list[float] = field(default_factory=list)
    wide_v_measures: list[float] = field(default_factory=list)
    """The same with the program errors that a true fault led to."""
    wrong_roots: Counter[str] = field(default_factory=Counter)
    """Kind and what was named in its place."""
    paged_of: Counter[str] = field(default_factory=Counter)
    """`paged` by kind."""
    pages_of: Counter[str] = field(default_factory=Counter)
    """`pages` by kind."""

    @property
    def root_share(self) -> float:
        """Share of the true faults with an incident whose root is right."""
        return ratio(self.root_right, self.told)

    @property
    def pages_each(self) -> float:
        """Pages for a true fault that paged at all."""
        return ratio(self.pages, self.paged)

    @property
    def v_measure(self) -> float:
        """The mean over fleets."""
        return ratio(sum(self.v_measures), len(self.v_measures))

    @property
    def wide_v_measure(self) -> float:
        """The mean over fleets, with program errors."""
        return ratio(sum(self.wide_v_measures), len(self.wide_v_measures))

    @property
    def rand_index(self) -> float:
        """The mean over fleets."""
        return ratio(sum(self.rand_indices), len(self.rand_indices))

    @property
    def false_pages_a_day(self) -> float:
        """Pages for nothing a day for 500 GPUs."""
        return ratio(self.false_pages, self.gpu_days) * 500

    def add(self, other: IncidentScore) -> None:
        """Add another fleet's."""
        for name in ("gpu_days", "told", "root_right", "paged", "pages", "false_pages"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.v_measures += other.v_measures
        self.rand_indices += other.rand_indices
        self.wide_v_measures += other.wide_v_measures
        for counts in ("wrong_roots", "paged_of", "pages_of"):
            getattr(self, counts).update(getattr(other, counts))


def fault_score(recording: Recording, matched: Matched) -> FaultScore:
    """How well the faults of one fleet were found."""
    end_ms = recording.scene.end_ms
    score = FaultScore(
        gpu_days=recording.scene.gpus * recording.scene.hours / 24,
        alarms=matched.alarms,
        false_alarms=len(matched.false_alarms),
    )
    for verdict in matched.verdicts:
        kind = score.kinds[verdict.true.kind]
        kind.alarms += len(verdict.alarms)
        if verdict.true.root.first_observable_ms <= end_ms - YOUNG_MS:
            _ask(kind, verdict)
    claimed = claimed_by()
    for seen in matched.false_alarms:
        score.false_by[f"{seen.newest.fault_class} ({seen.first.rule})"] += 1
        for name in claimed.get(seen.newest.fault_class, ()):
            score.kinds[name].false += 1
    return score


def _ask(kind: KindScore, verdict: Verdict) -> None:
    root = verdict.true.root
    kind.asked += 1
    if verdict.found_ms is not None:
        kind.found += 1
        kind.delays_s.append((verdict.found_ms - root.first_observable_ms) / 1000)
    if root.hard_ms is not None and root.hard_ms - root.first_observable_ms >= WARNS_MS:
        kind.warnings += 1
        kind.best_leads_s.append((root.hard_ms - root.first_observable_ms) / 1000)
        if verdict.found_ms is not None and verdict.found_ms < root.hard_ms:
            kind.leads_s.append((root.hard_ms - verdict.found_ms) / 1000)


def incident_score(recording: Recording, matched: Matched, outcome: Outcome) -> IncidentScore:
    """How well the faults of one fleet were put together. `matched` is of the faults as they were, not shuffled."""
    score = IncidentScore(gpu_days=recording.scene.gpus * recording.scene.hours / 24)
    true = {verdict.true.fault_id: verdict.true for verdict in matched.verdicts}
    of: dict[str, set[str]] = defaultdict(set)
    """True fault to the incidents that hold one of its alarms, before merging."""
    for incident_id, seen in outcome.incidents.items():
        members = {
            member.fault_id for told in (seen.first, seen.page or seen.first, seen.newest) for member in told.members
        }
        causes = {matched.label.get(member) for member in members} & set(true)
        for cause in causes:
            of[str(cause)].add(incident_id)
        if seen.page is not None and not causes:
            score.false_pages += 1
    counted: set[str] = set()
    for cause, incident_ids in sorted(of.items()):
        told = [outcome.incidents[one] for one in incident_ids]
        main = min(told, key=lambda one: (one.page is None, (one.page or one.first).decided_ms))
        kind, root = true[cause].kind, true[cause].root.component
        score.told += 1
        # what it is in the end, where it went into another; and what the page said
        last = outcome.incidents[outcome.last_of(main.newest.incident_id)].newest
        named = [(main.page or main.first).root, last.root]
        if all(one == root for one in named):
            score.root_right += 1
        else:
            wrong = next(one for one in named if one != root)
            score.wrong_roots[f"{kind}: a {wrong.partition(':')[0]}"] += 1
        pages = {one.newest.incident_id for one in told if one.page is not None}
        if pages:
            score.paged += 1
            # an incident that stands for two true faults at once is one page
            score.pages += len(pages - counted)
            score.paged_of[kind] += 1
            score.pages_of[kind] += len(pages - counted)
            counted |= pages
    truth, found = groupings(matched, outcome, alarms_only=True)
    score.v_measures.append(v_measure(truth, found))
    score.rand_indices.append(adjusted_rand(truth, found))
    score.wide_v_measures.append(v_measure(*groupings(matched, outcome, alarms_only=False)))
    return score


def groupings(matched: Matched, outcome: Outcome, *, alarms_only: bool) -> tuple[list[str], list[str]]:
    """For each fault that a true fault explains or an incident holds: which true fault, which incident.

    What nothing explains is a group of its own in truth, what is in no incident one in what was found.
    """
    incident_of = outcome.incident_of()
    true = {verdict.true.fault_id for verdict in matched.verdicts}
    faults = sorted(
        fault
        for fault, seen in outcome.faults.items()
        if (matched.label.get(fault) in true or fault in incident_of)
        and (seen.alarmed_ms is not None or not alarms_only)
    )
    return [matched.label.get(fault, fault) for fault in faults], [incident_of.get(fault, fault) for fault in faults]


def kinds_of(score: FaultScore) -> Sequence[str]:
    """The kinds to show, in the order of the table of rules."""
    return [kind for kind in rules() if kind in score.kinds]


def spread(values: Iterable[float], shares: Sequence[float] = (0.5, 0.99)) -> list[float]:
    """Some quantiles of values."""
    given = list(values)
    return [quantile(given, share) for share in shares]
