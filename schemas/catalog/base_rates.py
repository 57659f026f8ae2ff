"""How often faults come in fleets that somebody has written about, `base_rates.toml`: where a new fleet begins."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

import msgspec


class BaseRate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How often one fault class comes."""

    per_1000_days: float
    """Times in a thousand days of one component: a GPU, or a node where the class is about what a node has one of."""
    source: str

    @property
    def per_hour(self) -> float:
        """Times an hour and component."""
        return self.per_1000_days / 24_000


class BaseRates(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole table."""

    weighs_component_hours: float
    """So many hours of components must be seen before what was seen counts as much as this table."""
    forgets_days: float
    """What was seen so long ago counts a third."""
    arrival_ms: int
    """Faults of one class in one rack within so long are one arrival: what comes in bursts is counted by bursts."""
    unknown: BaseRate
    """Of a class that is not listed."""
    rate: dict[str, BaseRate]
    """By fault class."""

    def of(self, fault_class: str) -> BaseRate:
        """The rate of a class."""
        return self.rate.get(fault_class, self.unknown)


@cache
def base_rates() -> BaseRates:
    """The table of this build. Raises `msgspec.ValidationError` where it is not what it should be."""
    return msgspec.convert(tomllib.loads((Path(__file__).parent / "base_rates.toml").read_text()), BaseRates)
