"""Trouble that stands: told when it has lasted, again now and then while it stands, and once when it is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

REPEAT_S = 1800.0
"""A fault without new evidence ends after an hour at the soonest (`schemas/catalog/faults.toml`): what lasts is told
twice in that time.
"""

Turn = Literal["begins", "stands", "ends"]


@dataclass(slots=True, eq=False)
class Standing:
    """One trouble of one thing. It begins when it was seen for `hold_s` on end, and ends when it is seen to be over."""

    hold_s: float = 0.0
    since: float | None = None
    """When it was first seen, by the clock of `see`; None while it is not there."""
    _told: float | None = None

    @property
    def stands(self) -> bool:
        """Whether it was told and is not over."""
        return self._told is not None

    def see(self, trouble: bool | None, now_s: float) -> Turn | None:
        """What is to be told now. `trouble` is None where it is neither there nor over: what stands then stands on.

        Not to be called where nothing is known.
        """
        if trouble is True:
            self.since = now_s if self.since is None else self.since
            if self._told is None and now_s - self.since >= self.hold_s:
                self._told = now_s
                return "begins"
        elif self._told is None:
            self.since = None
        elif trouble is False:
            self.since = self._told = None
            return "ends"
        if self._told is not None and now_s - self._told >= REPEAT_S:
            self._told = now_s
            return "stands"
        return None
