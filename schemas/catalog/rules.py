"""What a rule of `metrics.toml`, `counters.toml` and `sources.toml` can say: one struct for each way of watching."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self

import msgspec
from msgspec.structs import replace

from schemas.catalog import Action, Severity

LIMITS = ("raise_above", "raise_below", "clear_below", "clear_above", "limit")
"""What may differ from SKU to SKU: limits. How long they must be passed, and what it means, is the same for all."""


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every rule has: its name, how long its condition must hold, and what a finding is evidence for."""

    name: str
    for_ms: int
    clear_for_ms: int
    fault_class: str
    severity: Severity
    action: Action
    reason: str
    sku: dict[str, dict[str, float]] = {}
    """Limits for GPUs whose SKU in the inventory is like this (`*` stands for anything, the first that fits counts);
    `inf` turns a rule off for them."""
    set_by: str = ""
    """The operator's file that changed the rule, and what stood there before; never written in a file."""

    def __post_init__(self) -> None:
        """Hold what differs by SKU to what may, and to what a detector can run."""
        allowed = [name for name in LIMITS if name in self.__struct_fields__]
        for pattern, changes in self.sku.items():
            if strange := [name for name in changes if name not in allowed]:
                what = f"sku {pattern!r} sets {', '.join(strange)}"
                raise ValueError(f"rule {self.name}: {what}; allowed are {', '.join(allowed) or 'none'}")
        for _ in self.variants():
            pass

    def variants(self) -> Iterator[tuple[str, Self]]:
        """Each SKU pattern with the rule as it is for it. Raises `ValueError` where no detector could run that."""
        for pattern, changes in self.sku.items():
            yield pattern, replace(self, sku={}, **changes)


