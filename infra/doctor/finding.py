"""What a check of `fleetpulse doctor` is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from infra.settings import Settings


class Verdict(Enum):
    """How a check ended."""

    GOOD = "✓"
    NOTE = "·"
    """Not there, and not needed."""
    BROKEN = "✗"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    verdict: Verdict
    about: str
    found: str
    mend: str = ""
    """What it means and what to do, where something is to be done."""


Check = Callable[[Settings], Iterator[Finding]]
"""Says what it found, never raises, and takes a few seconds at most."""
