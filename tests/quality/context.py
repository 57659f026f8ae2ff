"""What a part of the table is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
"""Public data sets, where they have been put beside the repository; never part of it."""


@dataclass(frozen=True, slots=True)
class Context:
    """How much is to be measured, and with how much."""

    seeds: tuple[int, ...]
    gpus: int
    hours: float
    processes: int
    say: Callable[[str], None]
    """What is being done now, for the one who waits."""
    data: Path = DATA