class Rule(Finding, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One condition on one metric. Exactly one of `raise_above`, `raise_below`, `raise_bits` is set."""

    detector: Literal["threshold"]
    raise_above: float | None = None
    raise_below: float | None = None
    raise_bits: int | None = None
    clear_below: float | None = None
    clear_above: float | None = None

    def __post_init__(self) -> None:
        """Hold the condition to what a detector can run."""
        if sum(c is not None for c in (self.raise_above, self.raise_below, self.raise_bits)) != 1:
            raise ValueError(f"rule {self.name}: set exactly one of raise_above, raise_below, raise_bits")
        _check_way_back(self)
        super().__post_init__()

    @property
    def limit(self) -> float:
        """Where it is raised."""
        return _limit(self) if self.raise_bits is None else float(self.raise_bits)

    @property
    def back(self) -> float:
        """Where it is cleared; means nothing for bits."""
        return _back(self)


Rack = Literal["few_comparable", "small_nodes"]
"""When the rack stands in for the node."""


class Beside(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which GPUs are comparable at a tick, and what the comparison gives: see `streams/detectors/beside.py`."""

    as_: Literal["difference", "ratio"] = msgspec.field(name="as")
    """value less the peers' median, in the metric's unit; or divided by it."""
    busy_percent: float
    """Only GPUs whose `gpu_utilization_percent` is at least that."""
    power_share: float | None = None
    """Only GPUs whose `power_watts` differ from the peers' median by no more than this share of it."""
    at_no_power: float | None = None
    """What the metric is at no power, from where it rises with `power_watts`: it is then compared watt by watt, and the
    peers' median is what they would read at this GPU's power. Need not be exact where powers are alike."""
    excused_bits: int = 0
    """Not GPUs with any of these throttle reasons: they explain the deviation, and have rules of their own."""
    least: int = 4
    """So many comparable GPUs there must be, the GPU itself among them."""
    rack: Rack = "few_comparable"
    """When the rack stands in for the node: where too few of the node are comparable just then; or only where the node
    has fewer than `least` GPUs at all, so that a GPU is always held against the same ones."""

    def __post_init__(self) -> None:
        """Hold the numbers to what can be compared."""
        if self.least < 3:
            raise ValueError(f"beside: least is {self.least}; of two that differ nobody knows which is odd: 3 or more")
        if self.power_share is not None and not 0 < self.power_share < 1:
            raise ValueError(f"beside: power_share is {self.power_share}; it is a share, between 0 and 1")


class OneSided(Finding, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A limit with a way back. Exactly one of `raise_above` and `raise_below` is set."""

    raise_above: float | None = None
    raise_below: float | None = None
    clear_below: float | None = None
    clear_above: float | None = None

    def __post_init__(self) -> None:
        """Hold the condition to what a detector can run."""
        if (self.raise_above is None) == (self.raise_below is None):
            raise ValueError(f"rule {self.name}: set exactly one of raise_above, raise_below")
        _check_way_back(self)
        super().__post_init__()

    @property
    def limit(self) -> float:
        """Where it is raised."""
        return _limit(self)

    @property
    def back(self) -> float:
        """Where it is cleared."""
        return _back(self)


class PeerRule(OneSided, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One metric of a GPU beside that of its peers at the same tick."""

    beside: Beside
    deviations: float
    """It must also be so many robust standard deviations of the peers away: where they differ much, nobody is odd."""


class LevelRule(OneSided, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A metric (or, with `beside`, its distance from the peers) against what it long was on the same GPU.

    `raise_above` and `raise_below` are distances from the baseline.
    """

    beside: Beside | None = None
    deviations: float
    """How unlikely the short average must be, in standard deviations of what short averages have been."""
    short_ms: int
    """Time constant of the short average."""
    warmup_ms: int
    """So much judged time makes a baseline; nothing is raised before."""
    settles_per_hour: float
    """By how much, in the metric's unit, a learnt baseline may move in an hour of judged time: a fault that is slower
    than that is taken for normal, and a new normal that is off by more takes so long."""
    noise: float
    """The least noise that is believed, in the metric's unit: a sensor that steps in whole degrees looks quieter."""

    def __post_init__(self) -> None:
        """Hold the condition to what a detector can run."""
        super().__post_init__()
        if not 0 < self.short_ms <= self.warmup_ms:
            raise ValueError(f"rule {self.name}: short_ms must be above 0 and not above warmup_ms")
        if self.noise <= 0 or self.settles_per_hour < 0:
            raise ValueError(f"rule {self.name}: noise must be above 0, settles_per_hour not below")


class TrendRule(Finding, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A metric that will reach `limit`, from below, within `within_ms` if it goes on as it does."""

    limit: float
    within_ms: int
    clear_within_ms: int
    """Cleared when it would take longer than that: above `within_ms`."""
    least_per_hour: float
    """A slower rise is no trend."""
    span_ms: int
    """Time constant over which the rise is measured; it takes three of them until anything is said."""
    steady_share: float
    """Only while `power_watts` is steady: its own two averages differ by no more than this share. A job that has just
    started warms its GPU, too."""

    def __post_init__(self) -> None:
        """Hold the condition to what a detector can run."""
        if not 0 < self.within_ms <= self.clear_within_ms:
            raise ValueError(f"rule {self.name}: clear_within_ms must not be below within_ms")
        if self.span_ms <= 0 or self.least_per_hour <= 0 or self.steady_share <= 0:
            raise ValueError(f"rule {self.name}: span_ms, least_per_hour and steady_share must be above 0")
        super().__post_init__()


class GrowthRule(OneSided, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """By how much a counter has grown within the last `span_ms`, whatever befell it: see `detectors/counter_rate.py`.

    `raise_above` and `clear_below` are growth within the span, or, as a share, of the span itself.
    """

    span_ms: int
    """It reaches back so long, and up to a sixth of it longer."""
    as_: Literal["count", "share_of_time"] = msgspec.field(name="as", default="count")
    """What it counted; or, of a counter of microseconds, what share of the time that is."""
    instead: tuple[str, ...] = ()
    """Counters that stand in, the first that is read, where this one is not: older GPUs, other sources."""
    wraps_at: float | None = None
    """How many values it has before it begins at 0 again; None where it does not wrap in the life of a GPU."""

    def __post_init__(self) -> None:
        """Hold the condition to what a detector can run."""
        super().__post_init__()
        if self.raise_above is None:
            raise ValueError(f"rule {self.name}: a counter is watched for growth: set raise_above")
        if self.span_ms < 60_000:
            raise ValueError(f"rule {self.name}: span_ms is {self.span_ms}; counters are read each half minute or so")


class BudgetRule(Finding, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a counter may use up in the life of a GPU, and when that will be gone if it goes on as it does."""

    also: tuple[str, ...] = ()
    """Counters that draw on the same budget."""
    limit: float
    """The budget."""
    span_ms: int
    """Its growth is measured over so long."""
    within_hours: float
    """Raised where the budget would be gone sooner than that."""
    clear_within_hours: float
    """Cleared where it would take longer than that."""

    def __post_init__(self) -> None:
        """Hold the condition to what a detector can run."""
        if not 0 < self.within_hours <= self.clear_within_hours or self.limit <= 0 or self.span_ms < 60_000:
            raise ValueError(
                f"rule {self.name}: limit must be above 0, span_ms at least a minute, "
                "clear_within_hours not below within_hours"
            )
        super().__post_init__()


class NarrowRule(Finding, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A width that is below what it can be, and is known to have been wider: before, or on the GPUs beside it."""

    most: str
    """The column that says how wide it can be."""


class ClockRule(Finding, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far a node's clock is from the broker's, and from what is usual among its neighbours."""

    side: Literal["ahead", "behind"]
    raise_above_s: float
    clear_below_s: float
    steady_s: float | None = None
    """It must stay the same to within so much: a delay that shrinks is delivery catching up, and no clock."""

    def __post_init__(self) -> None:
        """Hold the condition to what a detector can run."""
        if not 0 < self.clear_below_s <= self.raise_above_s:
            raise ValueError(f"rule {self.name}: clear_below_s must be above 0 and not above raise_above_s")
        super().__post_init__()


class AgreementRule(Finding, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Hardware totals of which two sources say different things, although neither moves."""

    columns: tuple[str, ...]
    still_ms: int
    """Neither has moved for so long: one that counts on is ahead of one that repeats."""


def _limit(rule: Rule | OneSided) -> float:
    return rule.raise_above if rule.raise_above is not None else rule.raise_below or 0.0


def _back(rule: Rule | OneSided) -> float:
    return (rule.clear_below if rule.raise_above is not None else rule.clear_above) or 0.0


def _check_way_back(rule: Rule | OneSided) -> None:
    if rule.raise_above is not None and not (rule.clear_below is not None and rule.clear_below <= rule.raise_above):
        raise ValueError(f"rule {rule.name}: raise_above needs a clear_below that is not above it")
    if rule.raise_below is not None and not (rule.clear_above is not None and rule.clear_above >= rule.raise_below):
        raise ValueError(f"rule {rule.name}: raise_below needs a clear_above that is not below it")
