"""The metric catalogue, `metrics.toml`: units, and the rules by which detectors watch each metric."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from schemas.catalog import Action, Severity


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One condition on one metric. Exactly one of `raise_above`, `raise_below`, `raise_bits` is set."""

    name: str
    detector: Literal["threshold"]
    raise_above: float | None = None
    raise_below: float | None = None
    raise_bits: int | None = None
    clear_below: float | None = None
    clear_above: float | None = None
    for_ms: int
    clear_for_ms: int
    fault_class: str
    severity: Severity
    action: Action
    reason: str

    def __post_init__(self) -> None:
        """Hold the condition to what a detector can run."""
        if sum(c is not None for c in (self.raise_above, self.raise_below, self.raise_bits)) != 1:
            raise ValueError(f"rule {self.name}: set exactly one of raise_above, raise_below, raise_bits")
        if self.raise_above is not None and not (self.clear_below is not None and self.clear_below <= self.raise_above):
            raise ValueError(f"rule {self.name}: raise_above needs a clear_below that is not above it")
        if self.raise_below is not None and not (self.clear_above is not None and self.clear_above >= self.raise_below):
            raise ValueError(f"rule {self.name}: raise_below needs a clear_above that is not below it")


class Metric(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One metric of `gpu.samples`."""

    unit: str
    kind: Literal["gauge", "counter", "state", "bits"]
    rules: list[Rule] = []


@cache
def metrics() -> dict[str, Metric]:
    """Every metric by name, in the order of `gpu.samples`. Raises `msgspec.ValidationError` for a wrong table."""
    return msgspec.convert(tomllib.loads((Path(__file__).parent / "metrics.toml").read_text()), dict[str, Metric])
