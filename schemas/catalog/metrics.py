"""The metric catalogue, `metrics.toml`: units, and the rules by which detectors watch each metric."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from schemas.catalog import Action, Severity


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every rule has: its name, how long its condition must hold, and what a finding is evidence for."""

    name: str
    for_ms: int
    clear_for_ms: int
    fault_class: str
    severity: Severity
    action: Action
    reason: str


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
    rack: Literal["few_comparable", "small_nodes"] = "few_comparable"
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

    @property
    def limit(self) -> float:
        """Where it is raised."""
        return self.raise_above if self.raise_above is not None else self.raise_below or 0.0

    @property
    def back(self) -> float:
        """Where it is cleared."""
        back = self.clear_below if self.raise_above is not None else self.clear_above
        return back or 0.0


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


def _check_way_back(rule: Rule | OneSided) -> None:
    if rule.raise_above is not None and not (rule.clear_below is not None and rule.clear_below <= rule.raise_above):
        raise ValueError(f"rule {rule.name}: raise_above needs a clear_below that is not above it")
    if rule.raise_below is not None and not (rule.clear_above is not None and rule.clear_above >= rule.raise_below):
        raise ValueError(f"rule {rule.name}: raise_below needs a clear_above that is not below it")


class Metric(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One metric of `gpu.samples`."""

    unit: str
    kind: Literal["gauge", "counter", "state", "bits"]
    rules: list[Rule] = []
    peers: list[PeerRule] = []
    levels: list[LevelRule] = []
    trends: list[TrendRule] = []

    def __post_init__(self) -> None:
        """Only numbers have neighbours, levels and trends."""
        if self.kind == "bits" and (self.peers or self.levels or self.trends):
            raise ValueError("a bit mask is watched by rules with raise_bits only")

    def findings(self) -> Iterator[Finding]:
        """Every rule of every detector."""
        yield from (*self.rules, *self.peers, *self.levels, *self.trends)


@cache
def metrics() -> dict[str, Metric]:
    """Every metric by name, in the order of `gpu.samples`. Raises `msgspec.ValidationError` for a wrong table."""
    return msgspec.convert(tomllib.loads((Path(__file__).parent / "metrics.toml").read_text()), dict[str, Metric])
