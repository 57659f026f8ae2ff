"""What is true about a simulated fleet: which fault had which part where, since when, and when it could first be seen.

Nothing here knows how, or whether, a fault is found.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Role = Literal["root", "symptom", "harmless"]


class Truth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the truth file: a fault, or the part that one component has in it."""

    fault: str
    """The kind: a scripted fault, or a key of library.toml."""
    component: str
    node: str
    """Empty where it is no node's matter."""
    rack: str
    gpu: str | None
    role: str
    """root, symptom, or harmless: it happened, looks like trouble, and asks for nothing."""
    start_ms: int
    first_observable_ms: int
    """The first tick, kernel line or event that shows it: nobody can know before."""
    cleared_ms: int | None
    fault_id: str | None = None
    """The same for all parts of one fault; of the library's faults only."""
    hard_ms: int | None = None
    """When work on the component died of it, where it did."""
    repeats: str | None = None
    """The fault_id of the same trouble on the same component that was repaired before."""
