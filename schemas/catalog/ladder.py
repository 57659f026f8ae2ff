"""The action ladder, `ladder.toml`: what changes the first action that the catalogue asks for."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Literal

import msgspec

from schemas.catalog.classes import ACTIONS, Action

Repair = Literal["reboot", "reset"]


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One row: where all of its conditions hold, the action becomes `action`.

    At least one of `times`, `after`, `beside` and `driver_below` is set.
    """

    classes: tuple[str, ...] = ()
    """Fault classes; empty for all."""
    rules: tuple[str, ...] = ()
    """Catalogue entries, as patterns (`xid.*.follow_154`); empty for all."""
    from_: tuple[Action, ...] | None = msgspec.field(name="from", default=None)
    """The actions that it changes; without, every lower rung of the ladder."""
    action: Action
    times: int | None = None
    """So many faults of its class on this component, this one counted, …"""
    within_days: int | None = None
    """… within so many days."""
    after: Repair | None = None
    """The same was there before a reboot or reset …"""
    within_hours: int | None = None
    """… and was back within so many hours."""
    beside: tuple[str, ...] = ()
    """A fault of one of these classes is open on the same component, or this is one."""
    driver_below: int | None = None
    """The driver is known, and of an earlier branch than this."""
    operator_wins: bool = True
    """An action that the operator's own file has set is left as it is."""
    off: bool = False
    """Switched off, by an operator's file."""
    reason: str
    """Completes the fault's reason; `{times}` is how many faults were counted."""

    def __post_init__(self) -> None:
        """Hold the row to what can be asked."""
        if self.times is None and self.after is None and not self.beside and self.driver_below is None:
            raise ValueError("asks for nothing: give times, after, beside or driver_below")
        if (self.times is None) != (self.within_days is None):
            raise ValueError("times and within_days belong together")
        if (self.after is None) != (self.within_hours is None):
            raise ValueError("after and within_hours belong together")
        if strange := set(re.findall(r"{(.*?)}", self.reason)) - {"times"}:
            raise ValueError(f"reason has {{{min(strange)}}}; allowed is {{times}}")

    def concerns(self, fault_class: str, rule: str) -> bool:
        """Whether it is about faults of this class, as this catalogue entry has them."""
        return (not self.classes or fault_class in self.classes) and (
            not self.rules or any(fnmatchcase(rule, pattern) for pattern in self.rules)
        )

    def changes(self, action: str) -> bool:
        """Whether it leads on from an action. `contact_support` stands beside the ladder and is no lower rung."""
        if self.from_ is not None:
            return action in self.from_ and action != self.action
        return ACTIONS.index(action) < ACTIONS.index(self.action)
